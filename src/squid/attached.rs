//! The resident's table: rules, lists and bans come by `follow`, and offences go across.

use std::path::Path;
use std::sync::mpsc::Sender;

use super::Place;

/// Keeps `place` in step with the resident on `socket`.
pub fn keep(_socket: &Path, _place: &Place, _ready: &Sender<()>) {}
