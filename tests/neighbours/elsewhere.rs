//! What other distributions than Debian need: the SELinux module and the metadata of the RPM.

use std::path::Path;
use std::process::Command;

use crate::harness::has;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

#[test]
fn the_selinux_module_is_valid() {
    if !has("checkmodule", "checkpolicy") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let module = folder.path().join("strikeout.mod");
    let mut command = Command::new("checkmodule");
    let output =
        command.args(["-M", "-m", "-o"]).arg(&module).arg(Path::new(ROOT).join("conf-examples/rpm/strikeout.te")).output().unwrap();
    assert!(output.status.success() && module.exists(), "{}", String::from_utf8_lossy(&output.stderr));
    let contexts = std::fs::read_to_string(Path::new(ROOT).join("conf-examples/rpm/strikeout.fc")).unwrap();
    assert!(contexts.lines().all(|line| line.contains("/strikeout(/.*)? system_u:object_r:strikeout_var_run_t:s0")), "{contexts}");
}

#[test]
fn every_file_of_the_rpm_exists_and_has_a_place() {
    let manifest: toml::Table = std::fs::read_to_string(Path::new(ROOT).join("Cargo.toml")).unwrap().parse().unwrap();
    let rpm = &manifest["package"]["metadata"]["generate-rpm"];
    let assets = rpm["assets"].as_array().unwrap();
    assert!(assets.len() > 10);
    for asset in assets {
        let (source, target) = (asset["source"].as_str().unwrap(), asset["dest"].as_str().unwrap());
        assert!(target.starts_with('/'), "{target}");
        if source.starts_with("target/release/") {
            continue;
        }
        let found = glob::glob(Path::new(ROOT).join(source).to_str().unwrap()).unwrap().count();
        assert!(found > 0, "there is no {source}");
    }
    let script = rpm["post_install_script"].as_str().unwrap();
    let output = Command::new("sh").arg("-n").arg(Path::new(ROOT).join(script)).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
