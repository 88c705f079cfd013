//! `[crowdsec]` at a real local API, which decides as `cscli` says.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::harness::mmdb::{Said, database};
use crate::harness::{Daemon, Stage, end, free_port, program, skip, wait_until};

/// Where `tests/run` unpacks Debian's package.
const UNPACKED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/crowdsec/usr/bin");

/// A local API without agents, hub and central service.
struct Crowdsec {
    folder: PathBuf,
    port: u16,
    api: Child,
}

fn found(name: &str) -> Option<PathBuf> {
    Some(Path::new(UNPACKED).join(name)).filter(|file| file.is_file()).or_else(|| program(name))
}

impl Crowdsec {
    /// Skips the test, with the reason, where there is no CrowdSec.
    fn start(stage: &Stage) -> Option<Self> {
        if found("crowdsec").is_none() || found("cscli").is_none() {
            skip("crowdsec is not here (Debian's package crowdsec)");
            return None;
        }
        let (folder, port) = (stage.path("crowdsec"), free_port());
        for name in ["data", "hub"] {
            fs::create_dir_all(folder.join(name)).unwrap();
        }
        let (write, shown) = (|name: &str, text: &str| fs::write(folder.join(name), text).unwrap(), folder.display());
        write("hub/.index.json", "{}");
        write("profiles.yaml", "name: none\nfilters:\n - 'false'\ndecisions: []\n");
        write("simulation.yaml", "simulation: off\n");
        write("console.yaml", "share_manual_decisions: false\n");
        write("credentials.yaml", "");
        write(
            "config.yaml",
            &format!(
                "common: {{daemonize: false, log_media: stdout, working_dir: .}}\n\
                 config_paths: {{config_dir: {shown}, data_dir: {shown}/data, simulation_path: {shown}/simulation.yaml, \
                 hub_dir: {shown}/hub, index_path: {shown}/hub/.index.json}}\n\
                 cscli: {{output: json}}\n\
                 db_config: {{type: sqlite, use_wal: true, db_path: {shown}/data/crowdsec.db}}\n\
                 api:\n  client: {{credentials_path: {shown}/credentials.yaml}}\n  server: {{listen_uri: '127.0.0.1:{port}', \
                 profiles_path: {shown}/profiles.yaml, console_path: {shown}/console.yaml}}\n\
                 prometheus: {{enabled: false}}\n"
            ),
        );
        let credentials = folder.join("credentials.yaml");
        let url = format!("http://127.0.0.1:{port}");
        Self::cscli(&folder, &["machines", "add", "test", "--password", "test", "-u", &url, "-f", credentials.to_str().unwrap()]);
        let api = Self::api(&folder, port);
        Some(Self { folder, port, api })
    }

    fn api(folder: &Path, port: u16) -> Child {
        let log = fs::File::options().create(true).append(true).open(folder.join("log")).unwrap();
        let mut command = Command::new(found("crowdsec").unwrap());
        command.arg("-c").arg(folder.join("config.yaml")).args(["-no-cs", "-no-capi"]);
        let api = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        wait_until("the local API listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        api
    }

    #[track_caller]
    fn cscli(folder: &Path, arguments: &[&str]) -> String {
        let output = Command::new(found("cscli").unwrap()).arg("-c").arg(folder.join("config.yaml")).args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    #[track_caller]
    fn decide(&self, arguments: &str) {
        let words: Vec<&str> = ["decisions"].into_iter().chain(arguments.split(' ')).collect();
        Self::cscli(&self.folder, &words);
    }

    fn stop(&mut self) {
        end(&mut self.api);
    }

    fn start_again(&mut self) {
        self.api = Self::api(&self.folder, self.port);
    }
}

impl Drop for Crowdsec {
    fn drop(&mut self) {
        let _ = self.api.kill();
        let _ = self.api.wait();
    }
}

fn bans(daemon: &Daemon) -> Vec<String> {
    let mut bans: Vec<String> =
        daemon.objects("list").iter().map(|ban| format!("{} {}", ban["client"], ban["rule"]).replace('"', "")).collect();
    bans.sort();
    bans
}

#[track_caller]
fn wait_for_bans(daemon: &Daemon, expected: &[&str]) {
    wait_until(&format!("the bans are {expected:?}"), || bans(daemon) == expected);
}

fn status(daemon: &Daemon) -> Value {
    daemon.object("status")["crowdsec"].clone()
}

#[test]
fn a_real_local_api_bans_unbans_stops_and_starts() {
    let stage = Stage::new();
    let Some(mut crowdsec) = Crowdsec::start(&stage) else { return };
    let key = stage.write("key", "wrong\n");
    let section = format!("[crowdsec]\nurl = 'http://127.0.0.1:{}'\nkey_file = '{}'\ninterval = '1s'\n", crowdsec.port, key.display());
    let daemon = Daemon::start_on(&stage, "", &section);
    wait_until("the key is refused", || status(&daemon)["fault"].as_str().is_some_and(|fault| fault.contains("it refuses the key in ")));
    crowdsec.decide("add --ip 203.0.113.1");
    stage.write("key", &Crowdsec::cscli(&crowdsec.folder, &["bouncers", "add", "strikeout", "-o", "raw"]));
    wait_for_bans(&daemon, &["203.0.113.1 crowdsec-manual"]);
    crowdsec.decide("add --range 198.51.100.0/24 --duration 30m");
    crowdsec.decide("add --ip 2001:db8::1 --reason crowdsecurity/ssh-bf");
    crowdsec.decide("add --range 0.0.0.0/0");
    crowdsec.decide("add --ip 203.0.113.9 --type captcha");
    crowdsec.decide("add --scope AS --value 64496");
    let all = ["198.51.100.0/24 crowdsec-manual", "2001:db8::/64 crowdsec-ssh-bf", "203.0.113.1 crowdsec-manual"];
    wait_for_bans(&daemon, &all);
    wait_until("what is not taken is counted", || {
        status(&daemon)["skipped"] == json!({"wider than /8 (IPv6 /16)": 1, "of another type than ban": 1, "of another scope": 1})
    });
    // A longer one and the end of the shorter: the client stays banned.
    crowdsec.decide("add --ip 203.0.113.1 --duration 24h");
    wait_until("the longer one counts", || daemon.json(&["why", "203.0.113.1"])["ban"]["remaining"].as_i64() > Some(80_000));
    crowdsec.stop();
    wait_until("it is away", || status(&daemon)["fault"].is_string());
    assert_eq!(bans(&daemon), all);
    crowdsec.start_again();
    crowdsec.decide("delete --range 198.51.100.0/24");
    wait_for_bans(&daemon, &["2001:db8::/64 crowdsec-ssh-bf", "203.0.113.1 crowdsec-manual"]);
    wait_until("it answers", || status(&daemon)["fault"].is_null());
    crowdsec.decide("delete --ip 203.0.113.1");
    wait_for_bans(&daemon, &["2001:db8::/64 crowdsec-ssh-bf"]);
    crowdsec.decide("delete --all");
    wait_for_bans(&daemon, &[]);
}

#[test]
fn systems_and_countries_are_banned_where_the_configuration_takes_them() {
    let stage = Stage::new();
    let Some(crowdsec) = Crowdsec::start(&stage) else { return };
    let key = stage.write("key", &Crowdsec::cscli(&crowdsec.folder, &["bouncers", "add", "strikeout", "-o", "raw"]));
    let (asn, country) = (stage.path("asn.mmdb"), stage.path("country.mmdb"));
    fs::write(&asn, database(&[("198.18.0.0/16", Said::Asn(64496))])).unwrap();
    fs::write(&country, database(&[("198.19.0.0/16", Said::Country("DE"))])).unwrap();
    let section = |scopes: &str| {
        format!(
            "[geo]\nasn = {asn:?}\ncountry = {country:?}\n[defaults]\nignoreip = ['198.19.0.99']\n\
             [crowdsec]\nurl = 'http://127.0.0.1:{}'\nkey_file = {key:?}\ninterval = '1s'\nscopes = {scopes}\n",
            crowdsec.port
        )
    };
    let daemon = Daemon::start_on(&stage, "", &section("['ip']"));
    crowdsec.decide("add --scope country --value de");
    crowdsec.decide("add --scope as --value 64496");
    crowdsec.decide("add --scope country --value DEU");
    wait_until("none is taken", || status(&daemon)["skipped"] == json!({"of another scope": 3}));
    daemon.configure(&section("['ip', 'as', 'country']"));
    daemon.text(&["reload"]);
    wait_for_bans(&daemon, &["AS64496 crowdsec-manual", "country:DE crowdsec-manual"]);
    wait_until("what is no country is counted", || status(&daemon)["skipped"] == json!({"unreadable": 1}));
    let is_refused = |address: &str| daemon.ask(&format!("check {address}\n")).starts_with('d');
    assert!(is_refused("198.18.0.1") && is_refused("198.19.0.1") && !is_refused("198.19.0.99") && !is_refused("203.0.113.1"));
    crowdsec.decide("delete --value de");
    wait_for_bans(&daemon, &["AS64496 crowdsec-manual"]);
    assert!(!is_refused("198.19.0.1"));
    crowdsec.decide("delete --all");
    wait_for_bans(&daemon, &[]);
}
