//! Regular expressions in the syntax and with the meaning of Python's `re`, run on Rust's engines.
//!
//! - [`syntax`]: reads the text of an expression into a [`tree`];
//! - [`translate`]: writes the tree in the syntax of the `regex` and `fancy-regex` crates;
//! - [`engine`]: picks the engine and matches. Linear time wherever the expression allows it; a bounded
//!   backtracking engine, behind a linear gate, for lookaround, back-references and conditionals alone.

pub mod engine;
pub mod syntax;
pub mod translate;
pub mod tree;

pub use engine::{Outcome, Pattern, Spans};
pub use syntax::SyntaxError;
