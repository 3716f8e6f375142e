//! Jobs run periodically until they are stopped.

#![allow(clippy::unwrap_used)]
use std::sync::Arc;

use jreg_lifecycle::{CurrentRules, LifecycleRules};
use jreg_registry::{
    BYTES_WAIT_MIN, GcOptions, LeaseKind, ManifestPush, PageRequest, Registry, RegistryOptions,
    RetentionOptions, UploadChunk,
};
use jreg_storage::testing::{Fault, FaultyStore, ManualClock};
use jreg_storage::{ErrorKind, ListRequest, MemoryStore, PutMode, Store, SystemClock};
use jreg_telemetry::audit::{AuditLog, AuditOptions, AuditTarget};
use jreg_telemetry::metrics::{Metrics, MetricsForm};

use super::*;

const HOUR: Duration = Duration::from_secs(3600);
const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

#[tokio::test(start_paused = true)]
async fn reaps_again_and_again_until_it_is_stopped() {
    let clock = Arc::new(ManualClock::default());
    let store = Arc::new(MemoryStore::with_clock(clock.clone()));
    let options = RegistryOptions::default();
    let registry = Registry::open(store.clone(), clock.clone(), options).await.unwrap();
    let metrics = Arc::new(Metrics::new());
    let (tasks, stopping) = (TaskTracker::new(), CancellationToken::new());
    let job =
        ExpiredUploadsJob { registry: registry.clone(), metrics: metrics.clone(), interval: HOUR };
    spawn(job, &tasks, stopping.clone());
    let repository = registry.repository("a".parse().unwrap());
    for round in 1..=2 {
        let id = repository.upload_start(None);
        repository.upload_append(&id, UploadChunk::of("x")).await.unwrap();
        clock.advance(WEEK);
        tokio::time::sleep(2 * HOUR).await;
        let left = store.list(&ListRequest::below("uploads/")).await.unwrap();
        assert_eq!(left.entries, []);
        assert_eq!(metrics.uploads_expired.get(), round);
    }
    stopping.cancel();
    tasks.close();
    tasks.wait().await;
}

/// Whether the record of write probes is there.
async fn was_probed(store: &FaultyStore) -> bool {
    store.get(&"probe/writable".parse().unwrap()).await.is_ok()
}

#[tokio::test(start_paused = true)]
async fn a_store_is_written_to_where_clients_write_nothing() {
    const SECOND: Duration = Duration::from_secs(1);
    let store = Arc::new(FaultyStore::new(Arc::new(MemoryStore::new())));
    let metrics = Arc::new(Metrics::new());
    let observed = crate::store::surrounded(store.clone(), false, &metrics);
    let (clock, options) = (Arc::new(SystemClock::new()), RegistryOptions::default());
    let registry = Registry::open(observed.clone(), clock, options).await.unwrap();
    let (tasks, stopping) = (TaskTracker::new(), CancellationToken::new());
    WriteProbeJob { registry, metrics: metrics.clone() }.spawn(&tasks, stopping.clone());
    for _ in 0..9 {
        tokio::time::sleep(10 * SECOND).await;
        observed.put(&"a".parse().unwrap(), "1".into(), PutMode::Overwrite).await.unwrap();
    }
    assert!(!was_probed(&store).await);
    tokio::time::sleep(61 * SECOND).await;
    assert!(was_probed(&store).await && metrics.is_store_writable());
    store.inject(Fault::fail(ErrorKind::Unavailable).from_then_on());
    tokio::time::sleep(61 * SECOND).await;
    assert!(!metrics.is_store_writable());
    store.heal();
    tokio::time::sleep(61 * SECOND).await;
    assert!(metrics.is_store_writable());
    stopping.cancel();
    tasks.close();
    tasks.wait().await;
}

fn loose_blob() -> (jreg_oci::Digest, UploadChunk) {
    (jreg_oci::Digest::of(jreg_oci::Algorithm::Sha256, b"x"), UploadChunk::of("x"))
}

#[tokio::test(start_paused = true)]
async fn of_several_instances_the_one_with_the_lease_runs_gc() {
    let clock = Arc::new(ManualClock::default());
    let memory = MemoryStore::builder().remote();
    let store: Arc<dyn Store> = Arc::new(memory.clock(clock.clone()).build());
    let open = async || {
        Registry::open(store.clone(), clock.clone(), RegistryOptions::default()).await.unwrap()
    };
    let (one, other) = (open().await, open().await);
    let (digest, chunk) = loose_blob();
    one.repository("a".parse().unwrap()).blob_push(&digest, chunk).await.unwrap();
    clock.advance(WEEK);
    let metrics = Arc::new(Metrics::new());
    let job = |registry: &Registry, holder: &str| GcJob {
        registry: registry.clone(),
        metrics: metrics.clone(),
        audit: AuditLog::off(),
        options: GcOptions { bytes_wait: BYTES_WAIT_MIN, ..GcOptions::default() },
        interval: HOUR,
        holder: holder.to_owned(),
        is_shared: true,
    };
    let lease = other.take_lease(LeaseKind::Gc, "other", HOUR).await.unwrap().unwrap();
    job(&one, "one").run().await;
    assert_eq!(store.list(&ListRequest::below("links/")).await.unwrap().entries.len(), 1);
    other.free_lease(lease).await.unwrap();
    job(&one, "one").run().await;
    assert_eq!(store.list(&ListRequest::below("links/")).await.unwrap().entries, []);
    // The lease was released.
    job(&other, "other").run().await;
    let text = metrics.render(MetricsForm::OpenMetrics, &one.usage());
    assert!(text.contains("jreg_gc_runs_total{outcome=\"ok\"} 2"), "{text}");
}

/// A tag whose manifest is absent is removed after the grace period, and the audit log has its
/// digest.
#[tokio::test(start_paused = true)]
async fn removed_tags_are_in_the_audit_log() {
    const INDEX: &str = r#"{"schemaVersion":2,"manifests":[]}"#;
    let clock = Arc::new(ManualClock::default());
    let store = Arc::new(MemoryStore::with_clock(clock.clone()));
    let registry =
        Registry::open(store.clone(), clock.clone(), RegistryOptions::default()).await.unwrap();
    let push = jreg_registry::ManifestPush {
        reference: "v1".parse().unwrap(),
        tags: Vec::new(),
        media_type: None,
        bytes: INDEX.into(),
        condition: None,
    };
    let pushed = registry.repository("a".parse().unwrap()).manifest_put(push).await.unwrap();
    let manifests = store.list(&ListRequest::below("repositories/a/_manifests/")).await.unwrap();
    store.delete(&manifests.entries[0].key, None).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    let options = AuditOptions { target: AuditTarget::File(path.clone()), reads: true };
    let metrics = Arc::new(Metrics::new());
    let audit = AuditLog::open(&options, &metrics).unwrap();
    let job = GcJob {
        registry,
        metrics,
        audit: audit.clone(),
        options: GcOptions::default(),
        interval: HOUR,
        holder: "one".to_owned(),
        is_shared: false,
    };
    for _ in 0..2 {
        clock.advance(WEEK);
        job.run().await;
    }
    audit.flush().await;
    let text = std::fs::read_to_string(&path).unwrap();
    let line: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(line["operation"], "tag_remove");
    assert_eq!(line["repository"], "a");
    assert_eq!(line["reference"], "v1");
    assert_eq!(line["digest"], pushed.digest.to_string());
}

#[tokio::test(start_paused = true)]
async fn retention_takes_a_lease_of_its_own_and_counts_what_it_removed() {
    let clock = Arc::new(ManualClock::default());
    let memory = MemoryStore::builder().remote();
    let store: Arc<dyn Store> = Arc::new(memory.clock(clock.clone()).build());
    let options = RegistryOptions::default();
    let registry = Registry::open(store.clone(), clock.clone(), options).await.unwrap();
    let repository = registry.repository("a".parse().unwrap());
    for tag in ["v1", "dev"] {
        let push = ManifestPush {
            reference: tag.parse().unwrap(),
            tags: Vec::new(),
            media_type: None,
            bytes: r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#.into(),
            condition: None,
        };
        repository.manifest_put(push).await.unwrap();
    }
    clock.advance(WEEK);
    let rules = "[[retention]]\nrepositories = ['a']\n[[retention.keep]]\ntags = ['v*']\n[end]\n";
    let rules = Arc::new(LifecycleRules::parse(rules).unwrap());
    let metrics = Arc::new(Metrics::new());
    let job = RetentionJob {
        registry: registry.with_rules(CurrentRules::new(rules)),
        metrics: metrics.clone(),
        audit: AuditLog::off(),
        options: RetentionOptions::default(),
        interval: HOUR,
        holder: "one".to_owned(),
        is_shared: true,
    };
    let held = registry.take_lease(LeaseKind::Retention, "other", HOUR).await.unwrap().unwrap();
    job.run().await;
    let tags = async || repository.tags(&PageRequest { limit: 9, last: None }).await.unwrap().items;
    assert_eq!(tags().await.len(), 2, "another instance has the lease");
    registry.free_lease(held).await.unwrap();
    let _gc = registry.take_lease(LeaseKind::Gc, "other", HOUR).await.unwrap().unwrap();
    job.run().await;
    assert_eq!(tags().await.len(), 1);
    let text = metrics.render(MetricsForm::OpenMetrics, &registry.usage());
    assert!(text.contains("jreg_retention_tags_total{outcome=\"removed\"} 1"), "{text}");
}
