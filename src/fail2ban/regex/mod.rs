//! Regular expressions with the syntax and meaning of Python's `re`, run on Rust's engines.
//!
//! - [`syntax`]: parses the text of an expression into a [`tree`]; [`escape`]: its escapes and character sets;
//! - [`translate`]: writes the tree in the syntax of the `regex` and `fancy-regex` crates;
//! - [`reorder`]: makes another match of the expression the first;
//! - [`engine`]: picks the engine and matches. Linear time wherever the expression allows it; a bounded
//!   backtracking engine, behind a linear gate, only for lookaround, back-references and conditionals.

pub mod engine;
mod escape;
pub mod reorder;
mod syntax;
pub mod translate;
pub mod tree;

pub use engine::{MatchResult, Pattern, Spans};
