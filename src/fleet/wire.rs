//! A connection to the engine. The crate's commands and parser over a stream of our own, because the crate reads whatever it is sent for
//! as long as it is sent: here the engine can neither keep us waiting nor make us hold more than these limits.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::{Cmd, ConnectionLike, ErrorKind, Parser, PushKind, RedisError, RedisResult, Value};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

/// An engine that is silent for longer is away.
pub const SILENCE: Duration = Duration::from_secs(2);
/// However steadily it talks, one answer takes no longer.
const WHOLE: Duration = Duration::from_secs(10);
/// And no answer, to one command or to a batch, is longer. The longest that is ever asked for, a thousand keys, stays below a quarter.
pub const LONGEST: usize = 1024 * 1024;

/// Where the engine is.
#[derive(Clone)]
pub enum Address {
    /// Host and port, with what TLS needs if it is spoken.
    Tcp(String, u16, Option<Arc<ClientConfig>>),
    /// A Unix socket.
    Unix(std::path::PathBuf),
}

/// A connection.
pub struct Wire {
    stream: Stream,
    parser: Parser,
    is_open: bool,
}

/// What came over the channel.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    /// A message.
    Message(Vec<u8>),
    /// A sign of life.
    Alive,
    /// Nothing for as long as was waited.
    Silence,
}

enum Stream {
    Plain(Socket),
    Tls(Box<StreamOwned<ClientConnection, Socket>>),
}

/// A socket that says no more than the limits allow.
struct Socket {
    inner: Inner,
    /// What may still be read of this answer.
    left: usize,
    /// How long one read or write may take.
    patience: Duration,
    /// When this answer, question included, must have come.
    deadline: Instant,
}

enum Inner {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Wire {
    /// Connects, and shakes hands if TLS is spoken.
    ///
    /// # Errors
    /// The system's, or TLS's.
    pub fn connect(address: &Address) -> RedisResult<Self> {
        let socket = |inner| Socket { inner, left: LONGEST, patience: SILENCE, deadline: Instant::now() + WHOLE };
        let stream = match address {
            Address::Unix(path) => Stream::Plain(socket(Inner::Unix(UnixStream::connect(path)?))),
            Address::Tcp(host, port, tls) => {
                let tcp = connect_tcp(host, *port)?;
                tcp.set_nodelay(true)?;
                let plain = socket(Inner::Tcp(tcp));
                match tls {
                    None => Stream::Plain(plain),
                    Some(config) => {
                        let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
                        let client = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
                        let mut stream = StreamOwned::new(client, plain);
                        while stream.conn.is_handshaking() {
                            stream.conn.complete_io(&mut stream.sock)?;
                        }
                        Stream::Tls(Box::new(stream))
                    }
                }
            }
        };
        Ok(Self { stream, parser: Parser::new(), is_open: true })
    }

    /// Listens on `channel` from now on.
    ///
    /// # Errors
    /// The engine's.
    pub fn subscribe(&mut self, channel: &str) -> RedisResult<()> {
        let mut command = Cmd::new();
        command.arg("SUBSCRIBE").arg(channel);
        self.begin();
        self.send(&command.get_packed_command())?;
        match self.read()? {
            Value::ServerError(error) => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Asks for a sign of life, where messages come.
    ///
    /// # Errors
    /// The engine's.
    pub fn ask_for_life(&mut self) -> RedisResult<()> {
        self.begin();
        self.send(&redis::cmd("PING").get_packed_command())
    }

    /// The next message, if one comes within `wait`. Half a message stays where it is until the rest comes.
    ///
    /// # Errors
    /// The engine's: it is gone, or says what no engine says.
    pub fn hear(&mut self, wait: Duration) -> RedisResult<Heard> {
        let socket = self.socket();
        // A message that has begun keeps its limits until it has ended.
        if socket.left == LONGEST {
            socket.deadline = Instant::now() + WHOLE + wait;
        }
        socket.patience = wait;
        let heard = self.read();
        self.socket().patience = SILENCE;
        match heard {
            Ok(value) => {
                self.socket().left = LONGEST;
                Ok(message_of(value.extract_error()?))
            }
            Err(error) if error.is_timeout() && Instant::now() < self.socket().deadline => Ok(Heard::Silence),
            Err(error) => Err(error),
        }
    }

    /// The answers to commands that are packed in `commands`, errors among them as values.
    ///
    /// # Errors
    /// The engine is gone, or breaks a limit.
    pub fn ask(&mut self, commands: &[u8], count: usize) -> RedisResult<Vec<Value>> {
        self.begin();
        self.send(commands)?;
        let mut answers = Vec::with_capacity(count);
        while answers.len() < count {
            match self.read()? {
                Value::Push { .. } => {}
                value => answers.push(value),
            }
        }
        Ok(answers)
    }

    /// A question begins: its limits do.
    fn begin(&mut self) {
        let socket = self.socket();
        (socket.left, socket.patience, socket.deadline) = (LONGEST, SILENCE, Instant::now() + WHOLE);
    }

    fn send(&mut self, bytes: &[u8]) -> RedisResult<()> {
        let sent = match &mut self.stream {
            Stream::Plain(socket) => socket.write_all(bytes),
            Stream::Tls(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
        };
        self.is_open &= sent.is_ok();
        Ok(sent?)
    }

    fn read(&mut self) -> RedisResult<Value> {
        let (parser, stream) = (&mut self.parser, &mut self.stream);
        // The parser is not ours, and what it reads is not either.
        let read = catch_unwind(AssertUnwindSafe(|| match stream {
            Stream::Plain(socket) => parser.parse_value(socket),
            Stream::Tls(stream) => parser.parse_value(stream),
        }));
        let value = read.unwrap_or_else(|_| Err((ErrorKind::Parse, "the engine's answer cannot be read").into()));
        if value.as_ref().is_err_and(|error| !error.is_timeout()) {
            self.is_open = false;
        }
        value
    }

    fn socket(&mut self) -> &mut Socket {
        match &mut self.stream {
            Stream::Plain(socket) => socket,
            Stream::Tls(stream) => &mut stream.sock,
        }
    }
}

/// Connects to the first of the host's addresses that answers.
fn connect_tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"));
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, SILENCE) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// A message as RESP2 and RESP3 wrap it.
fn message_of(value: Value) -> Heard {
    let (is_message, payload) = match value {
        Value::Push { kind, mut data } => (kind == PushKind::Message, data.pop()),
        Value::Array(mut parts) => {
            let is_message = matches!(parts.first(), Some(Value::BulkString(kind)) if kind == b"message");
            (is_message && parts.len() == 3, parts.pop())
        }
        _ => (false, None),
    };
    match payload {
        Some(Value::BulkString(bytes)) if is_message => Heard::Message(bytes),
        _ => Heard::Alive,
    }
}

impl ConnectionLike for Wire {
    fn req_packed_command(&mut self, cmd: &[u8]) -> RedisResult<Value> {
        let answer = self.ask(cmd, 1)?;
        answer.into_iter().next().ok_or_else(|| RedisError::from((ErrorKind::Client, "no answer")))
    }

    fn req_packed_commands(&mut self, cmd: &[u8], offset: usize, count: usize) -> RedisResult<Vec<Value>> {
        Ok(self.ask(cmd, offset.saturating_add(count))?.split_off(offset))
    }

    fn get_db(&self) -> i64 {
        0
    }

    fn check_connection(&mut self) -> bool {
        redis::cmd("PING").exec(self).is_ok()
    }

    fn is_open(&self) -> bool {
        self.is_open
    }
}

impl Socket {
    /// How long the next read or write may take; an error if the whole has taken too long.
    fn pause(&self) -> io::Result<Option<Duration>> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the engine takes too long"));
        }
        // No time at all would mean for ever.
        Ok(Some(left.min(self.patience).max(Duration::from_millis(1))))
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(self.left);
        let buffer = match buffer.get_mut(..most) {
            Some(buffer) if !buffer.is_empty() => buffer,
            _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "the engine's answer is too long")),
        };
        let pause = self.pause()?;
        let read = match &mut self.inner {
            Inner::Tcp(stream) => stream.set_read_timeout(pause).and_then(|()| stream.read(buffer)),
            Inner::Unix(stream) => stream.set_read_timeout(pause).and_then(|()| stream.read(buffer)),
        }?;
        self.left -= read;
        Ok(read)
    }
}

impl Write for Socket {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let pause = self.pause()?;
        match &mut self.inner {
            Inner::Tcp(stream) => stream.set_write_timeout(pause).and_then(|()| stream.write(buffer)),
            Inner::Unix(stream) => stream.set_write_timeout(pause).and_then(|()| stream.write(buffer)),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
