//! The contenders: ours from this build, the peers as installed on the machine.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

pub const EXT_STRIKEOUT_ACL: &str = env!("CARGO_BIN_EXE_ext_strikeout_acl");
pub const EXIM_STRIKEOUT_ACL: &str = env!("CARGO_BIN_EXE_exim_strikeout_acl");
pub const STRIKEOUT: &str = env!("CARGO_BIN_EXE_strikeout");

/// This benchmark acting as one of the peers.
pub fn role(role: &str, argument: &str) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--role", role, "--role-argument", argument]).stdin(Stdio::null());
    Ok(command)
}

/// The Python helper beside this file.
pub fn python_helper() -> Command {
    let mut command = Command::new("python3");
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/peers/helper.py"));
    command
}

/// Finds an installed program, also in the directories of system programs.
pub fn find(names: &[&str]) -> Result<PathBuf> {
    let path = format!("{}:/usr/sbin:/sbin:/usr/lib/squid:/usr/lib64/squid", std::env::var("PATH").unwrap_or_default());
    for name in names {
        for directory in path.split(':') {
            let file = Path::new(directory).join(name);
            if file.is_file() {
                return Ok(file);
            }
        }
    }
    bail!("{} is not installed", names.join(" or "))
}

/// Compiles a one-line Rust program.
pub fn compile(source: &str, directory: &Path, name: &str) -> Result<PathBuf> {
    let (source_file, program) = (directory.join(format!("{name}.rs")), directory.join(name));
    std::fs::write(&source_file, source)?;
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    let status = Command::new(&rustc).args(["--edition", "2024", "-O", "-o"]).arg(&program).arg(&source_file).status().context("rustc")?;
    anyhow::ensure!(status.success(), "rustc could not compile {name}");
    Ok(program)
}
