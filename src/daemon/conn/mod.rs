//! The socket: its listener, connections and their peers, and the queue of replies from other threads.

pub mod connection;
pub mod listener;
pub mod peer;
pub mod replies;
