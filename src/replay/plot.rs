//! Plots as HTML and SVG. The bars stretch with the page and the labels do not, so that they stay readable on a phone.

use std::fmt::Write;

use super::report::OverTime;
use super::tally::wider;
use super::text::grouped;

/// Maximum number of bars: as many as fit on a phone.
const MAX_BARS: u64 = 120;

/// Counts over time in at most [`MAX_BARS`] bars, each of a round length of time.
#[derive(Debug, Clone)]
pub struct Bars {
    /// Start of the first bar in seconds since 1970.
    pub start: u64,
    /// Width of a bar in seconds.
    pub width: u64,
    pub events: Vec<u64>,
    pub offences: Vec<u64>,
    pub bans: Vec<u64>,
    pub refused: Vec<u64>,
    pub refused_good: Vec<u64>,
}

impl Bars {
    /// Joins bins until there are few enough bars.
    #[must_use]
    pub fn new(over_time: &OverTime) -> Self {
        let count = u64::try_from(over_time.events.len()).unwrap_or_default();
        let end = over_time.start + count * over_time.width;
        let mut width = over_time.width.max(1);
        while end.div_ceil(width) - over_time.start / width > MAX_BARS {
            width = wider(width * 1000) / 1000;
        }
        let first = over_time.start / width;
        let join = |bins: &[u64]| {
            let mut bars = vec![0; usize::try_from(end.div_ceil(width) - first).unwrap_or_default()];
            let mut time = over_time.start;
            for bin in bins {
                if let Some(bar) = usize::try_from(time / width - first).ok().and_then(|bar| bars.get_mut(bar)) {
                    *bar += bin;
                }
                time += over_time.width;
            }
            bars
        };
        Self {
            start: first * width,
            width,
            events: join(&over_time.events),
            offences: join(&over_time.offences),
            bans: join(&over_time.bans),
            refused: join(&over_time.refused),
            refused_good: join(&over_time.refused_good),
        }
    }
}

/// One set of bars in a chart: name, colour (a CSS variable) and values.
pub type Layer<'a> = (&'a str, &'a str, &'a [u64]);

/// A chart with the layers in front of each other, on the same scale.
#[must_use]
pub fn chart(layers: &[Layer<'_>], bars: &Bars) -> String {
    let highest = layers.iter().flat_map(|(_, _, values)| values.iter().copied()).max().unwrap_or_default();
    let top = round_up(highest);
    let mut html = String::from("<figure class=chart><figcaption>");
    for (name, colour, values) in layers {
        let sum: u64 = values.iter().sum();
        put(&mut html, format_args!("<span class=key style=--c:var(--{colour})>{name} <span class=num>{}</span></span>", grouped(sum)));
    }
    html += "</figcaption><div class=plot>";
    for (at, value) in [(0, Some(top)), (50, top.is_multiple_of(2).then_some(top / 2)), (100, Some(0))] {
        if let Some(value) = value {
            put(&mut html, format_args!("<span class=y style=top:{at}%>{}</span>", short(value)));
        }
    }
    let count = bars.events.len().max(1);
    put(&mut html, format_args!("<svg viewBox=\"0 0 {count} 100\" preserveAspectRatio=none aria-hidden=true>"));
    for height in [0, 50, 100] {
        put(&mut html, format_args!("<path class=grid d=\"M0 {height}H{count}\"/>"));
    }
    for (_, colour, values) in layers {
        put(&mut html, format_args!("<path fill=var(--{colour}) d=\"{}\"/>", outline(values, top)));
    }
    html += "</svg><div class=cross></div></div>";
    html += &time_axis(bars);
    html += "</figure>";
    html
}

/// A small plot of bars, without labels.
#[must_use]
pub fn spark(values: &[u64]) -> String {
    let top = values.iter().copied().max().unwrap_or_default().max(1);
    let count = values.len().max(1);
    format!(
        "<svg class=spark viewBox=\"0 0 {count} 100\" preserveAspectRatio=none aria-hidden=true><path class=grid d=\"M0 100H{count}\"/><path d=\"{}\"/></svg>",
        outline(values, top)
    )
}

/// Bars as one SVG path, each one unit wide with a gap. `top` is 100 units high, and every value above 0 at least 1.5.
#[expect(clippy::cast_precision_loss, reason = "for a plot")]
fn outline(values: &[u64], top: u64) -> String {
    let mut path = String::new();
    for (at, value) in values.iter().enumerate().filter(|(_, value)| **value > 0) {
        let height = (*value as f64 / top.max(1) as f64 * 100.0).max(1.5);
        put(&mut path, format_args!("M{at}.08 100V{:.1}h.84V100z", 100.0 - height));
    }
    path
}

/// The smallest round number not below `value`: 1, 2, 4, 5, 6, 8 or 10 times a power of ten.
fn round_up(value: u64) -> u64 {
    let mut power = 1_u64;
    loop {
        for step in [1, 2, 4, 5, 6, 8, 10] {
            let round = power.saturating_mul(step);
            if round >= value.max(2) {
                return round;
            }
        }
        power = power.saturating_mul(10);
    }
}

/// `950`, `12k`, `1.5M`.
#[expect(clippy::cast_precision_loss, reason = "a label")]
fn short(value: u64) -> String {
    match value {
        0..10_000 => grouped(value),
        10_000..1_000_000 => format!("{}k", trimmed(value as f64 / 1e3)),
        _ => format!("{}M", trimmed(value as f64 / 1e6)),
    }
}

fn trimmed(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

/// Labels under a chart at round times in UTC. Every other one has the class `b`, which narrow screens hide.
#[expect(clippy::cast_precision_loss, reason = "seconds since 1970 and a number of labels")]
fn time_axis(bars: &Bars) -> String {
    const STEPS: [u64; 17] = [
        1,
        5,
        15,
        60,
        300,
        900,
        3600,
        3 * 3600,
        6 * 3600,
        12 * 3600,
        86_400,
        2 * 86_400,
        7 * 86_400,
        14 * 86_400,
        28 * 86_400,
        91 * 86_400,
        364 * 86_400,
    ];
    let whole = bars.width as f64 * bars.events.len() as f64;
    let step = STEPS.into_iter().find(|step| whole / *step as f64 <= 9.0).unwrap_or(364 * 86_400);
    let mut html = String::from("<div class=x>");
    let mut time = bars.start.next_multiple_of(step);
    let mut number = 0;
    while (time as f64) < bars.start as f64 + whole {
        let at = (time - bars.start) as f64 / whole * 100.0;
        // A label at the very edge would stick out of the page.
        if (3.0..=97.0).contains(&at) {
            let class = if number % 2 == 1 { " class=b" } else { "" };
            put(&mut html, format_args!("<span{class} style=left:{at:.2}%>{}</span>", label(time as i64, step)));
            number += 1;
        }
        time += step;
    }
    html += "</div>";
    html
}

fn label(time: i64, step: u64) -> String {
    let Ok(moment) = jiff::Timestamp::from_second(time) else { return String::new() };
    let format = match step {
        0..60 => "%H:%M:%S",
        60..86_400 if time % 86_400 == 0 => "%b %-d",
        60..86_400 => "%H:%M",
        86_400..7_862_400 => "%b %-d",
        _ => "%b %Y",
    };
    moment.strftime(format).to_string()
}

/// Writing into a string cannot fail.
pub(super) fn put(html: &mut String, text: std::fmt::Arguments<'_>) {
    let _ = html.write_fmt(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_ends_at_a_round_number() {
        for (value, round) in [(0, 2), (1, 2), (3, 4), (7, 8), (9, 10), (11, 20), (39, 40), (41, 50), (999, 1000), (1001, 2000)] {
            assert_eq!(round_up(value), round, "{value}");
        }
        assert_eq!(round_up(u64::MAX), u64::MAX);
    }

    #[test]
    fn labels_are_short() {
        for (value, text) in [(0, "0"), (9_999, "9,999"), (12_000, "12k"), (12_500, "12.5k"), (1_500_000, "1.5M")] {
            assert_eq!(short(value), text);
        }
    }

    #[test]
    fn a_small_bar_is_still_visible() {
        assert_eq!(outline(&[0, 1, 1000], 1000), "M1.08 100V98.5h.84V100zM2.08 100V0.0h.84V100z");
    }

    #[test]
    fn few_bars_hold_everything() {
        let bins: Vec<u64> = (0..480).collect();
        let over_time = OverTime {
            start: 0,
            width: 60,
            events: bins.clone(),
            offences: bins.clone(),
            bans: bins.clone(),
            refused: bins.clone(),
            refused_good: bins.clone(),
        };
        let bars = Bars::new(&over_time);
        assert_eq!((bars.events.len(), bars.width), (96, 300), "120 bars of 4 minutes are no round time");
        assert_eq!(bars.events.iter().sum::<u64>(), bins.iter().sum::<u64>());
    }
}
