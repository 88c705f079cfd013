//! A simulation in virtual time of an hour with three crowds and three groups of innocent people, all at once, on one machine with all rules for
//! crowds enforced: of each crowd nearly everything is refused, and of the innocents nothing.
//!
//! `cargo test --test crowds -- --nocapture` prints the figures of docs/crowds.md.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests fail by panicking, and print what they found"
)]

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;

use strikeout::internals::client::Client;
use strikeout::internals::config::Config;
use strikeout::internals::detector::{Detector, Judgement};
use strikeout::internals::engine::Engine;
use strikeout::internals::engine::reply::Reply;
use strikeout::internals::event::{Event, Header, Request, Service};
use strikeout::internals::rule::set::Scratch;
use strikeout::internals::rule::{Evidence, Offence};
use strikeout::internals::rule_id::RuleNames;
use strikeout::internals::table::RequestTally;
use strikeout::internals::time::{Span, Time};

const START: Time = Time::from_secs(1_800_000_000);
const HOUR: u64 = 3_600_000;

/// All built-in rules for crowds, enforced.
const ENFORCED: &str = "crowd-requests crowd-requests-near crowd-logins guessed-account banned-network recidive";

/// What docs/crowds.md suggests against a crowd with few addresses in each network: a rule for what it fetches. People come to such a page by
/// a link.
const EXPENSIVE: &str = "[[rule]]\nname = 'expensive-pages'\npath = '^/+commit/'\nreferer = false\ncount_by = 'network'\nmembers = 3\n\
                         maxretry = 6\nfindtime = '30m'\nbantime = '1h'\nrefuse = 'ban'\nscope = 'web'\n";

/// One thing that a client does.
#[derive(Clone, Copy)]
enum Act {
    /// A page of the site, from a browser's bookmark over plain HTTP or by a program: nothing says where it comes from.
    Page,
    /// An expensive page, in the same way.
    Expensive,
    /// What a page makes the browser load, or a link that was followed: the request names its source.
    Linked,
    /// A login by SMTP with this password.
    Login { is_right: bool },
}

/// Everything that the clients of one group do, each with the time in milliseconds.
struct Group {
    name: &'static str,
    acts: Vec<(u64, IpAddr, Act)>,
}

/// Numbers that look random and are the same in each run (splitmix64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut number = self.0;
        number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (number ^ (number >> 31)) % end
    }

    fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }
}

/// The `number`th address of the network that begins at `network`.
fn host(network: [u8; 4], number: u64) -> IpAddr {
    Ipv4Addr::from(u32::from(Ipv4Addr::from(network)) + u32::try_from(number).unwrap()).into()
}

/// A scraper with 27,604 addresses of one provider's /16: 36,000 requests, at most five of each address.
fn provider() -> Group {
    let mut numbers = Numbers(1);
    let mut addresses: Vec<u64> = (0..27_604).collect();
    let mut left = vec![4_u8; addresses.len()];
    while addresses.len() < 36_000 {
        let again = numbers.below(27_604);
        let left = &mut left[usize::try_from(again).unwrap()];
        if *left > 0 {
            *left -= 1;
            addresses.push(again);
        }
    }
    let acts = addresses.into_iter().map(|number| (numbers.below(HOUR), host([45, 67, 0, 0], number * 2), Act::Page)).collect();
    Group { name: "provider's /16, 27,604 addresses", acts }
}

/// A scraper with 3,000 addresses of access providers, six in each of 500 networks, 70 requests of each.
fn residential() -> Group {
    let mut numbers = Numbers(2);
    let address = |number: u64| host([77, 0, 0, 0], (number / 6) * 256 * 37 + number % 6 * 41 + 3);
    let acts = (0..3000).flat_map(|number| [number; 70]);
    Group { name: "3,000 residential addresses", acts: acts.map(|number| (numbers.below(HOUR), address(number), Act::Expensive)).collect() }
}

/// A botnet of 1,000 addresses all over the Internet that guesses the password of one account, one guess a minute each.
fn botnet() -> Group {
    let mut numbers = Numbers(3);
    let act = |(bot, minute)| {
        let address = Ipv4Addr::from(0x0100_0000 + u32::try_from(bot * 3_000_017_u64 % 0x6000_0000).unwrap());
        (minute * 60_000 + numbers.below(60_000), address.into(), Act::Login { is_right: false })
    };
    let acts = (0..1000_u64).flat_map(|bot| (0..60_u64).map(move |minute| (bot, minute))).map(act);
    Group { name: "botnet on one account, 1,000 addresses", acts: acts.collect() }
}

/// A visit with a browser: the page, which of a hundred browsers five ask for without saying where it comes from, then what belongs to it. One
/// visit in fifty finds all of that in its cache.
fn visit(numbers: &mut Numbers, address: IpAddr, begin: u64, acts: &mut Vec<(u64, IpAddr, Act)>) {
    let is_bare = numbers.percent(5);
    let page = if numbers.below(1000) < 2 { Act::Expensive } else { Act::Page };
    acts.push((begin, address, if is_bare { page } else { Act::Linked }));
    if !numbers.percent(2) {
        acts.extend((0..6).map(|_| (begin + 50 + numbers.below(2000), address, Act::Linked)));
    }
}

/// An office of 200 people behind one address: browsers, twenty feed readers, and a shared mailbox whose password one of them mistypes.
fn office() -> Group {
    let (mut numbers, address, mut acts) = (Numbers(4), host([198, 51, 100, 7], 0), Vec::new());
    for _ in 0..2000 {
        let begin = numbers.below(HOUR);
        visit(&mut numbers, address, begin, &mut acts);
    }
    acts.extend((0..20).flat_map(|_| [5, 20, 35, 50]).map(|minute| (minute * 60_000 + numbers.below(60_000), address, Act::Page)));
    Group { name: "office behind one address", acts }
}

/// 2,000 people with the addresses of a mobile provider's /22.
fn mobile() -> Group {
    let (mut numbers, mut acts) = (Numbers(5), Vec::new());
    for person in 0..2000 {
        for _ in 0..4 {
            let begin = numbers.below(HOUR);
            visit(&mut numbers, host([100, 64, 8, 0], person % 1024), begin, &mut acts);
        }
    }
    Group { name: "mobile provider's /22, 2,000 people", acts }
}

/// A university's /16 when lectures begin: 5,000 people open the site within ten minutes, and again within the hour.
fn university() -> Group {
    let (mut numbers, mut acts) = (Numbers(6), Vec::new());
    for person in 0..5000 {
        for begin in [numbers.below(600_000), numbers.below(HOUR)] {
            visit(&mut numbers, host([130, 83, 0, 0], person * 13), begin, &mut acts);
        }
    }
    Group { name: "university's /16, 5,000 people", acts }
}

/// The owner of the guessed account: logs in from home, where he mistypes now and then, and once from each of ten other addresses.
fn owner() -> Group {
    let login = |minute: u64, address, is_right| (minute * 60_000 + 7, address, Act::Login { is_right });
    let home = host([198, 51, 100, 77], 0);
    let mut acts = vec![login(0, home, true)];
    acts.extend([5, 20, 40].into_iter().flat_map(|minute| [login(minute, home, false), login(minute + 1, home, true)]));
    acts.extend((0..10).map(|number| login(3 + number * 5, host([203, 0, 113, 0], number), true)));
    Group { name: "owner of the account", acts }
}

/// What happened to a group.
struct Outcome {
    name: &'static str,
    all: usize,
    refused: usize,
    /// How many were served before the first refusal.
    before: usize,
}

impl Outcome {
    /// Which part of the requests was served, in percent.
    fn served_percent(&self) -> f64 {
        100.0 * (self.all - self.refused) as f64 / self.all as f64
    }
}

/// A machine with these rules besides the built-in ones.
struct Machine {
    engine: Arc<Engine>,
    scratch: Scratch,
}

impl Machine {
    fn new(rules: &str) -> Self {
        let names = Arc::new(RuleNames::default());
        let config = Config::parse(rules.as_bytes(), Path::new("crowds.toml"), &names).unwrap();
        Self { engine: Arc::new(Engine::new(names, config.into(), 1_000_000, 1_000_000).unwrap()), scratch: Scratch::default() }
    }

    /// Whether the client is refused, as Squid's helper and Exim's ACL ask.
    fn is_refused(&mut self, now: Time, address: IpAddr, act: Act) -> bool {
        let request = |url, referer| Request { method: b"GET", url, referer: Header::plain(referer), ..Request::default() };
        let event = match act {
            Act::Page => Event::Request(request(b"http://www.example.org/", b"")),
            Act::Expensive => Event::Request(request(b"http://www.example.org/commit/9b1c", b"")),
            Act::Linked => Event::Request(request(b"http://www.example.org/style.css", b"http://www.example.org/")),
            Act::Login { .. } => Event::Lookup(Service::Mail),
        };
        let policy = self.engine.policy();
        let client = Client::of(address, policy.prefix);
        match Detector::new(&policy, self.engine.bans()).judge(now, address, &event, &mut self.scratch) {
            Judgement::Settled { verdict, counts } => {
                if counts {
                    let bare = u32::from(matches!(act, Act::Page | Act::Expensive));
                    self.engine.count_requests(now, &mut vec![RequestTally::new(address, client, 1).with_unreferred(bare)]);
                }
                if verdict.refusal().is_some() {
                    return true;
                }
            }
            Judgement::Offence(offence) => return self.record(now, &offence, Service::Web),
            Judgement::Unsaved(_) => return true,
            Judgement::Ask { .. } => unreachable!("only an attached helper asks"),
        }
        if let Act::Login { is_right } = act {
            let account = self.engine.accounts().named("info@example.org").unwrap();
            let rule = |name| Arc::clone(policy.rules.by_name(name).unwrap());
            if is_right {
                self.engine.note_login(now, &rule("guessed-account"), account, client);
            } else {
                let evidence = Evidence::new(&[b"reported by the mail server"]);
                let rules = vec![rule("exim-auth"), rule("guessed-account")];
                self.record(now, &Offence { address, client, rules, evidence, marks: None, account: Some(account) }, Service::Mail);
            }
        }
        false
    }

    fn record(&self, now: Time, offence: &Offence, service: Service) -> bool {
        let (sender, receiver) = channel();
        self.engine.record_offence(now, offence, service, Reply::new(move |verdict| sender.send(verdict).unwrap()));
        receiver.recv().unwrap().refusal().is_some()
    }

    /// Plays the groups, all at once.
    fn play(&mut self, groups: Vec<Group>) -> Vec<Outcome> {
        let outcome = |group: &Group| Outcome { name: group.name, all: group.acts.len(), refused: 0, before: 0 };
        let mut outcomes: Vec<Outcome> = groups.iter().map(outcome).collect();
        let numbered = groups.into_iter().enumerate().flat_map(|(number, group)| group.acts.into_iter().map(move |act| (number, act)));
        let mut acts: Vec<_> = numbered.collect();
        acts.sort_by_key(|(number, (millis, ..))| (*millis, *number));
        let mut swept = 0;
        for (number, (millis, address, act)) in acts {
            let now = START.after(Span::from_millis(millis));
            if millis / 1000 > swept {
                swept = millis / 1000;
                self.engine.sweep(now);
            }
            let is_refused = self.is_refused(now, address, act);
            let outcome = &mut outcomes[number];
            outcome.refused += usize::from(is_refused);
            outcome.before += usize::from(!is_refused && outcome.refused == 0);
        }
        for Outcome { name, all, refused, before } in &outcomes {
            println!("{name:<40} {all:>7} requests, {refused:>7} refused, the first after {before}");
        }
        outcomes
    }
}

fn enforced() -> String {
    ENFORCED.split(' ').map(|name| format!("[[rule]]\nname = '{name}'\nmode = 'enforce'\n")).collect()
}

#[test]
fn crowds_are_refused_within_the_first_fiftieth_of_their_requests_and_innocents_never() {
    let mut machine = Machine::new(&(enforced() + EXPENSIVE));
    let mut outcomes = machine.play(vec![provider(), residential(), botnet(), office(), mobile(), university(), owner()]);
    let innocents = outcomes.split_off(3);
    for crowd in &outcomes {
        assert!(crowd.served_percent() <= 2.0, "{}: {:.2} % served", crowd.name, crowd.served_percent());
    }
    for innocent in &innocents {
        assert_eq!(innocent.refused, 0, "{}", innocent.name);
    }
}

#[test]
fn a_crowd_with_few_addresses_in_each_network_needs_a_rule_for_what_it_fetches() {
    let outcomes = Machine::new(&enforced()).play(vec![residential()]);
    assert_eq!(outcomes[0].refused, 0, "the built-in rules see six clients of each network");
}

#[test]
fn a_rule_that_counts_every_request_would_refuse_a_university() {
    let naive =
        "[[rule]]\nname = 'naive'\nevent = 'request'\ncount_by = 'network'\nnetwork = { ipv4 = 16 }\nmembers = 200\nmaxretry = 300\n";
    let outcomes = Machine::new(naive).play(vec![university()]);
    assert!(outcomes[0].served_percent() < 2.0, "so what keeps innocents out is that their browsers name a source");
}

#[test]
fn in_shadow_mode_nobody_is_refused() {
    let outcomes = Machine::new("").play(vec![provider(), office()]);
    assert!(outcomes.iter().all(|outcome| outcome.refused == 0));
}
