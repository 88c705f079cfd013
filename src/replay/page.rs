//! Shows the report as a self-contained HTML page with plots, for small and large screens, in light and dark colours.

use std::fmt::{self, Display};

use super::plot::{Bars, chart, put, spark};
use super::report::{ClientReport, Report, RuleReport};
use super::text::{counted, grouped, plural};
use crate::rule::Mode;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Text escaped for HTML.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                other => write!(f, "{other}")?,
            }
        }
        Ok(())
    }
}

/// The report as a page.
#[must_use]
pub fn html(report: &Report) -> String {
    let mut html = String::with_capacity(64 * 1024);
    // Logs contain text of attackers: the policy forbids the page to load anything.
    html += "<!doctype html><html lang=en><head><meta charset=utf-8><meta name=viewport content=\"width=device-width,initial-scale=1\">\
        <meta http-equiv=Content-Security-Policy content=\"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:\">\
        <meta name=color-scheme content=\"light dark\"><link rel=icon href=\"data:,\"><title>Strikeout replay</title><style>";
    html += STYLE;
    html += "</style></head><body><main>";
    head(&mut html, report);
    false_positives(&mut html, report);
    over_time(&mut html, report);
    rules(&mut html, report);
    crowds(&mut html, report);
    networks(&mut html, report);
    if !report.clients.is_empty() {
        html += "<h2>Clients refused most</h2><div class=card>";
        clients(&mut html, &report.clients, true);
        html += "</div>";
    }
    glossary(&mut html, report);
    html += "</main><script>";
    html += SCRIPT;
    html += "</script></body></html>\n";
    html
}

fn day_and_time(text: Option<&String>) -> String {
    text.map(|text| text.replace('T', " ").replace('Z', "")).unwrap_or_default()
}

fn head(html: &mut String, report: &Report) {
    let total = &report.total;
    *html += "<h1>Strikeout replay</h1><p class=lead>";
    if total.banned_clients == 0 {
        *html += "These rules would have banned nobody.";
    } else {
        put(
            html,
            format_args!(
                "These rules would have banned {} and refused {} of {} events. ",
                counted(total.banned_clients, "client", "clients"),
                grouped(total.refused),
                grouped(total.requests + total.mail)
            ),
        );
        match total.banned_good {
            0 => *html += "None of these clients looks good.",
            good => put(
                html,
                format_args!("<b class=bad>{} of these clients {} good.</b>", grouped(good), if good == 1 { "looks" } else { "look" }),
            ),
        }
    }
    *html += "</p><p class=meta>";
    let paths: Vec<String> = report.logs.iter().map(|log| Escaped(&log.path).to_string()).collect();
    let shown = paths.iter().take(6).cloned().collect::<Vec<_>>().join(", ");
    let more = paths.len().saturating_sub(6);
    put(
        html,
        format_args!(
            "{} to {} UTC · {} lines of {}{} · configuration {}",
            day_and_time(report.from.as_ref()),
            day_and_time(report.until.as_ref()),
            grouped(total.lines),
            shown,
            if more > 0 { format!(" and {more} more") } else { String::new() },
            if report.config.is_empty() { "as built in".to_owned() } else { Escaped(&report.config).to_string() }
        ),
    );
    *html += "</p>";
    for log in &report.logs {
        if let Some(fault) = &log.fault {
            put(
                html,
                format_args!(
                    "<div class=\"note warn\"><h3>{} was not read to its end</h3><p>After line {}: {}</p></div>",
                    Escaped(&log.path),
                    grouped(log.lines),
                    Escaped(fault)
                ),
            );
        }
    }
    *html += "<div class=tiles>";
    let mut tile = |number: u64, what: &str, bad: bool| {
        put(html, format_args!("<div class=\"tile{}\"><b>{}</b><span>{what}</span></div>", if bad { " bad" } else { "" }, grouped(number)));
    };
    tile(total.clients, "clients seen", false);
    tile(total.offences, "offences", false);
    tile(total.bans, "bans", false);
    if total.shadow_bans > 0 {
        tile(total.shadow_bans, "bans by shadow rules", false);
    }
    tile(total.refused, "events refused", false);
    tile(total.banned_good, "banned clients that look good", total.banned_good > 0);
    tile(total.refused_good, "ordinary events of theirs refused", total.refused_good > 0);
    *html += "</div>";
}

fn percent(share: f64) -> String {
    let text = format!("{:.1}", share * 100.0);
    format!("{} %", text.strip_suffix(".0").unwrap_or(&text))
}

fn false_positives(html: &mut String, report: &Report) {
    let over: Vec<&RuleReport> = report.rules.iter().filter(|rule| rule.over_limit).collect();
    if over.is_empty() {
        if report.total.bans + report.total.shadow_bans > 0 {
            put(
                html,
                format_args!(
                    "<div class=note><h3>Within the false-positive limit</h3><p>Of no rule's banned clients do more than {} look good.</p></div>",
                    percent(report.false_positives.share)
                ),
            );
        }
        return;
    }
    put(
        html,
        format_args!(
            "<div class=\"note warn\"><h3>{} the false-positive limit of {}</h3>",
            plural(over.len(), "rule exceeds", "rules exceed"),
            percent(report.false_positives.share)
        ),
    );
    for rule in &over {
        put(
            html,
            format_args!(
                "<p><b>{}</b>: {} of the {} clients that it {} look good ({}).</p>",
                Escaped(&rule.name),
                grouped(rule.clients_good),
                grouped(rule.clients),
                if rule.mode == Mode::Shadow { "would ban" } else { "bans" },
                percent(rule.false_share)
            ),
        );
    }
    let enforced: Vec<_> = over.iter().filter(|rule| rule.mode == Mode::Enforce).collect();
    if !enforced.is_empty() {
        *html += "<p>Proposed until the reason is known. Look at these clients first: an attacker can behave well, too.</p><pre>";
        for (number, rule) in enforced.iter().enumerate() {
            let gap = if number > 0 { "\n\n" } else { "" };
            put(html, format_args!("{gap}[[rule]]\nname = &quot;{}&quot;\nmode = &quot;shadow&quot;", Escaped(&rule.name)));
        }
        *html += "</pre>";
    }
    *html += "</div>";
}

fn over_time(html: &mut String, report: &Report) {
    let bars = Bars::new(&report.over_time);
    if bars.events.is_empty() && bars.offences.is_empty() {
        return;
    }
    put(
        html,
        format_args!(
            "<h2>Over time</h2><div class=card><p class=readout id=readout>Each bar is {}. Point at one, or touch it, for its numbers.</p>",
            width(bars.width)
        ),
    );
    *html += &chart(&[("Events", "events", &bars.events), ("refused", "refused", &bars.refused)], &bars);
    *html += &chart(&[("Offences", "offences", &bars.offences), ("bans", "bans", &bars.bans)], &bars);
    *html += &chart(&[("Refused", "refused", &bars.refused), ("ordinary, of clients that look good", "good", &bars.refused_good)], &bars);
    let data = serde_json::json!({
        "start": bars.start,
        "width": bars.width,
        "events": bars.events,
        "offences": bars.offences,
        "bans": bars.bans,
        "refused": bars.refused,
        "good": bars.refused_good,
    });
    // Only numbers: nothing in it could close the element.
    put(html, format_args!("</div><script type=application/json id=bins>{data}</script>"));
}

/// A number of seconds in the largest unit that divides it.
fn width(seconds: u64) -> String {
    let units = [(86_400, "day", "days"), (3600, "hour", "hours"), (60, "minute", "minutes")];
    match units.into_iter().find(|(length, _, _)| seconds.is_multiple_of(*length)) {
        Some((length, one, many)) => counted(seconds / length, one, many),
        None => counted(seconds, "second", "seconds"),
    }
}

fn rules(html: &mut String, report: &Report) {
    *html += "<h2>Rules</h2><div class=rules>";
    let (banning, counting): (Vec<&RuleReport>, Vec<&RuleReport>) = report.rules.iter().partition(|rule| rule.bans > 0);
    for rule in banning {
        one_rule(html, rule);
    }
    if !counting.is_empty() {
        put(
            html,
            format_args!(
                "<details class=plain><summary><span class=name>{} counted offences and banned nobody</span></summary><div class=\"rules inner\">",
                plural(counting.len(), "rule", "rules")
            ),
        );
        for rule in counting {
            one_rule(html, rule);
        }
        *html += "</div></details>";
    }
    if report.rules.is_empty() {
        *html += "<p class=meta>No rule matched anything.</p>";
    }
    if !report.quiet_rules.is_empty() {
        put(
            html,
            format_args!(
                "<details class=plain><summary><span class=name>{} matched nothing</span></summary><div class=quiet>",
                plural(report.quiet_rules.len(), "rule", "rules")
            ),
        );
        for name in &report.quiet_rules {
            put(html, format_args!("<div>{}</div>", Escaped(name)));
        }
        *html += "</div></details>";
    }
    *html += "</div>";
}

fn one_rule(html: &mut String, rule: &RuleReport) {
    let badge = if rule.mode == Mode::Shadow { "<span class=badge>shadow</span>" } else { "" };
    put(
        html,
        format_args!(
            "<details{}><summary><span class=name>{}{badge}</span><span class=spark-cell>{}</span>",
            if rule.over_limit { " class=over" } else { "" },
            Escaped(&rule.name),
            spark(&rule.spark)
        ),
    );
    let mut cell = |number: u64, what: &str, bad: bool| {
        let class = match number {
            0 => " zero",
            _ if bad => " bad",
            _ => "",
        };
        put(html, format_args!("<span class=\"cell{class}\"><i>{what}</i>{}</span>", grouped(number)));
    };
    cell(rule.offences, "offences", false);
    cell(rule.bans, "bans", false);
    cell(rule.refused, "refused", false);
    cell(rule.clients_good, "look good", true);
    put(html, format_args!("</summary><div class=more><p>{}</p>", Escaped(&rule.description)));
    put(
        html,
        format_args!(
            "<p class=meta>Setting: {}. It banned {}, of which {} look good; {} of the refused events were ordinary events of theirs.{}</p>",
            Escaped(&rule.setting),
            counted(rule.clients, "client", "clients"),
            grouped(rule.clients_good),
            grouped(rule.refused_good),
            match rule.spared {
                0 => String::new(),
                spared => format!(" It also matched {} of clients that are never banned.", counted(spared, "event", "events")),
            }
        ),
    );
    if !rule.top.is_empty() {
        clients(html, &rule.top, false);
    }
    *html += "</div></details>";
}

/// The networks that rules over networks banned, each with a plot of what was refused.
fn crowds(html: &mut String, report: &Report) {
    if report.crowds.is_empty() {
        return;
    }
    *html += "<h2>Crowds</h2><div class=card><table class=stack><thead><tr><th>network</th><th>rule</th><th class=r>members</th>\
              <th class=r>bans</th><th class=r>refused</th><th class=r>clients</th><th>refused over time</th><th>first banned for</th></tr></thead><tbody>";
    for crowd in &report.crowds {
        let badge = if crowd.mode == Mode::Shadow { "<span class=badge>shadow</span>" } else { "" };
        put(
            html,
            format_args!(
                "<tr><td class=full><span class=mono>{}</span></td><td class=full>{}{badge}</td>",
                Escaped(&crowd.network),
                Escaped(&crowd.rule)
            ),
        );
        let numbers = [("members", u64::from(crowd.members)), ("bans", crowd.bans), ("refused", crowd.refused)];
        for (what, number) in numbers {
            put(html, format_args!("<td class=r data-l={what}>{}</td>", grouped(number)));
        }
        let good = match crowd.clients_good {
            0 => String::new(),
            good => format!(" <span class=good>{} good</span>", grouped(good)),
        };
        put(
            html,
            format_args!(
                "<td class=r data-l=clients>{}{good}</td><td class=full><span class=spark-cell>{}</span></td>\
             <td class=\"full evidence mono\" title=\"since {}\">{}</td></tr>",
                counted(crowd.clients, "client", "clients"),
                spark(&crowd.spark),
                Escaped(&day_and_time(Some(&crowd.since))),
                Escaped(&crowd.evidence)
            ),
        );
    }
    *html += "</tbody></table></div>";
}

#[expect(clippy::cast_precision_loss, reason = "for a plot")]
fn networks(html: &mut String, report: &Report) {
    if report.networks.is_empty() {
        return;
    }
    let highest = report.networks.iter().map(|network| network.refused).max().unwrap_or_default().max(1);
    *html += "<h2>Networks refused most</h2><div class=\"card bars\">";
    for network in &report.networks {
        put(
            html,
            format_args!(
                "<div class=bar><span class=\"who mono\">{}</span><span class=track><div class=fill style=width:{:.1}%></div></span><span class=num>{} <small>of {}{}</small></span></div>",
                Escaped(&network.network),
                network.refused as f64 / highest as f64 * 100.0,
                grouped(network.refused),
                counted(network.clients, "client", "clients"),
                match network.clients_good {
                    0 => String::new(),
                    good => format!(", <span class=good>{} good</span>", grouped(good)),
                }
            ),
        );
    }
    *html += "</div>";
}

fn clients(html: &mut String, clients: &[ClientReport], with_rule: bool) {
    let rule = if with_rule { "<th>banned by</th>" } else { "" };
    put(
        html,
        format_args!(
            "<table class=stack><thead><tr><th>client</th>{rule}<th class=r>bans</th><th class=r>refused</th><th class=r>offences</th><th class=r>successes</th><th>first banned for</th></tr></thead><tbody>"
        ),
    );
    for client in clients {
        let good = match (client.looks_good, client.authenticated) {
            (true, true) => " <span class=good>authenticated</span>",
            (true, false) => " <span class=good>looks good</span>",
            _ => "",
        };
        put(html, format_args!("<tr><td class=full><span class=mono>{}</span>{good}</td>", Escaped(&client.client)));
        if with_rule {
            put(html, format_args!("<td class=full>{}</td>", Escaped(&client.rule)));
        }
        for (what, number) in
            [("bans", client.bans), ("refused", client.refused), ("offences", client.offences), ("successes", client.successes)]
        {
            put(html, format_args!("<td class=r data-l={what}>{}</td>", grouped(number)));
        }
        put(
            html,
            format_args!(
                "<td class=\"full evidence mono\" title=\"since {}\">{}</td></tr>",
                Escaped(&day_and_time(Some(&client.since))),
                Escaped(&client.evidence)
            ),
        );
    }
    *html += "</tbody></table>";
}

fn glossary(html: &mut String, report: &Report) {
    put(
        html,
        format_args!(
            "<h2>Glossary</h2><div class=card><dl>\
            <dt>event</dt><dd>A request, an SMTP connection, an accepted message or an SMTP incident. {} lines named no client.</dd>\
            <dt>refused</dt><dd>An event that a ban, or the rule itself, would have refused. The responses in the log are those of a server without these bans: a client that is refused may behave differently.</dd>\
            <dt>looks good</dt><dd>The client authenticated at some point in these logs, or had at least three ordinary successes and more of them than errors and offences together.</dd>\
            <dt>ordinary</dt><dd>A refused event that was served without an error, of a client that looks good: the harm that these rules would have done.</dd>\
            <dt>shadow</dt><dd>A rule in shadow mode refuses nobody. Its numbers are what it would do; the totals leave them out.</dd>\
            </dl></div>",
            grouped(report.total.unread)
        ),
    );
    if report.total.refused_before > 0 {
        put(
            html,
            format_args!(
                "<p class=meta>{} events were refused by Strikeout itself at the time; they are not judged again.</p>",
                grouped(report.total.refused_before)
            ),
        );
    }
    put(html, format_args!("<footer>Made by strikeout {} in {:.1} s. Times are UTC.</footer>", env!("CARGO_PKG_VERSION"), report.seconds));
}
