//! What is counted of events. The names of sinks, which the settings say, are the only labels that the
//! code does not know.

use std::fmt::Debug;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use jreg_registry::SequencerReport;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::{Counters, LabelValue, MetricLabels, saturated};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SinkLabels {
    sink: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DeliveryLabels {
    sink: String,
    outcome: &'static str,
}

/// What became of an attempt to send an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryOutcome {
    Sent,
    /// The sink did not work.
    Failed,
    /// The sink refused the event.
    Refused,
    /// It is a dead letter.
    Dead,
    /// It was deleted from the log before it was sent.
    Lost,
}

impl DeliveryOutcome {
    const ALL: [Self; 5] = [Self::Sent, Self::Failed, Self::Refused, Self::Dead, Self::Lost];

    fn word(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Dead => "dead",
            Self::Lost => "lost",
        }
    }
}

/// What is counted of events.
#[derive(Debug, Default)]
pub struct EventMetrics {
    sequenced: Counters<1>,
    waiting: Gauge,
    waiting_age: Gauge<f64, AtomicU64>,
    deliveries: Family<DeliveryLabels, Counter>,
    lag: Family<SinkLabels, Gauge>,
    lag_seconds: Family<SinkLabels, Gauge<f64, AtomicU64>>,
    /// Whether this process sequences and sends.
    pub is_sender: Gauge,
}

impl EventMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "events_sequenced",
            "Events that left the queue, by outcome (appended, dead, damaged)",
            self.sequenced.clone(),
        );
        registry.register(
            "events_waiting",
            "Events in the queue whose changes have not taken effect yet",
            self.waiting.clone(),
        );
        registry.register_with_unit(
            "events_waiting_age",
            "Age of the oldest of them",
            Unit::Seconds,
            self.waiting_age.clone(),
        );
        registry.register(
            "events_deliveries",
            "Events by sink and outcome (sent, failed, refused, dead, lost)",
            self.deliveries.clone(),
        );
        registry.register(
            "events_lag",
            "Events of the log that a sink was not sent yet",
            self.lag.clone(),
        );
        registry.register_with_unit(
            "events_lag",
            "Time since the first of them happened",
            Unit::Seconds,
            self.lag_seconds.clone(),
        );
        registry.register(
            "events_sender",
            "Whether this process sequences and sends events",
            self.is_sender.clone(),
        );
    }

    /// Makes the counters of a sink appear.
    pub fn add_sink(&self, sink: &str) {
        for outcome in DeliveryOutcome::ALL {
            self.delivery(sink, outcome);
        }
    }

    pub fn count_pass(&self, pass: &SequencerReport) {
        for (outcome, count) in
            [("appended", pass.appended), ("dead", pass.dead), ("damaged", pass.damaged)]
        {
            let labels = MetricLabels([("outcome", LabelValue::Text(outcome))]);
            self.sequenced.get_or_create(&labels).inc_by(count as u64);
        }
        self.waiting.set(saturated(pass.waiting));
        self.waiting_age.set(pass.oldest.as_secs_f64());
    }

    pub fn count_deliveries(&self, sink: &str, outcome: DeliveryOutcome, events: u64) {
        self.delivery(sink, outcome).inc_by(events);
    }

    pub fn set_lag(&self, sink: &str, events: u64, lag: Duration) {
        let labels = SinkLabels { sink: sink.to_owned() };
        self.lag.get_or_create(&labels).set(i64::try_from(events).unwrap_or(i64::MAX));
        self.lag_seconds.get_or_create(&labels).set(lag.as_secs_f64());
    }

    /// This process sends no more: another one's values count.
    pub fn forget_lag(&self) {
        self.lag.clear();
        self.lag_seconds.clear();
        self.waiting.set(0);
        self.waiting_age.set(0.0);
    }

    fn delivery(&self, sink: &str, outcome: DeliveryOutcome) -> Counter {
        let labels = DeliveryLabels { sink: sink.to_owned(), outcome: outcome.word() };
        self.deliveries.get_or_create_owned(&labels)
    }
}
