//! The import: fail2ban folders in, configuration text out, which the program itself can read.

use std::path::Path;
use strikeout::internals::config::Config;
use strikeout::internals::fail2ban::import::{Imported, import};
use strikeout::internals::rule::{Mode, Trigger};
use strikeout::internals::rule_id::RuleNames;

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a directory");
    for (name, text) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        std::fs::write(path, text.replace("FOLDER", &folder.path().display().to_string())).expect("written");
    }
    folder
}

const FILTER: (&str, &str) =
    ("filter.d/x.conf", "[Definition]\nfailregex = ^a <HOST>$\n  <re-<mode>>\nre-normal =\nre-more = ^b \"<HOST>$\n");

fn parsed(imported: &Imported) -> Config {
    Config::parse(imported.text.as_bytes(), Path::new("x.toml"), &RuleNames::default())
        .unwrap_or_else(|error| panic!("{error}\n{}", imported.text))
}

#[test]
fn a_jail_becomes_a_rule_and_its_files_become_logs() {
    let folder = folder(&[
        FILTER,
        ("a.log", ""),
        ("b.log", ""),
        (
            "jail.conf",
            "[DEFAULT]\nignoreip = 127.0.0.1/8 192.0.2.0/255.255.255.0, ::1\nport = http,https\n[x]\nenabled = true\nfilter = x[mode=more]\nlogpath = FOLDER/*.log\nmaxretry = 2\nfindtime = 1h 30m\nbantime = 48h\n[off]\nfilter = x\n",
        ),
    ]);
    let imported = import(folder.path(), &[], false).expect("translated");
    assert!(!imported.failed, "{imported:?}");
    let config = parsed(&imported);
    assert_eq!(config.logs.len(), 2);
    assert!(config.logs.iter().all(|log| log.rules.as_deref() == Some(&["x".to_owned()])));
    for expected in [
        "ignoreip = [\"127.0.0.0/8\", \"192.0.2.0/24\", \"::1\"]",
        "name = \"x\"",
        "filter_options = { \"mode\" = \"more\" }",
        "maxretry = 2",
        "findtime = \"90m\"",
        "bantime = \"2d\"",
        "scope = \"web\"",
    ] {
        assert!(imported.text.contains(expected), "{expected} in\n{}", imported.text);
    }
    assert!(!imported.text.contains("off"));
}

#[test]
fn a_failregex_of_the_jail_becomes_a_filter_option() {
    let folder = folder(&[
        FILTER,
        ("l", ""),
        (
            "jail.conf",
            "[x]\nenabled = true\nfilter = x[mode=normal]\nlogpath = FOLDER/l\nfailregex = %(known/failregex)s\n  ^c '\"\\[<HOST>\\]$\nport = smtp\n",
        ),
    ]);
    let imported = import(folder.path(), &[], false).expect("translated");
    let rule = toml::from_str::<toml::Table>(&imported.text).expect("TOML")["rule"][0].clone();
    assert_eq!(rule["filter_options"]["failregex"].as_str(), Some("^a <HOST>$\n\n^c '\"\\[<HOST>\\]$"));
    assert_eq!(rule["scope"].as_str(), Some("mail"));
    parsed(&imported);
}

#[test]
fn growing_bans_are_translated() {
    let folder = folder(&[
        FILTER,
        ("l", ""),
        (
            "jail.conf",
            "[x]\nenabled = true\nfilter = x[mode=normal]\nlogpath = FOLDER/l\nbantime = 10m\nbantime.increment = true\nbantime.factor = 1\nbantime.multipliers = 1 2 4\nbantime.maxtime = 5w\n",
        ),
    ]);
    let imported = import(folder.path(), &[], false).expect("translated");
    let expected =
        "bantime = { initial = \"10m\", increment = true, factor = 1.0, multipliers = [1.0, 2.0, 4.0], maxtime = \"5w\", forget = \"1d\" }";
    assert!(imported.text.contains(expected), "{}", imported.text);
    parsed(&imported);
    assert_eq!(imported.warnings, [] as [String; 0]);
}

#[test]
fn what_cannot_be_translated_is_a_comment_and_a_warning() {
    let folder = folder(&[
        FILTER,
        ("filter.d/lines.conf", "[Definition]\nfailregex = ^a <HOST>$\nmaxlines = many\n"),
        (
            "jail.conf",
            "[DEFAULT]\nenabled = true\n[X Y]\nfilter = x[mode=normal]\nbackend = systemd\naction = iptables[name=a]\nignorecommand = /bin/true\nbantime = -1\nignoreip = a!example 192.0.2.1\nignoreself = no\nusedns = yes\nbantime.formula = ban.Time\n[lines]\nfilter = lines\nlogpath = /nowhere/x\n[gone]\nfilter = gone\n",
        ),
    ]);
    let imported = import(folder.path(), &[], false).expect("translated");
    for expected in [
        "jail X Y: its rule is called \"x-y\"",
        "jail X Y: action: iptables[name=a]: not translated",
        "jail X Y: ignorecommand: /bin/true: not translated",
        "jail X Y: backend: systemd: the journal is not read",
        "jail X Y: ignoreip: found \"a!example\"",
        "jail X Y: its rule is switched off: no log file feeds it",
        "jail X Y: ignoreself = false",
        "jail X Y: usedns: yes",
        "jail X Y: bantime.formula: ban.Time",
        "jail lines: logpath: /nowhere/x does not exist now",
        "maxlines: found \"many\", expected a number above 0",
        "jail gone: not translated: ",
    ] {
        assert!(imported.warnings.iter().any(|warning| warning.contains(expected)), "{expected} in {:#?}", imported.warnings);
        assert!(imported.text.contains(expected), "{expected} in\n{}", imported.text);
    }
    assert!(imported.text.contains("bantime = -1") && imported.text.contains("# filter = "));
    assert!(!imported.failed, "one jail was translated");
    parsed(&imported);
}

#[test]
fn an_expression_that_a_client_can_deceive_is_a_warning() {
    let folder = folder(&[
        ("filter.d/x.conf", "[Definition]\nfailregex = ^ a <HOST>$\n  bad <HOST>$\n  worse <HOST>$\n"),
        ("filter.d/y.conf", "[Definition]\nfailregex = ^ a <HOST>$\nmaxlines = 20\n"),
        ("l", ""),
        ("jail.conf", "[DEFAULT]\nenabled = true\nlogpath = FOLDER/l\n[x]\nfilter = x\n[y]\nfilter = y\n"),
    ]);
    let imported = import(folder.path(), &[], false).expect("translated");
    let [first, more] = imported.warnings.as_slice() else { panic!("{:#?}", imported.warnings) };
    assert!(first.starts_with("jail x: ") && first.contains("failregex 2 lets a client decide which address is blamed"), "{first}");
    assert!(more.starts_with("jail x: 1 more of its expressions can be deceived"), "{more}");
    assert_eq!(parsed(&imported).logs.len(), 1);
}

#[test]
fn a_jail_named_like_a_built_in_rule_gets_another_name() {
    let folder = folder(&[
        FILTER,
        ("jail.conf", "[w00tw00t]\nenabled = true\nfilter = x[mode=normal]\n[manual]\nenabled = true\nfilter = x[mode=normal]\n"),
    ]);
    let imported = import(folder.path(), &[], false).expect("translated");
    assert!(imported.text.contains("name = \"jail-w00tw00t\"") && imported.text.contains("name = \"jail-manual\""), "{}", imported.text);
    parsed(&imported);
}

#[test]
fn a_jail_that_is_named_need_not_be_enabled() {
    let folder = folder(&[FILTER, ("l", ""), ("jail.conf", "[x]\nfilter = x[mode=normal]\nlogpath = FOLDER/l\n")]);
    assert!(import(folder.path(), &["x".to_owned()], false).expect("translated").text.contains("name = \"x\""));
    assert!(import(folder.path(), &["y".to_owned()], false).expect("read").failed);
    let nothing = import(folder.path(), &[], false).expect("read");
    assert!(nothing.warnings[0].starts_with("no jail is enabled"));
    assert!(import(Path::new("/nowhere"), &[], false).is_err());
}

#[test]
fn nobody_whom_a_jail_ignores_is_banned_by_any_rule() {
    let folder = folder(&[
        FILTER,
        ("l", ""),
        (
            "jail.conf",
            "[DEFAULT]\nenabled = true\nfilter = x[mode=normal]\nlogpath = FOLDER/l\n[a]\nignoreip = 192.0.2.1 203.0.113.0/24\n[b]\nignoreip = 192.0.2.1 localhost home.example.net\n[c]\nignoreip = 0.0.0.0/0 192.0.2.1\n",
        ),
    ]);
    let imported = import(folder.path(), &[], false).expect("translated");
    let config = parsed(&imported);
    let lists = &config.lists;
    for address in ["192.0.2.1", "203.0.113.9", "127.0.0.1"] {
        assert!(lists.never_banned(address.parse().expect("an address")).is_some(), "{address} in\n{}", imported.text);
    }
    assert!(imported.text.contains("# 203.0.113.0/24 is ignored by a alone in fail2ban, and by every rule here.\n"), "{}", imported.text);
    assert!(lists.hosts().any(|host| host.host().expect("a host").as_str() == "home.example.net"), "{}", imported.text);
    assert!(imported.text.contains("# home.example.net is ignored by b alone in fail2ban, and by every rule here.\n"), "{}", imported.text);
    // What holds the whole Internet protects nobody but from its own rule.
    assert!(lists.never_banned("198.51.100.1".parse().expect("an address")).is_none());
    assert!(imported.warnings.iter().any(|warning| warning.starts_with("jail c: ignoreip: 0.0.0.0/0 holds much of the Internet")));
    let ignores =
        |rule: &str, address: &str| config.rules.by_name(rule).expect(rule).ignoreip.contains(address.parse().expect("an address"));
    assert_eq!(["a", "b", "c"].map(|rule| ignores(rule, "203.0.113.9")), [true, false, true]);
    assert_eq!(["a", "b", "c"].map(|rule| ignores(rule, "198.51.100.1")), [false, false, true]);
}

#[test]
fn a_jail_of_a_service_that_neither_squid_nor_exim_guards_is_switched_off_with_the_reason() {
    let folder = folder(&[
        FILTER,
        ("filter.d/sshd.conf", "[Definition]\nfailregex = ^a <HOST>$\n"),
        ("l", ""),
        (
            "jail.conf",
            "[DEFAULT]\nenabled = true\nfilter = x[mode=normal]\nlogpath = FOLDER/l\n[ssh]\nport = ssh\n[sshd]\nfilter = sshd\n[site]\nport = http,https\n\
             [dovecot]\nport = pop3,imap,submission\n[any]\nport = 0:65535\n",
        ),
    ]);
    let imported = import(folder.path(), &[], false).expect("translated");
    let config = parsed(&imported);
    let in_force = |name: &str| config.rules.by_name(name).is_some();
    assert_eq!(["ssh", "sshd", "site", "dovecot", "any"].map(in_force), [false, false, true, true, true], "{}", imported.text);
    assert!(
        imported
            .warnings
            .iter()
            .any(|warning| warning.starts_with("jail ssh: its rule is switched off: neither Squid nor Exim serves port ssh"))
    );
    assert!(imported.warnings.iter().any(|warning| warning.contains("the service of filter sshd")));
}

#[test]
fn a_jail_over_fail2bans_own_log_becomes_a_rule_over_bans() {
    let folder = folder(&[
        FILTER,
        ("filter.d/recidive.conf", "[Definition]\nfailregex = ^a Ban <HOST>$\n"),
        ("l", ""),
        (
            "jail.conf",
            "[DEFAULT]\nenabled = true\nport = 0:65535\n[site]\nfilter = x[mode=normal]\nlogpath = FOLDER/l\n\
             [recidive]\nfilter = recidive[_jailname=recidive]\nlogpath = /var/log/fail2ban.log\nmaxretry = 5\nfindtime = 1d\nbantime = 1w\n\
             [again]\nfilter = x[mode=more]\nlogpath = /var/log/fail2ban.log\nbackend = systemd\nbantime = -1\n",
        ),
    ]);
    let imported = import(folder.path(), &[], false).expect("translated");
    let config = parsed(&imported);
    for (name, maxretry, findtime, bantime) in [("jail-recidive", 5, "1d", Some("1w")), ("again", 3, "10m", None)] {
        let rule = config.rules.by_name(name).unwrap_or_else(|| panic!("{name} in\n{}", imported.text));
        let found = (&rule.trigger, rule.maxretry, rule.findtime.to_string(), rule.bantime.initial.map(|span| span.to_string()), rule.mode);
        assert_eq!(found, (&Trigger::Ban, maxretry, findtime.to_owned(), bantime.map(str::to_owned), Mode::Enforce));
    }
    assert_eq!(config.logs.len(), 1, "no rule reads fail2ban's log");
    let expected = "jail recidive: its rule counts bans by the rules here, not those that fail2ban still makes";
    assert!(imported.warnings.iter().any(|warning| warning == expected), "{:#?}", imported.warnings);
}

#[test]
fn in_shadow_every_rule_is_and_the_file_loads_beside_the_packaged_one() {
    let folder = folder(&[
        FILTER,
        ("l", ""),
        (
            "jail.conf",
            "[DEFAULT]\nenabled = true\nfilter = x[mode=normal]\nlogpath = FOLDER/l\nbackend = systemd\n[a]\nport = smtp\n[b]\nport = ssh\n",
        ),
    ]);
    let imported = import(folder.path(), &[], true).expect("translated");
    assert!(
        imported.warnings.iter().any(|warning| warning.starts_with("jail a: backend: systemd: the journal is not read; ")
            && warning.ends_with("/l is followed instead"))
    );
    let stage = tempfile::tempdir().expect("a directory");
    let main = stage.path().join("strikeout.toml");
    std::fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("conf-examples/strikeout.toml"), &main).expect("copied");
    std::fs::create_dir(stage.path().join("conf.d")).expect("made");
    std::fs::write(stage.path().join("conf.d/fail2ban.toml"), &imported.text).expect("written");
    let config = Config::load(Some(&main), &RuleNames::default()).expect("loaded");
    let rule = config.rules.by_name("a").expect("in force");
    assert_eq!(rule.mode, Mode::Shadow);
    assert!(config.logs.iter().any(|log| log.path.ends_with("l") && log.rules.as_deref() == Some(&["a".to_owned()])), "{:?}", config.logs);
}

#[test]
fn bans_of_fail2bans_database_that_have_not_ended_are_those_of_the_imported_rules() {
    let folder = folder(&[
        FILTER,
        ("fail2ban.conf", "[Definition]\ndbfile = FOLDER/f2b.sqlite3\n"),
        ("jail.conf", "[DEFAULT]\nfilter = x[mode=normal]\n[My Site]\nenabled = true\n[off]\n"),
    ]);
    let database = rusqlite::Connection::open(folder.path().join("f2b.sqlite3")).expect("opened");
    // As fail2ban 1.0 creates it (fail2ban/server/database.py).
    database
        .execute_batch(
            "CREATE TABLE bips(ip TEXT NOT NULL, jail TEXT NOT NULL, timeofban INTEGER NOT NULL, bantime INTEGER NOT NULL,
             bancount INTEGER NOT NULL default 1, data JSON, PRIMARY KEY(ip, jail));
             INSERT INTO bips VALUES ('203.0.113.7', 'My Site', 1000, 600, 1, '{}'), ('203.0.113.8', 'My Site', 1000, -1, 1, '{}'),
                 ('203.0.113.9', 'My Site', 100, 600, 1, '{}'), ('203.0.113.10', 'off', 1000, 600, 1, '{}'), ('2001:db8::7', 'My Site', 1000, 600, 2, '{}');",
        )
        .expect("filled");
    let bans = strikeout::internals::fail2ban::import_bans::bans(folder.path(), 1100).expect("read");
    let bans: Vec<String> = bans.into_iter().map(|ban| format!("{} {} {}", ban.client, ban.rule, ban.until)).collect();
    assert_eq!(bans, ["2001:db8::7 my-site 1600", "203.0.113.7 my-site 1600", "203.0.113.8 my-site -1"]);
    std::fs::remove_file(folder.path().join("f2b.sqlite3")).expect("removed");
    let error = strikeout::internals::fail2ban::import_bans::bans(folder.path(), 1100).unwrap_err();
    assert!(format!("{error:#}").contains("f2b.sqlite3"), "{error:#}");
}
