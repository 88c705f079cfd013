//! The built-in rules against whole clients: ordinary ones play their requests, and none is refused; whoever copies what a Debian package
//! publishes is not banned.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

#[path = "harness/mod.rs"]
mod harness;

use std::collections::BTreeMap;
use std::path::Path;

use harness::SquidHelper;
use strikeout::internals::config::Config;
use strikeout::internals::event::{Header, Request};
use strikeout::internals::rule::Mode;
use strikeout::internals::rule::set::Scratch;
use strikeout::internals::rule_id::RuleNames;

/// A client of tests/data/clients.tsv.
struct Client<'a> {
    name: &'a str,
    /// `-` if it sends no User-Agent.
    user_agent: &'a str,
    /// Method and URL of each.
    requests: Vec<(&'a str, &'a str)>,
}

fn clients(text: &str) -> Vec<Client<'_>> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let client = |line| {
        let mut fields = str::split(line, '\t');
        let [Some(name), Some(user_agent)] = [fields.next(), fields.next()] else { panic!("found {line:?}, expected a client") };
        Client { name, user_agent, requests: fields.map(|request| request.split_once(' ').unwrap()).collect() }
    };
    lines.map(client).collect()
}

/// A header as Squid passes it.
fn escaped(text: &str) -> String {
    let escape = |byte: u8| match byte {
        b'%' | b'"' | b'\\' => format!("%{byte:02X}"),
        0x21..0x7f => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(escape).collect()
}

/// The answers that refused one of the client's requests, with these.
fn refusals(helper: &mut SquidHelper, address: &str, client: &Client<'_>) -> Vec<String> {
    let agent = if client.user_agent == "-" { "-".to_owned() } else { escaped(client.user_agent) };
    let mut refusals = Vec::new();
    for (method, url) in client.requests.iter().chain(&client.requests) {
        let answer = helper.ask(&format!("{address} {method} {url} {agent} - -"));
        if answer != "ERR" {
            refusals.push(format!("{}: {method} {url}: {answer}", client.name));
        }
    }
    refusals
}

#[test]
fn no_ordinary_client_is_refused() {
    let clients = clients(include_str!("data/clients.tsv"));
    assert!(clients.len() >= 100, "{} clients", clients.len());
    let mut helper = SquidHelper::embedded();
    let refusals: Vec<String> = clients
        .iter()
        .enumerate()
        .flat_map(|(at, client)| refusals(&mut helper, &format!("203.0.{}.{}", at / 250, at % 250 + 1), client))
        .collect();
    assert!(refusals.is_empty(), "{}", refusals.join("\n"));
}

#[test]
fn the_names_that_programs_ask_for_in_turn_and_miss_count_for_no_rule() {
    let rules = Config::parse(b"", Path::new("test.toml"), &RuleNames::default()).unwrap().rules;
    let programs = clients(include_str!("data/absent.tsv"));
    assert!(programs.len() >= 40, "{} programs", programs.len());
    let (mut scratch, mut wrong) = (Scratch::default(), Vec::new());
    for program in &programs {
        for (method, url) in &program.requests {
            let user_agent = Header::plain(program.user_agent.as_bytes());
            let request = Request { method: method.as_bytes(), url: url.as_bytes(), user_agent, ..Request::default() };
            let offended = rules.offended_by_response(404, &request, &mut scratch);
            let counted = offended.iter().filter(|rule| rule.mode == Mode::Enforce);
            wrong.extend(counted.map(|rule| format!("{}: {method} {url}: {}", program.name, rule.name)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_client_that_asks_for_a_password_file_among_ordinary_pages_is_refused() {
    let scanner = &clients("scanner\tMozilla/5.0 (X11)\tGET http://site.example/\tGET http://site.example/.env")[0];
    let refusals = refusals(&mut SquidHelper::embedded(), "203.0.113.1", scanner);
    assert_eq!(refusals.len(), 3, "the probe and the second round: {refusals:?}");
    assert!(refusals[0].starts_with("scanner: GET http://site.example/.env: OK ban_=yes rule_=env-file "), "{refusals:?}");
}

/// The packages of tests/data/debian-web-files.txt with their files.
fn packages() -> Vec<(&'static str, Vec<&'static str>)> {
    let mut packages: Vec<(&str, Vec<&str>)> = Vec::new();
    for line in include_str!("data/debian-web-files.txt").lines().filter(|line| !line.starts_with('#')) {
        match line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            Some(package) => packages.push((package, Vec::new())),
            None => packages.last_mut().unwrap().1.push(line),
        }
    }
    packages
}

#[test]
fn nobody_is_banned_for_the_files_of_a_debian_package_at_the_root_or_below_its_name() {
    let rules = Config::parse(b"", Path::new("test.toml"), &RuleNames::default()).unwrap().rules;
    let (mut tried, mut scratch, mut wrong) = (0, Scratch::default(), Vec::new());
    for (package, files) in packages() {
        for directory in [String::new(), format!("/{package}")] {
            let mut offences = BTreeMap::<_, (u32, Vec<String>)>::new();
            for file in &files {
                let url = format!("{directory}/{file}");
                let user_agent = Header::plain(b"Wget/1.24.5");
                let request = Request { method: b"GET", url: url.as_bytes(), user_agent, ..Request::default() };
                for rule in rules.offended_by_request(&request, &mut scratch) {
                    if rule.mode == Mode::Enforce {
                        let (_, urls) = offences.entry(rule.name.clone()).or_insert((rule.maxretry, Vec::new()));
                        urls.push(url.clone());
                    }
                }
                tried += 1;
            }
            let enough = |(maxretry, urls): &(u32, Vec<String>)| urls.len() >= usize::try_from(*maxretry).unwrap();
            wrong.extend(offences.into_iter().filter(|(_, offences)| enough(offences)));
        }
    }
    assert!(tried >= 20_000, "{tried}");
    assert!(wrong.is_empty(), "{wrong:#?}");
}
