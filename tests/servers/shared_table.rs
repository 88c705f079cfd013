//! One table: a client banned at one server is refused by the other, according to the rule's scope.

use std::time::{Duration, Instant};

use crate::harness::{Stage, wait_until};
use crate::rig::{Exim, Mail, Origin, Squid, get};

const EXAMPLES: [(&str, &str); 2] = [("squid-failopen.conf", "exim-readsocket.acl"), ("squid.conf", "exim-run.acl")];

#[test]
fn a_web_scanner_is_refused_by_exim() {
    for (squid, exim) in EXAMPLES {
        let Some(stage) = Stage::with_both() else { return };
        let origin = Origin::start();
        let _daemon = stage.daemon("");
        let squid = Squid::start(&stage, &origin, &stage.squid_example(squid));
        let exim = Exim::start(&stage, &stage.exim_example(exim));
        assert_eq!(Mail::code(exim.port(), "198.51.100.1"), 220);
        assert_eq!(get(squid.port(), "198.51.100.1", "/w00tw00t.at.ISC.SANS.DFind:)"), 429);
        // Without waiting: the ban was in force before the scanner got its answer.
        assert_eq!(Mail::code(exim.port(), "198.51.100.1"), 421);
        assert_eq!(Mail::code(exim.port(), "203.0.113.9"), 220);
    }
}

#[test]
fn a_client_banned_at_exim_is_refused_by_squid() {
    for (squid, exim) in EXAMPLES {
        let Some(stage) = Stage::with_both() else { return };
        let origin = Origin::start();
        let daemon = stage.daemon("[[rule]]\nname = \"exim-rate\"\nmaxretry = 5\nscope = \"all\"\n");
        let squid = Squid::start(&stage, &origin, &stage.squid_example(squid));
        let exim = Exim::start(&stage, &stage.exim_example(exim));
        assert_eq!(get(squid.port(), "198.51.100.1", "/"), 200);
        wait_until("Exim refuses", || Mail::code(exim.port(), "198.51.100.1") == 421);
        assert!(daemon.ask("check 198.51.100.1").contains("rule=exim-rate"));
        wait_until("Squid refuses", || get(squid.port(), "198.51.100.1", "/") == 429);
        assert_eq!(get(squid.port(), "203.0.113.9", "/"), 200);
    }
}

#[test]
fn a_ban_of_scope_mail_does_not_refuse_on_the_web() {
    let Some(stage) = Stage::with_both() else { return };
    let origin = Origin::start();
    let _daemon = stage.daemon("[[rule]]\nname = \"exim-rate\"\nmaxretry = 5\nscope = \"mail\"\n");
    let squid = Squid::start(&stage, &origin, &stage.squid_example("squid-failopen.conf"));
    let exim = Exim::start(&stage, &stage.exim_example("exim-readsocket.acl"));
    wait_until("Exim refuses", || Mail::code(exim.port(), "198.51.100.1") == 421);
    // Once a second ban, of scope "all", is in force at the helper, so is the first one.
    assert_eq!(get(squid.port(), "198.51.100.2", "/w00tw00t"), 429);
    assert_eq!(get(squid.port(), "198.51.100.1", "/"), 200);
}

#[test]
fn an_unban_takes_effect_within_two_seconds() {
    let Some(stage) = Stage::with_squid() else { return };
    let origin = Origin::start();
    let daemon = stage.daemon("");
    let squid = Squid::start(&stage, &origin, &stage.squid_example("squid-failopen.conf"));
    assert_eq!(get(squid.port(), "198.51.100.1", "/w00tw00t"), 429);
    // The worst case: Squid has just cached the refusal.
    wait_until("Squid refuses by its cache", || get(squid.port(), "198.51.100.1", "/") == 429);
    let start = Instant::now();
    assert_eq!(daemon.object("unban 198.51.100.1")["found"], true);
    wait_until("the client is served again", || get(squid.port(), "198.51.100.1", "/") == 200);
    let took = start.elapsed();
    eprintln!("an unban took effect through Squid after {} ms", took.as_millis());
    assert!(took <= Duration::from_secs(2), "{took:?}");
}
