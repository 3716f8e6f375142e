//! W1 and W2: what a write relies on is young when it is sent, or the write is not sent.

use std::sync::{Arc, Mutex};

use jreg_oci::Reference;
use jreg_registry::{Error, PageRequest, Rule, TouchPolicy, UploadChunk};
use jreg_storage::testing::{Call, InterceptedStore, Interceptor, ManualClock};
use jreg_storage::{ByteStream, ETag, ErrorKind, PutMode, SendWindow, Store};

use crate::bench::{Bench, HOUR, MINUTE, bytes, digest, push_of};
use crate::gc::{index, referrer};

const ALL: PageRequest = PageRequest { last: None, limit: 100 };

async fn etag(bench: &Bench, prefix: &str) -> ETag {
    let keys = bench.keys(prefix).await;
    assert_eq!(keys.len(), 1, "{keys:?}");
    bench.faults.get(&keys[0]).await.unwrap().etag
}

/// An image of one config, which `bench` holds in repository `a`.
async fn image(bench: &Bench) -> String {
    let config = bytes(5);
    bench.push("a", &config).await;
    format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
        "config":{{"mediaType":"application/x","digest":"{}","size":5}},"layers":[]}}"#,
        digest(&config)
    )
}

#[tokio::test]
async fn old_links_are_written_again_before_a_manifest_relies_on_them() {
    let bench = Bench::new().await;
    let image = image(&bench).await;
    let pushed = etag(&bench, "links/").await;
    bench.clock.advance(HOUR - MINUTE);
    bench.put_manifest("a", "v1", &image).await.unwrap();
    assert_eq!(etag(&bench, "links/").await, pushed, "young enough");
    bench.clock.advance(2 * MINUTE);
    bench.put_manifest("a", "v2", &image).await.unwrap();
    assert_ne!(etag(&bench, "links/").await, pushed);
}

#[tokio::test]
async fn manifest_that_is_pushed_again_is_a_new_version() {
    let bench = Bench::new().await;
    let image = image(&bench).await;
    bench.put_manifest("a", "v1", &image).await.unwrap();
    let before = etag(&bench, "repositories/a/_manifests/").await;
    bench.put_manifest("a", "v1", &image).await.unwrap();
    assert_ne!(etag(&bench, "repositories/a/_manifests/").await, before);
}

/// A delete that was abandoned may still have a request in flight. It must not take the entry of a
/// referrer that was pushed again, and acknowledged, meanwhile.
#[tokio::test]
async fn referrer_that_is_pushed_again_has_a_new_entry() {
    let bench = Bench::new().await;
    let image = image(&bench).await;
    let signature = referrer(&image, &bytes(5));
    let reference = digest(signature.as_bytes()).to_string();
    bench.put_manifest("a", &reference, &signature).await.unwrap();

    let is_entry = |key: &str| key.contains("/_referrers/");
    let mut late = bench.gate.hold(move |call| call.operation == "delete" && is_entry(&call.key));
    let (repository, named) = (bench.repository("a"), reference.parse().unwrap());
    let deleting = tokio::spawn(async move { repository.manifest_delete(&named, None).await });
    late.reached(1).await;
    let mut next = bench.gate.hold(|call| call.operation == "delete");
    bench.another("a").await.manifest_put(push_of(&reference, &signature)).await.unwrap();
    late.release();
    next.reached(1).await;
    deleting.abort();
    deleting.await.unwrap_err();
    next.release();

    let found = bench.repository("a").referrers(&digest(image.as_bytes()), None, &ALL).await;
    let found = found.unwrap().items;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].digest.to_string(), reference);
}

#[tokio::test]
async fn manifest_with_an_endless_artifact_type_can_be_read_and_deleted() {
    let bench = Bench::new().await;
    let start = r#"{"schemaVersion":2,"manifests":[],"artifactType":""#;
    let manifest = format!("{start}{}\"}}", "a".repeat(4 * 1024 * 1024 - start.len() - 2));
    bench.put_manifest("a", "v1", &manifest).await.unwrap();
    let reference = Reference::Digest(digest(manifest.as_bytes()));
    let read = bench.repository("a").manifest_get(&reference, TouchPolicy::IfOld).await.unwrap();
    assert_eq!(read.bytes, manifest);
    bench.repository("a").manifest_delete(&reference, None).await.unwrap();
}

#[tokio::test]
async fn catalog_entry_is_kept_young_by_pushes() {
    let bench = Bench::new().await;
    let image = image(&bench).await;
    bench.put_manifest("a", "v1", &image).await.unwrap();
    let before = etag(&bench, "catalog/").await;
    bench.clock.advance(2 * HOUR);
    bench.put_manifest("a", "v2", &image).await.unwrap();
    assert_ne!(etag(&bench, "catalog/").await, before);
}

#[tokio::test]
async fn manifest_is_not_written_after_its_window() {
    let bench = Bench::new().await;
    let image = image(&bench).await;
    let mut read = bench.gate.hold_response(|call| call.key.starts_with("catalog/"));
    let (registry, clock) = (bench.registry.clone(), bench.clock.clone());
    let push = bench.put_manifest("a", "v1", &image);
    let late = async {
        read.reached(1).await;
        clock.advance(6 * MINUTE);
        read.release();
    };
    let (pushed, ()) = futures::join!(push, late);
    assert!(matches!(pushed, Err(Error::Interrupted { .. })), "{pushed:?}");
    // A hint is written with the reads, and is of no tag.
    let written = bench.keys("repositories/").await;
    assert!(written.iter().all(|key| key.as_str().contains("/_tagged/")), "{written:?}");
    let reference: Reference = "v1".parse().unwrap();
    let repository = registry.repository("a".parse().unwrap());
    repository.manifest_get(&reference, TouchPolicy::Never).await.unwrap_err();
}

#[tokio::test]
async fn asking_before_a_push_keeps_what_is_there_young() {
    let bench = Bench::new().await;
    let image = image(&bench).await;
    bench.put_manifest("a", "v1", &image).await.unwrap();
    let (link, manifest) = ("links/", "repositories/a/_manifests/");
    let before = (etag(&bench, link).await, etag(&bench, manifest).await);
    bench.clock.advance(2 * HOUR);
    let repository = bench.repository("a");
    let reference: Reference = "v1".parse().unwrap();
    repository.blob_stat(&digest(&bytes(5)), TouchPolicy::Never).await.unwrap();
    repository.manifest_get(&reference, TouchPolicy::Never).await.unwrap();
    assert_eq!((etag(&bench, link).await, etag(&bench, manifest).await), before);
    repository.blob_stat(&digest(&bytes(5)), TouchPolicy::IfOld).await.unwrap();
    repository.manifest_get(&reference, TouchPolicy::IfOld).await.unwrap();
    assert_ne!(etag(&bench, link).await, before.0);
    assert_ne!(etag(&bench, manifest).await, before.1);
}

#[tokio::test]
async fn mount_makes_sure_of_its_source_only_where_it_must() {
    let bench = Bench::new().await;
    let content = bytes(5);
    bench.push("b", &content).await;
    let source = etag(&bench, "links/").await;
    bench.clock.advance(2 * HOUR);
    let from = "b".parse().unwrap();
    bench.repository("a").blob_mount(&digest(&content), &from).await.unwrap().unwrap();
    let keys = bench.keys("links/").await;
    assert_eq!(keys.len(), 2);
    let touched = bench.faults.get(&keys[1]).await.unwrap().etag;
    assert_ne!(touched, source, "the source was old");
    let mounted = bench.faults.get(&keys[0]).await.unwrap().etag;
    bench.clock.advance(2 * HOUR);
    bench.repository("a").blob_mount(&digest(&content), &from).await.unwrap().unwrap();
    assert_ne!(bench.faults.get(&keys[0]).await.unwrap().etag, mounted, "the destination was old");
    assert_eq!(
        bench.faults.get(&keys[1]).await.unwrap().etag,
        touched,
        "the source did not matter"
    );
}

#[tokio::test]
async fn push_onto_an_old_link_makes_it_young() {
    let bench = Bench::new().await;
    let content = bytes(5);
    bench.push("a", &content).await;
    let before = etag(&bench, "links/").await;
    bench.clock.advance(2 * HOUR);
    let repository = bench.repository("a");
    repository.blob_push(&digest(&content), UploadChunk::of(content)).await.unwrap();
    assert_ne!(etag(&bench, "links/").await, before);
}

/// A backup may be restored in two steps, and a bucket replicated in any order: a client that pulls
/// meanwhile must not make it worse.
#[tokio::test]
async fn reading_a_tag_whose_manifest_is_absent_changes_nothing() {
    let bench = Bench::new().await;
    let image = image(&bench).await;
    bench.put_manifest("a", "v1", &image).await.unwrap();
    let manifest = bench.keys("repositories/a/_manifests/").await.remove(0);
    let saved = bench.faults.get(&manifest).await.unwrap();
    bench.faults.delete(&manifest, None).await.unwrap();
    let reader = bench.another("a").await;
    bench.writes();
    let reference: Reference = "v1".parse().unwrap();
    for touch in [TouchPolicy::Never, TouchPolicy::IfOld] {
        let read = reader.manifest_get(&reference, touch).await;
        assert!(matches!(read, Err(Error::ManifestUnknown { .. })), "{read:?}");
    }
    assert_eq!(bench.writes(), [""; 0]);
    bench.faults.put(&manifest, saved.bytes, PutMode::Create).await.unwrap();
    reader.manifest_get(&reference, TouchPolicy::Never).await.unwrap();
}

/// What an index references is looked at, and read only to be written again, a few at a time: six
/// indexes of manifests as large as may be once took gigabytes.
#[tokio::test]
async fn children_of_an_index_are_read_only_to_be_touched() {
    const CHILDREN: usize = 20;
    let bench = Bench::new().await;
    let padding = "x".repeat(4 * 1024 * 1024 - 1024);
    let child = |n: usize| {
        format!(
            r#"{{"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[],
            "annotations":{{"n":"{n}","padding":"{padding}"}}}}"#
        )
    };
    let children: Vec<String> = (0..CHILDREN).map(child).collect();
    for child in &children {
        let reference = digest(child.as_bytes()).to_string();
        bench.put_manifest("a", &reference, child).await.unwrap();
    }
    let children: Vec<&str> = children.iter().map(String::as_str).collect();
    let index = index(&children);
    let is_child = |key: &str| key.contains("/_manifests/");
    bench.calls.take();
    bench.put_manifest("a", "v1", &index).await.unwrap();
    let calls = bench.calls.take();
    let count = |operation| {
        calls.iter().filter(|call| call.operation == operation && is_child(&call.key)).count()
    };
    assert_eq!((count("head"), count("get")), (CHILDREN, 1), "of the index itself there is a read");

    bench.clock.advance(2 * HOUR);
    let own = digest(index.as_bytes()).to_string().replace("sha256:", "");
    let mut reads = bench.gate.hold(move |call| {
        call.operation == "get" && is_child(&call.key) && !call.key.ends_with(&own)
    });
    let (repository, push) = (bench.repository("a"), push_of("v2", &index));
    let pushing = tokio::spawn(async move { repository.manifest_put(push).await });
    reads.reached(4).await;
    let more = tokio::time::timeout(std::time::Duration::from_millis(200), reads.reached(5)).await;
    assert!(more.is_err(), "32 MiB are four of 4 MiB, each as it was and as it is written");
    reads.release();
    pushing.await.unwrap().unwrap();
    let touched = bench.writes().into_iter().filter(|write| is_child(write)).count();
    assert_eq!(touched, CHILDREN + 1);
}

#[tokio::test]
async fn tag_that_moved_while_it_was_followed_is_followed_again() {
    let bench = Bench::new().await;
    let (first, second) = (image(&bench).await, image(&bench).await + " ");
    bench.put_manifest("a", "v1", &first).await.unwrap();
    let mut read = bench
        .gate
        .hold(|call| call.operation == "get" && call.key.starts_with("repositories/a/_manifests/"));
    let reader = bench.registry.repository("a".parse().unwrap());
    let reading = tokio::spawn(async move {
        reader.manifest_get(&"v1".parse().unwrap(), TouchPolicy::Never).await
    });
    read.reached(1).await;
    // Another instance, which is not held back.
    let other = jreg_registry::Registry::open(
        bench.calls.clone(),
        bench.clock.clone(),
        jreg_registry::RegistryOptions::default(),
    );
    let other = other.await.unwrap().repository("a".parse().unwrap());
    let push = jreg_registry::ManifestPush {
        reference: "v1".parse().unwrap(),
        tags: Vec::new(),
        media_type: None,
        bytes: second.clone().into(),
        condition: None,
    };
    other.manifest_put(push).await.unwrap();
    let gone = Reference::Digest(digest(first.as_bytes()));
    other.manifest_delete(&gone, None).await.unwrap();
    read.release();
    assert_eq!(reading.await.unwrap().unwrap().bytes, second);
}

/// A store that signs its requests, on a machine that sleeps once just before it signs one.
#[derive(Debug)]
struct Sleeper {
    clock: Arc<ManualClock>,
    /// What the key of that request contains, until it has slept.
    before: Mutex<Option<&'static str>>,
}

#[async_trait::async_trait]
impl Interceptor for Sleeper {
    type Plan = ();

    async fn before(&self, call: &Call) -> jreg_storage::Result<()> {
        if call.is_read() {
            return Ok(());
        }
        if self.before.lock().unwrap().take_if(|part| call.key.contains(*part)).is_some() {
            self.clock.advance(HOUR);
        }
        SendWindow::check_current().map_err(|closed| {
            jreg_storage::Error::with_source(ErrorKind::Unavailable, call.key.as_str(), closed)
        })
    }

    async fn after(&self, _: &Call, (): &()) -> jreg_storage::Result<()> {
        Ok(())
    }

    fn stream(&self, _: &Call, (): &(), stream: ByteStream) -> ByteStream {
        stream
    }
}

/// Whether a record is written although the machine sleeps for an hour between its writer's look at
/// the window and the signing of that write: of a mount for a link, else of a manifest push.
async fn is_written_after_sleep(key: &'static str, broken: Option<Rule>) -> bool {
    let bench = Bench::new().await;
    let image = image(&bench).await;
    let count = async || bench.keys("").await.iter().filter(|of| of.as_str().contains(key)).count();
    let sleeper = Sleeper { clock: bench.clock.clone(), before: Mutex::new(Some(key)) };
    let store = Arc::new(InterceptedStore::with(bench.calls.clone(), sleeper));
    let (clock, options) = (bench.clock.clone(), jreg_registry::RegistryOptions::default());
    let registry = jreg_registry::Registry::open(store.clone(), clock, options).await.unwrap();
    let registry = broken.map_or_else(|| registry.clone(), |rule| registry.without(rule));
    let (a, b) = (registry.repository("a".parse().unwrap()), "b".parse().unwrap());
    let before = count().await;
    let failed = match key {
        "links/" => {
            let from = "a".parse().unwrap();
            registry.repository(b).blob_mount(&digest(&bytes(5)), &from).await.err()
        }
        _ => a.manifest_put(push_of("v1", &image)).await.err(),
    };
    assert!(store.interceptor().before.lock().unwrap().is_none(), "{key}: it slept");
    assert!(broken.is_some() || failed.is_some(), "{key}: it is not acknowledged");
    count().await > before
}

#[tokio::test]
async fn a_write_that_is_signed_after_a_sleep_is_not_sent() {
    for key in ["/_manifests/", "/_tags/", "/_tagged/", "catalog/", "links/"] {
        assert!(!is_written_after_sleep(key, None).await, "{key}");
        let broken = Some(Rule::WindowAtSend);
        assert!(is_written_after_sleep(key, broken).await, "{key}: the rule is needed");
    }
}
