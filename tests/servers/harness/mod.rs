//! What the tests on real servers share: a stage of directories and binaries, Squid, Exim, the
//! resident, an origin, and the clients that talk to them.

mod client;
mod exim;
mod load;
mod origin;
mod process;
mod resident;
mod squid;
mod stage;
mod wait;

pub(crate) use client::{Mail, get, request};
pub(crate) use exim::Exim;
pub(crate) use load::{Load, Tally};
pub(crate) use origin::Origin;
pub(crate) use process::{kill, running};
pub(crate) use resident::Resident;
pub(crate) use squid::Squid;
pub(crate) use stage::{Stage, example, give, long, program};
pub(crate) use wait::until;
