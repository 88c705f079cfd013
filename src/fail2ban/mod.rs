//! Reads fail2ban's filters and jails unchanged.
//!
//! - [`ini`]: the format of its configuration files, with includes and interpolation;
//! - [`tags`]: `name[option=value]`, and `<name>` tags in values;
//! - [`expression`]: `<HOST>` and the other tags of a failregex;
//! - [`regex`]: Python's regular expressions; [`dates`]: dates in log lines;
//! - [`filter`]: a filter file, loaded with its options;
//! - [`matcher`]: a filter applied to the lines of one log; [`line_buffer`]: expressions over several lines; [`pending`]: connections
//!   that are logged over several lines;
//! - [`ambiguity`]: lines that could blame two clients blame nobody;
//! - [`jail`]: jail.conf, jail.d and jail.local; [`import`]: their translation into a configuration;
//! - [`test_filter`]: a filter tried on a log; [`forgery`]: expressions that a client can deceive, shown by [`sample`] lines.

mod ambiguity;
pub mod dates;
mod expression;
mod filter;
mod forgery;
pub mod import;
pub mod import_bans;
mod import_ignored;
mod ini;
mod jail;
mod line_buffer;
mod matcher;
mod pending;
pub mod regex;
mod sample;
mod tags;
pub mod test_filter;

pub use filter::Filter;
pub use forgery::forgeries;
pub use matcher::{Host, Matcher};
