//! A network of the test's own: servers at one address, and clients with real addresses, so that no header has to name them.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketType, bind, connect, socket};

use crate::harness::{Namespace, wait_for};

/// Where the servers listen. Clients are `198.51.100.2` to `198.51.100.99`.
pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

/// Read timeout: a server that hangs fails the test instead of hanging it.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The clients' end of the network.
pub(crate) struct Network {
    clients: Namespace,
}

impl Network {
    /// Runs `test` on a thread in the servers' namespace, where everything that it starts listens. Skipped if namespaces cannot be made.
    pub(crate) fn with(test: impl FnOnce(&Self) + Send) {
        if !Namespace::can_be_made() {
            return;
        }
        let (servers, clients) = (Namespace::new(), Namespace::new());
        servers.run(&format!("ip link add cable type veth peer name uplink netns {}", clients.pid()));
        servers.run(&format!("ip address add {SERVER}/24 dev cable"));
        servers.run("ip link set cable up");
        for last in 2..100 {
            clients.run(&format!("ip address add 198.51.100.{last}/24 dev uplink"));
        }
        clients.run("ip link set uplink up");
        let network = Self { clients };
        let result = std::thread::scope(|scope| {
            let inside = || {
                servers.enter();
                test(&network);
            };
            scope.spawn(inside).join()
        });
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    }

    /// Sends `text` to `port` from the client's own address, and returns the status of the answer; 0 if there is none.
    #[track_caller]
    pub(crate) fn send(&self, client: &str, port: u16, text: &[u8]) -> u16 {
        let client: Ipv4Addr = client.parse().expect("an address");
        let answer = std::thread::scope(|scope| {
            let talk = || {
                self.clients.enter();
                // Squid opens its ports one after the other.
                let mut stream = wait_for("the server accepts connections", || dial(client, port).ok());
                stream.set_read_timeout(Some(TIMEOUT))?;
                stream.write_all(text)?;
                if text.is_empty() {
                    stream.shutdown(std::net::Shutdown::Write)?;
                }
                let mut answer = Vec::new();
                match stream.read_to_end(&mut answer) {
                    // A server that has refused a request need not have read it all, and then resets the connection.
                    Err(error) if error.kind() != io::ErrorKind::ConnectionReset => Err(error),
                    _ => Ok(answer),
                }
            };
            scope.spawn(talk).join().expect("a client's thread")
        });
        let answer = answer.unwrap_or_else(|error: io::Error| panic!("{client} to port {port}: {error}"));
        let text = String::from_utf8_lossy(&answer);
        text.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0)
    }
}

/// Connects from `client`; the standard library cannot choose the source address.
fn dial(client: Ipv4Addr, port: u16) -> io::Result<TcpStream> {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    bind(&socket, &SocketAddrV4::new(client, 0))?;
    connect(&socket, &SocketAddrV4::new(SERVER, port))?;
    Ok(TcpStream::from(socket))
}
