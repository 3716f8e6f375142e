//! The log: one line per event on standard error, as JSON or for people. `docs/logging.md` says
//! what is logged.

mod json;

use std::io::IsTerminal;

use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use crate::config::{LogFormat, Settings};

/// Sends the log of this process to standard error from now on. Can be done once.
pub fn start(settings: &Settings) -> Result<(), TryInitError> {
    // The settings hold only filters that parse.
    let filter: Targets = settings.log.parse().unwrap_or_default();
    let terminal = std::io::stderr().is_terminal();
    // The filter is not the layer's own: that would cost each event a look-up.
    let registry = tracing_subscriber::registry().with(filter);
    if pretty(settings.log_format, terminal) {
        let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
        registry.with(layer.with_ansi(terminal).with_target(false)).try_init()
    } else {
        registry.with(json(std::io::stderr)).try_init()
    }
}

/// One JSON object a line, with the fields of the event beside its time, level and target.
pub(crate) fn json<S, W>(writer: W) -> impl Layer<S> + Send + Sync
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

/// An error and everything that lies under it, on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // A transparent error repeats the words of its cause.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
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
    fn a_chain_names_each_cause_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("{0}")]
        struct Layer(&'static str, #[source] Option<Box<Layer>>);
        let error =
            Layer("top", Some(Box::new(Layer("middle", Some(Box::new(Layer("middle", None)))))));
        assert_eq!(chain(&error), "top: middle");
    }
}
