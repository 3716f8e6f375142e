//! A comparison as a chart: a panel for each workload, a bar for each registry.

use std::fmt::Write;

use crate::report::{BenchComparison, ReportCell, ReportRow};
use crate::text::figure;

/// Panels beside each other.
const COLUMNS: usize = 2;
const PANEL_WIDTH: usize = 460;
const TITLE_HEIGHT: usize = 26;
const BAR_HEIGHT: usize = 15;
const BAR_STEP: usize = 19;
const LABEL_WIDTH: usize = 130;
/// Room for the figure behind the longest bar.
const FIGURE_WIDTH: usize = 90;
const GAP: usize = 16;

/// Peers in greys and blues, in turns; subjects stand out.
const PEER_COLOURS: [&str; 5] = ["#8c96a3", "#b0b8c1", "#6d8fb3", "#9ab3cc", "#5f6b78"];
const SUBJECT_COLOURS: [&str; 3] = ["#d9541e", "#f0934e", "#a83c10"];

pub(crate) fn chart(comparison: &BenchComparison) -> String {
    let height = TITLE_HEIGHT + comparison.registries.len() * BAR_STEP + GAP;
    let lines = comparison.rows.len().div_ceil(COLUMNS);
    let (width, total) = (COLUMNS * PANEL_WIDTH + GAP, lines * height + GAP);
    let mut svg = String::new();
    // Writing to a string cannot fail, here and below.
    let _ = write!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{total}\" \
         viewBox=\"0 0 {width} {total}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"{width}\" height=\"{total}\" fill=\"#ffffff\"/>\n"
    );
    for (number, row) in comparison.rows.iter().enumerate() {
        let (column, line) = (number % COLUMNS, number / COLUMNS);
        let (x, y) = (GAP + column * PANEL_WIDTH, GAP + line * height);
        let _ = writeln!(svg, "<g transform=\"translate({x} {y})\">");
        panel(&mut svg, comparison, row);
        svg.push_str("</g>\n");
    }
    svg.push_str("</svg>\n");
    svg
}

fn panel(svg: &mut String, comparison: &BenchComparison, row: &ReportRow) {
    let _ = writeln!(
        svg,
        "<text y=\"12\" font-weight=\"bold\" fill=\"#222222\">{} ({})</text>",
        escaped(&row.title(&comparison.rows)),
        row.speed_unit()
    );
    let longest = row.cells.iter().filter_map(|cell| row.speed(cell)).fold(0.0, f64::max);
    let (mut peers, mut subjects) = (PEER_COLOURS.iter().cycle(), SUBJECT_COLOURS.iter().cycle());
    for (number, (registry, cell)) in comparison.registries.iter().zip(&row.cells).enumerate() {
        let colour = if registry.is_subject { subjects.next() } else { peers.next() };
        let bar = ChartBar {
            y: TITLE_HEIGHT + number * BAR_STEP,
            label: &registry.label,
            colour: colour.copied().unwrap_or("#000000"),
            share: row.speed(cell).filter(|_| longest > 0.0).map(|speed| speed / longest),
            figure: says(row, cell),
        };
        bar.write(svg);
    }
}

fn says(row: &ReportRow, cell: &ReportCell) -> String {
    match row.speed(cell) {
        Some(speed) => figure(Some(speed)),
        None if cell.unsupported => "not supported".to_owned(),
        None if cell.failed() > 0 => "failed".to_owned(),
        None => "not measured".to_owned(),
    }
}

struct ChartBar<'a> {
    y: usize,
    label: &'a str,
    colour: &'a str,
    /// Of the longest in its panel.
    share: Option<f64>,
    figure: String,
}

impl ChartBar<'_> {
    fn write(&self, svg: &mut String) {
        let Self { y, label, colour, share, figure } = self;
        let width = (PANEL_WIDTH - LABEL_WIDTH - FIGURE_WIDTH - GAP) as f64;
        let width = share.unwrap_or_default() * width;
        let (middle, label_end) = (y + BAR_HEIGHT - 4, LABEL_WIDTH - 6);
        let figure_at = LABEL_WIDTH as f64 + width + 5.0;
        let _ = writeln!(
            svg,
            "<text x=\"{label_end}\" y=\"{middle}\" text-anchor=\"end\" fill=\"#444444\">{}</text>\n\
             <rect x=\"{LABEL_WIDTH}\" y=\"{y}\" width=\"{width:.1}\" height=\"{BAR_HEIGHT}\" fill=\"{colour}\"/>\n\
             <text x=\"{figure_at:.1}\" y=\"{middle}\" fill=\"#222222\">{}</text>",
            escaped(label),
            escaped(figure)
        );
    }
}

/// Text as it stands between tags.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_be_a_tag_is_text() {
        assert_eq!(escaped("a<b>&c"), "a&lt;b&gt;&amp;c");
    }
}
