//! Metrics: what is counted, its text, and the HTTP listener for Prometheus.

pub mod counters;
pub mod http;
pub mod prefilters;
pub mod process;
pub mod report;
