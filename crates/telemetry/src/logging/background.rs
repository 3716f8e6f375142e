//! [`BackgroundWriter`]: writes log lines to standard error outside of request processing.
//!
//! The reader of standard error may be slow or stopped. So lines are queued, and a thread writes
//! them. The queue is bounded: a line that does not fit is dropped and counted ([`dropped_lines`]),
//! and the count is logged when there is room again. Requests never wait for the log; the process
//! waits briefly at its end.
//!
//! The audit log differs: its lines are written before the response.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tracing_subscriber::fmt::MakeWriter;

/// Maximum number of queued lines, and of their bytes.
const QUEUED_LINES_MAX: usize = 8192;
const QUEUED_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Maximum length of a line; a longer one is truncated. The formats keep well below it.
pub(super) const LINE_BYTES_MAX: usize = 16 * 1024;
/// Maximum wait for queued lines at the end of the process.
const FLUSH_MAX: Duration = Duration::from_secs(1);
/// Minimum time between two reports of dropped lines.
const NOTICE_INTERVAL: Duration = Duration::from_secs(1);

/// Number of lines dropped since the start.
static DROPPED_LINES: AtomicU64 = AtomicU64::new(0);

/// Number of log lines dropped since the start because standard error was too slow.
pub fn dropped_lines() -> u64 {
    DROPPED_LINES.load(Ordering::Relaxed)
}

/// Queues lines without waiting.
#[derive(Clone, Debug)]
pub(super) struct BackgroundWriter {
    lines: SyncSender<Vec<u8>>,
    queue: Arc<Queue>,
}

/// State shared by the logging threads and the writer thread.
#[derive(Debug, Default)]
struct Queue {
    bytes: AtomicU64,
    dropped: AtomicU64,
    /// Number of lines queued and not written.
    unwritten: Mutex<u64>,
    written: Condvar,
}

impl Queue {
    fn unwritten(&self) -> MutexGuard<'_, u64> {
        self.unwritten.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn drop_line(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
        DROPPED_LINES.fetch_add(1, Ordering::Relaxed);
    }

    fn wrote(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes as u64, Ordering::Relaxed);
        *self.unwritten() -= 1;
        self.written.notify_all();
    }
}

/// Waits briefly for queued lines when dropped.
#[derive(Debug)]
#[must_use = "lines that are queued when the process ends are lost without it"]
pub struct LogGuard(Arc<Queue>);

impl Drop for LogGuard {
    fn drop(&mut self) {
        let unwritten = self.0.unwritten();
        // After that, the remaining lines are lost.
        let _ = self.0.written.wait_timeout_while(unwritten, FLUSH_MAX, |count| *count > 0);
    }
}

impl BackgroundWriter {
    /// Starts a thread that writes lines to `output`.
    ///
    /// # Errors
    ///
    /// Those of starting a thread.
    pub(super) fn start(output: impl Write + Send + 'static) -> io::Result<(Self, LogGuard)> {
        let (lines, queued) = sync_channel(QUEUED_LINES_MAX);
        let queue: Arc<Queue> = Arc::default();
        let written = Arc::clone(&queue);
        thread::Builder::new()
            .name("log".into())
            .spawn(move || write(output, &queued, &written))?;
        let guard = LogGuard(Arc::clone(&queue));
        Ok((Self { lines, queue }, guard))
    }

    fn queue(&self, line: &[u8]) {
        let mut line = line.to_owned();
        if line.len() > LINE_BYTES_MAX {
            line.truncate(LINE_BYTES_MAX - 1);
            line.push(b'\n');
        }
        let bytes = line.len() as u64;
        if self.queue.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes > QUEUED_BYTES_MAX {
            self.queue.bytes.fetch_sub(bytes, Ordering::Relaxed);
            return self.queue.drop_line();
        }
        *self.queue.unwritten() += 1;
        if self.lines.try_send(line).is_err() {
            self.queue.wrote(usize::try_from(bytes).unwrap_or_default());
            self.queue.drop_line();
        }
    }
}

impl Write for BackgroundWriter {
    /// Each write is one line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.queue(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'w> MakeWriter<'w> for BackgroundWriter {
    type Writer = Self;

    fn make_writer(&'w self) -> Self {
        self.clone()
    }
}

fn write(mut output: impl Write, lines: &Receiver<Vec<u8>>, queue: &Queue) {
    let mut noticed = Instant::now();
    loop {
        match lines.recv_timeout(NOTICE_INTERVAL) {
            Ok(line) => {
                // A failing log cannot be reported.
                let _ = output.write_all(&line);
                queue.wrote(line.len());
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        if noticed.elapsed() >= NOTICE_INTERVAL {
            noticed = Instant::now();
            say_dropped(queue);
        }
    }
}

/// Logs the number of dropped lines.
fn say_dropped(queue: &Queue) {
    let lines = queue.dropped.swap(0, Ordering::Relaxed);
    if lines > 0 {
        tracing::warn!(lines, "log lines dropped: standard error did not take them in time");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::mpsc::{Sender, channel};

    use super::*;

    /// The lines that an output has received.
    type Taken = Arc<Mutex<Vec<Vec<u8>>>>;

    /// An output that blocks until it is released.
    struct Slow {
        go_on: Receiver<()>,
        taken: Taken,
    }

    impl Write for Slow {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            // The sender may have been dropped.
            let _ = self.go_on.recv();
            self.taken.lock().unwrap().push(line.to_owned());
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn slow() -> (BackgroundWriter, LogGuard, Sender<()>, Taken) {
        let (sender, go_on) = channel();
        let taken = Taken::default();
        let output = Slow { go_on, taken: Arc::clone(&taken) };
        let (log, guard) = BackgroundWriter::start(output).unwrap();
        (log, guard, sender, taken)
    }

    /// A reader of standard error that stopped reading once stopped every request.
    #[test]
    fn fixed_clients_that_do_not_read_block_no_other() {
        const LINES: usize = QUEUED_LINES_MAX * 2;
        let (mut log, guard, held, taken) = slow();
        for number in 0..LINES {
            log.write_all(format!("{number}\n").as_bytes()).unwrap();
        }
        let dropped = usize::try_from(log.queue.dropped.load(Ordering::Relaxed)).unwrap();
        assert!((LINES - QUEUED_LINES_MAX - 1..LINES).contains(&dropped), "{dropped}");
        assert!(dropped_lines() >= dropped as u64);
        drop(held);
        drop(guard);
        let taken = taken.lock().unwrap();
        assert_eq!(taken.len(), LINES - dropped, "what was queued is written");
        assert_eq!(taken[0], b"0\n");
        assert_eq!(log.queue.bytes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn the_queue_is_bounded_in_bytes_and_lines_are_cut() {
        let (mut log, guard, held, taken) = slow();
        let long = vec![b'x'; LINE_BYTES_MAX * 2];
        for _ in 0..1000 {
            log.write_all(&long).unwrap();
        }
        let bytes = log.queue.bytes.load(Ordering::Relaxed);
        assert!(bytes <= QUEUED_BYTES_MAX && bytes > QUEUED_BYTES_MAX / 2, "{bytes}");
        drop(held);
        drop(guard);
        let taken = taken.lock().unwrap();
        assert!(taken.iter().all(|line| line.len() == LINE_BYTES_MAX && line.ends_with(b"\n")));
    }

    #[test]
    fn the_end_does_not_wait_for_ever() {
        let (mut log, guard, _held, taken) = slow();
        log.write_all(b"never\n").unwrap();
        drop(guard);
        assert!(taken.lock().unwrap().is_empty());
    }
}
