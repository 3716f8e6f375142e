//! A comparison as Markdown: a summary of pushes, errors, where a subject is behind, then a table of
//! each measure.

use std::fmt::Write;

use crate::report::{
    BenchComparison, COST, LATENCY, MEMORY, RegistryRuns, ReportCell, ReportMeasure, ReportRow,
    SPEED,
};
use crate::text::figure;

// Writing to a string cannot fail: in this file no result of it is looked at.

/// The comparison as Markdown.
pub(crate) fn markdown(comparison: &BenchComparison) -> String {
    let mut text = String::new();
    write_push_summary(&mut text, comparison);
    write_errors(&mut text, comparison);
    write_behind(&mut text, comparison);
    for measure in [&SPEED, &LATENCY, &COST, &MEMORY] {
        write_measure(&mut text, comparison, measure);
    }
    write_sink(&mut text, comparison);
    write_footnotes(&mut text, comparison);
    text
}

fn compares(comparison: &BenchComparison) -> bool {
    let are = |subject: bool| comparison.registries.iter().any(|r| r.is_subject == subject);
    are(true) && are(false)
}

/// Numbers of the subjects that have a figure in one of the rows.
fn subjects(
    comparison: &BenchComparison,
    rows: &[&ReportRow],
    measure: &ReportMeasure,
) -> Vec<usize> {
    let registries = comparison.registries.iter().enumerate();
    let has_figure =
        |number: usize| rows.iter().any(|row| value_of(row, number, measure).is_some());
    let subjects = registries.filter(|(number, r)| r.is_subject && has_figure(*number));
    subjects.map(|(number, _)| number).collect()
}

fn value_of(row: &ReportRow, registry: usize, measure: &ReportMeasure) -> Option<f64> {
    row.cells.get(registry).and_then(|cell| (measure.value)(row, cell))
}

fn is_peer(registry: &RegistryRuns) -> bool {
    !registry.is_subject
}

fn is_syncing_peer(registry: &RegistryRuns) -> bool {
    is_peer(registry) && registry.syncs
}

fn concurrency(row: &ReportRow) -> String {
    row.concurrency.map(|concurrency| concurrency.to_string()).unwrap_or_default()
}

/// The registry with a best value, and the value.
fn named(best: Option<(&str, f64)>) -> String {
    best.map_or_else(|| "-".to_owned(), |(label, value)| format!("{label} {}", figure(Some(value))))
}

fn ratio(value: Option<f64>, best: Option<(&str, f64)>) -> Option<f64> {
    let (_, best) = best.filter(|(_, best)| *best > 0.0)?;
    value.map(|value| value / best)
}

/// A value and its ratios to others, where there are any.
fn with_ratios(value: Option<f64>, ratios: &[Option<f64>]) -> String {
    let ratios: Vec<_> = ratios.iter().flatten().map(|ratio| format!("{ratio:.2}×")).collect();
    match ratios.is_empty() {
        true => figure(value),
        false => format!("{} ({})", figure(value), ratios.join(", ")),
    }
}

/// Pushes of 1 MiB and more: one line for each row, with all that counts.
fn write_push_summary(text: &mut String, comparison: &BenchComparison) {
    let rows: Vec<_> = comparison.rows.iter().filter(|row| row.is_bulk_push).collect();
    let subjects = subjects(comparison, &rows, &SPEED);
    if !compares(comparison) || subjects.is_empty() {
        return;
    }
    let syncing = comparison.registries.iter().any(is_syncing_peer);
    text.push_str("### Pushes of 1 MiB and more\n\n");
    text.push_str(
        "MB/s (more is better), then processor seconds per gigabyte and peak MB of memory",
    );
    text.push_str(" of the server (less is better).\nIn brackets: the ratio to the best peer");
    text.push_str(if syncing { ", then to the best peer that syncs.\n\n" } else { ".\n\n" });
    let mut columns = vec!["push".to_owned(), "clients".to_owned(), "first".to_owned()];
    columns.push("best peer, MB/s".to_owned());
    if syncing {
        columns.push("best that syncs, MB/s".to_owned());
    }
    let label = |number: &usize| comparison.registries.get(*number).map_or("", |r| &r.label);
    for unit in ["MB/s", "s/GB", "MB"] {
        if unit == "s/GB" {
            columns.push("best peer, s/GB".to_owned());
        }
        columns.extend(subjects.iter().map(|number| format!("{}, {unit}", label(number))));
    }
    let _ = writeln!(text, "| {} |\n| --- | ---: | --- |{}", columns.join(" | "), {
        " ---: |".repeat(columns.len() - 3)
    });
    for row in rows {
        write_push(text, comparison, row, &subjects, syncing);
    }
    text.push('\n');
}

fn write_push(
    text: &mut String,
    comparison: &BenchComparison,
    row: &ReportRow,
    subjects: &[usize],
    syncing: bool,
) {
    let first = comparison.best(row, &SPEED, |_| true).map_or("-", |(label, _)| label);
    let best = comparison.best(row, &SPEED, is_peer);
    let best_syncing = comparison.best(row, &SPEED, is_syncing_peer);
    let cheapest = comparison.best(row, &COST, is_peer);
    let _ = write!(text, "| {} | {} | {first} | {} |", row.workload, concurrency(row), named(best));
    if syncing {
        let _ = write!(text, " {} |", named(best_syncing));
    }
    for number in subjects {
        let value = value_of(row, *number, &SPEED);
        let ratios = [ratio(value, best), ratio(value, best_syncing)];
        let _ = write!(text, " {} |", with_ratios(value, &ratios));
    }
    let _ = write!(text, " {} |", named(cheapest));
    for number in subjects {
        let value = value_of(row, *number, &COST);
        let _ = write!(text, " {} |", with_ratios(value, &[ratio(value, cheapest)]));
    }
    for number in subjects {
        let _ = write!(text, " {} |", figure(value_of(row, *number, &MEMORY)));
    }
    text.push('\n');
}

/// Operations that failed. They come before the figures: such a row is no baseline.
fn write_errors(text: &mut String, comparison: &BenchComparison) {
    text.push_str("### Errors\n\n");
    let mut lines = String::new();
    for (number, registry) in comparison.registries.iter().enumerate() {
        for row in &comparison.rows {
            let Some(cell) = row.cells.get(number).filter(|cell| cell.failed() > 0) else {
                continue;
            };
            let counts: Vec<_> =
                cell.errors.iter().map(|(name, count)| format!("{count} × {name}")).collect();
            let _ = writeln!(
                lines,
                "- {}, {}: {} beside {} operations that were done",
                registry.label,
                row.title(&comparison.rows),
                counts.join(", "),
                cell.operations
            );
        }
    }
    match lines.is_empty() {
        true => text.push_str("No operation failed.\n\n"),
        false => {
            text.push_str("These are marked with ² below, and are no baseline:\n\n");
            text.push_str(&lines);
            text.push('\n');
        }
    }
}

/// Every row in which a subject is slower, or takes more processor time, than the best peer.
fn write_behind(text: &mut String, comparison: &BenchComparison) {
    if !compares(comparison) {
        return;
    }
    for measure in [&SPEED, &COST] {
        let rows: Vec<_> = comparison.rows.iter().collect();
        let subjects = subjects(comparison, &rows, measure);
        let ratio_of = |row: &ReportRow, number: usize| {
            ratio(value_of(row, number, measure), comparison.best(row, measure, is_peer))
        };
        let is_behind = |row: &&&ReportRow| {
            let mut ratios = subjects.iter().filter_map(|number| ratio_of(row, *number));
            ratios.any(|ratio| measure.is_behind(ratio))
        };
        let behind: Vec<_> = rows.iter().filter(is_behind).copied().collect();
        let _ = writeln!(text, "### Not the best: {}\n", measure.title.to_lowercase());
        if behind.is_empty() {
            text.push_str("None.\n\n");
            continue;
        }
        text.push_str("All rows in which a peer is better. ");
        let _ = writeln!(text, "{}\n", measure.about);
        text.push_str("| workload | clients | | best peer |");
        for registry in subjects.iter().filter_map(|number| comparison.registries.get(*number)) {
            let _ = write!(text, " {} |", registry.label);
        }
        let _ = writeln!(text, "\n| --- | ---: | --- | ---: |{}", " ---: |".repeat(subjects.len()));
        for row in behind {
            let best = named(comparison.best(row, measure, is_peer));
            let unit = (measure.unit)(row);
            let _ = write!(text, "| {} | {} | {unit} | {best} |", row.workload, concurrency(row));
            for number in &subjects {
                let value = value_of(row, *number, measure);
                let _ = write!(text, " {} |", with_ratios(value, &[ratio_of(row, *number)]));
            }
            text.push('\n');
        }
        text.push('\n');
    }
}

fn write_measure(text: &mut String, comparison: &BenchComparison, measure: &ReportMeasure) {
    let filled =
        |row: &ReportRow| row.cells.iter().any(|cell| (measure.value)(row, cell).is_some());
    if !comparison.rows.iter().any(filled) {
        return;
    }
    let _ = writeln!(text, "### {}\n\n{}", measure.title, measure.about);
    if compares(comparison) {
        text.push_str("In brackets: the ratio to the best peer.\n");
    }
    text.push_str("\n| workload | clients | |");
    for registry in &comparison.registries {
        let _ = write!(text, " {} |", registry.label);
    }
    let columns = " ---: |".repeat(comparison.registries.len());
    let _ = writeln!(text, " first |\n| --- | ---: | --- |{columns} --- |");
    for row in &comparison.rows {
        write_row(text, comparison, measure, row);
    }
    if measure.title == MEMORY.title {
        write_row(text, comparison, measure, &comparison.peak());
    }
    text.push('\n');
}

fn write_row(
    text: &mut String,
    comparison: &BenchComparison,
    measure: &ReportMeasure,
    row: &ReportRow,
) {
    let unit = (measure.unit)(row);
    let _ = write!(text, "| {} | {} | {unit} |", row.workload, concurrency(row));
    let best = comparison.best(row, measure, is_peer);
    for (registry, cell) in comparison.registries.iter().zip(&row.cells) {
        write_cell(text, measure, (row, cell), best.filter(|_| registry.is_subject));
    }
    let first = comparison.best(row, measure, |_| true).map_or("-", |(label, _)| label);
    let _ = writeln!(text, " {first} |");
}

fn write_cell(
    text: &mut String,
    measure: &ReportMeasure,
    (row, cell): (&ReportRow, &ReportCell),
    best: Option<(&str, f64)>,
) {
    let value = (measure.value)(row, cell);
    if value.is_none() && cell.unsupported {
        text.push_str(" no |");
        return;
    }
    let _ = write!(text, " {}", figure(value));
    if value.is_some() && cell.client_bound && measure.more_is_better {
        text.push_str(" ¹");
    }
    if cell.failed() > 0 {
        text.push_str(" ²");
    }
    if let Some(ratio) = ratio(value, best) {
        let _ = write!(text, " ({ratio:.2}×)");
    }
    text.push_str(" |");
}

/// What the client can send at most.
fn write_sink(text: &mut String, comparison: &BenchComparison) {
    if comparison.sink.is_empty() {
        return;
    }
    text.push_str("### The client alone\n\n");
    text.push_str("The same pushes to a server that throws bodies away (`jreg-bench sink`): no");
    text.push_str(" registry can be faster here.\n\n");
    text.push_str("| workload | clients | client alone, MB/s | its processor, s/GB |");
    text.push_str(" fastest registry, MB/s | share |\n");
    text.push_str("| --- | ---: | ---: | ---: | ---: | ---: |\n");
    for (number, cell) in &comparison.sink {
        let Some(row) = comparison.rows.get(*number) else { continue };
        let fastest = comparison.best(row, &SPEED, |_| true);
        let alone = cell.megabytes_per_second;
        let share = ratio(fastest.map(|(_, speed)| speed), alone.map(|alone| ("", alone)));
        let share = share.map_or_else(|| "-".to_owned(), |share| format!("{:.0} %", share * 100.0));
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {share} |",
            row.workload,
            concurrency(row),
            figure(alone),
            figure(cell.client_cpu_s_per_gigabyte),
            named(fastest)
        );
    }
    text.push('\n');
}

fn write_footnotes(text: &mut String, comparison: &BenchComparison) {
    let cells = || comparison.rows.iter().flat_map(|row| &row.cells);
    if cells().any(|cell| cell.client_bound) {
        text.push_str("¹ The client was busy all the time: the server can do more than this.\n");
    }
    if cells().any(|cell| cell.failed() > 0) {
        text.push_str("² Some operations failed: not a baseline.\n");
    }
}
