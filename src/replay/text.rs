//! Shows the report as text for a terminal.

use std::io::{self, Write};

use super::report::{ClientReport, Report};
use crate::rule::Mode;

/// Writes the report.
///
/// # Errors
/// `out` cannot be written to.
pub fn write(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    let total = &report.total;
    writeln!(
        out,
        "Replayed {} of {} in {:.2} s ({} lines/s){}.",
        counted(total.lines, "line", "lines"),
        plural(report.logs.len(), "log", "logs"),
        report.seconds,
        grouped(rate(total.lines, report.seconds)),
        match (&report.from, &report.until) {
            (Some(from), Some(until)) => format!(", from {from} to {until}"),
            _ => String::new(),
        }
    )?;
    for log in &report.logs {
        if let Some(fault) = &log.fault {
            writeln!(out, "warning: {}: read up to line {}, then: {fault}", log.path, log.lines)?;
        }
    }
    writeln!(
        out,
        "{}, {}, {}; lines that name no client: {}; events that Strikeout refused at the time: {}.",
        counted(total.requests, "request", "requests"),
        counted(total.mail, "mail event", "mail events"),
        counted(total.clients, "client", "clients"),
        grouped(total.unread),
        grouped(total.refused_before)
    )?;
    writeln!(
        out,
        "It would have banned {} ({}) and refused {}. Of these clients, {} look good, and {} of the refused events were ordinary events of theirs.",
        counted(total.banned_clients, "client", "clients"),
        counted(total.bans, "ban", "bans"),
        counted(total.refused, "event", "events"),
        grouped(total.banned_good),
        grouped(total.refused_good)
    )?;
    if total.forgotten > 0 {
        writeln!(
            out,
            "warning: there are more clients than [table] clients allows: {} events of the others are missing from the client numbers below.",
            grouped(total.forgotten)
        )?;
    }
    rules(report, out)?;
    clients(&report.clients, out)?;
    if !report.networks.is_empty() {
        let mut table = Table::new(&["network", "clients", "bans", "refused", "look good"]);
        for network in &report.networks {
            table.row(&[
                network.network.clone(),
                grouped(network.clients),
                grouped(network.bans),
                grouped(network.refused),
                grouped(network.clients_good),
            ]);
        }
        table.write(out)?;
    }
    crowds(report, out)?;
    false_positives(report, out)
}

fn rules(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    let mut table = Table::new(&["rule", "mode", "setting", "offences", "bans", "clients", "look good", "refused", "ordinary", "spared"]);
    for rule in &report.rules {
        table.row(&[
            rule.name.clone(),
            mode(rule.mode).to_owned(),
            rule.setting.clone(),
            grouped(rule.offences),
            grouped(rule.bans),
            grouped(rule.clients),
            grouped(rule.clients_good),
            grouped(rule.refused),
            grouped(rule.refused_good),
            grouped(rule.spared),
        ]);
    }
    table.write(out)?;
    if !report.quiet_rules.is_empty() {
        writeln!(out, "\n{} matched nothing.", plural(report.quiet_rules.len(), "rule", "rules"))?;
    }
    Ok(())
}

fn clients(clients: &[ClientReport], out: &mut dyn Write) -> io::Result<()> {
    if clients.is_empty() {
        return Ok(());
    }
    let mut table = Table::new(&["client", "banned by", "bans", "refused", "offences", "successes", "", "first banned for"]);
    for client in clients {
        table.row(&[
            client.client.clone(),
            client.rule.clone(),
            grouped(client.bans),
            grouped(client.refused),
            grouped(client.offences),
            grouped(client.successes),
            if client.looks_good { "looks good" } else { "" }.to_owned(),
            client.evidence.chars().take(60).collect(),
        ]);
    }
    table.write(out)
}

/// The networks that rules over networks banned.
fn crowds(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    if report.crowds.is_empty() {
        return Ok(());
    }
    let mut table = Table::new(&["banned network", "rule", "members", "bans", "refused", "clients", "look good"]);
    for crowd in &report.crowds {
        table.row(&[
            crowd.network.clone(),
            if crowd.mode == Mode::Shadow { format!("{} (shadow)", crowd.rule) } else { crowd.rule.clone() },
            grouped(u64::from(crowd.members)),
            grouped(crowd.bans),
            grouped(crowd.refused),
            grouped(crowd.clients),
            grouped(crowd.clients_good),
        ]);
    }
    table.write(out)
}

fn false_positives(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    let percent = report.false_positives.share * 100.0;
    writeln!(out)?;
    for rule in report.rules.iter().filter(|rule| rule.over_limit) {
        writeln!(
            out,
            "warning: rule {:?} exceeds the false-positive limit of {percent} %: {} of the {} clients that it banned look good.",
            rule.name, rule.clients_good, rule.clients
        )?;
        match rule.mode {
            Mode::Enforce => writeln!(out, "  Proposed until the reason is known: mode = \"shadow\"")?,
            Mode::Shadow => writeln!(out, "  Leave it in shadow mode.")?,
        }
    }
    if report.false_positives.over.is_empty() {
        writeln!(out, "No rule exceeds the false-positive limit of {percent} %.")?;
    }
    Ok(())
}

fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Enforce => "enforce",
        Mode::Shadow => "shadow",
    }
}

/// `1 log`, `2 logs`.
#[must_use]
pub fn plural(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// `1 ban`, `1,234 bans`.
#[must_use]
pub fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{} {}", grouped(count), if count == 1 { one } else { many })
}

/// Lines per second.
#[must_use]
#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate to display")]
pub fn rate(lines: u64, seconds: f64) -> u64 {
    if seconds <= 0.0 { 0 } else { (lines as f64 / seconds) as u64 }
}

/// `1,234,567`.
#[must_use]
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A table whose columns are as wide as their widest cell. Numbers are right-aligned.
struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    fn new(head: &[&str]) -> Self {
        Self { rows: vec![head.iter().map(|cell| cell.to_uppercase()).collect()] }
    }

    fn row(&mut self, cells: &[String]) {
        self.rows.push(cells.to_vec());
    }

    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let columns = self.rows.first().map_or(0, Vec::len);
        let cell = |row: &Vec<String>, column: usize| row.get(column).cloned().unwrap_or_default();
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b',');
        let widths: Vec<usize> =
            (0..columns).map(|column| self.rows.iter().map(|row| cell(row, column).chars().count()).max().unwrap_or_default()).collect();
        let right_aligned: Vec<bool> =
            (0..columns).map(|column| self.rows.len() > 1 && self.rows.iter().skip(1).all(|row| is_number(&cell(row, column)))).collect();
        writeln!(out)?;
        for row in &self.rows {
            let mut line = String::new();
            for (column, (width, right)) in widths.iter().zip(&right_aligned).enumerate() {
                let text = cell(row, column);
                let padding = " ".repeat(width - text.chars().count());
                line += &if *right { format!("{padding}{text}  ") } else { format!("{text}{padding}  ") };
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_grouped_by_threes() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn columns_line_up_and_numbers_are_right_aligned() {
        let mut table = Table::new(&["rule", "bans"]);
        table.row(&["a".into(), "1,000".into()]);
        table.row(&["long-name".into(), "7".into()]);
        let mut out = Vec::new();
        table.write(&mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "\nRULE        BANS\na          1,000\nlong-name      7\n");
    }
}
