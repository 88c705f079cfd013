//! `[metrics]`: the HTTP listener for Prometheus. Off unless configured, and bound to loopback only.

use std::net::SocketAddr;

use serde::Deserialize;

/// The `[metrics]` section.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsConfig {
    /// The listener's address and port; none for no listener. Port 0 takes a free one.
    pub listen: Option<LoopbackAddr>,
}

/// A loopback address and a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoopbackAddr(pub SocketAddr);

impl<'de> Deserialize<'de> for LoopbackAddr {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.parse::<SocketAddr>() {
            Ok(address) if address.ip().is_loopback() => Ok(Self(address)),
            _ => {
                Err(serde::de::Error::custom(format!("found {text:?}, expected a loopback address and a port such as \"127.0.0.1:9471\"")))
            }
        }
    }
}
