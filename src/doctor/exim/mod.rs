//! Exim: its ACLs, and what they have to say so that clients are judged by them.

pub mod acl;
pub mod checks;
