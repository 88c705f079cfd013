//! The pause: everybody is served until its end, while counting and banning go on.

use std::sync::Arc;

use super::{Change, Completion, Engine};
use crate::policy::Pause;
use crate::time::Time;

impl Engine {
    /// Begins a pause, in place of an earlier one.
    pub fn pause(self: &Arc<Self>, pause: Pause, completion: Completion) {
        self.set_pause(Some(pause.clone()));
        self.persist_and_complete(Change::Paused(pause), true, completion);
    }

    /// Ends the pause. Persisted and published even if there is none here.
    pub fn resume(self: &Arc<Self>, now: Time, completion: Completion) {
        let was_paused = self.policy().active_pause(now).is_some();
        self.set_pause(None);
        self.persist_and_complete(Change::Resumed, was_paused, completion);
    }

    /// Restores a saved pause, unless it is over. From now on it lasts at most its original length, as a ban does.
    pub(super) fn restore_pause(&self, pause: Pause, now: Time) {
        let until = pause.until.min(now.after(pause.until.since(pause.since)));
        if now < until {
            self.set_pause(Some(Pause { until, ..pause }));
        }
    }

    /// Forgets a pause that has ended by itself.
    pub(super) fn end_pause(&self, now: Time) {
        let is_over = |policy: &crate::policy::Policy| policy.pause.is_some() && policy.active_pause(now).is_none();
        if is_over(&self.policy()) {
            self.set_pause(None);
            log::warn!("the pause has ended by itself: banned clients are refused again");
        }
    }

    pub(super) fn set_pause(&self, pause: Option<Pause>) {
        Arc::make_mut(&mut self.policy.write()).pause = pause;
    }
}
