//! Files whose first line is a secret: a password, or the key of an API. Nothing of what is in them gets into a message.

use std::io;
use std::path::Path;

/// The first line of `file`, without blanks around it.
///
/// # Errors
/// The file cannot be read, or its first line is empty or no UTF-8.
pub fn first_line(file: &Path) -> io::Result<String> {
    let bytes = std::fs::read(file).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", file.display())))?;
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let refuse = |found: &str| io::Error::other(format!("{}:1: found {found}, expected a secret in UTF-8", file.display()));
    match std::str::from_utf8(line).map(str::trim) {
        Err(_) => Err(refuse("bytes that are no UTF-8")),
        Ok("") => Err(refuse("an empty line")),
        Ok(secret) => Ok(secret.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_is_the_secret_and_what_cannot_be_one_is_refused_without_showing_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        let read = |bytes: &[u8]| {
            std::fs::write(&file, bytes).unwrap();
            first_line(&file).map_err(|error| error.to_string().replace(&file.display().to_string(), "FILE"))
        };
        for bytes in [&b"p\xc3\xa4ss"[..], b"p\xc3\xa4ss\r\n", b" p\xc3\xa4ss \n\xff\xff\n"] {
            assert_eq!(read(bytes).as_deref(), Ok("p\u{e4}ss"), "{bytes:?}");
        }
        for bytes in [&b""[..], b"\n", b"  \nsecret"] {
            assert_eq!(read(bytes).unwrap_err(), "FILE:1: found an empty line, expected a secret in UTF-8");
        }
        assert_eq!(read(b"sec\xffret\n").unwrap_err(), "FILE:1: found bytes that are no UTF-8, expected a secret in UTF-8");
        std::fs::remove_file(&file).unwrap();
        assert!(first_line(&file).unwrap_err().to_string().contains("secret: No such file"));
    }
}
