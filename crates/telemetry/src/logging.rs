//! The log: one line per event on standard error, as JSON or pretty. `docs/logging.md` describes
//! the events.

mod background;
mod escape;
mod filter;
mod json;
mod pretty;
mod recent;

use std::io::{self, IsTerminal};

use tracing_subscriber::Layer;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use background::BackgroundWriter;
pub use background::{LogGuard, dropped_lines};
pub(crate) use escape::escaped;
use escape::{is_format_control, write_escape};
pub use filter::CurrentFilter;
use pretty::PrettyLines;
use recent::RecentLines;
pub use recent::recent_lines;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Pretty on a terminal, otherwise JSON.
    Auto,
    /// One JSON object per line.
    Json,
    /// Human-readable.
    Pretty,
}

/// Why logging cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The writer thread cannot be started.
    #[error("cannot start the thread that writes the log")]
    Thread(#[from] io::Error),
    /// Logging is set up already.
    #[error(transparent)]
    Started(#[from] TryInitError),
}

/// The log of this process. Keep it until the process ends.
#[derive(Debug)]
#[must_use = "lines that are queued when the process ends are lost without it"]
pub struct Log {
    /// The filter of its events, which may be changed.
    pub filter: CurrentFilter,
    _guard: LogGuard,
}

/// Logs events that pass `filter` to standard error. May be called once.
///
/// # Errors
///
/// [`LogError`].
pub fn start(filter: &str, format: LogFormat) -> Result<Log, LogError> {
    let (writer, guard) = BackgroundWriter::start(io::stderr())?;
    let filter = CurrentFilter::new(filter);
    // A global filter: a filter of the layer would cost each event a lookup.
    let registry = tracing_subscriber::registry().with(filter.clone()).with(RecentLines::new());
    if is_pretty(format) {
        registry.with(PrettyLines { writer, has_colours: has_colours() }).try_init()?;
    } else {
        registry.with(json(writer)).try_init()?;
    }
    Ok(Log { filter, _guard: guard })
}

/// Whether the log on standard error is for people.
pub fn is_pretty(format: LogFormat) -> bool {
    pretty(format, io::stderr().is_terminal())
}

/// Colours are for terminals, unless NO_COLOR says otherwise (no-color.org).
fn has_colours() -> bool {
    let refuses = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    io::stderr().is_terminal() && !refuses
}

/// The beginning of a text from a client, for the log.
pub fn shortened(text: &str, bytes_max: usize) -> String {
    if text.len() <= bytes_max {
        return text.to_owned();
    }
    format!("{}…", beginning(text, bytes_max))
}

/// As many whole characters as fit into the given bytes.
fn beginning(text: &str, bytes_max: usize) -> &str {
    let fits = (0..=bytes_max.min(text.len())).rev().find_map(|end| text.get(..end));
    fits.unwrap_or_default()
}

/// One JSON object per line, with the fields of the event beside time, level and target.
pub fn json<S, W>(writer: W) -> impl Layer<S> + Send + Sync
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    json::JsonLines(writer)
}

fn pretty(format: LogFormat, terminal: bool) -> bool {
    match format {
        LogFormat::Auto => terminal,
        LogFormat::Json => false,
        LogFormat::Pretty => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_is_pretty_on_a_terminal_only() {
        assert!(pretty(LogFormat::Auto, true));
        assert!(!pretty(LogFormat::Auto, false));
        assert!(pretty(LogFormat::Pretty, false));
        assert!(!pretty(LogFormat::Json, true));
    }

    #[test]
    fn a_long_text_is_shortened_between_characters() {
        assert_eq!(shortened("abc", 3), "abc");
        assert_eq!(shortened("abcd", 3), "abc…");
        assert_eq!(shortened("aä", 2), "a…");
    }
}
