//! The plot: hit ratio over limit, a panel for each mix, a line for each policy.

use std::fmt::Write as _;

use crate::results::Results;
use crate::trace::Mix;
use crate::{SUBJECTS, Subject};

const WIDTH: f64 = 920.0;
const HEIGHT: f64 = 490.0;
const PANEL_WIDTH: f64 = 380.0;
const PANEL_HEIGHT: f64 = 320.0;
const TOP: f64 = 40.0;
/// Between two lines of the grid, in percent.
const STEP: f64 = 5.0;
const LEFT: [f64; 2] = [65.0, 515.0];

const LEGEND_COLUMNS: usize = 4;

/// Of the lines, in the order of [`SUBJECTS`]: told apart also by those who see few colours
/// (Okabe and Ito).
const COLOURS: [&str; SUBJECTS.len()] =
    ["#d55e00", "#0072b2", "#56b4e9", "#999999", "#000000", "#009e73", "#e69f00", "#cc79a7"];

/// What is not Sherd's is dashed.
fn dashes(subject: Subject) -> &'static str {
    match subject {
        Subject::Sherd(_) => "none",
        Subject::Exact => "2 3",
        Subject::Redis(..) => "7 4",
    }
}

pub(crate) fn draw(results: &Results) -> String {
    let limits = results.limits();
    // Limits are equal ratios rather than equal steps.
    let log = |percent: u32| f64::from(percent).ln();
    let (first, last) = (log(limits[0]), log(limits[limits.len() - 1]));
    let x = |left: f64, percent: u32| {
        left + 15.0 + (log(percent) - first) / (last - first).max(0.01) * (PANEL_WIDTH - 30.0)
    };

    let mut svg = String::new();
    let out = &mut svg;
    _ = writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"13\" fill=\"#222\">\n\
         <title>Hit ratio over the limit, by policy</title>\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>"
    );
    for (mix, left) in Mix::ALL.into_iter().zip(LEFT) {
        let (right, bottom) = (left + PANEL_WIDTH, TOP + PANEL_HEIGHT);
        let middle = left + PANEL_WIDTH / 2.0;
        let cells = || results.cells.iter().filter(|cell| cell.mix == mix);
        let ratios = || cells().map(|cell| cell.ratio * 100.0);
        let lowest = (ratios().fold(100.0, f64::min) / STEP).floor() * STEP;
        let highest = (ratios().fold(0.0, f64::max) / STEP).ceil() * STEP;
        let y = |ratio: f64| TOP + (highest - ratio) / (highest - lowest) * PANEL_HEIGHT;
        text(out, middle, TOP - 14.0, "middle\" font-weight=\"bold", mix.name());
        let mut ratio = lowest;
        while ratio <= highest {
            let at = y(ratio);
            line(out, (left, at), (right, at), "#ddd");
            text(out, left - 7.0, at + 4.5, "end", &format!("{ratio:.0}"));
            ratio += STEP;
        }
        for &percent in &limits {
            let at = x(left, percent);
            line(out, (at, bottom), (at, bottom + 5.0), "#222");
            text(out, at, bottom + 20.0, "middle", &format!("{percent} %"));
        }
        line(out, (left, TOP), (left, bottom), "#222");
        line(out, (left, bottom), (right, bottom), "#222");
        let label = "limit, of the bytes of the million keys";
        text(out, middle, bottom + 40.0, "middle", label);
        for ((name, subject), colour) in SUBJECTS.into_iter().zip(COLOURS) {
            let points = limits.iter().filter_map(|&percent| {
                let cell = results.get(mix, percent, name)?;
                Some((x(left, percent), y(cell.ratio * 100.0)))
            });
            let points: Vec<_> = points.collect();
            let path: Vec<_> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            _ = writeln!(
                out,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" \
                 stroke-dasharray=\"{}\"/>",
                path.join(" "),
                dashes(subject)
            );
            for (x, y) in points {
                _ = writeln!(
                    out,
                    "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>"
                );
            }
        }
    }
    let middle = TOP + PANEL_HEIGHT / 2.0;
    _ = writeln!(
        out,
        "<text transform=\"translate(20 {middle}) rotate(-90)\" text-anchor=\"middle\">\
         hits, in % of the accesses</text>"
    );
    legend(out, results);
    svg += "</svg>\n";
    svg
}

fn legend(out: &mut String, results: &Results) {
    let measured = |name: &str| results.cells.iter().any(|cell| cell.name == name);
    let drawn = SUBJECTS.into_iter().zip(COLOURS).filter(|((name, _), _)| measured(name));
    for (place, ((name, subject), colour)) in drawn.enumerate() {
        let left = LEFT[0] + (place % LEGEND_COLUMNS) as f64 * 222.0;
        let at = HEIGHT - 50.0 + (place / LEGEND_COLUMNS) as f64 * 24.0;
        let name = match subject {
            Subject::Sherd(_) => format!("Sherd {name}"),
            _ => name.to_owned(),
        };
        let end = left + 26.0;
        _ = writeln!(
            out,
            "<line x1=\"{left}\" y1=\"{at}\" x2=\"{end}\" y2=\"{at}\" stroke=\"{colour}\" \
             stroke-width=\"2.5\" stroke-dasharray=\"{}\"/>",
            dashes(subject)
        );
        text(out, end + 5.0, at + 4.5, "start", &name);
    }
}

fn line(out: &mut String, from: (f64, f64), to: (f64, f64), colour: &str) {
    _ = writeln!(
        out,
        "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{colour}\"/>",
        from.0, from.1, to.0, to.1
    );
}

fn text(out: &mut String, x: f64, y: f64, anchor: &str, text: &str) {
    _ = writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>");
}
