//! A connection to Redis with limits: the redis crate's commands and parser over a stream of our own, because the crate's own connection reads
//! without limit. Here Redis can neither keep a thread waiting nor fill the memory.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::{Cmd, ConnectionLike, ErrorKind, Parser, PushKind, RedisError, RedisResult, Value};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

/// Redis counts as away if it is silent for longer than this.
pub const SILENCE: Duration = Duration::from_secs(2);
/// Timeout for a whole answer, even if its bytes keep coming.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum length in bytes of the answer to a command or a batch: several times the longest one expected.
pub const MAX_ANSWER: usize = 1024 * 1024;

/// The address of a server.
#[derive(Clone)]
pub enum Address {
    /// Host and port, and the configuration of TLS if it is used.
    Tcp(String, u16, Option<Arc<ClientConfig>>),
    Unix(std::path::PathBuf),
}

/// A connection to Redis.
pub struct RespConnection {
    /// The server's address, as text.
    pub peer: String,
    stream: Stream,
    parser: Parser,
    is_open: bool,
}

/// The result of a read on a subscribed connection.
#[derive(Debug, PartialEq, Eq)]
pub enum Incoming {
    /// A message of the channel.
    Message(Vec<u8>),
    Pong,
    /// Nothing within the time.
    Silence,
}

enum Stream {
    Plain(Socket),
    Tls(Box<StreamOwned<ClientConnection, Socket>>),
}

/// A socket that enforces the limits.
struct Socket {
    inner: RawSocket,
    /// Number of bytes that may still be read of this answer.
    left: usize,
    /// Timeout for one read or write.
    timeout: Duration,
    /// When this answer must be complete, counted from the start of the request.
    deadline: Instant,
}

enum RawSocket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl RespConnection {
    /// Connects to `address`, which messages call `peer`, within `timeout`; the TLS handshake, if TLS is used, comes after that.
    pub fn connect(address: &Address, timeout: Duration, peer: String) -> RedisResult<Self> {
        let socket = |inner| Socket { inner, left: MAX_ANSWER, timeout: SILENCE, deadline: Instant::now() + ANSWER_TIMEOUT };
        let stream = match address {
            Address::Unix(path) => Stream::Plain(socket(RawSocket::Unix(UnixStream::connect(path)?))),
            Address::Tcp(host, port, tls) => {
                let tcp = connect_tcp(host, *port, timeout)?;
                tcp.set_nodelay(true)?;
                let plain = socket(RawSocket::Tcp(tcp));
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
        Ok(Self { peer, stream, parser: Parser::new(), is_open: true })
    }

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

    /// Sends a ping on a subscribed connection; the answer comes among the messages.
    pub fn ping(&mut self) -> RedisResult<()> {
        self.begin();
        self.send(&redis::cmd("PING").get_packed_command())
    }

    /// Receives the next message, if one comes within `wait`. Half a message is kept until the rest comes.
    pub fn receive(&mut self, wait: Duration) -> RedisResult<Incoming> {
        let socket = self.socket();
        // The limits are set at the start of a message and kept until it is complete.
        if socket.left == MAX_ANSWER {
            socket.deadline = Instant::now() + ANSWER_TIMEOUT + wait;
        }
        socket.timeout = wait;
        let received = self.read();
        self.socket().timeout = SILENCE;
        match received {
            Ok(value) => {
                self.socket().left = MAX_ANSWER;
                Ok(message_of(value.extract_error()?))
            }
            Err(error) if error.is_timeout() && Instant::now() < self.socket().deadline => Ok(Incoming::Silence),
            Err(error) => Err(error),
        }
    }

    /// Sends packed commands and reads their answers; errors of single commands are among the values.
    pub fn request(&mut self, commands: &[u8], count: usize) -> RedisResult<Vec<Value>> {
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

    /// Starts the limits of one request.
    fn begin(&mut self) {
        let socket = self.socket();
        (socket.left, socket.timeout, socket.deadline) = (MAX_ANSWER, SILENCE, Instant::now() + ANSWER_TIMEOUT);
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
        // Both the parser and its input are foreign: a panic must not end the thread.
        let read = catch_unwind(AssertUnwindSafe(|| match stream {
            Stream::Plain(socket) => parser.parse_value(socket),
            Stream::Tls(stream) => parser.parse_value(stream),
        }));
        let value = read.unwrap_or_else(|_| Err((ErrorKind::Parse, "the answer cannot be parsed").into()));
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

/// Connects to the first address of the host that accepts.
fn connect_tcp(host: &str, port: u16, timeout: Duration) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"));
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, timeout) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Unwraps a message of RESP2 or RESP3.
fn message_of(value: Value) -> Incoming {
    let (is_message, payload) = match value {
        Value::Push { kind, mut data } => (kind == PushKind::Message, data.pop()),
        Value::Array(mut parts) => {
            let is_message = matches!(parts.first(), Some(Value::BulkString(kind)) if kind == b"message");
            (is_message && parts.len() == 3, parts.pop())
        }
        _ => (false, None),
    };
    match payload {
        Some(Value::BulkString(bytes)) if is_message => Incoming::Message(bytes),
        _ => Incoming::Pong,
    }
}

impl ConnectionLike for RespConnection {
    fn req_packed_command(&mut self, cmd: &[u8]) -> RedisResult<Value> {
        let answer = self.request(cmd, 1)?;
        answer.into_iter().next().ok_or_else(|| RedisError::from((ErrorKind::Client, "no answer")))
    }

    fn req_packed_commands(&mut self, cmd: &[u8], offset: usize, count: usize) -> RedisResult<Vec<Value>> {
        Ok(self.request(cmd, offset.saturating_add(count))?.split_off(offset))
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
    /// Timeout for the next read or write; an error if the answer has taken too long.
    fn next_timeout(&self) -> io::Result<Option<Duration>> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the answer takes too long"));
        }
        // A timeout of zero would be an error of the socket.
        Ok(Some(left.min(self.timeout).max(Duration::from_millis(1))))
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(self.left);
        let buffer = match buffer.get_mut(..most) {
            Some(buffer) if !buffer.is_empty() => buffer,
            _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is too long")),
        };
        let timeout = self.next_timeout()?;
        let read = match &mut self.inner {
            RawSocket::Tcp(stream) => stream.set_read_timeout(timeout).and_then(|()| stream.read(buffer)),
            RawSocket::Unix(stream) => stream.set_read_timeout(timeout).and_then(|()| stream.read(buffer)),
        }?;
        self.left -= read;
        Ok(read)
    }
}

impl Write for Socket {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let timeout = self.next_timeout()?;
        match &mut self.inner {
            RawSocket::Tcp(stream) => stream.set_write_timeout(timeout).and_then(|()| stream.write(buffer)),
            RawSocket::Unix(stream) => stream.set_write_timeout(timeout).and_then(|()| stream.write(buffer)),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
