//! [`EventsJob`]: sequences events, and sends them to the sinks.
//!
//! Instances that share a bucket take turns by a lease: one does both. Nothing depends on it but the
//! number of repetitions.

use std::sync::Arc;
use std::time::Duration;

use futures::future::{join, join_all};
use jreg_events::{
    DeliveryError, DeliveryObserver, DeliveryProgress, DeliveryStatus, SinkClient, SinkDelivery,
};
use jreg_profile::{WorkName, work};
use jreg_registry::{DeadLetter, Lease, LeaseKind, Registry, Sequencer, SequencerReport, SinkName};
use jreg_storage::{Clock, error_chain};
use jreg_telemetry::metrics::{DeliveryOutcome, GaugeGuard, Metrics};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Duration of the lease.
const LEASE: Duration = Duration::from_secs(60);
/// Renewal interval of the lease.
const LEASE_RENEWAL: Duration = Duration::from_secs(20);
/// Interval at which an instance without the lease tries to take it.
const LEASE_ATTEMPTS: Duration = Duration::from_secs(15);
/// Time between a queued event and the pass that confirms it: by then its change has mostly been made.
const CHANGE_TIME: Duration = Duration::from_millis(50);
/// Interval of passes while a young event waits for its change.
const WAITING_INTERVAL: Duration = Duration::from_secs(1);
/// The age from which on an event is not young.
const WAITING_MAX: Duration = Duration::from_secs(10);
/// Maximum time until a sink's cursor is read again: a replay changes it.
const CURSOR_INTERVAL: Duration = Duration::from_secs(10);
/// Interval at which old events are deleted.
const REMOVAL_INTERVAL: Duration = Duration::from_secs(3600);

/// Sequences events, and sends them.
#[derive(Debug)]
pub struct EventsJob {
    pub registry: Registry,
    pub metrics: Arc<Metrics>,
    pub clock: Arc<dyn Clock>,
    pub clients: Vec<SinkClient>,
    /// For how long events are kept.
    pub keep: Duration,
    /// Mean interval of passes over the queue.
    pub interval: Duration,
    /// Name of this instance in the lease.
    pub holder: String,
    /// Whether other instances may share the store.
    pub is_shared: bool,
}

/// Counts and logs deliveries.
#[derive(Debug)]
struct DeliveryLog(Arc<Metrics>);

impl DeliveryObserver for DeliveryLog {
    fn sent(&self, sink: &SinkName) {
        self.0.events.count_deliveries(sink.as_str(), DeliveryOutcome::Sent, 1);
    }

    fn failed(&self, sink: &SinkName, error: &DeliveryError) {
        let outcome = match error {
            DeliveryError::Refused(_) => DeliveryOutcome::Refused,
            DeliveryError::Status { .. } | DeliveryError::Unreachable(_) => DeliveryOutcome::Failed,
        };
        self.0.events.count_deliveries(sink.as_str(), outcome, 1);
        tracing::warn!(sink = sink.as_str(), %error, "cannot send an event; retrying later");
    }

    fn dead_letter(&self, sink: &SinkName, letter: &DeadLetter) {
        self.0.events.count_deliveries(sink.as_str(), DeliveryOutcome::Dead, 1);
        let (event, error) = (letter.event.id(), &letter.error);
        tracing::error!(sink = sink.as_str(), event, error, "an event became a dead letter");
    }

    fn lost(&self, sink: &SinkName, events: u64) {
        self.0.events.count_deliveries(sink.as_str(), DeliveryOutcome::Lost, events);
        tracing::error!(
            sink = sink.as_str(),
            events,
            "events were deleted from the log, or cannot be read, before they were sent"
        );
    }

    fn status(&self, sink: &SinkName, status: DeliveryStatus) {
        self.0.events.set_lag(sink.as_str(), status.lag_events, status.lag);
    }
}

/// Runs the job until `stopping`.
pub(crate) fn spawn_events(job: EventsJob, tasks: &TaskTracker, stopping: CancellationToken) {
    let running = work(WorkName("job", "EventsJob"), job.run());
    tasks.spawn(async move { stopping.run_until_cancelled(running).await });
}

impl EventsJob {
    async fn run(self) {
        for client in &self.clients {
            self.metrics.events.add_sink(client.options().name.as_str());
        }
        let log = Arc::new(DeliveryLog(Arc::clone(&self.metrics)));
        let mut job = self;
        let clients = std::mem::take(&mut job.clients);
        let deliveries = clients.into_iter().map(|client| {
            let (clock, log) = (Arc::clone(&job.clock), Arc::clone(&log));
            SinkDelivery::new(job.registry.clone(), client, clock, log)
        });
        let mut deliveries: Vec<_> = deliveries.collect();
        if !job.is_shared {
            return job.work(&mut deliveries).await;
        }
        loop {
            match job.registry.take_lease(LeaseKind::Events, &job.holder, LEASE).await {
                Ok(Ok(lease)) => job.work_under(lease, &mut deliveries).await,
                Ok(Err(held)) => {
                    tracing::debug!(holder = held.holder, "another instance sends events");
                }
                Err(error) => {
                    tracing::warn!(error = error_chain(&error), "cannot take the events lease");
                }
            }
            sleep(super::spread(LEASE_ATTEMPTS)).await;
        }
    }

    /// Works for as long as the lease can be renewed.
    async fn work_under(&self, mut lease: Lease, deliveries: &mut [SinkDelivery]) {
        let working = self.work(deliveries);
        tokio::pin!(working);
        let mut renewed_at = Instant::now();
        loop {
            tokio::select! {
                () = &mut working => return,
                () = sleep(LEASE_RENEWAL) => {}
            }
            match self.registry.renew_lease(lease.clone(), LEASE).await {
                Ok(Some(renewed)) => (lease, renewed_at) = (renewed, Instant::now()),
                Ok(None) => break,
                Err(_) if renewed_at.elapsed() < LEASE => {}
                Err(_) => break,
            }
        }
        self.metrics.events.forget_lag();
        tracing::info!("another instance may have taken over the events");
    }

    /// Sequences, and sends to every sink. No sink waits for another.
    async fn work(&self, deliveries: &mut [SinkDelivery]) {
        let _sending = GaugeGuard::new(&self.metrics.events.is_sender);
        let (end, ends) = watch::channel(0);
        let sinks: Vec<SinkName> = deliveries.iter().map(|each| each.sink().clone()).collect();
        let sending = deliveries.iter_mut().map(|delivery| send(delivery, ends.clone()));
        join(self.sequence(&sinks, end), join_all(sending)).await;
    }

    /// Makes passes over the queue.
    async fn sequence(&self, sinks: &[SinkName], end: watch::Sender<u64>) {
        let mut sequencer = self.sequencer(sinks).await;
        let mut removed_at: Option<Instant> = None;
        loop {
            let pass = self.registry.sequence_events(&mut sequencer, &self.registry).await;
            let wait = match pass {
                Ok(pass) => {
                    self.metrics.events.count_pass(&pass);
                    end.send_if_modified(|end| {
                        std::mem::replace(end, pass.next_sequence) != pass.next_sequence
                    });
                    wait_after(&pass, self.interval)
                }
                Err(error) => {
                    let error = error_chain(&error);
                    tracing::warn!(error, "cannot sequence events; retrying later");
                    super::spread(self.interval)
                }
            };
            if removed_at.is_none_or(|at| at.elapsed() >= REMOVAL_INTERVAL) {
                self.remove_old().await;
                removed_at = Some(Instant::now());
            }
            if timeout(wait, self.registry.event_queued()).await.is_ok() {
                sleep(CHANGE_TIME).await;
            }
        }
    }

    /// Creates the cursors of new sinks before anything is sequenced, so that they miss nothing from now
    /// on.
    async fn sequencer(&self, sinks: &[SinkName]) -> Sequencer {
        loop {
            let cursors = join_all(sinks.iter().map(|sink| self.registry.sink_cursor(sink))).await;
            match cursors.into_iter().collect::<Result<Vec<_>, _>>() {
                Ok(cursors) => {
                    return Sequencer::starting_at(cursors.iter().map(|stored| &stored.cursor));
                }
                Err(error) => {
                    let error = error_chain(&error);
                    tracing::warn!(error, "cannot read the cursors of sinks; retrying later");
                    sleep(super::spread(self.interval)).await;
                }
            }
        }
    }

    async fn remove_old(&self) {
        match self.registry.remove_old_events(self.keep).await {
            Ok(0) => {}
            Ok(segments) => tracing::debug!(segments, "deleted old events"),
            Err(error) => {
                tracing::warn!(error = error_chain(&error), "cannot delete old events");
            }
        }
    }
}

fn wait_after(pass: &SequencerReport, interval: Duration) -> Duration {
    match pass.waiting {
        _ if pass.more => Duration::ZERO,
        1.. if pass.oldest < WAITING_MAX => WAITING_INTERVAL.min(interval),
        _ => super::spread(interval),
    }
}

/// Sends to one sink.
async fn send(delivery: &mut SinkDelivery, mut ends: watch::Receiver<u64>) {
    loop {
        let end = *ends.borrow_and_update();
        let wait = match delivery.run_pass(end).await {
            Ok(DeliveryProgress::Idle) => super::spread(CURSOR_INTERVAL),
            Ok(DeliveryProgress::Retry(wait)) => {
                sleep(wait).await;
                continue;
            }
            Err(error) => {
                let (sink, error) = (delivery.sink().as_str(), error_chain(&error));
                tracing::warn!(sink, error, "cannot read the event log; retrying later");
                sleep(super::spread(CURSOR_INTERVAL)).await;
                continue;
            }
        };
        // The sequencer may have ended first.
        drop(timeout(wait, ends.changed()).await);
    }
}

/// Queues an event of something that has happened. Its loss is logged.
pub(crate) async fn record(registry: &Registry, event: jreg_registry::Event) {
    if let Err(error) = registry.record_event(&event).await {
        let action = event.action.name();
        tracing::warn!(action, error = error_chain(&error), "an event was lost");
    }
}
