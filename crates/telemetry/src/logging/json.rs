//! [`JsonLines`]: writes one JSON object per line directly.
//!
//! Every request is one line, and a generic formatter takes longer for it than the rest of a small
//! request: it builds values, copies the fields of spans, and writes in pieces.

use std::cell::RefCell;
use std::fmt::{self, Write as _};
use std::io::Write as _;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

/// A buffer larger than this is freed after the line.
const LINE_BYTES_KEPT: usize = 16 * 1024;
/// Maximum bytes of one text; a longer one is truncated with an ellipsis.
const TEXT_BYTES_MAX: usize = 2 * 1024;
const ELLIPSIS: &str = "…";
/// Length of a line after which further fields are omitted, and marked as such.
const FIELDS_BYTES_MAX: usize = 8 * 1024;

thread_local! {
    static LINE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Formats events as JSON, with time, level, target and the enclosing span.
#[derive(Debug)]
pub(super) struct JsonLines<W>(pub(super) W);

/// The fields of a span, already formatted.
struct SpanFields(String);

impl<S, W> Layer<S> for JsonLines<W>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + 'static,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = String::new();
        attributes.record(&mut JsonFields(&mut fields));
        span.extensions_mut().insert(SpanFields(fields));
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        LINE.with_borrow_mut(|line| {
            line.clear();
            write_line(line, event, &context);
            let metadata = event.metadata();
            // A failing log cannot be reported.
            let _ = self.0.make_writer_for(metadata).write_all(line.as_bytes());
            if line.capacity() > LINE_BYTES_KEPT {
                *line = String::new();
            }
        });
    }
}

fn write_line<S>(line: &mut String, event: &Event<'_>, context: &Context<'_, S>)
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let metadata = event.metadata();
    line.push_str("{\"timestamp\":\"");
    // Writing to a string cannot fail.
    let _ = SystemTime.format_time(&mut Writer::new(line));
    line.push_str("\",\"level\":\"");
    line.push_str(metadata.level().as_str());
    line.push('"');
    event.record(&mut JsonFields(line));
    if line.len() > FIELDS_BYTES_MAX {
        line.push_str(",\"truncated\":true");
    }
    line.push_str(",\"target\":");
    write_text(line, metadata.target());
    if let Some(span) = context.event_span(event) {
        line.push_str(",\"span\":{\"name\":");
        write_text(line, span.name());
        if let Some(SpanFields(fields)) = span.extensions().get() {
            line.push_str(fields);
        }
        line.push('}');
    }
    line.push_str("}\n");
}

/// Formats fields, each preceded by a comma.
struct JsonFields<'l>(&'l mut String);

impl JsonFields<'_> {
    fn name(&mut self, field: &Field) {
        self.0.push(',');
        // Without the `r#` of raw identifiers.
        write_text(self.0, field.name().trim_start_matches("r#"));
        self.0.push(':');
    }

    fn is_full(&self) -> bool {
        self.0.len() > FIELDS_BYTES_MAX
    }

    fn plain(&mut self, field: &Field, value: impl fmt::Display) {
        self.name(field);
        let _ = write!(self.0, "{value}");
    }
}

impl Visit for JsonFields<'_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        if value.is_finite() {
            self.plain(field, value);
        } else {
            self.plain(field, "null");
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.plain(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.plain(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.plain(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if self.is_full() {
            return;
        }
        self.name(field);
        write_text(self.0, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if self.is_full() {
            return;
        }
        self.name(field);
        self.0.push('"');
        // Ends with an error when the limit is reached.
        let _ = write!(Escaped::new(self.0), "{value:?}");
        self.0.push('"');
    }
}

fn write_text(line: &mut String, text: &str) {
    line.push('"');
    let _ = Escaped::new(line).write_str(text);
    line.push('"');
}

/// Escapes text as the inside of a JSON string of at most [`TEXT_BYTES_MAX`] bytes.
struct Escaped<'l> {
    line: &'l mut String,
    /// End of the allowed length.
    end: usize,
}

impl<'l> Escaped<'l> {
    fn new(line: &'l mut String) -> Self {
        let end = line.len() + TEXT_BYTES_MAX;
        Self { line, end }
    }

    /// Writes characters that need no escape, up to the limit.
    fn plain(&mut self, text: &str) -> fmt::Result {
        let room = self.end.saturating_sub(self.line.len());
        if text.len() <= room {
            self.line.push_str(text);
            return Ok(());
        }
        self.line.push_str(super::beginning(text, room));
        // Nothing is written after the limit.
        self.line.push_str(ELLIPSIS);
        self.end = 0;
        Err(fmt::Error)
    }
}

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.end == 0 {
            return Err(fmt::Error);
        }
        let mut rest = text;
        while let Some(place) = next_escape(rest) {
            let (plain, special) = rest.split_at(place);
            self.plain(plain)?;
            if self.line.len() >= self.end {
                // Not enough room for the character.
                return self.plain(special);
            }
            let mut chars = special.chars();
            match chars.next() {
                Some('"') => self.line.push_str("\\\""),
                Some('\\') => self.line.push_str("\\\\"),
                Some('\n') => self.line.push_str("\\n"),
                Some('\r') => self.line.push_str("\\r"),
                Some('\t') => self.line.push_str("\\t"),
                Some(control) => super::write_escape(self.line, control),
                None => {}
            }
            rest = chars.as_str();
        }
        self.plain(rest)
    }
}

/// Where the first character is that must be escaped. Nearly all text is ASCII, and is searched by bytes.
fn next_escape(text: &str) -> Option<usize> {
    let is_special = |byte: u8| !matches!(byte, b' '..=b'~') || matches!(byte, b'"' | b'\\');
    let place = text.bytes().position(is_special)?;
    let must_be_escaped = |character: char| match character.is_ascii() {
        true => character.is_ascii_control() || matches!(character, '"' | '\\'),
        false => super::is_format_control(character),
    };
    text.get(place..)?.find(must_be_escaped).map(|further| place + further)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io;
    use std::sync::{Arc, Mutex};

    use serde_json::{Value, json};
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<Vec<u8>>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().push(bytes.to_owned());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The logged lines without times, one per write.
    fn logged(log: impl FnOnce()) -> Vec<Value> {
        let lines = Lines::default();
        let writer = lines.clone();
        let layer = JsonLines(move || writer.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), log);
        let lines = lines.0.lock().unwrap();
        let parse = |line: &Vec<u8>| {
            let text = std::str::from_utf8(line).unwrap().strip_suffix('\n').unwrap();
            assert!(!text.contains(super::super::is_format_control), "{text}");
            let mut value: Value = serde_json::from_str(text).unwrap();
            let time = value.as_object_mut().unwrap().remove("timestamp").unwrap();
            assert_eq!(time.as_str().unwrap().len(), "2026-01-02T03:04:05.678901Z".len());
            value
        };
        lines.iter().map(parse).collect()
    }

    #[test]
    fn every_kind_of_field_is_a_value() {
        let absent: Option<&str> = None;
        let lines = logged(|| {
            tracing::warn!(
                target: "t",
                text = "a", number = 1_u64, below = -1_i64, part = 0.5, nan = f64::NAN, yes = true,
                shown = %std::net::Ipv4Addr::LOCALHOST, debugged = ?Some(1), absent,
                "message"
            );
        });
        let expected = json!({
            "level": "WARN", "target": "t", "message": "message", "text": "a", "number": 1,
            "below": -1, "part": 0.5, "nan": null, "yes": true, "shown": "127.0.0.1",
            "debugged": "Some(1)",
        });
        assert_eq!(lines, [expected]);
    }

    #[test]
    fn no_text_leaves_its_quotes() {
        let text = "\"\\\n\r\t\u{0}\u{1f}\u{7f}\u{85}ä\u{1f600}\u{2028}\u{202e}\u{2066}\u{feff}\u{e0041}{}";
        let lines = logged(|| {
            tracing::info!(target: "t", text, shown = %text);
            tracing::info!(target: "t", "{text}");
        });
        assert_eq!(lines[0]["text"], text);
        assert_eq!(lines[0]["shown"], text);
        assert_eq!(lines[1]["message"], text);
        assert_eq!(lines.len(), 2);
    }

    /// Log lines of long requests are bounded: 266 kB of requests once caused 150 MB of log.
    #[test]
    fn fixed_no_text_and_no_line_is_longer_than_is_allowed() {
        for unit in ["x", "\"", "\u{1}", "ä", "\u{1f600}"] {
            let text = unit.repeat(100_000);
            let lines = logged(|| {
                tracing::info!(
                    target: "t",
                    a = text, b = %text, c = text, d = text, e = text, f = text, g = text, "end"
                );
            });
            let first = lines[0]["a"].as_str().unwrap();
            assert!(first.len() <= TEXT_BYTES_MAX + ELLIPSIS.len() && first.ends_with(ELLIPSIS));
            assert_eq!(lines[0]["b"], lines[0]["a"]);
            assert_eq!(lines[0]["truncated"], true);
            let bytes = serde_json::to_string(&lines[0]).unwrap().len();
            assert!(bytes <= FIELDS_BYTES_MAX + 2 * TEXT_BYTES_MAX, "{bytes}");
        }
    }

    #[test]
    fn the_span_is_named_with_its_fields() {
        let lines = logged(|| {
            let span = tracing::info_span!("request", request_id = %"a\"b");
            span.in_scope(|| tracing::info!(target: "t", "inside"));
            tracing::info!(target: "t", "outside");
        });
        assert_eq!(lines[0]["span"], json!({ "name": "request", "request_id": "a\"b" }));
        assert_eq!(lines[1].get("span"), None);
    }
}
