//! A pause, on a real Squid and a real Exim.

use crate::harness::{Stage, wait_until};
use crate::rig::{Exim, Mail, Origin, Squid, get};

#[test]
fn a_pause_serves_banned_clients_in_squid_and_exim_until_it_is_ended() {
    for (squid, exim) in [("squid-failopen.conf", "exim-readsocket.acl"), ("squid.conf", "exim-run.acl")] {
        let Some(stage) = Stage::with_both() else { return };
        let origin = Origin::start();
        let daemon = stage.daemon("");
        let squid = Squid::start(&stage, &origin, &stage.squid_example(squid));
        let exim = Exim::start(&stage, &stage.exim_example(exim));
        assert_eq!(get(squid.port(), "198.51.100.1", "/w00tw00t"), 429);
        assert_eq!(Mail::code(exim.port(), "198.51.100.1"), 421);
        daemon.text(&["pause"]);
        wait_until("Squid serves", || get(squid.port(), "198.51.100.1", "/") == 200);
        assert_eq!(Mail::code(exim.port(), "198.51.100.1"), 220);
        wait_until("Squid serves even a probe", || get(squid.port(), "198.51.100.2", "/w00tw00t") == 200);
        daemon.text(&["resume"]);
        wait_until("Squid refuses again", || get(squid.port(), "198.51.100.1", "/") == 429);
        assert_eq!(Mail::code(exim.port(), "198.51.100.1"), 421);
        assert_eq!(Mail::code(exim.port(), "198.51.100.2"), 421, "the probe was counted all the same");
    }
}
