//! [`BlockingThreads`]: threads for system calls, each handed its work directly.
//!
//! tokio's pool for blocking work gives work to a thread by a queue and a condition under one lock: the
//! thread that it wakes mostly finds the lock taken, and sleeps and is woken once more. At some hundred
//! microseconds of work that is a good part of it. So a thread of that pool that has done its work waits
//! here for [`LINGER`] before it goes back, and work finds it without a queue, the last one to wait
//! first: what it used is still in its processor's cache. Two system calls wake a thread and let it sleep.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

/// How long a thread waits for more work. The end of a runtime waits for it.
const LINGER: Duration = Duration::from_millis(10);

type Work = Box<dyn FnOnce() + Send>;

/// Why work has no result.
#[derive(Debug)]
pub(super) enum WorkFailure {
    /// It panicked with this.
    Panicked(Box<dyn Any + Send>),
    /// The runtime stops, and it was not begun.
    Stopped,
}

/// The threads of a store that wait for work.
#[derive(Clone, Debug, Default)]
pub(super) struct BlockingThreads {
    waiting: Arc<Mutex<Vec<Arc<WaitingThread>>>>,
}

/// A thread that waits for work.
struct WaitingThread {
    thread: Thread,
    /// Set by who took it from the list of those that wait.
    work: Mutex<Option<Work>>,
}

impl std::fmt::Debug for WaitingThread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
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
        let waiting = self.waiting().pop();
        match waiting {
            Some(waiting) => {
                *waiting.work() = Some(work);
                waiting.thread.unpark();
            }
            None => {
                let threads = self.clone();
                drop(tokio::task::spawn_blocking(move || threads.work_from(work)));
            }
        }
    }

    /// Does work until there is no more for a while.
    fn work_from(&self, first: Work) {
        let own = Arc::new(WaitingThread { thread: thread::current(), work: Mutex::default() });
        let mut next = Some(first);
        while let Some(work) = next {
            work();
            next = self.wait(&own);
        }
    }

    fn wait(&self, own: &Arc<WaitingThread>) -> Option<Work> {
        self.waiting().push(Arc::clone(own));
        let until = Instant::now() + LINGER;
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
        let mut waiting = self.waiting();
        let at = waiting.iter().position(|other| Arc::ptr_eq(other, own));
        at.map(|at| waiting.remove(at)).is_some()
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Arc<WaitingThread>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
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
        let threads = BlockingThreads::default();
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
                threads.run(move || drop(barrier.wait()))
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
        while Arc::strong_count(&threads.waiting) > 1 && Instant::now() < ended {
            tokio::time::sleep(LINGER).await;
        }
        assert_eq!((Arc::strong_count(&threads.waiting), threads.waiting().len()), (1, 0));
        threads.run(|| ()).await.unwrap();
    }
}
