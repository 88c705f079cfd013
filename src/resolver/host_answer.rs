//! What a lookup of a host name found.

use crate::list::HostAddresses;
use crate::time::Time;

/// A good answer: at least one address that a client can have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostAnswer {
    pub addresses: HostAddresses,
    pub at: Time,
}
