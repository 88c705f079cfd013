//! Minimal peers in the same language and build: this binary acts as one of them when started with `--role`.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixListener;

use anyhow::{Result, bail};

pub fn run(role: &str, argument: &str) -> Result<()> {
    match role {
        "echo" => echo(),
        "socket" => socket(argument),
        _ => bail!("there is no role {role:?}"),
    }
}

/// The fastest possible helper: reads up to 32 KB, answers `ID ERR` for each line (`ERR` without an ID), one write per read.
fn echo() -> Result<()> {
    let input = std::io::stdin();
    let mut output = std::fs::File::from(std::os::fd::AsFd::as_fd(&std::io::stdout()).try_clone_to_owned()?);
    let mut buffer = vec![0; 32 << 10];
    let mut held = 0;
    let mut answers = Vec::with_capacity(64 << 10);
    // `Stdin` has a buffer of only 8 KB; the descriptor has none.
    let mut input = std::fs::File::from(std::os::fd::AsFd::as_fd(&input).try_clone_to_owned()?);
    loop {
        let length = input.read(&mut buffer[held..])?;
        if length == 0 {
            return Ok(());
        }
        let end = held + length;
        let mut start = 0;
        while let Some(newline) = memchr::memchr(b'\n', &buffer[start..end]) {
            let line = &buffer[start..start + newline];
            let digits = line.iter().take_while(|byte| byte.is_ascii_digit()).count();
            if digits > 0 && line.get(digits) == Some(&b' ') {
                answers.extend_from_slice(&line[..=digits]);
            }
            answers.extend_from_slice(b"ERR\n");
            start += newline + 1;
        }
        buffer.copy_within(start..end, 0);
        held = end - start;
        output.write_all(&answers)?;
        answers.clear();
    }
}

/// A trivial server for `${readsocket}`: reads the request, answers `accept`, closes. One thread, one connection at a time.
fn socket(path: &str) -> Result<()> {
    let listener = UnixListener::bind(path)?;
    let mut buffer = [0; 1024];
    for stream in listener.incoming() {
        let mut stream = stream?;
        match stream.read(&mut buffer) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => continue,
            Err(error) => return Err(error.into()),
        }
        // Exim may have closed the connection.
        let _ = stream.write_all(b"accept\n");
    }
    Ok(())
}
