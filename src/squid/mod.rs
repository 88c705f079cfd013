//! The Squid helper: its protocol, its loop, and the two places where its table can live.

pub mod answer;
pub mod answered;
pub mod attached;
pub mod embedded;
pub mod helper;
pub mod output;
pub mod query;
pub mod session;

use std::sync::{Arc, PoisonError, RwLock};

use self::answered::Answered;
use crate::engine::InForce;
use crate::reply::Reply;
use crate::rule::{Names, Offence};
use crate::table::{Bans, Tallied};
use crate::time::Time;
use crate::verdict::Verdict;

/// Where the helper's rules, lists and bans come from and its offences go to: a table of its own, or the resident's.
pub trait Backend: Send + Sync {
    /// The table time.
    fn now(&self) -> Time;
    /// What is in force.
    fn in_force(&self) -> Arc<InForce>;
    /// The bans.
    fn bans(&self) -> &Bans;
    /// The names of all rules.
    fn names(&self) -> &Names;
    /// Counts an offence, and answers.
    fn offend(&self, now: Time, offence: Offence, reply: Reply);
    /// Answers with a refusal once the ban that it rests on is kept.
    fn when_kept(&self, verdict: Verdict, reply: Reply);
    /// Adds the ordinary requests of one read to the rates of their clients. What is left in `tallied` is of no use any more.
    fn tally(&self, now: Time, tallied: &mut Vec<Tallied>);
    /// Takes what was answered without it, for metrics. A table of the helper's own has none.
    fn answered(&self, answered: &mut Answered) {
        *answered = Answered::default();
    }
    /// The input has ended: saves what should outlive the process.
    fn close(&self);
}

/// The backend, once there is one: until then, and whenever it is lost, every query is answered `ERR`.
#[derive(Clone, Default)]
pub struct Place(Arc<RwLock<Option<Arc<dyn Backend>>>>);

impl Place {
    /// The backend in place.
    #[must_use]
    pub fn get(&self) -> Option<Arc<dyn Backend>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts a backend in place.
    pub fn put(&self, backend: Arc<dyn Backend>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(backend);
    }
}
