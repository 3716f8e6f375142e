//! What is counted of mirrors. Their namespaces, which the settings say, are the only labels that the code does
//! not know.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::saturated;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MirrorLabels {
    mirror: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SourceLabels {
    mirror: String,
    source: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SyncLabels {
    mirror: String,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    mirror: String,
    kind: &'static str,
    outcome: &'static str,
}

/// What is counted of mirrors.
#[derive(Debug, Default)]
pub struct MirrorMetrics {
    requests: Family<RequestLabels, Counter>,
    received: Family<MirrorLabels, Counter>,
    manifests: Family<SourceLabels, Counter>,
    served: Family<SourceLabels, Counter>,
    rate_limit: Family<MirrorLabels, Gauge>,
    evicted: Family<MirrorLabels, Counter>,
    synced: Family<SyncLabels, Counter>,
    fallbacks: Counter,
    memory: Gauge,
}

impl MirrorMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "mirror_upstream_requests",
            "Requests to mirrored registries, by kind and outcome",
            self.requests.clone(),
        );
        registry.register_with_unit(
            "mirror_upstream_received",
            "Bytes of bodies from mirrored registries",
            Unit::Bytes,
            self.received.clone(),
        );
        registry.register(
            "mirror_manifests",
            "Manifests that mirrors were asked for, by source (cache, upstream, stale, failed)",
            self.manifests.clone(),
        );
        registry.register_with_unit(
            "mirror_served",
            "Bytes of blobs whose download from a mirror began, by source (cache, upstream)",
            Unit::Bytes,
            self.served.clone(),
        );
        registry.register(
            "mirror_rate_limit_remaining",
            "Pulls that a mirrored registry still allows, as it last said",
            self.rate_limit.clone(),
        );
        registry.register("mirror_evicted", "Manifests that were evicted", self.evicted.clone());
        registry.register(
            "mirror_synced",
            "Tags of a schedule by result (fetched, present, failed)",
            self.synced.clone(),
        );
        registry.register(
            "mirror_reader_fallbacks",
            "Readers of blobs that read from a mirrored registry by a request of their own",
            self.fallbacks.clone(),
        );
        registry.register_with_unit(
            "mirror_memory",
            "Memory that is reserved for blobs on their way to readers",
            Unit::Bytes,
            self.memory.clone(),
        );
    }

    /// Makes the counters of a mirror appear.
    pub fn add(&self, mirror: &str) {
        for source in ["cache", "upstream", "stale", "failed"] {
            self.manifests_of(mirror, source);
        }
        for source in ["cache", "upstream"] {
            self.served_of(mirror, source);
        }
    }

    /// A manifest was asked for.
    pub fn count_response(&self, mirror: &str, source: &'static str) {
        self.manifests_of(mirror, source).inc();
    }

    /// A download of so many bytes began.
    pub fn count_bytes(&self, mirror: &str, source: &'static str, bytes: u64) {
        self.served_of(mirror, source).inc_by(bytes);
    }

    /// A reader reads alone.
    pub fn count_fallback(&self) {
        self.fallbacks.inc();
    }

    /// How many readers have read alone.
    pub fn fallbacks(&self) -> u64 {
        self.fallbacks.get()
    }

    pub fn count_evicted(&self, mirror: &str, manifests: u64) {
        let labels = MirrorLabels { mirror: mirror.to_owned() };
        self.evicted.get_or_create_owned(&labels).inc_by(manifests);
    }

    /// A scheduled prefetch is done with a tag.
    pub fn count_synced(&self, mirror: &str, result: &'static str) {
        let labels = SyncLabels { mirror: mirror.to_owned(), result };
        self.synced.get_or_create_owned(&labels).inc();
    }

    /// Takes over what the client of a mirror has counted.
    pub fn set_requests(
        &self,
        mirror: &str,
        kind: &'static str,
        outcome: &'static str,
        count: u64,
    ) {
        let labels = RequestLabels { mirror: mirror.to_owned(), kind, outcome };
        raise(&self.requests.get_or_create_owned(&labels), count);
    }

    pub fn set_received(&self, mirror: &str, bytes: u64) {
        let labels = MirrorLabels { mirror: mirror.to_owned() };
        raise(&self.received.get_or_create_owned(&labels), bytes);
    }

    pub fn set_rate_limit(&self, mirror: &str, remaining: u64) {
        let labels = MirrorLabels { mirror: mirror.to_owned() };
        let remaining = i64::try_from(remaining).unwrap_or(i64::MAX);
        self.rate_limit.get_or_create(&labels).set(remaining);
    }

    pub fn set_memory(&self, bytes: u64) {
        self.memory.set(saturated(usize::try_from(bytes).unwrap_or(usize::MAX)));
    }

    fn manifests_of(&self, mirror: &str, source: &'static str) -> Counter {
        let labels = SourceLabels { mirror: mirror.to_owned(), source };
        self.manifests.get_or_create_owned(&labels)
    }

    fn served_of(&self, mirror: &str, source: &'static str) -> Counter {
        let labels = SourceLabels { mirror: mirror.to_owned(), source };
        self.served.get_or_create_owned(&labels)
    }
}

/// A counter follows a count that only grows.
fn raise(counter: &Counter, count: u64) {
    counter.inc_by(count.saturating_sub(counter.get()));
}
