//! [`RecentLines`]: the last warnings and errors, for a support bundle.

use std::collections::VecDeque;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use super::json::JsonLines;

/// Maximum number of kept lines.
const LINES_MAX: usize = 256;

static LINES: Mutex<VecDeque<String>> = Mutex::new(VecDeque::new());

fn lines() -> MutexGuard<'static, VecDeque<String>> {
    LINES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The last warnings and errors of this process as JSON, oldest first.
pub fn recent_lines() -> Vec<String> {
    lines().iter().cloned().collect()
}

/// Keeps the last warnings and errors.
#[derive(Debug)]
pub(super) struct RecentLines(JsonLines<fn() -> KeptLine>);

impl RecentLines {
    pub(super) fn new() -> Self {
        Self(JsonLines(|| KeptLine))
    }
}

/// A writer whose lines are kept.
pub(super) struct KeptLine;

impl io::Write for KeptLine {
    /// Each write is one line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut lines = lines();
        if lines.len() >= LINES_MAX {
            lines.pop_front();
        }
        lines.push_back(String::from_utf8_lossy(line).trim_end().to_owned());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<S> Layer<S> for RecentLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        if *event.metadata().level() <= Level::WARN {
            self.0.on_event(event, context);
        }
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[test]
    fn only_the_last_warnings_are_kept() {
        let layers = tracing_subscriber::registry().with(RecentLines::new());
        tracing::subscriber::with_default(layers, || {
            tracing::warn!(number = 0, "first");
            for number in 0..LINES_MAX {
                tracing::info!("not kept");
                tracing::warn!(number, "kept");
            }
        });
        let lines = recent_lines();
        assert_eq!(lines.len(), LINES_MAX);
        assert!(lines.iter().all(|line| line.contains(r#""message":"kept""#)), "{lines:?}");
    }
}
