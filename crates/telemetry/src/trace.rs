//! [`Tracer`]: what a request waited for, for the log of slow requests and for OpenTelemetry.
//!
//! A [`RequestTrace`] belongs to the task of its request, so that a call deep below can be noted without being
//! passed along ([`note`]). Without a collector and without a threshold of slow requests there is none, and a request
//! pays for one comparison.

mod context;
mod otlp;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use futures::future::Either;
use tokio::sync::mpsc;

pub use context::TraceContext;
pub(crate) use context::hex;
pub use otlp::{CONTENT_TYPE, encode};

/// Maximum number of calls that are kept of a request.
const CALLS_MAX: usize = 256;
/// Maximum number of requests that wait to be sent to the collector; more are dropped.
const QUEUED_MAX: usize = 2048;
/// Number of calls that the line of a slow request names, the longest first.
const CALLS_SHOWN: usize = 8;

tokio::task_local! {
    static CURRENT: Arc<RequestTrace>;
}

/// The trace of the request that this task serves.
pub fn current() -> Option<Arc<RequestTrace>> {
    CURRENT.try_with(Arc::clone).ok()
}

/// Work with a trace. Not an `async fn`, which would keep the work twice.
pub fn within<T>(
    trace: Option<Arc<RequestTrace>>,
    work: impl Future<Output = T>,
) -> impl Future<Output = T> {
    match trace {
        Some(trace) => Either::Left(CURRENT.scope(trace, work)),
        None => Either::Right(work),
    }
}

/// The header `traceparent` of a request that the current one causes, if its spans go to a collector.
pub fn parent_header() -> Option<String> {
    let exported = |trace: &Arc<RequestTrace>| trace.is_exported.then(|| trace.context.to_string());
    CURRENT.try_with(exported).ok().flatten()
}

/// When some work of the current request begins, if it has a trace.
pub fn begin() -> Option<Instant> {
    CURRENT.try_with(|_| Instant::now()).ok()
}

/// Notes the end of work that [`begin`] has begun.
pub fn note_since(name: &'static str, outcome: &'static str, began: Option<Instant>) {
    if let Some(began) = began {
        note(name, outcome, began.elapsed());
    }
}

/// Notes a call of the current request that has just ended.
pub fn note(name: &'static str, outcome: &'static str, duration: Duration) {
    // Without a trace there is nothing to note.
    let _ = CURRENT.try_with(|trace| trace.note(name, outcome, duration));
}

/// A call that a request waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TracedCall {
    pub name: &'static str,
    /// `ok`, or the kind of failure.
    pub outcome: &'static str,
    /// After the beginning of the request.
    pub began: Duration,
    pub duration: Duration,
}

/// What is known of a request while it is served.
#[derive(Debug)]
pub struct RequestTrace {
    pub context: TraceContext,
    /// Whether there is a collector, which gets it if it is sampled.
    is_exported: bool,
    began: Instant,
    began_at: SystemTime,
    calls: Mutex<Vec<TracedCall>>,
}

impl RequestTrace {
    fn new(context: TraceContext, is_exported: bool) -> Self {
        let (began, began_at) = (Instant::now(), SystemTime::now());
        Self { context, is_exported, began, began_at, calls: Mutex::default() }
    }

    /// The id of the trace, if a collector gets it.
    pub fn exported_id(&self) -> Option<[u8; 16]> {
        (self.is_exported && self.context.is_sampled).then_some(self.context.trace_id)
    }

    fn note(&self, name: &'static str, outcome: &'static str, duration: Duration) {
        let mut calls = self.calls();
        if calls.len() < CALLS_MAX {
            let began = self.began.elapsed().saturating_sub(duration);
            calls.push(TracedCall { name, outcome, began, duration });
        }
    }

    fn calls(&self) -> MutexGuard<'_, Vec<TracedCall>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A finished request.
#[derive(Clone, Debug)]
pub struct FinishedTrace {
    pub trace: Arc<RequestTrace>,
    pub name: String,
    pub duration: Duration,
    pub status: u16,
    /// Attributes of its span, by the semantic conventions of OpenTelemetry.
    pub attributes: Vec<(&'static str, String)>,
}

/// What an operator can set about traces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TraceOptions {
    /// Requests that take longer are logged with their calls.
    pub slow: Option<Duration>,
    /// Percentage of requests that are traced although no client asks for it.
    pub percent: u32,
}

/// Begins and ends traces.
#[derive(Debug, Default)]
pub struct Tracer {
    options: TraceOptions,
    queue: Option<mpsc::Sender<FinishedTrace>>,
    dropped: AtomicU64,
}

impl Tracer {
    /// One without a collector.
    pub fn new(options: TraceOptions) -> Self {
        Self { options, queue: None, dropped: AtomicU64::new(0) }
    }

    /// One that hands sampled requests to the receiver, which sends them to a collector.
    pub fn with_collector(options: TraceOptions) -> (Self, mpsc::Receiver<FinishedTrace>) {
        let (sender, queue) = mpsc::channel(QUEUED_MAX);
        (Self { queue: Some(sender), ..Self::new(options) }, queue)
    }

    /// Whether any request has a trace.
    pub fn is_on(&self) -> bool {
        self.queue.is_some() || self.options.slow.is_some()
    }

    /// Number of traces that were dropped because the collector is slow.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Begins the trace of a request with this `traceparent`.
    pub fn begin(&self, traceparent: Option<&str>) -> Option<Arc<RequestTrace>> {
        if !self.is_on() {
            return None;
        }
        let is_exported = self.queue.is_some();
        let percent = if is_exported { self.options.percent } else { 0 };
        Some(Arc::new(RequestTrace::new(TraceContext::of(traceparent, percent), is_exported)))
    }

    /// Ends a trace: logs the request if it was slow, and hands it over if it is sampled.
    pub fn end(&self, finished: FinishedTrace) {
        if self.options.slow.is_some_and(|slow| finished.duration > slow) {
            log_slow(&finished);
        }
        if let Some(queue) = self.queue.as_ref().filter(|_| finished.trace.context.is_sampled)
            && queue.try_send(finished).is_err()
        {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// One line with the longest calls, and how many there were of each kind.
fn log_slow(finished: &FinishedTrace) {
    let FinishedTrace { trace, name, duration, status, attributes } = finished;
    let mut calls = trace.calls().clone();
    let mut counts: BTreeMap<&str, (u32, Duration)> = BTreeMap::new();
    for call in &calls {
        let (count, sum) = counts.entry(call.name).or_default();
        *count += 1;
        *sum += call.duration;
    }
    calls.sort_by_key(|call| std::cmp::Reverse(call.duration));
    let mut longest = String::new();
    for TracedCall { name, outcome, began, duration } in calls.iter().take(CALLS_SHOWN) {
        let (at, took) = (began.as_millis(), duration.as_millis());
        // Writing to a string cannot fail.
        let _ = write!(longest, "{name} {took} ms at {at} ms ({outcome}); ");
    }
    let mut totals = String::new();
    for (name, (count, sum)) in counts {
        let _ = write!(totals, "{name} {count} times {} ms; ", sum.as_millis());
    }
    let attribute = |key: &str| {
        attributes.iter().find(|(name, _)| *name == key).map(|(_, value)| value.as_str())
    };
    tracing::warn!(
        target: "jreg::slow",
        request_id = attribute("jreg.request_id"),
        request = name,
        path = attribute("url.path"),
        status,
        duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
        longest = longest.trim_end_matches("; "),
        totals = totals.trim_end_matches("; "),
        "slow request"
    );
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn finished(trace: &Arc<RequestTrace>, duration: Duration) -> FinishedTrace {
        let attributes = vec![("url.path", "/v2/".to_owned())];
        let name = "GET ping".to_owned();
        FinishedTrace { trace: Arc::clone(trace), name, duration, status: 200, attributes }
    }

    #[tokio::test]
    async fn calls_are_noted_in_the_trace_of_their_task() {
        let tracer = Tracer::new(TraceOptions { slow: Some(MS), percent: 0 });
        let trace = tracer.begin(None).unwrap();
        within(Some(Arc::clone(&trace)), async {
            note("get", "ok", MS);
            let carried = current();
            let other = tokio::spawn(within(carried, async { note("put", "full", MS) }));
            other.await.unwrap();
            tokio::spawn(async { note("delete", "ok", MS) }).await.unwrap();
        })
        .await;
        note("list", "ok", MS);
        let names: Vec<_> = trace.calls().iter().map(|call| (call.name, call.outcome)).collect();
        assert_eq!(names, [("get", "ok"), ("put", "full")]);
        for _ in 0..2 * CALLS_MAX {
            trace.note("get", "ok", MS);
        }
        assert_eq!(trace.calls().len(), CALLS_MAX);
    }

    #[tokio::test]
    async fn only_sampled_requests_are_handed_over_and_never_waited_for() {
        assert!(Tracer::default().begin(None).is_none());
        assert_eq!(parent_header(), None);
        let (tracer, mut queue) = Tracer::with_collector(TraceOptions::default());
        let sampled = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0bc902b7-01";
        let wanted = tracer.begin(Some(sampled)).unwrap();
        let other = tracer.begin(None).unwrap();
        assert_eq!(other.exported_id(), None);
        let id = hex(&wanted.exported_id().unwrap());
        let header = within(Some(Arc::clone(&wanted)), async { parent_header() }).await.unwrap();
        assert!(header.starts_with(&format!("00-{id}-")) && header.ends_with("-01"), "{header}");
        assert!(!header.contains("00f067aa0bc902b7"), "the span of the client: {header}");
        let slow = Tracer::new(TraceOptions { slow: Some(MS), percent: 0 }).begin(Some(sampled));
        assert_eq!(within(slow, async { parent_header() }).await, None);
        tracer.end(finished(&other, MS));
        for _ in 0..QUEUED_MAX + 3 {
            tracer.end(finished(&wanted, MS));
        }
        assert_eq!(tracer.dropped(), 3);
        assert!(queue.recv().await.unwrap().trace.context.is_sampled);
    }
}
