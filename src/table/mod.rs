//! The table: strikes and bans, in memory and bounded.

mod accounts;
mod bans;
mod bloom;
pub mod counter;
mod crowds;
mod eviction;
mod groups;
mod heavy_hitters;
mod member_filter;
mod members;
mod rate;
mod seen_marks;
mod strikes;
mod until;

pub use accounts::{Account, Accounts};
pub use bans::{Ban, Bans};
pub use counter::Counter;
pub use crowds::{CrowdCount, CrowdLimit, Crowds, MAX_MEMBERS};
pub use heavy_hitters::HeavyHitters;
pub use rate::{RateLimit, RequestTally};
pub use seen_marks::SeenMarks;
pub use strikes::Strikes;
pub use until::Until;
