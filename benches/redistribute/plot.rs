//! The plot: the writes to the moving range, and the throughput of the others, over time.

use std::fmt::Write as _;
use std::time::Duration;

use crate::Measured;

const WIDTH: f64 = 920.0;
const HEIGHT: f64 = 560.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 900.0;
const PANEL_HEIGHT: f64 = 200.0;
const TOPS: [f64; 2] = [40.0, 310.0];

/// What one point of a line is of.
const STEP: Duration = Duration::from_secs(1);

/// Told apart also by those who see few colours (Okabe and Ito).
const COLOURS: [&str; 3] = ["#d55e00", "#0072b2", "#009e73"];

/// Draws the time until some seconds after the second move.
pub(crate) fn draw(measured: &Measured) -> String {
    let moves = &measured.moves[..measured.moves.len().min(2)];
    let end = moves.last().map_or(Duration::ZERO, |(_, until)| *until) + Duration::from_secs(3);
    let steps = (end.as_millis() / STEP.as_millis()) as usize;
    let longest = (0..steps).map(|step| {
        let within = |at: &Duration| at.as_millis() / STEP.as_millis() == step as u128;
        let took = measured.writes.iter().filter(|(at, _)| within(at)).map(|(_, took)| took);
        took.max().copied().unwrap_or_default().as_secs_f64() * 1000.0
    });
    let longest: Vec<f64> = longest.collect();
    let rates = measured.others.each_ref().map(|samples| -> Vec<f64> {
        let count = |at: Duration| {
            samples.iter().rfind(|(time, _)| *time <= at).map_or(0, |(_, count)| *count)
        };
        let rate = |step: usize| {
            let (from, until) = (STEP * step as u32, STEP * (step as u32 + 1));
            (count(until) - count(from)) as f64 / STEP.as_secs_f64()
        };
        (0..steps).map(rate).collect()
    });
    let mut svg = String::new();
    let out = &mut svg;
    _ = writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"13\" fill=\"#222\">\n\
         <title>A range that moves and comes back</title>\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>"
    );
    let x = |at: Duration| LEFT + at.as_secs_f64() / end.as_secs_f64() * (RIGHT - LEFT);
    for top in TOPS {
        for &(from, until) in moves {
            let (left, width) = (x(from), x(until) - x(from));
            _ = writeln!(
                out,
                "<rect x=\"{left:.1}\" y=\"{top}\" width=\"{width:.1}\" height=\"{PANEL_HEIGHT}\" fill=\"#eee\"/>"
            );
        }
    }
    let title = "longest write to the moving range, ms (grey: while it moves)";
    panel(out, TOPS[0], title, &[(&longest, COLOURS[0])], steps);
    let lines = [(&rates[0], COLOURS[1]), (&rates[1], COLOURS[2])];
    let title = "operations a second beside it: of the second shard's own range (blue), of the third's (green)";
    panel(out, TOPS[1], title, &lines.map(|(line, colour)| (line, colour)), steps);
    let step = if end.as_secs() > 90 { 20 } else { 5 };
    for second in (0..=end.as_secs()).step_by(step) {
        let at = x(Duration::from_secs(second));
        text(out, at, TOPS[1] + PANEL_HEIGHT + 20.0, "middle", &format!("{second} s"));
    }
    svg += "</svg>\n";
    svg
}

fn panel(out: &mut String, top: f64, title: &str, lines: &[(&Vec<f64>, &str)], steps: usize) {
    let most = lines.iter().flat_map(|(line, _)| line.iter()).copied().fold(1.0, f64::max);
    let bottom = top + PANEL_HEIGHT;
    text(out, LEFT, top - 12.0, "start\" font-weight=\"bold", title);
    for part in 0..=4 {
        let value = most * f64::from(part) / 4.0;
        let at = bottom - PANEL_HEIGHT * f64::from(part) / 4.0;
        _ = writeln!(
            out,
            "<line x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{RIGHT}\" y2=\"{at:.1}\" stroke=\"#ccc\"/>"
        );
        text(out, LEFT - 6.0, at + 4.5, "end", &format!("{value:.0}"));
    }
    for (line, colour) in lines {
        let point = |(step, value): (usize, &f64)| {
            let x = LEFT + (step as f64 + 0.5) / steps as f64 * (RIGHT - LEFT);
            format!("{x:.1},{:.1}", bottom - value / most * PANEL_HEIGHT)
        };
        let points: Vec<_> = line.iter().enumerate().map(point).collect();
        _ = writeln!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>",
            points.join(" ")
        );
    }
}

fn text(out: &mut String, x: f64, y: f64, anchor: &str, text: &str) {
    _ = writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>");
}
