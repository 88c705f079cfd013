//! A stage on which all is sound: a daemon whose socket belongs to a group that a real Squid and a real Exim have.

use std::path::Path;

use crate::harness::{Daemon, Stage, is_root};
use crate::rig::{Exim, Origin, Squid};

/// What a stage is made of. The default is sound: the socket belongs to a group that both servers have.
pub(crate) struct Plan {
    pub(crate) group: &'static str,
    pub(crate) table: &'static str,
    /// What follows the logs in the configuration.
    pub(crate) rules: String,
    pub(crate) squid: String,
    pub(crate) acl: String,
    pub(crate) exim_options: &'static str,
    pub(crate) authenticators: &'static str,
    pub(crate) follows_exim: bool,
    pub(crate) follows_squid: bool,
}

/// The running servers of a plan.
pub(crate) struct Sound {
    pub(crate) daemon: Daemon,
    pub(crate) squid: Squid,
    pub(crate) exim: Exim,
    pub(crate) stage: Stage,
    /// The operator's SSH session.
    pub(crate) session: &'static str,
    _origin: Origin,
}

impl Plan {
    pub(crate) fn new(stage: &Stage) -> Self {
        Self {
            group: "Debian-exim",
            table: "",
            rules: String::new(),
            squid: format!("cache_effective_group Debian-exim\n{}", stage.squid_example("squid-failopen.conf")),
            acl: stage.exim_example("exim-readsocket.acl"),
            exim_options: "",
            authenticators: "",
            follows_exim: true,
            follows_squid: true,
        }
    }

    pub(crate) fn start(self, stage: &Stage) -> Sound {
        let origin = Origin::start();
        let exim = Exim::start_whole(stage, &self.acl, self.exim_options, "accept", self.authenticators);
        let squid = Squid::start(stage, &origin, &self.squid);
        let mut logs = String::new();
        if self.follows_squid {
            logs += &format!("[[log]]\npath = {:?}\noptional = true\n", stage.squid_log());
        }
        if self.follows_exim {
            let zone = if self.rules.contains("KOLKATA") { "zone = 'Asia/Kolkata'\n" } else { "" };
            logs += &format!("[[log]]\npath = {:?}\nrules = ['exim-per-host', 'exim-global']\n{zone}", exim.mainlog_path());
        }
        let mode = if self.table.contains("mode") { "" } else { "mode = '0660'\n" };
        let daemon = Daemon::start_on(stage, &format!("group = '{}'\n{mode}{}", self.group, self.table), &format!("{logs}{}", self.rules));
        Sound { daemon, squid, exim, stage: stage.clone(), session: "", _origin: origin }
    }
}

/// A stage for a sound plan, where it can be made.
pub(crate) fn stage() -> Option<Stage> {
    // Only root can give the socket to a group that the servers have.
    is_root("start servers as their own users").then(Stage::with_both).flatten()?;
    // Doctor runs no program from a directory that every user may write, as the one for temporary files.
    let stage = Stage::new_in(Path::new("/var/lib"));
    stage.open();
    Some(stage)
}
