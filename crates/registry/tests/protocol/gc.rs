//! Collecting: what goes, what stays and why, and what a run leaves for the next one. The
//! interleavings with writers are in `interleaved/`.

use std::time::Duration;

use jreg_oci::Reference;
use jreg_registry::{
    Error, GcActionKind, GcError, GcOptions, GcReport, LeaseKind, NoObserver, PageRequest,
    Registry, RegistryOptions, TouchPolicy, UploadChunk,
};
use jreg_storage::testing::{Call, Fault};
use jreg_storage::{ErrorKind, MemoryStore, PutMode, Store, TombstoneStore};

use crate::bench::{Actions, Bench, HOUR, MINUTE, bytes, digest};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// The tags of a repository.
async fn tags(bench: &Bench, name: &str) -> Vec<String> {
    let page = PageRequest { limit: 100, last: None };
    match bench.repository(name).tags(&page).await {
        Ok(page) => page.items.iter().map(ToString::to_string).collect(),
        Err(Error::NameUnknown { .. }) => Vec::new(),
        Err(error) => panic!("{error}"),
    }
}

pub(crate) fn options() -> GcOptions {
    GcOptions { history_keep: Duration::ZERO, share_max_percent: 100, ..GcOptions::default() }
}

async fn collect(bench: &Bench) -> GcReport {
    collect_with(bench, &options()).await
}

async fn collect_with(bench: &Bench, options: &GcOptions) -> GcReport {
    bench.registry.collect_garbage(options, &NoObserver).await.unwrap()
}

pub(crate) fn image(config: &[u8]) -> String {
    let (digest, size) = (digest(config), config.len());
    format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
        "config":{{"mediaType":"application/x","digest":"{digest}","size":{size}}},"layers":[]}}"#
    )
}

pub(crate) fn index(children: &[&str]) -> String {
    let children: Vec<_> = children
        .iter()
        .map(|child| {
            let (digest, size) = (digest(child.as_bytes()), child.len());
            let kind = "application/vnd.oci.image.manifest.v1+json";
            format!(r#"{{"mediaType":"{kind}","digest":"{digest}","size":{size}}}"#)
        })
        .collect();
    format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, children.join(","))
}

pub(crate) fn referrer(subject: &str, config: &[u8]) -> String {
    let (of, size) = (digest(subject.as_bytes()), subject.len());
    let image = image(config);
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let subject = format!(r#""subject":{{"mediaType":"{kind}","digest":"{of}","size":{size}}}"#);
    image.replace(r#""layers":[]"#, &format!(r#""layers":[],{subject}"#))
}

async fn delete(bench: &Bench, name: &str, reference: &str) {
    let reference: Reference = reference.parse().unwrap();
    bench.repository(name).manifest_delete(&reference, None).await.unwrap();
}

#[tokio::test]
async fn referenced_blobs_stay_and_old_unreferenced_ones_are_deleted() {
    let bench = Bench::new().await;
    let (kept, loose) = (bytes(5), bytes(6));
    bench.push("a", &kept).await;
    bench.push("a", &loose).await;
    bench.put_manifest("a", "v1", &image(&kept)).await.unwrap();
    bench.clock.advance(DAY);
    assert_eq!(collect(&bench).await.links.removed, 0, "not older than the grace");
    bench.clock.advance(HOUR);
    let done = collect(&bench).await;
    assert_eq!((done.links.kept, done.links.removed, done.links.removed_bytes), (1, 1, 6));
    assert_eq!((done.queued, done.blobs.removed), (1, 0));
    assert_eq!(bench.pull("a", &digest(&kept)).await.unwrap(), kept);
    bench.repository("a").blob_stat(&digest(&loose), TouchPolicy::Never).await.unwrap_err();
    bench.clock.advance(HOUR - MINUTE);
    assert_eq!(collect(&bench).await.blobs.removed, 0, "bytes wait for an hour");
    bench.clock.advance(MINUTE);
    let done = collect(&bench).await;
    assert_eq!((done.blobs.removed, done.blobs.removed_bytes), (1, 6));
    assert_eq!(bench.keys("blobs/").await.len(), 1);
    assert_eq!(bench.keys("links/").await.len(), 1);
    assert_eq!(bench.keys("gc/queue/").await, []);
}

#[tokio::test]
async fn a_blob_is_deleted_only_where_it_is_unreferenced() {
    let bench = Bench::new().await;
    let shared = bytes(5);
    bench.push("a", &shared).await;
    let from = "a".parse().unwrap();
    bench.repository("b").blob_mount(&digest(&shared), &from).await.unwrap().unwrap();
    bench.put_manifest("b", "v1", &image(&shared)).await.unwrap();
    bench.clock.advance(2 * DAY);
    let done = collect(&bench).await;
    assert_eq!((done.links.removed, done.queued), (1, 0), "its bytes are b's, too");
    bench.clock.advance(2 * DAY);
    collect(&bench).await;
    assert_eq!(bench.pull("b", &digest(&shared)).await.unwrap(), shared);
    bench.repository("a").blob_stat(&digest(&shared), TouchPolicy::Never).await.unwrap_err();
}

#[tokio::test]
async fn manifest_that_cannot_be_read_stops_the_run_before_anything_is_removed() {
    let bench = Bench::new().await;
    bench.push("a", &bytes(5)).await;
    bench.push("a", &bytes(6)).await;
    bench.put_manifest("a", "v1", &image(&bytes(5))).await.unwrap();
    bench.clock.advance(2 * DAY);
    let key = &bench.keys("repositories/a/_manifests/").await[0];
    bench.faults.put(key, "rubbish".into(), PutMode::Overwrite).await.unwrap();
    let error = bench.registry.collect_garbage(&options(), &NoObserver).await.unwrap_err();
    assert!(matches!(&error, GcError::Damaged { key: named, .. } if *named == key.to_string()));
    assert_eq!(bench.keys("links/").await.len(), 2);
}

#[tokio::test]
async fn listing_that_fails_stops_the_run_before_anything_is_removed() {
    for prefix in ["repositories/", "links/"] {
        let bench = Bench::new().await;
        bench.push("a", &bytes(6)).await;
        bench.clock.advance(2 * DAY);
        bench.faults.fail_reads(prefix, jreg_storage::ErrorKind::Unavailable);
        bench.registry.collect_garbage(&options(), &NoObserver).await.unwrap_err();
        bench.faults.heal();
        assert_eq!(bench.keys("links/").await.len(), 1, "{prefix}");
    }
}

#[tokio::test]
async fn a_dry_run_says_what_would_go_and_writes_nothing() {
    let bench = Bench::new().await;
    bench.push("a", &bytes(6)).await;
    bench.clock.advance(2 * DAY);
    bench.calls.take();
    let dry = GcOptions { dry_run: true, ..options() };
    let watch = crate::bench::Actions::default();
    let done = bench.registry.collect_garbage(&dry, &watch).await.unwrap();
    assert_eq!((done.links.removed, done.queued), (1, 1));
    assert_eq!(bench.writes(), Vec::<String>::new());
    let actions = watch.take();
    assert!(
        matches!(&actions[..], [action] if action.kind == GcActionKind::RemoveLink),
        "{actions:?}"
    );
    assert_eq!(collect(&bench).await.links.removed, 1);
}

#[tokio::test]
async fn manifests_and_links_that_were_read_are_not_read_again() {
    let bench = Bench::new().await;
    for n in 1..=5 {
        bench.push("a", &bytes(n)).await;
        bench.put_manifest("a", &format!("v{n}"), &image(&bytes(n))).await.unwrap();
    }
    let now = GcOptions { sweep_now: true, ..options() };
    let first = collect_with(&bench, &now).await;
    assert_eq!((first.manifests_read, first.links_read), (5, 5));
    let second = collect_with(&bench, &now).await;
    assert_eq!((second.manifests_read, second.links_read), (0, 0));
    bench.put_manifest("a", "again", &image(&bytes(1))).await.unwrap();
    let third = collect_with(&bench, &now).await;
    assert_eq!((third.manifests_read, third.links_read), (1, 0));
    assert_eq!(third.manifests.scanned, 5);
}

#[tokio::test]
async fn a_run_deletes_only_a_share_and_the_next_one_continues() {
    let bench = Bench::new().await;
    for n in 1..=250 {
        bench.push("a", &bytes(n)).await;
    }
    bench.clock.advance(2 * DAY);
    let third = GcOptions { share_max_percent: 33, ..options() };
    let mut left = 250;
    for removed in [100, 100, 50] {
        let done = collect_with(&bench, &third).await;
        left -= removed;
        assert_eq!((done.links.removed, done.links.withheld), (removed, left));
    }
    assert_eq!(bench.keys("links/").await, []);
}

#[tokio::test]
async fn a_grace_or_a_wait_that_is_too_short_is_refused() {
    let bench = Bench::new().await;
    let short = GcOptions { grace: HOUR, ..options() };
    let error = bench.registry.collect_garbage(&short, &NoObserver).await.unwrap_err();
    assert_eq!(error.to_string(), "a grace of 3600 s is too short: it must be 7200 s or more");
    let short = GcOptions { bytes_wait: MINUTE, ..options() };
    let error = bench.registry.collect_garbage(&short, &NoObserver).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "a wait of 60 s for bytes is too short: it must be 3600 s or more"
    );
}

#[tokio::test]
async fn bytes_that_nothing_names_go_with_the_second_sweep() {
    let bench = Bench::new().await;
    bench.push("a", &bytes(5)).await;
    bench.put_manifest("a", "v1", &image(&bytes(5))).await.unwrap();
    bench.push("a", &bytes(6)).await;
    bench.repository("a").blob_delete(&digest(&bytes(6))).await.unwrap();
    bench.clock.advance(2 * DAY);
    let done = collect(&bench).await;
    assert!(done.swept);
    assert_eq!((done.blobs.scanned, done.blobs.removed, done.blobs.young), (2, 0, 1));
    bench.clock.advance(DAY - MINUTE);
    let done = collect_with(&bench, &GcOptions { sweep_now: true, ..options() }).await;
    assert_eq!((done.blobs.removed, done.blobs.young), (0, 1), "less than a grace ago");
    bench.clock.advance(MINUTE);
    let done = collect_with(&bench, &GcOptions { sweep_now: true, ..options() }).await;
    assert_eq!((done.blobs.removed, done.blobs.removed_bytes), (1, 6));
    assert_eq!(bench.pull("a", &digest(&bytes(5))).await.unwrap(), bytes(5));
    assert_eq!(bench.keys("links/").await.len(), 1, "the deleted link went, too");
}

/// What a slow sweep found unnamed may have been named until its end.
#[tokio::test]
async fn two_sweeps_are_apart_from_the_end_of_one_to_the_beginning_of_the_other() {
    let bench = Bench::new().await;
    bench.push("a", &bytes(6)).await;
    bench.repository("a").blob_delete(&digest(&bytes(6))).await.unwrap();
    let now = GcOptions { sweep_now: true, ..options() };
    let mut links = bench.gate.hold(|call| call.operation == "list" && call.key == "links/");
    let slow = async {
        links.reached(1).await;
        bench.clock.advance(2 * DAY);
        links.release();
    };
    let (done, ()) = futures::join!(collect_with(&bench, &now), slow);
    assert_eq!((done.blobs.removed, done.blobs.young), (0, 1));
    bench.clock.advance(DAY - MINUTE);
    assert_eq!(collect_with(&bench, &now).await.blobs.removed, 0);
    bench.clock.advance(MINUTE);
    assert_eq!(collect_with(&bench, &now).await.blobs.removed, 1);
}

#[tokio::test]
async fn queued_bytes_stay_while_a_link_to_them_is_going() {
    let bench = Bench::new().await;
    let content = bytes(6);
    bench.push("a", &content).await;
    bench.clock.advance(2 * DAY);
    assert_eq!(collect(&bench).await.queued, 1);
    // Other bytes of the same blob; their link goes just now, and may have been copied.
    bench.push("b", &content).await;
    bench.clock.advance(HOUR);
    bench.repository("b").blob_delete(&digest(&content)).await.unwrap();
    assert_eq!(collect(&bench).await.blobs.removed, 0);
    assert_eq!(bench.keys("gc/queue/").await, [], "they are a sweep's");
}

#[tokio::test]
async fn the_bytes_of_an_upload_in_progress_are_not_swept() {
    let bench = Bench::new().await;
    let repository = bench.repository("a");
    let id = repository.upload_start(None);
    repository.upload_append(&id, UploadChunk::of(bytes(5))).await.unwrap();
    assert_eq!(bench.keys("blobs/").await.len(), 1);
    for _ in 0..3 {
        bench.clock.advance(DAY + MINUTE);
        assert_eq!(collect(&bench).await.blobs.removed, 0);
    }
    repository.upload_finish(&id, &digest(&bytes(5)), UploadChunk::empty()).await.unwrap();
    assert_eq!(bench.pull("a", &digest(&bytes(5))).await.unwrap(), bytes(5));
}

#[tokio::test]
async fn nothing_is_swept_while_a_link_or_a_session_cannot_be_read() {
    for prefix in ["links/", "uploads/"] {
        let bench = Bench::new().await;
        bench.push("a", &bytes(5)).await;
        let repository = bench.repository("a");
        let id = repository.upload_start(None);
        repository.upload_append(&id, UploadChunk::of(bytes(4))).await.unwrap();
        bench.push("a", &bytes(6)).await;
        repository.blob_delete(&digest(&bytes(6))).await.unwrap();
        let key = &bench.keys(prefix).await[0];
        bench.faults.put(key, "rubbish".into(), PutMode::Overwrite).await.unwrap();
        for _ in 0..3 {
            bench.clock.advance(DAY + MINUTE);
            assert_eq!(collect(&bench).await.blobs.removed, 0, "{prefix}");
        }
    }
}

#[tokio::test]
async fn old_duplicates_are_deduplicated() {
    let bench = Bench::new().await;
    let content = bytes(5);
    for name in ["a", "b", "c"] {
        bench.push(name, &content).await;
        bench.put_manifest(name, "v1", &image(&content)).await.unwrap();
    }
    assert_eq!(bench.keys("blobs/").await.len(), 3);
    assert_eq!(collect(&bench).await.deduplicated.scanned, 0, "too young");
    bench.clock.advance(2 * DAY);
    let done = collect(&bench).await;
    assert_eq!((done.deduplicated.removed, done.deduplicated.removed_bytes), (2, 10));
    for name in ["a", "b", "c"] {
        assert_eq!(bench.pull(name, &digest(&content)).await.unwrap(), content);
    }
    for _ in 0..2 {
        bench.clock.advance(DAY + MINUTE);
        collect(&bench).await;
    }
    assert_eq!(bench.keys("blobs/").await.len(), 1);
    for name in ["a", "b", "c"] {
        assert_eq!(bench.pull(name, &digest(&content)).await.unwrap(), content);
    }
}

#[tokio::test]
async fn no_link_is_deduplicated_to_incomplete_bytes() {
    let bench = Bench::new().await;
    let content = bytes(5);
    for name in ["a", "b"] {
        bench.push(name, &content).await;
        bench.put_manifest(name, "v1", &image(&content)).await.unwrap();
    }
    let keys = bench.keys("blobs/").await;
    for key in &keys {
        bench.faults.put(key, "cut".into(), PutMode::Overwrite).await.unwrap();
    }
    bench.clock.advance(2 * DAY);
    assert_eq!(collect(&bench).await.deduplicated.removed, 0);
}

#[tokio::test]
async fn untagged_manifests_stay_unless_the_settings_say_otherwise() {
    let bench = Bench::new().await;
    bench.push("a", &bytes(5)).await;
    bench.put_manifest("a", "v1", &image(&bytes(5))).await.unwrap();
    bench.clock.advance(HOUR);
    delete(&bench, "a", "v1").await;
    bench.clock.advance(10 * DAY);
    assert_eq!(collect(&bench).await.manifests.removed, 0);
    let untagged = GcOptions { untagged: Some(3 * DAY), ..options() };
    assert_eq!(collect_with(&bench, &untagged).await.manifests.removed, 0, "first seen now");
    bench.clock.advance(3 * DAY - MINUTE);
    assert_eq!(collect_with(&bench, &untagged).await.manifests.removed, 0);
    bench.clock.advance(MINUTE);
    let done = collect_with(&bench, &untagged).await;
    assert_eq!((done.manifests.removed, done.links.removed), (1, 0), "what it names goes later");
    let done = collect_with(&bench, &untagged).await;
    assert_eq!((done.manifests.scanned, done.links.removed), (0, 1));
}

#[tokio::test]
async fn children_of_a_kept_index_and_referrers_of_what_is_kept_stay() {
    let bench = Bench::new().await;
    let (child, config) = (image(&bytes(5)), bytes(6));
    bench.push("a", &bytes(5)).await;
    bench.push("a", &config).await;
    let index = index(&[&child]);
    let (signature, stray) = (referrer(&index, &config), referrer("nobody", &config));
    for manifest in [&child, &signature, &stray] {
        let reference = digest(manifest.as_bytes()).to_string();
        bench.put_manifest("a", &reference, manifest).await.unwrap();
    }
    bench.put_manifest("a", "v1", &index).await.unwrap();
    let untagged = GcOptions { untagged: Some(Duration::ZERO), ..options() };
    bench.clock.advance(2 * DAY);
    let done = collect_with(&bench, &untagged).await;
    assert_eq!((done.manifests.kept, done.manifests.removed), (3, 1), "the stray one");
    // Step by step: what a manifest references stays for the run in which that manifest goes.
    delete(&bench, "a", "v1").await;
    for left in [2, 0] {
        collect_with(&bench, &untagged).await;
        assert_eq!(bench.keys("repositories/a/_manifests/").await.len(), left);
    }
    assert_eq!(bench.keys("repositories/a/_referrers/").await, []);
}

#[tokio::test]
async fn orphans_are_deleted_once_they_are_old() {
    let bench = Bench::new().await;
    bench.push("a", &bytes(5)).await;
    bench.put_manifest("a", "v1", &image(&bytes(5))).await.unwrap();
    delete(&bench, "a", &digest(image(&bytes(5)).as_bytes()).to_string()).await;
    assert_eq!(bench.keys("repositories/a/_tagged/").await.len(), 1);
    let now = GcOptions { sweep_now: true, ..options() };
    assert_eq!(collect_with(&bench, &now).await.orphans.removed, 0);
    bench.clock.advance(DAY + HOUR);
    assert_eq!(collect_with(&bench, &now).await.orphans.removed, 3, "hint, tag, catalog");
    assert_eq!(bench.keys("repositories/").await, []);
    assert_eq!(bench.keys("catalog/").await, []);
}

/// A push beside a delete may leave a tag that points to nothing. Once the manifest is there
/// again, so is the tag, and a delete must find it.
#[tokio::test]
async fn tag_that_dangles_keeps_its_hint() {
    let bench = Bench::new().await;
    bench.push("a", &bytes(5)).await;
    let manifest = image(&bytes(5));
    let reference = digest(manifest.as_bytes()).to_string();
    bench.put_manifest("a", "v1", &manifest).await.unwrap();
    bench.put_manifest("a", "v2", &manifest).await.unwrap();
    bench.push("a", &bytes(6)).await;
    bench.put_manifest("a", "v2", &image(&bytes(6))).await.unwrap();
    for key in
        bench.keys(&format!("repositories/a/_manifests/{}", reference.replace(':', "/"))).await
    {
        bench.faults.delete(&key, None).await.unwrap();
    }
    bench.clock.advance(2 * DAY);

    let mut held = bench.gate.hold(|call| call.operation == "list" && call.key == "links/");
    let now = GcOptions { sweep_now: true, ..options() };
    let (done, ()) = tokio::join!(collect_with(&bench, &now), async {
        held.reached(1).await;
        bench.push("a", &bytes(5)).await;
        bench.put_manifest("a", &reference, &manifest).await.unwrap();
        held.release();
    });
    assert_eq!(done.orphans.removed, 1, "the hint of v2, which points elsewhere now");
    delete(&bench, "a", &reference).await;
    assert_eq!(tags(&bench, "a").await, ["v2"]);
}

/// A tag whose manifest is absent goes once two sweeps that are a grace apart have seen it so, however
/// old it is: a restore or a replication may bring the manifest late.
#[tokio::test]
async fn tag_whose_manifest_is_absent_is_deleted_after_the_grace() {
    let bench = Bench::new().await;
    bench.push("a", &bytes(5)).await;
    let manifest = image(&bytes(5));
    let of = digest(manifest.as_bytes());
    bench.put_manifest("a", "v1", &manifest).await.unwrap();
    bench.clock.advance(10 * DAY);
    let key = bench.keys("repositories/a/_manifests/").await.remove(0);
    let saved = bench.faults.get(&key).await.unwrap().bytes;
    let tags = async || tags(&bench, "a").await.len();
    let sweep = async || {
        let now = GcOptions { sweep_now: true, ..options() };
        let watch = Actions::default();
        bench.registry.collect_garbage(&now, &watch).await.unwrap();
        let is_tag = |action: &jreg_registry::GcAction| action.kind == GcActionKind::RemoveTag;
        watch.take().into_iter().filter(is_tag).collect::<Vec<_>>()
    };

    bench.faults.delete(&key, None).await.unwrap();
    assert_eq!(sweep().await, []);
    bench.clock.advance(DAY - HOUR);
    assert_eq!(sweep().await, []);
    // Restored after all: what was noted is void.
    bench.faults.put(&key, saved, PutMode::Create).await.unwrap();
    bench.clock.advance(2 * HOUR);
    assert_eq!(sweep().await, []);
    bench.faults.delete(&key, None).await.unwrap();
    assert_eq!(sweep().await, []);
    assert_eq!(tags().await, 1);

    bench.clock.advance(DAY + HOUR);
    let dry = GcOptions { sweep_now: true, dry_run: true, ..options() };
    assert_eq!(collect_with(&bench, &dry).await.orphans.removed, 1);
    assert_eq!(tags().await, 1);
    let removed = sweep().await;
    assert_eq!((removed.len(), tags().await), (1, 0));
    assert_eq!(removed[0].digest, Some(of));
    assert_eq!(removed[0].key, "repositories/a/_tags/v1");
}

/// What runs remember of manifests was found by the rules of their version.
#[tokio::test]
async fn manifests_are_read_again_once_references_are_found_by_other_rules() {
    let bench = Bench::new().await;
    bench.push("a", &bytes(5)).await;
    bench.put_manifest("a", "v1", &image(&bytes(5))).await.unwrap();
    bench.clock.advance(HOUR);
    assert_eq!(collect(&bench).await.manifests_read, 1);
    assert_eq!(collect(&bench).await.manifests_read, 0, "remembered");
    let key = bench.keys("gc/manifests/").await.remove(0);
    let segment = bench.faults.get(&key).await.unwrap().bytes.to_vec();
    let end = segment.iter().position(|byte| *byte == b'\n').unwrap();
    let mut head: serde_json::Value = serde_json::from_slice(&segment[..end]).unwrap();
    assert_eq!(head["rules"].as_u64(), Some(jreg_oci::EXTRACTOR_VERSION.into()));
    // As the versions before this field wrote it.
    head.as_object_mut().unwrap().remove("rules");
    let other = [head.to_string().as_bytes(), &segment[end..]].concat();
    bench.faults.put(&key, other.into(), PutMode::Overwrite).await.unwrap();
    assert_eq!(collect(&bench).await.manifests_read, 1);
}

/// GC is what frees space: it continues without a memo, from the one of the last run.
#[tokio::test]
async fn full_disk_stops_the_memo_and_not_the_run() {
    let bench = Bench::new().await;
    let (kept, unreferenced) = (bytes(5), bytes(6));
    bench.push("a", &kept).await;
    bench.put_manifest("a", "v1", &image(&kept)).await.unwrap();
    assert_eq!(collect(&bench).await.manifests_read, 1);
    bench.push("a", &unreferenced).await;
    bench.clock.advance(DAY + HOUR);
    let kinds = ["gc/manifests/", "gc/tags/", "gc/links/", "gc/sessions/"];
    let is_memo = move |call: &Call| kinds.iter().any(|kind| call.key.starts_with(kind));
    let is_put = move |call: &Call| call.operation == "put" && is_memo(call);
    bench.faults.inject(Fault::fail(ErrorKind::Full).on(is_put).from_then_on());
    let before = bench.keys("gc/manifests/").await;
    let done = collect(&bench).await;
    assert!(bench.faults.hits() > 0);
    assert_eq!((done.links.kept, done.links.removed, done.manifests_read), (1, 1, 0));
    assert_eq!(bench.keys("gc/manifests/").await, before);
    bench.clock.advance(HOUR);
    let done = collect(&bench).await;
    assert_eq!((done.blobs.removed, done.blobs.removed_bytes), (1, 6));
}

#[tokio::test]
async fn unfinished_uploads_are_reaped_in_the_same_run() {
    let bench = Bench::new().await;
    let repository = bench.repository("a");
    let id = repository.upload_start(None);
    repository.upload_append(&id, UploadChunk::of(bytes(20))).await.unwrap();
    let multipart = bench.multipart().await;
    bench.clock.advance(7 * DAY);
    assert_eq!(collect(&bench).await.uploads.unfinished, 1);
    assert!(bench.multipart_is_absent(&multipart).await);
    assert_eq!(bench.keys("uploads/").await, []);
}

/// A store that cannot remove a version: what is to go becomes something that stands for nothing.
#[tokio::test]
async fn without_conditional_deletes_tombstones_remain() {
    let clock = std::sync::Arc::new(jreg_storage::testing::ManualClock::default());
    let memory = MemoryStore::builder().remote().clock(clock.clone()).build();
    let store = TombstoneStore::new(memory, jreg_registry::may_come_back).that_stay();
    let store = std::sync::Arc::new(store);
    let registry =
        Registry::open(store.clone(), clock.clone(), RegistryOptions::default()).await.unwrap();
    let (repository, content) = (registry.repository("a".parse().unwrap()), bytes(6));
    let push = async || {
        repository.blob_push(&digest(&content), UploadChunk::of(content.clone())).await.unwrap();
    };
    let collect = async |hours: u32| {
        clock.advance(HOUR * hours);
        registry.collect_garbage(&options(), &NoObserver).await.unwrap()
    };
    push().await;
    let done = collect(48).await;
    assert_eq!((done.links.removed, done.queued), (1, 1));
    repository.blob_stat(&digest(&content), TouchPolicy::Never).await.unwrap_err();
    let done = collect(48).await;
    assert_eq!((done.links.scanned, done.links.removed, done.blobs.removed), (1, 0, 1));
    // And it can be pushed again.
    push().await;
    repository.blob_stat(&digest(&content), TouchPolicy::Never).await.unwrap();
    assert_eq!(collect(48).await.links.removed, 1);
}

#[tokio::test]
async fn one_instance_has_the_lease_until_it_gives_it_back_or_does_not_renew_it() {
    let bench = Bench::new().await;
    let (store, clock) = (bench.gate.clone(), bench.clock.clone());
    let other = Registry::open(store, clock, RegistryOptions::default()).await.unwrap();
    let ttl = 5 * MINUTE;
    let lease = bench.registry.take_lease(LeaseKind::Gc, "one", ttl).await.unwrap().unwrap();
    bench.clock.advance(MINUTE);
    let held = other.take_lease(LeaseKind::Gc, "two", ttl).await.unwrap().unwrap_err();
    assert_eq!((held.holder.as_str(), held.age), ("one", MINUTE));
    let lease = bench.registry.renew_lease(lease, ttl).await.unwrap().unwrap();
    bench.clock.advance(ttl);
    other.take_lease(LeaseKind::Gc, "two", ttl).await.unwrap().unwrap_err();
    bench.clock.advance(Duration::from_secs(1));
    let taken = other.take_lease(LeaseKind::Gc, "two", ttl).await.unwrap().unwrap();
    assert!(bench.registry.renew_lease(lease, ttl).await.unwrap().is_none());
    other.free_lease(taken).await.unwrap();
    bench.registry.take_lease(LeaseKind::Gc, "one", ttl).await.unwrap().unwrap();
}

/// Collects while so much time passes between the beginning of the run and its listing of bytes.
async fn collect_slowly(bench: &Bench, by: Duration, options: &GcOptions) -> GcReport {
    let mut listing = bench.gate.hold(|call| call.operation == "list" && call.key == "blobs/");
    let late = async {
        listing.reached(1).await;
        bench.clock.advance(by);
        listing.release();
    };
    futures::join!(collect_with(bench, options), late).0
}

#[tokio::test]
async fn manifest_is_untagged_from_when_a_run_saw_that_or_from_its_last_push() {
    let bench = Bench::new().await;
    bench.push("a", &bytes(5)).await;
    bench.put_manifest("a", "v1", &image(&bytes(5))).await.unwrap();
    delete(&bench, "a", "v1").await;
    bench.clock.advance(2 * DAY);
    let untagged = GcOptions { untagged: Some(3 * DAY), sweep_now: true, ..options() };
    let done = collect_slowly(&bench, 4 * DAY, &untagged).await;
    assert_eq!((done.manifests.young, done.manifests.removed), (1, 0));
    let done = collect_with(&bench, &untagged).await;
    assert_eq!((done.manifests.young, done.manifests.removed), (1, 0), "seen a moment ago");
    bench.clock.advance(3 * DAY - HOUR);
    bench.put_manifest("a", "v2", &image(&bytes(5))).await.unwrap();
    delete(&bench, "a", "v2").await;
    bench.clock.advance(2 * DAY);
    assert_eq!(collect_with(&bench, &untagged).await.manifests.removed, 0, "tagged 2 days ago");
    bench.clock.advance(DAY);
    assert_eq!(collect_with(&bench, &untagged).await.manifests.removed, 1);
}

#[tokio::test]
async fn a_duplicate_that_misses_its_window_does_not_end_the_run() {
    let bench = Bench::new().await;
    let content = bytes(5);
    for name in ["a", "b"] {
        bench.push(name, &content).await;
        bench.put_manifest(name, "v1", &image(&content)).await.unwrap();
    }
    bench.clock.advance(2 * DAY);
    // To make sure of the one that the other is to follow.
    let mut swap =
        bench.gate.hold_response(|c| c.operation == "put" && c.key.starts_with("links/"));
    let late = async {
        swap.reached(1).await;
        bench.clock.advance(6 * MINUTE);
        swap.release();
    };
    let (done, ()) = futures::join!(collect(&bench), late);
    assert_eq!((done.deduplicated.failed, done.deduplicated.removed), (1, 0));
    assert!(done.swept);
    bench.clock.advance(2 * DAY);
    assert_eq!(collect(&bench).await.deduplicated.removed, 1);
}

#[tokio::test]
async fn what_runs_did_is_noted_for_those_who_look() {
    let bench = Bench::new().await;
    let registry = &bench.registry;
    assert_eq!(registry.gc_summary().await.unwrap(), None);
    bench.push("a", &bytes(5)).await;
    bench.put_manifest("a", "v1", &image(&bytes(5))).await.unwrap();
    let done = collect(&bench).await;
    assert!(done.swept);
    registry.note_gc_run(Ok(&done), 3 * MINUTE).await.unwrap();
    let noted = registry.gc_summary().await.unwrap().unwrap();
    let run = noted.completed.unwrap();
    assert_eq!((run.took_s, run.report, noted.failed), (180, done, None));
    let stored = noted.stored.unwrap();
    assert_eq!((stored.locations, stored.bytes), (done.blobs.scanned, done.blobs.scanned_bytes));
    // A failure keeps what is known, and a run without a sweep what was counted.
    bench.clock.advance(HOUR);
    registry.note_gc_run(Err("x".repeat(10_000)), MINUTE).await.unwrap();
    let noted = registry.gc_summary().await.unwrap().unwrap();
    assert_eq!(noted.completed.unwrap().at, run.at);
    assert_eq!(noted.failed.unwrap().reason.len(), 500);
    let next = collect(&bench).await;
    assert!(!next.swept);
    registry.note_gc_run(Ok(&next), MINUTE).await.unwrap();
    let noted = registry.gc_summary().await.unwrap().unwrap();
    assert_eq!((noted.failed, noted.stored), (None, Some(stored)));
    // A damaged note is none, and the next run replaces it.
    let key = "gc/summary".parse().unwrap();
    bench.faults.put(&key, "{}".into(), PutMode::Overwrite).await.unwrap();
    assert_eq!(registry.gc_summary().await.unwrap(), None);
    registry.note_gc_run(Ok(&next), MINUTE).await.unwrap();
    assert!(registry.gc_summary().await.unwrap().is_some());
}
