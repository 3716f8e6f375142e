//! The log: one line per event on standard error, as JSON or for people. `docs/logging.md` says
//! what is logged.

mod background;
mod json;

use std::io::{self, IsTerminal};

use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use background::BackgroundWriter;
pub use background::{LogGuard, dropped_lines};

/// The form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Pretty on a terminal, otherwise JSON.
    Auto,
    /// One JSON object a line.
    Json,
    /// For people.
    Pretty,
}

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// There can be no thread that writes it.
    #[error("cannot start the thread that writes the log")]
    Thread(#[from] io::Error),
    /// There is one already.
    #[error(transparent)]
    Started(#[from] TryInitError),
}

/// Sends what passes `filter` to standard error from now on. Can be done once. The returned value
/// must live as long as the process.
///
/// # Errors
///
/// [`LogError`].
pub fn start(filter: &str, format: LogFormat) -> Result<LogGuard, LogError> {
    // The settings hold only filters that parse.
    let filter: Targets = filter.parse().unwrap_or_default();
    let terminal = io::stderr().is_terminal();
    let (writer, guard) = BackgroundWriter::start(io::stderr())?;
    // The filter is not the layer's own: that would cost each event a look-up.
    let registry = tracing_subscriber::registry().with(filter);
    if pretty(format, terminal) {
        let layer = tracing_subscriber::fmt::layer().with_writer(writer);
        registry.with(layer.with_ansi(terminal).with_target(false)).try_init()?;
    } else {
        registry.with(json(writer)).try_init()?;
    }
    Ok(guard)
}

/// The beginning of a text that a client chose, for the log.
pub fn shortened(text: &str, bytes_max: usize) -> String {
    if text.len() <= bytes_max {
        return text.to_owned();
    }
    format!("{}…", beginning(text, bytes_max))
}

/// As many whole characters as fit so many bytes.
fn beginning(text: &str, bytes_max: usize) -> &str {
    let fits = (0..=bytes_max.min(text.len())).rev().find_map(|end| text.get(..end));
    fits.unwrap_or_default()
}

/// One JSON object a line, with the fields of the event beside its time, level and target.
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
