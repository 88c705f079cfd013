//! One table: who is banned by one server is refused by the other, as the rule's scope says.

use std::time::{Duration, Instant};

use super::harness::{Exim, Mail, Origin, Resident, Squid, Stage, get, until};

const EXAMPLES: [(&str, &str); 2] = [("squid-failopen.conf", "exim-readsocket.acl"), ("squid.conf", "exim-run.acl")];

#[test]
fn a_web_scanner_is_refused_by_exim() {
    for (squid, exim) in EXAMPLES {
        let Some(stage) = Stage::with_both() else { return };
        let origin = Origin::start();
        let _resident = Resident::start(&stage, "");
        let squid = Squid::start(&stage, &origin, &stage.squid_example(squid));
        let exim = Exim::start(&stage, &stage.exim_example(exim));
        assert_eq!(Mail::code(exim.port(), "198.51.100.1"), 220);
        assert_eq!(get(squid.port(), "198.51.100.1", "/w00tw00t.at.ISC.SANS.DFind:)"), 429);
        // No waiting: the ban stood before the scanner had its answer.
        assert_eq!(Mail::code(exim.port(), "198.51.100.1"), 421);
        assert_eq!(Mail::code(exim.port(), "203.0.113.9"), 220);
    }
}

#[test]
fn who_exim_strikes_out_is_refused_by_squid() {
    for (squid, exim) in EXAMPLES {
        let Some(stage) = Stage::with_both() else { return };
        let origin = Origin::start();
        let resident = Resident::start(&stage, "[[rule]]\nname = \"exim-rate\"\nmaxretry = 5\nscope = \"all\"\n");
        let squid = Squid::start(&stage, &origin, &stage.squid_example(squid));
        let exim = Exim::start(&stage, &stage.exim_example(exim));
        assert_eq!(get(squid.port(), "198.51.100.1", "/"), 200);
        until("Exim refuses", || (Mail::code(exim.port(), "198.51.100.1") == 421).then_some(()));
        assert!(resident.ask("check 198.51.100.1").contains("rule=exim-rate"));
        until("Squid refuses", || (get(squid.port(), "198.51.100.1", "/") == 429).then_some(()));
        assert_eq!(get(squid.port(), "203.0.113.9", "/"), 200);
    }
}

#[test]
fn a_ban_of_scope_mail_leaves_the_web_alone() {
    let Some(stage) = Stage::with_both() else { return };
    let origin = Origin::start();
    let _resident = Resident::start(&stage, "[[rule]]\nname = \"exim-rate\"\nmaxretry = 5\nscope = \"mail\"\n");
    let squid = Squid::start(&stage, &origin, &stage.squid_example("squid-failopen.conf"));
    let exim = Exim::start(&stage, &stage.exim_example("exim-readsocket.acl"));
    until("Exim refuses", || (Mail::code(exim.port(), "198.51.100.1") == 421).then_some(()));
    // A second ban, of scope "all", shows when the helper has caught up.
    assert_eq!(get(squid.port(), "198.51.100.2", "/w00tw00t"), 429);
    assert_eq!(get(squid.port(), "198.51.100.1", "/"), 200);
}

#[test]
fn an_unban_takes_effect_within_two_seconds() {
    let Some(stage) = Stage::with_squid() else { return };
    let origin = Origin::start();
    let resident = Resident::start(&stage, "");
    let squid = Squid::start(&stage, &origin, &stage.squid_example("squid-failopen.conf"));
    assert_eq!(get(squid.port(), "198.51.100.1", "/w00tw00t"), 429);
    // Squid's own cache has the refusal now, as fresh as it can be: the worst case.
    until("Squid refuses by its cache", || (get(squid.port(), "198.51.100.1", "/") == 429).then_some(()));
    let start = Instant::now();
    assert!(resident.ask("unban 198.51.100.1").starts_with("unbanned "));
    until("the client is served again", || (get(squid.port(), "198.51.100.1", "/") == 200).then_some(()));
    let took = start.elapsed();
    eprintln!("an unban took effect through Squid after {} ms", took.as_millis());
    assert!(took <= Duration::from_secs(2), "{took:?}");
}
