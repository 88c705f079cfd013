//! Clients under made-up addresses: HTTP requests to Squid, and SMTP sessions with Exim.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Read timeout: a server that hangs fails the test instead of hanging it.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The answer of Squid.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) text: String,
}

/// Sends one GET through the Squid on `port` as `client`, and reads the status.
#[track_caller]
pub(crate) fn get(port: u16, client: &str, path: &str) -> u16 {
    match request(port, client, "GET", path, "") {
        Ok(reply) => reply.status,
        Err(error) => panic!("GET {path} as {client}: {error}"),
    }
}

/// Sends one request through the Squid on `port` as `client`, with `headers` (each with its CRLF).
pub(crate) fn request(port: u16, client: &str, method: &str, path: &str, headers: &str) -> io::Result<Reply> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    // In one write, as a browser sends it.
    stream.write_all(
        format!("{method} {path} HTTP/1.1\r\nHost: example.test\r\nX-Forwarded-For: {client}\r\n{headers}Connection: close\r\n\r\n")
            .as_bytes(),
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let text = String::from_utf8_lossy(&answer).into_owned();
    match text.split(' ').nth(1).and_then(|word| word.parse().ok()) {
        Some(status) => Ok(Reply { status, text }),
        None => Err(io::Error::other(format!("not an HTTP answer: {text:?}"))),
    }
}

/// An SMTP session with Exim.
pub(crate) struct Mail {
    reader: BufReader<TcpStream>,
    /// The code of the greeting: 220, 421, 451 or 554.
    pub(crate) code: u16,
    /// The whole greeting.
    pub(crate) greeting: String,
}

impl Mail {
    /// Connects to the Exim on `port` as `client`, by the PROXY protocol, and reads the greeting.
    pub(crate) fn connect(port: u16, client: &str) -> io::Result<Self> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        let (family, own) = if client.contains(':') { ("TCP6", "::1") } else { ("TCP4", "127.0.0.1") };
        // In one write: Exim does not accept a PROXY header that comes in two reads.
        stream.write_all(format!("PROXY {family} {client} {own} 40000 {port}\r\n").as_bytes())?;
        let mut session = Self { reader: BufReader::new(stream), code: 0, greeting: String::new() };
        (session.code, session.greeting) = session.read()?;
        Ok(session)
    }

    /// Connects, and returns only the code of the greeting.
    #[track_caller]
    pub(crate) fn code(port: u16, client: &str) -> u16 {
        match Self::connect(port, client) {
            Ok(session) => session.code,
            Err(error) => panic!("SMTP as {client}: {error}"),
        }
    }

    /// Sends one line and reads the code of its answer.
    pub(crate) fn command(&mut self, line: &str) -> io::Result<u16> {
        self.reader.get_mut().write_all(format!("{line}\r\n").as_bytes())?;
        Ok(self.read()?.0)
    }

    /// Sends a whole message, and returns the code of the last answer: 250 if Exim has accepted it.
    pub(crate) fn send(&mut self) -> io::Result<u16> {
        for line in ["EHLO client.test", "MAIL FROM:<a@client.test>", "RCPT TO:<b@example.test>"] {
            let code = self.command(line)?;
            if code != 250 {
                return Ok(code);
            }
        }
        self.command("DATA")?;
        self.command("Subject: test\r\n\r\nhello\r\n.")
    }

    fn read(&mut self) -> io::Result<(u16, String)> {
        let mut all = String::new();
        loop {
            let from = all.len();
            if self.reader.read_line(&mut all)? == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("closed after {all:?}")));
            }
            let line = &all[from..];
            if line.as_bytes().get(3) == Some(&b' ') {
                let code = line[..3].parse().map_err(|_| io::Error::other(format!("no code in {line:?}")))?;
                return Ok((code, all));
            }
        }
    }
}
