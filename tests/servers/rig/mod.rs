//! Real servers under test: Squid, Exim, an origin behind Squid, and the clients that talk to them.

mod client;
mod exim;
mod load;
mod network;
mod origin;
mod process;
mod squid;
mod stage;

pub(crate) use client::{Mail, get, request};
pub(crate) use exim::Exim;
pub(crate) use load::{Load, Tally};
pub(crate) use network::{Network, SERVER};
pub(crate) use origin::{LARGE, Origin, RIGHT};
pub(crate) use squid::Squid;
pub(crate) use stage::{example, give};
