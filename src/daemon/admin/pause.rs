//! `pause` and `resume`: everybody is served for a while.

use super::ban::{answering, not_saved};
use super::context::AdminContext;
use crate::clock::timestamp;
use crate::control::pause::{PauseReport, PauseStatus, ResumeReport};
use crate::daemon::conn::replies::ReplyHandle;
use crate::policy::Pause;
use crate::time::Span;

impl AdminContext {
    /// Begins a pause on behalf of `user`, and answers when it is saved.
    pub(super) fn pause(&self, length: Span, user: &str, to: &ReplyHandle) {
        let now = self.clock.now();
        let pause = Pause { since: now, until: now.after(length), by: user.into() };
        log::warn!("paused by {user} until {}: everybody is served", timestamp(pause.until));
        let paused = PauseStatus::of(&pause, now);
        let completion = answering(to, move |applied| PauseReport { paused, not_saved: not_saved(applied.persisted) });
        self.engine.pause(pause, completion);
    }

    /// Ends the pause on behalf of `user`, and answers when that is saved.
    pub(super) fn resume(&self, user: &str, to: &ReplyHandle) {
        log::info!("resumed by {user}");
        let completion = answering(to, |applied| ResumeReport { resumed: applied.changed, not_saved: not_saved(applied.persisted) });
        self.engine.resume(self.clock.now(), completion);
    }
}
