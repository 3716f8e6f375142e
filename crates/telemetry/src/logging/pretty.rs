//! [`PrettyLines`]: one short line per event, for people.
//!
//! A request is `TIME STATUS DURATION METHOD PATH` and what else fits into [`COLUMNS`] columns, the status
//! first because it is what people look for. Other events are `TIME LEVEL message` and their fields.

use std::cell::RefCell;
use std::fmt::{self, Write as _};
use std::io::Write as _;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use super::escape::is_format_control;

/// Width of the line of a request.
const COLUMNS: usize = 120;
/// Width of what precedes the path: time, status, duration and method.
const HEAD_COLUMNS: usize = 31;
/// Minimum width of the path.
const PATH_COLUMNS_MIN: usize = 20;
/// Maximum width of an identity.
const IDENTITY_COLUMNS_MAX: usize = 24;
/// Shown hexadecimal digits of a digest.
const DIGEST_SHOWN: usize = 12;
/// Maximum bytes of the value of a field.
const VALUE_BYTES_MAX: usize = 2 * 1024;
/// The target of requests.
const REQUEST: &str = "jreg::request";

const RESET: &str = "\x1b[0m";
const DIM: &str = "\x1b[2m";
const RED: &str = "\x1b[31m";
const GREEN: &str = "\x1b[32m";
const YELLOW: &str = "\x1b[33m";
const CYAN: &str = "\x1b[36m";

thread_local! {
    static LINE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Formats events for people.
#[derive(Debug)]
pub(super) struct PrettyLines<W> {
    pub(super) writer: W,
    pub(super) has_colours: bool,
}

/// The fields of a span, already formatted.
struct SpanText(String);

impl<S, W> Layer<S> for PrettyLines<W>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + 'static,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = EventFields::default();
        attributes.record(&mut fields);
        span.extensions_mut().insert(SpanText(fields.others));
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        LINE.with_borrow_mut(|line| {
            line.clear();
            self.write_event(line, event, &context);
            line.push('\n');
            // A failing log cannot be reported.
            let _ = self.writer.make_writer_for(event.metadata()).write_all(line.as_bytes());
        });
    }
}

impl<W> PrettyLines<W> {
    fn write_event<S>(&self, line: &mut String, event: &Event<'_>, context: &Context<'_, S>)
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        // Writing to a string cannot fail.
        let now = chrono::DateTime::<chrono::Utc>::from(std::time::SystemTime::now());
        let _ = write!(line, "{} ", now.format("%H:%M:%SZ"));
        let metadata = event.metadata();
        if metadata.target() == REQUEST {
            let mut request = RequestFields::default();
            event.record(&mut request);
            return request.write(line, self.has_colours);
        }
        let mut fields = EventFields::default();
        event.record(&mut fields);
        self.coloured(line, level_colour(*metadata.level()), metadata.level().as_str());
        let pad = 5_usize.saturating_sub(metadata.level().as_str().len());
        let _ = write!(line, "{:pad$} {}", "", fields.message);
        let span = context.event_span(event);
        let extensions = span.as_ref().map(|span| span.extensions());
        let of_span = extensions.as_ref().and_then(|all| all.get::<SpanText>());
        let of_span = of_span.map_or("", |text| text.0.as_str());
        if !(fields.others.is_empty() && of_span.is_empty()) {
            self.coloured(line, DIM, &format!("{}{of_span}", fields.others));
        }
    }

    fn coloured(&self, line: &mut String, colour: &str, text: &str) {
        match self.has_colours {
            true => line.extend([colour, text, RESET]),
            false => line.push_str(text),
        }
    }
}

fn level_colour(level: Level) -> &'static str {
    match level {
        Level::ERROR => RED,
        Level::WARN => YELLOW,
        Level::INFO => GREEN,
        Level::DEBUG | Level::TRACE => CYAN,
    }
}

fn status_colour(status: u64) -> &'static str {
    match status {
        500.. => RED,
        400..=499 => YELLOW,
        300..=399 => CYAN,
        _ => GREEN,
    }
}

/// Appends text with its control characters escaped, at most `columns` of it; returns how many were
/// appended.
fn push_text(line: &mut String, text: &str, columns: usize) -> usize {
    let start = line.len();
    for character in text.chars() {
        match character.is_control() || is_format_control(character) {
            true => super::write_escape(line, character),
            false => line.push(character),
        }
    }
    let mut places = line.get(start..).unwrap_or_default().char_indices().map(|(place, _)| place);
    let last = places.clone().nth(columns.saturating_sub(1));
    match (places.nth(columns), last) {
        (Some(_), Some(last)) => {
            line.truncate(start + last);
            line.push('…');
            columns
        }
        _ => line.get(start..).unwrap_or_default().chars().count(),
    }
}

/// A path whose digests are shortened.
fn short_path(path: &str) -> String {
    let mut short = String::with_capacity(path.len());
    for (place, part) in path.split('/').enumerate() {
        if place > 0 {
            short.push('/');
        }
        match part.split_once(':') {
            Some((algorithm, hex)) if hex.len() > DIGEST_SHOWN && is_hex(hex) => {
                let shown = hex.get(..DIGEST_SHOWN).unwrap_or(hex);
                short.extend([algorithm, ":", shown, "…"]);
            }
            _ => short.push_str(part),
        }
    }
    short
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// A number of bytes in four or five characters.
fn short_size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut size = bytes as f64;
    let mut unit = 0;
    while size >= 1000.0 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    let name = UNITS.get(unit).copied().unwrap_or_default();
    if unit == 0 || size >= 10.0 { format!("{size:.0}{name}") } else { format!("{size:.1}{name}") }
}

/// A duration in at most seven characters.
fn short_duration(ms: f64) -> String {
    match ms {
        ms if ms < 10.0 => format!("{ms:.1}ms"),
        ms if ms < 10_000.0 => format!("{ms:.0}ms"),
        ms if ms < 1_000_000.0 => format!("{:.1}s", ms / 1000.0),
        ms => format!("{:.0}s", ms / 1000.0),
    }
}

/// The fields of a request's event.
#[derive(Debug, Default)]
struct RequestFields {
    status: u64,
    duration_ms: f64,
    received: u64,
    sent: u64,
    aborted: bool,
    method: String,
    path: String,
    identity: String,
    code: String,
    client: String,
    request_id: String,
}

impl RequestFields {
    /// What follows the path.
    fn tail(&self) -> String {
        let mut tail = String::new();
        if self.received > 0 {
            tail.extend([" in ", &short_size(self.received)]);
        }
        if self.sent > 0 {
            tail.extend([" out ", &short_size(self.sent)]);
        }
        if self.aborted {
            tail.push_str(" ABORTED");
        }
        if !self.code.is_empty() {
            tail.push(' ');
            push_text(&mut tail, &self.code, IDENTITY_COLUMNS_MAX);
        }
        if !self.identity.is_empty() && self.identity != "anonymous" {
            tail.push(' ');
            push_text(&mut tail, &self.identity, IDENTITY_COLUMNS_MAX);
        }
        // To find the cause of a failure, which is a line of its own.
        let last = if self.status >= 500 { &self.request_id } else { &self.client };
        let room = COLUMNS - HEAD_COLUMNS - PATH_COLUMNS_MIN;
        if !last.is_empty() && tail.chars().count() + 1 + last.chars().count() <= room {
            tail.push(' ');
            push_text(&mut tail, last, last.chars().count());
        }
        tail
    }

    fn write(&self, line: &mut String, has_colours: bool) {
        let (on, off) = if has_colours { (status_colour(self.status), RESET) } else { ("", "") };
        let duration = short_duration(self.duration_ms);
        // Writing to a string cannot fail.
        let _ = write!(line, "{on}{:>3}{off} {duration:>7} ", self.status);
        let used = push_text(line, &self.method, 8);
        let _ = write!(line, "{:pad$} ", "", pad = 4_usize.saturating_sub(used));
        let mut tail = String::new();
        let width = push_text(&mut tail, &self.tail(), COLUMNS - HEAD_COLUMNS - PATH_COLUMNS_MIN);
        push_text(line, &short_path(&self.path), COLUMNS - HEAD_COLUMNS - width);
        match has_colours {
            true => line.extend([DIM, &tail, RESET]),
            false => line.push_str(&tail),
        }
    }

    fn set(&mut self, field: &Field, value: &str) {
        let target = match field.name() {
            "method" => &mut self.method,
            "path" => &mut self.path,
            "identity" => &mut self.identity,
            "code" => &mut self.code,
            "client" => &mut self.client,
            "request_id" => &mut self.request_id,
            _ => return,
        };
        value.clone_into(target);
    }
}

impl Visit for RequestFields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        if field.name() == "duration_ms" {
            self.duration_ms = value;
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "status" => self.status = value,
            "received_bytes" => self.received = value,
            "sent_bytes" => self.sent = value,
            _ => {}
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        if field.name() == "aborted" {
            self.aborted = value;
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.set(field, &format!("{value:?}"));
    }
}

/// The fields of any other event.
#[derive(Debug, Default)]
struct EventFields {
    message: String,
    others: String,
}

impl EventFields {
    fn text(&mut self, field: &Field, value: &str) {
        let value = super::beginning(value, VALUE_BYTES_MAX);
        if field.name() == "message" {
            push_text(&mut self.message, value, usize::MAX);
            return;
        }
        // Without the `r#` of raw identifiers.
        self.others.extend([" ", field.name().trim_start_matches("r#"), "="]);
        let is_plain = !value.is_empty() && !value.contains([' ', '"', '=']);
        match is_plain {
            true => push_text(&mut self.others, value, usize::MAX),
            false => push_text(
                &mut self.others,
                &format!("\"{}\"", value.replace('"', "\\\"")),
                usize::MAX,
            ),
        };
    }
}

impl Visit for EventFields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.text(field, &format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io;
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[derive(Clone, Default)]
    struct Output(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Output {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The lines, without the time.
    fn logged(has_colours: bool, log: impl FnOnce()) -> Vec<String> {
        let output = Output::default();
        let to = output.clone();
        let layer = PrettyLines { writer: move || to.clone(), has_colours };
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), log);
        let text = String::from_utf8(output.0.lock().unwrap().clone()).unwrap();
        let without_time = |line: &str| line.split_once(' ').unwrap().1.to_owned();
        text.lines().map(without_time).collect()
    }

    fn request(status: u16, path: &str, identity: &str) {
        let code = (status >= 400).then_some("MANIFEST_UNKNOWN");
        tracing::info!(
            target: "jreg::request", request_id = %"018f3c1e-0000-7000-8000-000000000000",
            endpoint = "blob_get", method = %"GET", path, status, identity, code,
            received_bytes = 0_u64, sent_bytes = 12_900_000_u64, duration_ms = 3.21,
            client = %"10.0.0.7:41234", user_agent = "docker/28", "request"
        );
    }

    #[test]
    fn a_request_is_one_line_with_status_and_duration_first() {
        let digest = "ab12".repeat(16);
        let lines = logged(false, || {
            request(200, &format!("/v2/team/app/blobs/sha256:{digest}"), "alice");
            request(404, "/v2/team/app/manifests/latest", "anonymous");
        });
        let first = "200   3.2ms GET  /v2/team/app/blobs/sha256:ab12ab12ab12… out 12MiB alice 10.0.0.7:41234";
        assert_eq!(lines[0], first);
        assert!(
            lines[1].starts_with("404   3.2ms GET  /v2/team/app/manifests/latest"),
            "{lines:?}"
        );
        assert!(lines[1].contains(" MANIFEST_UNKNOWN"), "{lines:?}");
    }

    #[test]
    fn no_request_is_wider_than_the_terminal_or_writes_to_it() {
        let long = "a".repeat(3000);
        let lines = logged(false, || {
            for path in [&*format!("/v2/{long}/tags/list"), "/\u{1b}[2J\u{202e}\n", "/v2/"] {
                for identity in ["anonymous", &long, "\u{1b}]0;x\u{7}"] {
                    request(200, path, identity);
                    request(500, path, identity);
                }
            }
        });
        assert_eq!(lines.len(), 18);
        for line in lines {
            let columns = line.chars().count() + "20:15:01Z ".len();
            assert!(columns <= COLUMNS, "{columns}: {line}");
            assert!(!line.contains(|c: char| c.is_control() || is_format_control(c)), "{line:?}");
        }
    }

    #[test]
    fn colours_say_the_status_and_only_if_wanted() {
        let lines = logged(true, || {
            request(200, "/v2/", "alice");
            request(503, "/v2/", "alice");
        });
        assert!(lines[0].starts_with(GREEN) && lines[1].starts_with(RED), "{lines:?}");
        let plain = logged(false, || tracing::error!(a = "b c", number = 3, "it failed"));
        assert_eq!(plain, ["ERROR it failed a=\"b c\" number=3"]);
    }

    #[test]
    fn numbers_are_short() {
        let sizes = [0, 999, 1024, 12_900_000, u64::MAX].map(short_size);
        assert_eq!(sizes, ["0B", "999B", "1.0KiB", "12MiB", "16777216TiB"]);
        let durations = [0.04, 9.9, 12.3, 9999.0, 12_345.0, 3_600_000.0].map(short_duration);
        assert_eq!(durations, ["0.0ms", "9.9ms", "12ms", "9999ms", "12.3s", "3600s"]);
    }
}
