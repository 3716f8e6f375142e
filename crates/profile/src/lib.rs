//! [`Recording`]: where the processor time of this process goes, by kind of work.
//!
//! Code marks its work by a name: futures by [`work`], functions by [`measure`], functions that run on another
//! thread by [`carry`]. While a recording runs, each poll and each call adds the processor time of its thread
//! to its name, below the names that are being worked on. Without a recording, marked work costs one comparison.
//! `docs/decisions/0020-work-profile.md` says why this samples no stacks.

#![allow(missing_docs, reason = "a comment that repeats a name is noise")]

mod recording;
mod tree;

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

pub use recording::{ProfiledWork, Recording, RecordingError, ThreadTime, WorkProfile};
use tree::{MeasuredWork, WorkPath};

/// A kind of work: `WorkName("request", "blob_get")`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkName(pub &'static str, pub &'static str);

impl fmt::Display for WorkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(area, name) = self;
        if name.is_empty() { f.write_str(area) } else { write!(f, "{area} {name}") }
    }
}

pin_project! {
    /// A future whose polls are measured: see [`work`].
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct Work<F> {
        name: WorkName,
        #[pin]
        future: F,
    }
}

/// A future whose processor time counts for this name.
pub const fn work<F>(name: WorkName, future: F) -> Work<F> {
    Work { name, future }
}

impl<F: Future> Future for Work<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let _measured = MeasuredWork::begin(*this.name);
        this.future.poll(task)
    }
}

/// Calls a function, whose processor time counts for this name.
pub fn measure<T>(name: WorkName, call: impl FnOnce() -> T) -> T {
    let _measured = MeasuredWork::begin(name);
    call()
}

/// A function whose processor time counts for this name below the work that hands it over, whichever thread calls it.
pub fn carry<T>(name: WorkName, call: impl FnOnce() -> T) -> impl FnOnce() -> T {
    let path = WorkPath::current();
    move || {
        let _measured = MeasuredWork::begin_below(path, name);
        call()
    }
}

#[cfg(test)]
mod tests;
