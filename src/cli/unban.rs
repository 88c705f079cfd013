//! `strikeout unban`.

use serde::Serialize;

use super::ask::{address, ask, ask_waiting, block, scope, target};
use super::ban::with_warning;
use super::origin::OriginArguments;
use super::terminal::counted;
use super::why::{Answer, undo};
use super::why_network::ExplainedNetwork;
use super::{DaemonArguments, Failure, print, print_json};
use crate::control::admin::{AdminRequest, ReleaseRequest, UnbanRequest, UnbanTarget};
use crate::control::bans::UnbanReport;
use crate::event::{Scope, Service};
use crate::geo::Network;
use crate::rule_id::{RULE_NAME, is_rule_name};

/// The arguments of `unban`.
#[derive(Debug, clap::Args)]
pub struct UnbanArguments {
    /// IP addresses, and networks, systems (AS64496) and countries (country:XX) exactly as they were banned.
    #[arg(required_unless_present_any = ["rule", "all", "origin"])]
    targets: Vec<String>,
    /// Also unban all clients and networks inside the named networks.
    #[arg(long, conflicts_with_all = ["rule", "all", "origin"])]
    inside: bool,
    /// Unban all clients and networks that this rule banned; "manual" for those banned by hand.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["targets", "all", "origin"])]
    rule: Option<String>,
    /// Unban all clients and networks. Those on a deny list stay refused.
    #[arg(long, conflicts_with_all = ["targets", "origin"])]
    all: bool,
    /// Where to unban: web, mail or all.
    #[arg(long, default_value = "all")]
    scope: String,
    /// With --since: how long the ban lasts that is taken back. One that ends later is another, and stays.
    #[arg(long, value_name = "DURATION", requires = "since", allow_hyphen_values = true)]
    lasting: Option<String>,
    #[command(flatten)]
    origin: OriginArguments,
    #[command(flatten)]
    daemon: DaemonArguments,
}

/// The daemon's answer, and what its answer to `why` adds.
#[derive(Debug, Serialize)]
struct Unbanned {
    #[serde(flatten)]
    report: UnbanReport,
    /// Whether something still refuses it: a banned network or a list, or bans of clients inside a network.
    still_refused: bool,
    /// The commands that end that.
    undo: Vec<String>,
}

/// `strikeout unban`. Also reports what still refuses a client (a banned network, or a list), and what is still banned inside a network.
///
/// # Errors
/// An argument cannot be used, the daemon cannot be asked or refuses, or something is still refused.
pub fn run(arguments: &UnbanArguments) -> Result<(), Failure> {
    if let Some(rule) = arguments.origin.rule()? {
        return release(arguments, &rule);
    }
    let mut still_refused = Vec::new();
    for request in requests(arguments)? {
        let unbanned = unban(&arguments.daemon, request)?;
        if arguments.daemon.json {
            print_json(&unbanned)?;
        } else {
            print(&with_warning(text(&unbanned.report), unbanned.report.not_saved.as_deref()))?;
        }
        if unbanned.still_refused {
            still_refused.push(refusal_text(&unbanned));
        }
    }
    if still_refused.is_empty() { Ok(()) } else { Err(Failure::Refused(still_refused.join("\nstrikeout: "))) }
}

/// Takes back bans of another program; all of them without a target.
fn release(arguments: &UnbanArguments, rule: &str) -> Result<(), Failure> {
    let until = arguments.origin.until(arguments.lasting.as_deref())?;
    let targets: Vec<Network> = arguments.targets.iter().map(|argument| target(argument)).collect::<Result<_, _>>()?;
    let one = |target| ReleaseRequest { target: Some(target), rule: rule.to_owned(), until };
    let all = targets.is_empty().then(|| ReleaseRequest { target: None, rule: rule.to_owned(), until });
    for request in targets.into_iter().map(one).chain(all) {
        let report: UnbanReport = ask_waiting(&arguments.daemon, &AdminRequest::Release(request), arguments.origin.wait()?)?;
        if arguments.daemon.json {
            print_json(&report)?;
        } else {
            print(&with_warning(text(&report), report.not_saved.as_deref()))?;
        }
    }
    Ok(())
}

fn unban(daemon: &DaemonArguments, request: UnbanRequest) -> Result<Unbanned, Failure> {
    let report: UnbanReport = ask(daemon, &AdminRequest::Unban(request.clone()))?;
    let undo = match request.what {
        UnbanTarget::One(target) => still_refused(daemon, AdminRequest::Why(target), request.scope)?,
        UnbanTarget::Inside(network) => still_refused(daemon, AdminRequest::Why(network.into()), request.scope)?,
        UnbanTarget::Rule(_) | UnbanTarget::All => Vec::new(),
    };
    Ok(Unbanned { still_refused: !undo.is_empty(), report, undo })
}

/// The commands that end what still refuses `target` on the services of `scope`: bans, also of what is inside it or around it, and lists.
fn still_refused(daemon: &DaemonArguments, why: AdminRequest, scope: Scope) -> Result<Vec<String>, Failure> {
    let is_meant = |banned: Scope| scope.covers(banned) || banned.covers(scope);
    Ok(match ask(daemon, &why)? {
        Answer::Network(mut explanation) => {
            explanation.bans.retain(|ban| is_meant(ban.scope));
            ExplainedNetwork::of(explanation, &daemon.repeated()).undo
        }
        Answer::Client(mut explanation) => {
            explanation.networks.retain(|ban| is_meant(ban.scope));
            let services = &mut explanation.services;
            for (service, refusal) in [(Service::Web, &mut services.web), (Service::Mail, &mut services.mail)] {
                if !scope.services().contains(&service) {
                    *refusal = None;
                }
            }
            undo(&explanation, &daemon.repeated())
        }
    })
}

/// Checks the arguments as the daemon would, all of them before the first unban.
fn requests(arguments: &UnbanArguments) -> Result<Vec<UnbanRequest>, Failure> {
    let scope = scope(&arguments.scope)?;
    if let Some(rule) = &arguments.rule {
        if !is_rule_name(rule) {
            return Err(Failure::Usage(format!("found the rule name {rule:?}, expected {RULE_NAME}")));
        }
        return Ok(vec![UnbanRequest { what: UnbanTarget::Rule(rule.clone()), scope }]);
    }
    if arguments.all {
        return Ok(vec![UnbanRequest { what: UnbanTarget::All, scope }]);
    }
    let request = |argument: &String| {
        let what = if arguments.inside { UnbanTarget::Inside(block(argument)?) } else { UnbanTarget::One(target(argument)?) };
        Ok(UnbanRequest { what, scope })
    };
    arguments.targets.iter().map(request).collect()
}

fn text(report: &UnbanReport) -> String {
    let UnbanReport { target, found, unbanned, .. } = report;
    // One client is one whatever it is called; more than that are told by their number.
    match (found, address(target).is_ok() || *unbanned <= 1) {
        (false, _) if target == "all" => "nobody was banned".to_owned(),
        (false, _) if target.starts_with("rule ") => format!("{target} had banned nobody"),
        (false, _) => format!("{target} was not banned"),
        (true, true) => format!("unbanned {target}"),
        (true, false) => format!("unbanned {target}: {} and networks", counted(*unbanned, "client")),
    }
}

fn refusal_text(unbanned: &Unbanned) -> String {
    let (report, undo) = (&unbanned.report, unbanned.undo.join("; "));
    if report.inside > 0 {
        let are = if report.inside == 1 { "is" } else { "are" };
        return format!("{} inside {} {are} still banned; to change that: {undo}", counted(report.inside, "client"), report.target);
    }
    format!("{} is still refused; to change that: {undo}", report.target)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(Debug, clap::Parser)]
    struct Arguments {
        #[command(flatten)]
        unban: UnbanArguments,
    }

    /// The lines that the daemon is sent; an error of the arguments if there is one.
    fn lines(arguments: &str) -> Result<Vec<String>, String> {
        let parsed = Arguments::try_parse_from(std::iter::once("unban").chain(arguments.split(' '))).map_err(|error| error.to_string())?;
        let requests = requests(&parsed.unban).map_err(|failure| format!("{failure:?}"))?;
        Ok(requests.into_iter().map(|request| AdminRequest::Unban(request).to_string()).collect())
    }

    #[test]
    fn every_form_of_unban_is_a_request() {
        for (arguments, expected) in [
            ("192.0.2.1", vec!["unban 192.0.2.1/32 scope=all"]),
            ("192.0.2.1 2001:db8::/64", vec!["unban 192.0.2.1/32 scope=all", "unban 2001:db8::/64 scope=all"]),
            ("192.0.2.0/24 --inside --scope web", vec!["unban 192.0.2.0/24 inside scope=web"]),
            ("192.0.2.0/24 --scope web", vec!["unban 192.0.2.0/24 scope=web"]),
            ("AS64496 country:de", vec!["unban AS64496 scope=all", "unban country:DE scope=all"]),
            ("--rule helo", vec!["unban rule=helo scope=all"]),
            ("--all --scope mail", vec!["unban all scope=mail"]),
        ] {
            assert_eq!(lines(arguments).unwrap(), expected, "{arguments}");
        }
        for arguments in [
            "--inside",
            "country:DE --inside",
            "country:DEU",
            "192.0.2.1 --all",
            "192.0.2.1 --rule helo",
            "--all --inside",
            "everybody",
            "--rule a_b",
            "192.0.2.1 everybody",
        ] {
            assert!(lines(arguments).is_err(), "{arguments}");
        }
    }

    #[test]
    fn an_unban_is_reported_by_its_target_and_number() {
        let report =
            |target: &str, unbanned| UnbanReport { target: target.into(), found: unbanned > 0, unbanned, inside: 0, not_saved: None };
        assert_eq!(text(&report("192.0.2.1", 1)), "unbanned 192.0.2.1");
        assert_eq!(text(&report("192.0.2.1", 0)), "192.0.2.1 was not banned");
        assert_eq!(text(&report("rule helo", 0)), "rule helo had banned nobody");
        assert_eq!(text(&report("all", 0)), "nobody was banned");
        assert_eq!(text(&report("rule helo", 7)), "unbanned rule helo: 7 clients and networks");
    }
}
