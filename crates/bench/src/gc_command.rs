//! [`GcCommand`]: a command that runs again and again beside a workload, such as `jreg gc`.

use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::process::Command;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::error::BenchError;

/// Between two runs, so that a command that fails at once does not take the client's processor.
const PAUSE: Duration = Duration::from_millis(10);

/// A command that is being run again and again.
#[derive(Debug)]
pub(crate) struct GcCommand {
    stop: oneshot::Sender<()>,
    runs: JoinHandle<io::Result<GcRuns>>,
}

/// How often it ran.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct GcRuns {
    /// Runs that ended well.
    pub(crate) done: u64,
    /// Runs that did not.
    pub(crate) failed: u64,
}

impl GcCommand {
    /// Begins to run a line of the shell.
    pub(crate) fn start(line: &str) -> Self {
        let (stop, stopped) = oneshot::channel();
        let line = line.to_owned();
        Self { stop, runs: tokio::spawn(async move { repeat(&line, stopped).await }) }
    }

    /// Waits until the run that is in flight has ended; it is ended itself after some time.
    pub(crate) async fn stop(self, timeout: Duration) -> Result<GcRuns, BenchError> {
        // If the receiver is gone, the run has ended.
        self.stop.send(()).ok();
        let abort = self.runs.abort_handle();
        match tokio::time::timeout(timeout, self.runs).await {
            Ok(Ok(runs)) => runs.map_err(BenchError::Collect),
            Ok(Err(_)) => Err(BenchError::Collect(io::Error::other("it was given up"))),
            Err(_) => {
                abort.abort();
                Err(BenchError::Collect(io::Error::other("its last run does not end")))
            }
        }
    }
}

async fn repeat(line: &str, mut stopped: oneshot::Receiver<()>) -> io::Result<GcRuns> {
    let mut runs = GcRuns::default();
    loop {
        match run(line).await?.success() {
            true => runs.done += 1,
            false => runs.failed += 1,
        }
        if tokio::time::timeout(PAUSE, &mut stopped).await.is_ok() {
            return Ok(runs);
        }
    }
}

async fn run(line: &str) -> io::Result<ExitStatus> {
    let mut command = Command::new("sh");
    command.args(["-c", line]).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const WAIT_MAX: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_command_is_run_once_at_least_and_to_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let (begun, ended) = (folder.path().join("begun"), folder.path().join("ended"));
        let line = format!("touch {} && sleep 0.05 && touch {}", begun.display(), ended.display());
        let gc_command = GcCommand::start(&line);
        let runs = gc_command.stop(WAIT_MAX).await.unwrap();
        assert_eq!(runs, GcRuns { done: 1, failed: 0 });
        assert!(begun.exists() && ended.exists());
    }

    #[tokio::test]
    async fn a_command_is_run_again_and_its_failures_are_counted() {
        let folder = tempfile::tempdir().unwrap();
        let line =
            format!("cd {} && mkdir first || {{ touch second; exit 1; }}", folder.path().display());
        let gc_command = GcCommand::start(&line);
        while !folder.path().join("second").exists() {
            tokio::task::yield_now().await;
        }
        let runs = gc_command.stop(WAIT_MAX).await.unwrap();
        assert_eq!(runs.done, 1, "{runs:?}");
        assert!(runs.failed >= 1, "{runs:?}");
    }

    #[tokio::test]
    async fn a_command_that_does_not_end_is_given_up() {
        let gc_command = GcCommand::start("exec sleep 1000");
        let error = gc_command.stop(Duration::ZERO).await.unwrap_err();
        assert!(format!("{error:?}").contains("does not end"), "{error:?}");
    }
}
