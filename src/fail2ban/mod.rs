//! fail2ban's filters and jails, as they are.
//!
//! - [`ini`]: its configuration files, with includes and interpolation;
//! - [`tags`]: `name[option=value]` and `<name>` in values;
//! - [`expression`]: `<HOST>` and the other tags of a failregex;
//! - [`filter`]: a filter file, loaded with its options;
//! - [`matcher`]: a filter over the lines of one log, and [`pending`]: what it remembers between lines of one connection;
//! - [`jail`]: jail.conf, jail.d and jail.local, with lengths of time ([`seconds`]);
//! - [`forgery`]: expressions that let a client decide who is blamed, shown by [`sample`] lines.

pub mod expression;
pub mod filter;
pub mod forgery;
pub mod ini;
mod ini_file;
pub mod jail;
pub mod matcher;
pub mod pending;
pub mod sample;
pub mod seconds;
pub mod tags;

pub use filter::{Filter, FilterError};
pub use matcher::{Found, Host, Matcher};
