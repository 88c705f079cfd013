//! The table: strikes and bans, in memory, bounded.

pub mod bans;
pub mod counter;
mod sieve;
pub mod strikes;

pub use bans::{Ban, Bans, Until};
pub use counter::Counter;
pub use strikes::{Rate, Strikes, Tallied};
