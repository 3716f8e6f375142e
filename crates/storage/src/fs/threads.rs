//! [`BlockingThreads`]: threads for system calls, each handed its work directly.
//!
//! tokio's pool for blocking work gives work to a thread by a queue and a condition under one lock: the
//! thread that it wakes mostly finds the lock taken, and sleeps and is woken once more. At some hundred
//! microseconds of work that is a good part of it. So a thread of that pool that has done its work waits
//! here for [`LINGER`] before it goes back, and work finds it without that queue, the last one to wait
//! first: what it used is still in its processor's cache. Two system calls wake a thread and let it sleep.

use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use jreg_profile::WorkName;
use tokio::sync::oneshot;

/// How long a thread waits for more work. The end of a runtime waits for it.
const LINGER: Duration = Duration::from_millis(10);

/// What profiles call it.
const WORK: WorkName = WorkName("folder", "system calls");

type Work = Box<dyn FnOnce() + Send>;

/// Why work has no result.
#[derive(Debug)]
pub(super) enum WorkFailure {
    /// It panicked with this.
    Panicked(Box<dyn Any + Send>),
    /// The runtime stops, and it was not begun.
    Stopped,
}

/// The threads of a store.
#[derive(Clone, Debug)]
pub(super) struct BlockingThreads {
    table: Arc<Mutex<ThreadTable>>,
    linger: Duration,
}

impl Default for BlockingThreads {
    fn default() -> Self {
        Self { table: Arc::default(), linger: LINGER }
    }
}

#[derive(Default)]
struct ThreadTable {
    /// Those that wait for work.
    waiting: Vec<Arc<WaitingThread>>,
    /// Work that found none waiting. A thread is on the way for each, but one that ends its own may be
    /// there before it.
    queue: VecDeque<Work>,
}

impl fmt::Debug for ThreadTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThreadTable").field("waiting", &self.waiting).finish_non_exhaustive()
    }
}

/// A thread on the way to work that is queued.
struct ComingThread {
    threads: BlockingThreads,
    has_come: bool,
}

impl Drop for ComingThread {
    fn drop(&mut self) {
        if !self.has_come {
            // The runtime stops: so does as much work as it was coming for.
            let work = self.threads.table().queue.pop_back();
            drop(work);
        }
    }
}

/// A thread that waits for work.
struct WaitingThread {
    thread: Thread,
    /// Set by who took it from the list of those that wait.
    work: Mutex<Option<Work>>,
}

impl fmt::Debug for WaitingThread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WaitingThread").field("thread", &self.thread).finish_non_exhaustive()
    }
}

impl WaitingThread {
    fn work(&self) -> MutexGuard<'_, Option<Work>> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BlockingThreads {
    /// Does work on a thread that may block, to its end, whether or not this is waited for.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, WorkFailure> {
        let (sender, result) = oneshot::channel();
        let work = jreg_profile::carry(WORK, work);
        self.submit(Box::new(move || {
            // If nobody waits for it, it is dropped.
            let _ = sender.send(catch_unwind(AssertUnwindSafe(work)));
        }));
        match result.await {
            Ok(done) => done.map_err(WorkFailure::Panicked),
            Err(_) => Err(WorkFailure::Stopped),
        }
    }

    fn submit(&self, work: Work) {
        let mut table = self.table();
        if let Some(waiting) = table.waiting.pop() {
            drop(table);
            *waiting.work() = Some(work);
            waiting.thread.unpark();
            return;
        }
        table.queue.push_back(work);
        drop(table);
        let mut coming = ComingThread { threads: self.clone(), has_come: false };
        drop(tokio::task::spawn_blocking(move || {
            coming.has_come = true;
            coming.threads.work();
        }));
    }

    /// Does work until there is no more for a while.
    fn work(&self) {
        let own = Arc::new(WaitingThread { thread: thread::current(), work: Mutex::default() });
        let mut next = self.table().queue.pop_front();
        while let Some(work) = next {
            work();
            next = self.next(&own);
        }
    }

    fn next(&self, own: &Arc<WaitingThread>) -> Option<Work> {
        let mut table = self.table();
        if let Some(queued) = table.queue.pop_front() {
            return Some(queued);
        }
        table.waiting.push(Arc::clone(own));
        drop(table);
        let until = Instant::now() + self.linger;
        loop {
            if let Some(work) = own.work().take() {
                return Some(work);
            }
            let left = until.saturating_duration_since(Instant::now());
            if !left.is_zero() {
                thread::park_timeout(left);
            } else if self.leave(own) {
                return None;
            } else {
                // Its work is on the way.
                thread::park();
            }
        }
    }

    /// Takes a thread off the list of those that wait. `false`: another has, to give it work.
    fn leave(&self, own: &Arc<WaitingThread>) -> bool {
        let mut table = self.table();
        let at = table.waiting.iter().position(|other| Arc::ptr_eq(other, own));
        at.map(|at| table.waiting.remove(at)).is_some()
    }

    fn table(&self) -> MutexGuard<'_, ThreadTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::HashSet;
    use std::sync::Barrier;
    use std::thread::ThreadId;

    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn work_in_turn_finds_the_same_thread() {
        let threads = BlockingThreads { linger: LINGER * 10, ..BlockingThreads::default() };
        let mut met = HashSet::<ThreadId>::new();
        for _ in 0..100 {
            met.insert(threads.run(|| thread::current().id()).await.unwrap());
        }
        assert!(!met.contains(&thread::current().id()));
        assert!(met.len() < 50, "{} threads", met.len());
    }

    #[tokio::test]
    async fn work_at_the_same_time_has_a_thread_each() {
        let threads = BlockingThreads::default();
        let barrier = Arc::new(Barrier::new(8));
        for _ in 0..3 {
            let all = (0..8).map(|_| {
                let barrier = Arc::clone(&barrier);
                threads.run(move || {
                    barrier.wait();
                })
            });
            for done in futures::future::join_all(all).await {
                done.unwrap();
            }
        }
    }

    #[tokio::test]
    async fn work_that_panics_or_is_not_waited_for_does_not_end_a_thread() {
        let threads = BlockingThreads::default();
        let failed = threads.run(|| std::panic::panic_any(1)).await;
        assert!(matches!(failed, Err(WorkFailure::Panicked(_))));
        let (sender, done) = oneshot::channel();
        drop(threads.run(move || sender.send(()).unwrap()).now_or_never());
        done.await.unwrap();
        assert_eq!(threads.run(|| 2).await.unwrap(), 2);
    }

    #[tokio::test]
    async fn threads_go_back_when_there_is_no_work() {
        let threads = BlockingThreads::default();
        threads.run(|| ()).await.unwrap();
        let ended = Instant::now() + Duration::from_secs(30);
        while Arc::strong_count(&threads.table) > 1 && Instant::now() < ended {
            tokio::time::sleep(LINGER).await;
        }
        assert_eq!((Arc::strong_count(&threads.table), threads.table().waiting.len()), (1, 0));
        threads.run(|| ()).await.unwrap();
    }

    /// A thread that ends its work takes what is queued: it does not wait while there is some.
    #[test]
    fn more_work_than_threads_does_not_wait_for_them_to_go_back() {
        const WORKS: u32 = 2000;
        const HOUR: Duration = Duration::from_secs(3600);
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().max_blocking_threads(2).build().unwrap();
        // One that waited beside queued work would wait beyond the end of the test.
        let threads = BlockingThreads { linger: HOUR, ..BlockingThreads::default() };
        runtime.block_on(async {
            let all = futures::future::join_all((0..WORKS).map(|_| threads.run(|| ())));
            let all = tokio::time::timeout(HOUR / 60, all).await;
            for done in all.expect("no work waits for a thread that waits") {
                done.unwrap();
            }
        });
        assert!(threads.table().queue.is_empty());
        runtime.shutdown_background();
    }

    #[test]
    fn work_of_a_runtime_that_stops_is_not_begun() {
        let (threads, runtime) =
            (BlockingThreads::default(), tokio::runtime::Runtime::new().unwrap());
        let handle = runtime.handle().clone();
        runtime.shutdown_background();
        let _entered = handle.enter();
        let stopped = threads.run(|| ()).now_or_never();
        assert!(matches!(stopped, Some(Err(WorkFailure::Stopped))), "{stopped:?}");
        assert!(threads.table().queue.is_empty());
    }
}
