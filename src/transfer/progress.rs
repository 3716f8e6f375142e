//! What a command that moves images prints: a line for each item on standard output, and on a terminal the
//! progress on standard error.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use jreg_oci::Digest;
use serde::Serialize;

/// Refresh interval of the progress line.
const TICK: Duration = Duration::from_millis(100);

/// What became of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ItemStatus {
    Copied,
    Present,
    Skipped,
    Error,
}

impl ItemStatus {
    fn word(self) -> &'static str {
        match self {
            Self::Copied => "copied",
            Self::Present => "present",
            Self::Skipped => "skipped",
            Self::Error => "error",
        }
    }
}

/// An image that was moved, or was not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename = "item")]
pub struct MovedItem {
    pub status: ItemStatus,
    /// `NAME:TAG`, or `NAME@DIGEST`.
    pub item: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// Bytes of blobs and manifests that were written for it.
    pub bytes: u64,
    /// Bytes of blobs that the storage shares with the source, or copied by itself.
    #[serde(skip_serializing_if = "is_zero")]
    pub shared_bytes: u64,
    /// Why it was skipped, or what failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// How many items there were.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename = "done")]
pub struct MoveSummary {
    pub copied: u64,
    pub present: u64,
    pub skipped: u64,
    pub failed: u64,
    /// Bytes that were written, or would be.
    pub bytes: u64,
    /// Bytes that the storage shares with the source, or copied by itself: none passed through this process.
    pub shared_bytes: u64,
    /// Bytes of an archive that went to a temporary file first.
    #[serde(skip_serializing_if = "is_zero")]
    pub spooled_bytes: u64,
    pub dry_run: bool,
}

#[derive(Debug, Default)]
struct Printed {
    summary: MoveSummary,
    errors: Vec<String>,
    /// Standard output is closed: nobody reads the lines.
    is_closed: bool,
}

/// Where lines go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineOutput {
    Stdout,
    /// Standard output has the archive.
    Stderr,
}

/// Prints items, counts them, and shows how far the command is.
#[derive(Debug)]
pub struct MoveProgress {
    bar: ProgressBar,
    json: bool,
    output: LineOutput,
    bytes: AtomicU64,
    printed: Mutex<Printed>,
}

impl MoveProgress {
    pub fn new(json: bool, dry_run: bool, output: LineOutput) -> Self {
        let target = match io::stderr().is_terminal() {
            true => ProgressDrawTarget::stderr(),
            false => ProgressDrawTarget::hidden(),
        };
        let bar = ProgressBar::with_draw_target(None, target);
        let style = "{spinner} {pos}/{len} images {msg} ({elapsed})";
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style);
        }
        if io::stderr().is_terminal() {
            bar.enable_steady_tick(TICK);
        }
        let summary = MoveSummary { dry_run, ..MoveSummary::default() };
        let printed = Mutex::new(Printed { summary, ..Printed::default() });
        Self { bar, json, output, bytes: AtomicU64::new(0), printed }
    }

    /// How many images there are.
    pub fn set_total(&self, images: usize) {
        self.bar.set_length(images as u64);
    }

    /// How many bytes went to a temporary file.
    pub fn set_spooled(&self, bytes: u64) {
        let mut printed = self.printed.lock().unwrap_or_else(PoisonError::into_inner);
        printed.summary.spooled_bytes = bytes;
    }

    /// An image is done.
    pub fn advance(&self) {
        self.bar.inc(1);
    }

    /// Bytes have moved.
    pub fn add_bytes(&self, bytes: u64) {
        let all = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.bar.set_message(crate::maintenance::print::size(all));
    }

    /// Tells something that is no item.
    pub fn note(&self, text: &str) {
        self.bar.suspend(|| {
            // Standard error may be closed.
            let _ = writeln!(io::stderr(), "note: {text}");
        });
    }

    /// Counts an item, and prints its line.
    pub fn item(&self, item: &MovedItem) {
        let mut printed = self.printed.lock().unwrap_or_else(PoisonError::into_inner);
        let summary = &mut printed.summary;
        match item.status {
            ItemStatus::Copied => summary.copied += 1,
            ItemStatus::Present => summary.present += 1,
            ItemStatus::Skipped => summary.skipped += 1,
            ItemStatus::Error => summary.failed += 1,
        }
        summary.bytes += item.bytes;
        summary.shared_bytes += item.shared_bytes;
        if item.status == ItemStatus::Error {
            printed.errors.push(plain(item));
        }
        let line = match self.json {
            true => to_json(item),
            false => plain(item),
        };
        self.print(&mut printed, &line);
    }

    fn print(&self, printed: &mut Printed, line: &str) {
        if printed.is_closed {
            return;
        }
        let written = self.bar.suspend(|| match self.output {
            LineOutput::Stdout => writeln!(io::stdout(), "{line}"),
            LineOutput::Stderr => writeln!(io::stderr(), "{line}"),
        });
        printed.is_closed = written.is_err();
    }

    /// Prints the totals, and all errors again.
    pub fn finish(&self) -> MoveSummary {
        self.bar.finish_and_clear();
        let mut printed = self.printed.lock().unwrap_or_else(PoisonError::into_inner);
        let summary = printed.summary.clone();
        let line = match self.json {
            true => to_json(&summary),
            false => total(&summary),
        };
        self.print(&mut printed, &line);
        if !self.json && summary.failed > 0 {
            for error in std::mem::take(&mut printed.errors) {
                let _ = writeln!(io::stderr(), "{error}");
            }
        }
        summary
    }
}

fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("a line has only string keys")
}

fn plain(item: &MovedItem) -> String {
    let MovedItem { status, item: name, digest, bytes, shared_bytes, reason } = item;
    let mut line = format!("{:<7}  {name}", status.word());
    if let Some(digest) = digest.as_ref().filter(|digest| !name.contains(&digest.hex())) {
        line = format!("{line}  {digest}");
    }
    if *bytes > 0 {
        line = format!("{line}  {}", crate::maintenance::print::size(*bytes));
    }
    if *shared_bytes > 0 {
        line = format!("{line}  {} shared", crate::maintenance::print::size(*shared_bytes));
    }
    match reason {
        Some(reason) => format!("{line}  {reason}"),
        None => line,
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(bytes: &u64) -> bool {
    *bytes == 0
}

fn total(summary: &MoveSummary) -> String {
    let MoveSummary { copied, present, skipped, failed, bytes, shared_bytes, dry_run, .. } =
        summary;
    let size = crate::maintenance::print::size;
    let bytes = match shared_bytes {
        0 => size(*bytes),
        shared => format!("{}, {} shared with the source", size(*bytes), size(*shared)),
    };
    let start = if *dry_run { "dry run, nothing was written: " } else { "" };
    let end = match summary.spooled_bytes {
        0 => String::new(),
        spooled => format!("; {} through a temporary file", size(spooled)),
    };
    format!(
        "{start}{copied} copied ({bytes}), {present} present, {skipped} skipped, {failed} failed{end}"
    )
}
