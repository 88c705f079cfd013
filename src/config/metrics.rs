//! `[metrics]`: where Prometheus may ask over HTTP. Off unless given, and never beyond this machine.

use std::net::SocketAddr;

use serde::Deserialize;

/// `[metrics]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsConfig {
    /// The address and port of the HTTP listener; none for no listener. Port 0 takes a free one.
    pub listen: Option<LoopbackAddr>,
}

/// An address of this machine's loopback, with a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoopbackAddr(pub SocketAddr);

impl<'de> Deserialize<'de> for LoopbackAddr {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.parse::<SocketAddr>() {
            Ok(address) if address.ip().is_loopback() => Ok(Self(address)),
            _ => Err(serde::de::Error::custom(format!(
                "found {text:?}, expected an address of loopback and a port, such as \"127.0.0.1:9471\""
            ))),
        }
    }
}
