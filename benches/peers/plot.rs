//! Draws growth curves as one SVG, with a panel for each quantity that grows.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};

/// One diagram.
pub struct Panel {
    pub title: &'static str,
    pub curves: Vec<Curve>,
    /// Whether the horizontal axis is logarithmic.
    pub logarithmic: bool,
}

/// A curve through pairs of size and µs per lookup.
pub struct Curve {
    pub name: &'static str,
    pub points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 300.0;
const HEIGHT: f64 = 200.0;
const MARGIN: f64 = 50.0;
const COLOURS: [&str; 3] = ["#1f6feb", "#d1242f", "#2da44e"];

pub fn write(path: &Path, panels: &[Panel]) -> Result<()> {
    let (width, height) = (panels.len() as f64 * (WIDTH + MARGIN) + MARGIN, HEIGHT + 2.0 * MARGIN);
    let mut svg = format!(
        "<svg xmlns='http://www.w3.org/2000/svg' width='{width}' height='{height}' viewBox='0 0 {width} {height}' font-family='sans-serif' font-size='11'>\n<rect width='100%' height='100%' fill='white'/>\n"
    );
    for (number, panel) in panels.iter().enumerate() {
        draw(&mut svg, panel, MARGIN + number as f64 * (WIDTH + MARGIN)).context("a string")?;
    }
    svg.push_str("</svg>\n");
    std::fs::write(path, svg).with_context(|| format!("cannot write {}", path.display()))
}

fn draw(svg: &mut String, panel: &Panel, left: f64) -> std::fmt::Result {
    let points = || panel.curves.iter().flat_map(|curve| curve.points.iter());
    let scale = |x: f64| if panel.logarithmic { x.ln() } else { x };
    let (least, most) = points().fold((f64::MAX, f64::MIN), |(least, most), (x, _)| (least.min(scale(*x)), most.max(scale(*x))));
    let top = points().fold(0.0_f64, |top, (_, y)| top.max(*y)) * 1.15;
    let at = |x: f64, y: f64| (left + (scale(x) - least) / (most - least) * WIDTH, MARGIN + HEIGHT - y / top * HEIGHT);
    writeln!(svg, "<text x='{}' y='{}' font-size='13' font-weight='bold'>{}</text>", left, MARGIN - 22.0, panel.title)?;
    for step in 0..=4 {
        let value = top * f64::from(step) / 4.0;
        let y = MARGIN + HEIGHT - HEIGHT * f64::from(step) / 4.0;
        writeln!(svg, "<line x1='{left}' y1='{y}' x2='{}' y2='{y}' stroke='#ddd'/>", left + WIDTH)?;
        writeln!(svg, "<text x='{}' y='{}' text-anchor='end'>{value:.2}</text>", left - 4.0, y + 4.0)?;
    }
    writeln!(svg, "<text x='{}' y='{}'>µs CPU per lookup</text>", left, MARGIN - 8.0)?;
    for (number, curve) in panel.curves.iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        let line: Vec<String> = curve.points.iter().map(|(x, y)| at(*x, *y)).map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        writeln!(svg, "<polyline points='{}' fill='none' stroke='{colour}' stroke-width='2'/>", line.join(" "))?;
        for (size, cost) in &curve.points {
            let (x, y) = at(*size, *cost);
            writeln!(svg, "<circle cx='{x:.1}' cy='{y:.1}' r='3' fill='{colour}'/>")?;
            if number == 0 {
                writeln!(svg, "<text x='{x:.1}' y='{}' text-anchor='middle'>{}</text>", MARGIN + HEIGHT + 16.0, short(*size))?;
            }
        }
        writeln!(svg, "<text x='{}' y='{}' fill='{colour}'>{}</text>", left + 8.0, MARGIN + 14.0 * (number as f64 + 1.0), curve.name)?;
    }
    Ok(())
}

/// Formats 1000 as `1k`.
fn short(number: f64) -> String {
    match number {
        number if number >= 1e6 => format!("{:.0}M", number / 1e6),
        number if number >= 1e3 => format!("{:.0}k", number / 1e3),
        number => format!("{number:.0}"),
    }
}
