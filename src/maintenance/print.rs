//! Prints the events and the result of a command.
//!
//! On a terminal, one line on standard error shows the progress; elsewhere each step is a line
//! there. The result goes to standard output, as text or as one JSON object per line.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use jreg_registry::{
    ContentKind, ExplainReport, ExplainedContent, FsckFinding, FsckReport, GcAction, GcActionKind,
    GcOutcome, GcReport, GcTally, HeldUploads, RepairStatus, RetentionReason, Severity,
};
use tokio::sync::mpsc;

use super::{
    MaintenanceEvent, MaintenanceReport, events, history, list, mirror, retention, session, token,
    upload, usage,
};

/// Refresh interval of the progress line.
const TICK: Duration = Duration::from_millis(100);

/// How to print events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown {
    /// One JSON object per line.
    pub json: bool,
    /// Print each action, not only totals.
    pub actions: bool,
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShownEnd {
    Done(Box<MaintenanceReport>),
    Failed(String),
}

/// Prints events until the command ends.
///
/// # Errors
///
/// Standard output is closed: the rest is not needed.
pub async fn show(
    mut events: mpsc::Receiver<MaintenanceEvent>,
    shown: Shown,
    out: &mut (impl Write + Send),
) -> io::Result<ShownEnd> {
    let mut progress = ProgressLine::new();
    while let Some(event) = events.recv().await {
        progress.see(&event);
        let is_printed = match &event {
            MaintenanceEvent::Phase { .. } | MaintenanceEvent::Progress { .. } => false,
            MaintenanceEvent::Action { .. } | MaintenanceEvent::Tag(_) => {
                shown.json || shown.actions
            }
            _ => true,
        };
        if is_printed {
            let text = if shown.json { json(&event) } else { plain(&event) };
            progress.aside(|| out.write_all(text.as_bytes()))?;
        }
        match event {
            MaintenanceEvent::Done(report) => return Ok(ShownEnd::Done(report)),
            MaintenanceEvent::Failed { message } => return Ok(ShownEnd::Failed(message)),
            _ => {}
        }
    }
    Ok(ShownEnd::Failed("the command was stopped".to_owned()))
}

struct ProgressLine {
    bar: ProgressBar,
    is_terminal: bool,
    objects: u64,
    bytes: u64,
    acted: u64,
}

impl ProgressLine {
    fn new() -> Self {
        let is_terminal = io::stderr().is_terminal();
        let target = match is_terminal {
            true => ProgressDrawTarget::stderr(),
            false => ProgressDrawTarget::hidden(),
        };
        let bar = ProgressBar::with_draw_target(None, target);
        if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix} {msg} ({elapsed})") {
            bar.set_style(style);
        }
        if is_terminal {
            bar.enable_steady_tick(TICK);
        }
        Self { bar, is_terminal, objects: 0, bytes: 0, acted: 0 }
    }

    fn see(&mut self, event: &MaintenanceEvent) {
        match event {
            MaintenanceEvent::Phase { label } => {
                (self.objects, self.bytes) = (0, 0);
                self.bar.set_prefix(label.clone());
                if !self.is_terminal {
                    tracing::info!(step = label, "running");
                }
            }
            MaintenanceEvent::Progress { objects, bytes } => {
                self.objects += objects;
                self.bytes += bytes;
            }
            MaintenanceEvent::Action { .. }
            | MaintenanceEvent::Finding(_)
            | MaintenanceEvent::Tag(_)
            | MaintenanceEvent::Left(_) => self.acted += 1,
            MaintenanceEvent::Done(_) | MaintenanceEvent::Failed { .. } => {
                return self.bar.finish_and_clear();
            }
            MaintenanceEvent::Repository(_)
            | MaintenanceEvent::Listed(_)
            | MaintenanceEvent::Synced(_) => self.objects += 1,
            MaintenanceEvent::Omitted { .. } | MaintenanceEvent::Repairing { .. } => {}
        }
        let mut message = number(self.objects);
        if self.bytes > 0 {
            message = format!("{message}, {}", size(self.bytes));
        }
        if self.acted > 0 {
            message = format!("{message}; {} to report", number(self.acted));
        }
        self.bar.set_message(message);
    }

    /// Prints a line above the progress line.
    fn aside<T>(&self, write: impl FnOnce() -> T) -> T {
        self.bar.suspend(write)
    }
}

fn json(event: &MaintenanceEvent) -> String {
    let without_plan = match event {
        MaintenanceEvent::Done(report) => report.without_plan(),
        _ => None,
    };
    let without_plan = without_plan.map(|report| MaintenanceEvent::Done(Box::new(report)));
    let event = without_plan.as_ref().unwrap_or(event);
    let mut line = serde_json::to_string(event).expect("an event has only string keys");
    line.push('\n');
    line
}

fn plain(event: &MaintenanceEvent) -> String {
    match event {
        MaintenanceEvent::Action { action, outcome } => action_line(action, *outcome),
        MaintenanceEvent::Repairing { finding, images } => repairing_lines(finding, images),
        MaintenanceEvent::Finding(finding) => finding_lines(finding),
        MaintenanceEvent::Tag(verdict) => retention::verdict_line(verdict),
        MaintenanceEvent::Left(left) => retention::left_line(left),
        MaintenanceEvent::Repository(usage) => usage::line(usage),
        MaintenanceEvent::Synced(item) => mirror::line(item),
        MaintenanceEvent::Omitted { events } => {
            format!("... and {} more\n", count(*events, "line", "lines"))
        }
        MaintenanceEvent::Listed(content) => list::line(content),
        MaintenanceEvent::Done(report) => match &**report {
            MaintenanceReport::Gc(done) => collected(done),
            MaintenanceReport::Fsck(checked) => check_summary(checked),
            MaintenanceReport::Explain(explanation) => explained(explanation),
            MaintenanceReport::ExplainTag(report) => retention::explained_tag(report),
            MaintenanceReport::Retention(done) => retention::retained(done),
            MaintenanceReport::Token(report) => token::plain(report),
            MaintenanceReport::Session(report) => session::plain(report),
            MaintenanceReport::Usage(report) => usage::plain(report),
            MaintenanceReport::List(report) => list::plain(*report),
            MaintenanceReport::Support(report) => format!("{:#}\n", report.bundle),
            MaintenanceReport::Upload(report) => upload::plain(report),
            MaintenanceReport::Mirror(report) => mirror::plain(report),
            MaintenanceReport::Events(report) => events::plain(report),
            MaintenanceReport::History(report) => history::plain(report),
        },
        // The caller reports it, with its exit code.
        MaintenanceEvent::Failed { .. }
        | MaintenanceEvent::Phase { .. }
        | MaintenanceEvent::Progress { .. } => String::new(),
    }
}

fn action_line(action: &GcAction, outcome: GcOutcome) -> String {
    let what = match &action.kind {
        GcActionKind::RemoveLink => "remove link",
        GcActionKind::DeduplicateLink { .. } => "deduplicate link",
        GcActionKind::RemoveBytes => "remove bytes",
        GcActionKind::RemoveManifest => "remove manifest",
        GcActionKind::RemoveTag => "remove tag",
        GcActionKind::RemoveDeletedTag => "remove deleted tag",
        GcActionKind::RemoveHistory => "remove history entry",
        GcActionKind::RemoveCopy => "remove copy",
        GcActionKind::EndCopy => "remove copy early",
        GcActionKind::RemovePurgeMark => "remove purge mark",
        GcActionKind::RemoveHint => "remove hint",
        GcActionKind::RemoveReferrer => "remove referrer entry",
        GcActionKind::RemoveCatalogEntry => "remove catalog entry",
    };
    let outcome = match outcome {
        GcOutcome::Done => "",
        GcOutcome::Changed => " (changed meanwhile, kept)",
        GcOutcome::Withheld => " (withheld)",
        GcOutcome::Failed => " (failed)",
    };
    let mut line = format!("{what:<21} {:>10}  {}", size(action.size_bytes), action.key);
    if let GcActionKind::DeduplicateLink { to } = &action.kind {
        line = format!("{line} -> {to}");
    }
    if let (GcActionKind::RemoveTag, Some(digest)) = (&action.kind, &action.digest) {
        line = format!("{line} (pointed to {digest}, which is absent)");
    }
    format!("{line}{outcome}\n")
}

fn repairing_lines(finding: &FsckFinding, images: &[String]) -> String {
    let images = match images {
        [] => "no image references it".to_owned(),
        images => format!("affected images: {}", images.join(", ")),
    };
    let (kind, key, detail) = (finding.kind.name(), &finding.key, &finding.detail);
    format!(
        "REPAIR  {kind}  {key}\n        {detail}\n        will be quarantined (quarantine/) \
         and is absent until it is pushed again; {images}\n"
    )
}

fn finding_lines(finding: &FsckFinding) -> String {
    let severity = match finding.kind.severity() {
        Severity::Damage => "DAMAGE",
        Severity::Untidy => "untidy",
        Severity::Note => "note",
    };
    let repair = match finding.repair {
        RepairStatus::None => "",
        RepairStatus::Possible => " [--repair repairs it]",
        RepairStatus::Done => " [repaired]",
        RepairStatus::Failed => " [repair failed]",
    };
    let (kind, key, detail) = (finding.kind.name(), &finding.key, &finding.detail);
    format!("{severity:<6}  {kind}  {key}\n        {detail}{repair}\n")
}

fn row(name: &str, tally: &GcTally, removed: &str) -> String {
    let mut parts = vec![format!("{} examined", number(tally.scanned))];
    for (count, what) in [
        (tally.kept, "kept"),
        (tally.young, "young"),
        (tally.changed, "changed meanwhile"),
        (tally.withheld, "withheld"),
        (tally.failed, "failed"),
    ] {
        if count > 0 {
            parts.push(format!("{} {what}", number(count)));
        }
    }
    let bytes = match tally.removed_bytes {
        0 => String::new(),
        bytes => format!(" ({})", size(bytes)),
    };
    parts.push(format!("{} {removed}{bytes}", number(tally.removed)));
    format!("{name:<11} {}\n", parts.join(", "))
}

fn collected(done: &GcReport) -> String {
    let mut text = row("manifests", &done.manifests, "removed");
    text += &row("links", &done.links, "removed");
    if done.swept || done.blobs.removed > 0 {
        text += &row("blob bytes", &done.blobs, "removed");
    }
    if done.queued > 0 {
        let (blobs, bytes) = (count(done.queued, "blob", "blobs"), size(done.queued_bytes));
        let their = if done.queued == 1 { "its" } else { "their" };
        text += &format!(
            "{:<11} {blobs} ({bytes}) lost {their} last link; a later run deletes the bytes\n",
            "queued"
        );
    }
    if done.deduplicated.scanned > 0 {
        text += &row("duplicates", &done.deduplicated, "deduplicated");
    }
    if done.history.scanned > 0 {
        text += &row("history", &done.history, "removed");
    }
    if done.copies.scanned > 0 {
        text += &row("copies", &done.copies, "removed");
    }
    if done.pull_times.removed > 0 {
        text += &row("pull times", &done.pull_times, "removed");
    }
    if done.orphans.scanned > 0 {
        text += &row("orphans", &done.orphans, "removed");
    }
    let uploads = done.uploads;
    if uploads.unfinished + uploads.ended + uploads.failed > 0 {
        text += &format!(
            "{:<11} {} expired and {} finished, removed; {} failed\n",
            "uploads", uploads.unfinished, uploads.ended, uploads.failed
        );
    }
    text += &held(&done.held);
    if done.links.withheld > 0 {
        text += "gc-share-max reached: run again, or with --force.\n";
    }
    text
}

/// What unfinished uploads hold, if there are any.
fn held(held: &HeldUploads) -> String {
    match (held.uploads, number(held.uploads), size(held.bytes)) {
        (0, ..) => String::new(),
        (_, uploads, bytes) => {
            let hold = if held.uploads == 1 { "holds" } else { "hold" };
            format!(
                "{:<11} {uploads} unfinished, which {hold} {bytes} (jreg upload list)\n",
                "uploads"
            )
        }
    }
}

fn check_summary(checked: &FsckReport) -> String {
    let held = held(&checked.held);
    let FsckReport { objects, bytes, hashed_bytes, notes, untidy, damage, repaired, left, .. } =
        *checked;
    let hashed = match hashed_bytes {
        0 => String::new(),
        read => format!(", {} of them read and hashed", size(read)),
    };
    format!(
        "{} of {} checked{hashed}\n{} damaged, {} untidy, {} noted; {} repaired, {} left\n{held}",
        count(objects, "object", "objects"),
        size(bytes),
        number(damage),
        number(untidy),
        number(notes),
        number(repaired),
        number(left)
    )
}

fn explained(explanation: &ExplainReport) -> String {
    let digest = &explanation.request.digest;
    if explanation.holdings.is_empty() {
        return match &explanation.request.repository {
            Some(name) => format!("{name} does not have {digest}\n"),
            None => format!("no repository has {digest}\n"),
        };
    }
    explanation.holdings.iter().map(holding).collect()
}

fn holding(holding: &ExplainedContent) -> String {
    let ExplainedContent { repository, kind, size_bytes, age_s, .. } = holding;
    let (kind, bytes) = match kind {
        ContentKind::Manifest => ("a manifest", ""),
        ContentKind::Blob => {
            ("a blob", ", and a later one its bytes, unless other repositories have them")
        }
    };
    let size = size(*size_bytes);
    let mut text = format!("{repository}: {kind} of {size}, touched {} ago\n", about(*age_s));
    for reason in &holding.reasons {
        text += &match reason {
            RetentionReason::Tag { tag } => format!("  kept by tag {tag}\n"),
            RetentionReason::Manifest { digest } => format!("  kept by manifest {digest}\n"),
            RetentionReason::Subject { digest } => format!("  kept by subject {digest}\n"),
            RetentionReason::Mirrored => "  kept as content of a mirrored registry\n".to_owned(),
            RetentionReason::UntaggedKept => {
                "  kept without a tag (gc-untagged is off, or a retention entry keeps it)\n"
                    .to_owned()
            }
        };
    }
    if let Some(after) = holding.goes_after {
        text += &format!("  unreferenced: {}{bytes}\n", when(after));
    }
    text
}

fn when(goes_after: u64) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = now.unwrap_or_default().as_secs();
    match goes_after.checked_sub(now) {
        None | Some(0) => "the next GC run deletes it".to_owned(),
        Some(left) => format!("the first GC run in {} or later deletes it", about(left)),
    }
}

/// A number with thousands separators.
pub(super) fn number(count: u64) -> String {
    let digits = count.to_string();
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
    groups.join(",")
}

/// A number of things.
pub(super) fn count(count: u64, one: &str, many: &str) -> String {
    format!("{} {}", number(count), if count == 1 { one } else { many })
}

/// A size in the largest unit that is at most the size.
pub(super) fn size(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "one digit after the point is shown")]
    let amount = bytes as f64;
    for (unit, factor) in
        [("TiB", 2_f64.powi(40)), ("GiB", 2_f64.powi(30)), ("MiB", 2_f64.powi(20)), ("KiB", 1024.0)]
    {
        if amount >= factor {
            return format!("{:.1} {unit}", amount / factor);
        }
    }
    format!("{bytes} B")
}

/// A duration in its largest unit, rounded up.
fn about(seconds: u64) -> String {
    for (unit, length) in [("d", 86_400), ("h", 3600), ("min", 60)] {
        if seconds > 2 * length {
            return format!("{} {unit}", seconds.div_ceil(length));
        }
    }
    format!("{seconds} s")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn numbers_sizes_and_spans_are_written_for_people() {
        assert_eq!([0, 999, 1000, 1_234_567].map(number), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([0, 1023, 1024, 3 << 29].map(size), ["0 B", "1023 B", "1.0 KiB", "1.5 GiB"]);
        assert_eq!(
            [5, 120, 121, 7201, 90_000].map(about),
            ["5 s", "120 s", "3 min", "3 h", "25 h"]
        );
    }

    #[test]
    fn a_report_says_what_was_done() {
        let links = GcTally { scanned: 1200, kept: 1100, removed: 100, ..GcTally::default() };
        let links = GcTally { removed_bytes: 2048, withheld: 7, ..links };
        let done = GcReport { links, queued: 2, queued_bytes: 10, ..GcReport::default() };
        assert_eq!(
            collected(&done),
            "manifests   0 examined, 0 removed\n\
             links       1,200 examined, 1,100 kept, 7 withheld, 100 removed (2.0 KiB)\n\
             queued      2 blobs (10 B) lost their last link; a later run deletes the bytes\n\
             gc-share-max reached: run again, or with --force.\n"
        );
    }

    #[tokio::test]
    async fn json_is_one_object_a_line_and_reads_back() {
        let digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let action = GcAction {
            kind: GcActionKind::DeduplicateLink { to: "blobs/_/AA/01".to_owned() },
            key: "links/x".to_owned(),
            repository: Some("a".parse().unwrap()),
            digest: Some(digest.parse().unwrap()),
            size_bytes: 7,
        };
        let sent = [
            MaintenanceEvent::Phase { label: "links".to_owned() },
            MaintenanceEvent::Action { action, outcome: GcOutcome::Done },
            MaintenanceEvent::Omitted { events: 3 },
            MaintenanceEvent::Done(Box::new(MaintenanceReport::Gc(GcReport::default()))),
        ];
        let (sender, events) = mpsc::channel(8);
        for event in sent.clone() {
            sender.send(event).await.unwrap();
        }
        let mut out = Vec::new();
        let end = show(events, Shown { json: true, actions: false }, &mut out).await.unwrap();
        assert_eq!(end, ShownEnd::Done(Box::new(MaintenanceReport::Gc(GcReport::default()))));
        let text = String::from_utf8(out).unwrap();
        let read: Vec<MaintenanceEvent> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(read, sent[1..]);
        assert!(
            text.starts_with(r#"{"event":"action","do":"deduplicate-link","to":"blobs/_/AA/01","#)
        );
    }
}
