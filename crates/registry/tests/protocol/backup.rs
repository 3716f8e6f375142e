//! Backups: what is in one, while tags move and garbage is collected, after a crash at any write, and in a store of
//! another kind.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures::TryStreamExt;
use futures::future::BoxFuture;
use jreg_lifecycle::{CurrentRules, LifecycleRules};
use jreg_oci::{Digest, Manifest, Reference};
use jreg_registry::{
    BackupError, BackupObserver, BackupOptions, BackupReport, FsckOptions, NoObserver, OpenError,
    PageRequest, Registry, RegistryOptions, RestoreReport, RetentionOptions, TouchPolicy,
    UploadChunk, back_up, finish_restore, list_backups, prune_backups, purge_from_backups,
    restore_backup,
};
use jreg_storage::testing::{Call, Fault, FaultyStore, InterceptedStore, Interceptor};
use jreg_storage::{
    ByteRange, ByteStream, ErrorKind, FsOptions, FsStore, Key, ListRequest, MemoryStore, PutMode,
    Store, SystemClock,
};

use ulid::Ulid;

use crate::bench::{Bench, digest, push_of};
use crate::gc::{index, referrer};
use crate::usage::image;

struct Quiet;

impl BackupObserver for Quiet {
    fn phase(&self, _: &'static str) {}

    fn progress(&self, _: u64, _: u64) {}
}

/// A restore to its end.
async fn restore(
    backups: &Arc<dyn Store>,
    wanted: Option<Ulid>,
    target: &Arc<dyn Store>,
    observer: &Quiet,
) -> Result<RestoreReport, BackupError> {
    let report = restore_backup(backups, wanted, target, observer).await?;
    finish_restore(&**target).await?;
    Ok(report)
}

type Tagged = Vec<(String, String, Digest)>;

fn memory() -> Arc<dyn Store> {
    Arc::new(MemoryStore::new())
}

async fn open(store: Arc<dyn Store>) -> Result<Registry, OpenError> {
    let clock = Arc::new(SystemClock::new());
    Registry::open_existing(store, clock, RegistryOptions::default()).await
}

async fn backed_up(registry: &Registry, target: &Arc<dyn Store>) -> BackupReport {
    let report = back_up(registry, target, BackupOptions::default(), &Quiet).await.unwrap();
    assert_eq!(report.missing, []);
    report
}

/// Every tag with what it points to, each checked down to the bytes of its blobs.
async fn tagged(registry: &Registry) -> Tagged {
    let page = PageRequest { limit: 1000, last: None };
    let mut tagged = Vec::new();
    for name in registry.catalog(&page).await.unwrap().items {
        let repository = registry.repository(name.clone());
        for tag in repository.tags(&page).await.unwrap().items {
            let digest = check(registry, name.as_str(), &Reference::Tag(tag.clone())).await;
            tagged.push((name.to_string(), tag.to_string(), digest));
        }
    }
    tagged
}

/// A manifest is there with everything that it references.
fn check<'a>(
    registry: &'a Registry,
    name: &'a str,
    reference: &'a Reference,
) -> BoxFuture<'a, Digest> {
    Box::pin(async move {
        let repository = registry.repository(name.parse().unwrap());
        let found = repository.manifest_get(reference, TouchPolicy::Never).await;
        let found = found.unwrap_or_else(|error| panic!("{name} {reference}: {error}"));
        let parsed = Manifest::parse(None, &found.bytes).unwrap();
        for referenced in parsed.references {
            if referenced.kind.may_be_manifest() {
                check(registry, name, &Reference::Digest(referenced.digest)).await;
                continue;
            }
            let blob = repository.blob_open(&referenced.digest).await.unwrap();
            let range = ByteRange { start: 0, end: blob.blob().size_bytes };
            let read: Vec<Bytes> = blob.read(range).await.unwrap().try_collect().await.unwrap();
            assert_eq!(digest(&read.concat()), referenced.digest);
        }
        found.digest.clone()
    })
}

async fn restored(backups: &Arc<dyn Store>) -> Registry {
    let store = memory();
    restore(backups, None, &store, &Quiet).await.unwrap();
    open(store).await.unwrap()
}

async fn push_image(bench: &Bench, name: &str, tag: &str, number: u16) -> String {
    let config = Bytes::from(format!("{{\"n\":{number}}}"));
    let layer = Bytes::from(vec![u8::try_from(number % 251).unwrap(); 40 + usize::from(number)]);
    for blob in [&config, &layer] {
        bench.push(name, blob).await;
    }
    let manifest = image(&config, &[&layer]);
    bench.put_manifest(name, tag, &manifest).await.unwrap();
    manifest
}

/// Images, an index, a referrer, a tag that moved, one that was deleted, and a deleted manifest.
async fn fill(bench: &Bench) {
    let one = push_image(bench, "team/app", "v1", 1).await;
    let two = push_image(bench, "team/app", "v2", 2).await;
    bench.put_manifest("team/app", "multi", &index(&[&one, &two])).await.unwrap();
    let config = Bytes::from_static(b"{}");
    bench.push("team/app", &config).await;
    let signature = referrer(&one, &config);
    let by_digest = digest(signature.as_bytes()).to_string();
    bench.put_manifest("team/app", &by_digest, &signature).await.unwrap();
    push_image(bench, "team/app", "moved", 3).await;
    push_image(bench, "team/app", "moved", 4).await;
    push_image(bench, "other", "gone", 5).await;
    let gone = bench.repository("other");
    gone.manifest_delete(&"gone".parse().unwrap(), None).await.unwrap();
    push_image(bench, "other", "v1", 6).await;
    // A blob that is a part of nothing is not backed up.
    bench.push("other", &Bytes::from_static(b"loose")).await;
}

#[tokio::test]
async fn a_backup_comes_back_in_a_store_of_any_kind() {
    let bench = Bench::new().await;
    fill(&bench).await;
    let expected = tagged(&bench.registry).await;
    let folder = tempfile::tempdir().unwrap();
    let on_disk = FsStore::open(folder.path().join("backups"), FsOptions::default()).unwrap();
    let remote: Arc<dyn Store> = Arc::new(MemoryStore::builder().remote().build());
    for backups in [Arc::new(on_disk) as Arc<dyn Store>, remote, memory()] {
        let report = backed_up(&bench.registry, &backups).await;
        assert_eq!((report.repositories, report.tags), (2, 5));
        assert_eq!(report.copied, report.blobs);
        // The bytes of an earlier backup are not copied again.
        let again = backed_up(&bench.registry, &backups).await;
        assert_eq!((again.copied, again.blobs), (0, report.blobs));
        let disk = folder.path().join(report.snapshot.to_string());
        let targets: [Arc<dyn Store>; 3] = [
            memory(),
            Arc::new(MemoryStore::builder().remote().build()),
            Arc::new(FsStore::open(disk, FsOptions::default()).unwrap()),
        ];
        for target in targets {
            restore(&backups, Some(report.snapshot), &target, &Quiet).await.unwrap();
            let registry = open(Arc::clone(&target)).await.unwrap();
            assert_eq!(tagged(&registry).await, expected);
            let checked = registry.fsck(&FsckOptions { deep: true, ..fsck() }, &NoObserver).await;
            let checked = checked.unwrap();
            assert_eq!((checked.damage, checked.untidy), (0, 0), "{checked:?}");
            let app = registry.repository("team/app".parse().unwrap());
            let page = PageRequest { limit: 10, last: None };
            let history = app.tag_history(&"moved".parse().unwrap(), &page).await.unwrap();
            assert_eq!(history.items.len(), 2);
            let subject = expected.iter().find(|(_, tag, _)| tag == "v1").unwrap();
            let subject = expected.iter().find(|it| it.0 == "team/app" && it.1 == subject.1);
            let referrers = app.referrers(&subject.unwrap().2, None, &page).await.unwrap();
            assert_eq!(referrers.items.len(), 1);
            // Only an empty store takes a backup.
            let full = restore(&backups, None, &target, &Quiet).await.unwrap_err();
            assert!(matches!(full, BackupError::NotEmpty), "{full}");
        }
    }
}

fn fsck() -> FsckOptions {
    FsckOptions {
        deep: false,
        repair: false,
        restart: false,
        requests_per_second: 0,
        bytes_per_second: 0,
        requests_at_once: 4,
    }
}

#[tokio::test]
async fn a_crash_at_any_write_leaves_earlier_backups_whole() {
    let bench = Bench::new().await;
    push_image(&bench, "app", "v1", 1).await;
    let faulty = Arc::new(FaultyStore::new(memory()));
    let backups: Arc<dyn Store> = faulty.clone();
    let first = backed_up(&bench.registry, &backups).await;
    let before = tagged(&bench.registry).await;
    push_image(&bench, "app", "v2", 2).await;
    let after = tagged(&bench.registry).await;
    for number in 1.. {
        let fault = Fault::fail(ErrorKind::Unavailable).on(|call| !call.is_read());
        faulty.inject(fault.nth(number).from_then_on());
        let ended = back_up(&bench.registry, &backups, BackupOptions::default(), &Quiet).await;
        faulty.heal();
        // A killed process leaves its mark, which is of no harm to other backups.
        let snapshots = list_backups(&*backups).await.unwrap();
        assert_eq!(snapshots[0].snapshot, first.snapshot);
        let store = memory();
        restore(&backups, Some(first.snapshot), &store, &Quiet).await.unwrap();
        assert_eq!(tagged(&open(store).await.unwrap()).await, before);
        if snapshots.len() > 1 {
            // The one that was written is whole, even if its process ended before it said so.
            assert_eq!(tagged(&restored(&backups).await).await, after);
        }
        if ended.is_ok() {
            assert!(number > 4, "{number}");
            return;
        }
        assert!(number < 100);
    }
}

#[tokio::test]
async fn a_restore_that_was_interrupted_at_any_write_is_continued() {
    let bench = Bench::new().await;
    fill(&bench).await;
    let expected = tagged(&bench.registry).await;
    let backups = memory();
    backed_up(&bench.registry, &backups).await;
    backed_up(&bench.registry, &backups).await;
    let ids: Vec<_> =
        list_backups(&*backups).await.unwrap().iter().map(|info| info.snapshot).collect();
    for number in 1.. {
        let faulty = Arc::new(FaultyStore::new(memory()));
        let target: Arc<dyn Store> = faulty.clone();
        let fault = Fault::fail(ErrorKind::Unavailable).on(|call| !call.is_read());
        faulty.inject(fault.nth(number).from_then_on());
        let ended = restore(&backups, Some(ids[0]), &target, &Quiet).await;
        faulty.heal();
        if ended.is_ok() {
            assert!(number > 20, "{number}");
            return;
        }
        // No program opens it meanwhile, and no other snapshot is mixed into it.
        let opened = open(Arc::clone(&target)).await.unwrap_err();
        assert!(matches!(opened, OpenError::Restoring | OpenError::Absent), "{number}: {opened}");
        if number > 1 {
            let other = restore(&backups, Some(ids[1]), &target, &Quiet).await.unwrap_err();
            assert!(matches!(other, BackupError::OtherRestore { .. }), "{number}: {other}");
        }
        restore(&backups, Some(ids[0]), &target, &Quiet).await.unwrap();
        assert_eq!(tagged(&open(target).await.unwrap()).await, expected, "{number}");
        assert!(number < 500);
    }
}

/// The check at the end belongs to the restore: until it has ended, nothing else opens the storage.
#[tokio::test]
async fn fixed_a_restore_that_was_interrupted_in_its_check_is_run_again() {
    let bench = Bench::new().await;
    fill(&bench).await;
    let backups = memory();
    backed_up(&bench.registry, &backups).await;
    let target = memory();
    for _ in 0..2 {
        restore_backup(&backups, None, &target, &Quiet).await.unwrap();
        let opened = open(Arc::clone(&target)).await.unwrap_err();
        assert!(matches!(opened, OpenError::Restoring), "{opened}");
        let (clock, options) = (bench.clock.clone(), RegistryOptions::default());
        let registry = Registry::open_restored(Arc::clone(&target), clock, options).await.unwrap();
        let report = registry.fsck(&FsckOptions::default(), &NoObserver).await.unwrap();
        assert_eq!((report.damage, report.left), (0, 0));
        let opened = open(Arc::clone(&target)).await.unwrap_err();
        assert!(matches!(opened, OpenError::Restoring), "{opened}");
    }
    finish_restore(&*target).await.unwrap();
    assert_eq!(tagged(&open(target.clone()).await.unwrap()).await, tagged(&bench.registry).await);
    let full = restore_backup(&backups, None, &target, &Quiet).await.unwrap_err();
    assert!(matches!(full, BackupError::NotEmpty), "{full}");
}

/// Runs something once, before a call that matches.
struct Before<F> {
    matches: fn(&Call) -> bool,
    done: AtomicBool,
    run: Mutex<Option<F>>,
}

impl<F> std::fmt::Debug for Before<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Before").finish_non_exhaustive()
    }
}

#[async_trait]
impl<F: Future<Output = ()> + Send + 'static> Interceptor for Before<F> {
    type Plan = ();

    async fn before(&self, call: &Call) -> jreg_storage::Result<()> {
        if (self.matches)(call) && !self.done.swap(true, Ordering::Relaxed) {
            let run = self.run.lock().unwrap().take();
            if let Some(run) = run {
                run.await;
            }
        }
        Ok(())
    }

    async fn after(&self, _: &Call, _: &()) -> jreg_storage::Result<()> {
        Ok(())
    }

    fn stream(&self, _: &Call, _: &(), stream: ByteStream) -> ByteStream {
        stream
    }
}

/// A backup of the bench during which something happens before a call.
async fn back_up_during(
    bench: &Bench,
    matches: fn(&Call) -> bool,
    run: impl Future<Output = ()> + Send + 'static,
) -> (BackupReport, Registry) {
    let before = Before { matches, done: AtomicBool::new(false), run: Mutex::new(Some(run)) };
    let store = Arc::new(InterceptedStore::with(bench.gate.clone(), before));
    let registry = Registry::open_existing(store, bench.clock.clone(), RegistryOptions::default());
    let backups = memory();
    let registry = registry.await.unwrap();
    let report = back_up(&registry, &backups, BackupOptions::default(), &Quiet).await.unwrap();
    (report, restored(&backups).await)
}

fn is_of(call: &Call, operation: &str, prefix: &str) -> bool {
    call.operation == operation && call.key.starts_with(prefix)
}

#[tokio::test]
async fn a_tag_that_moves_while_its_manifest_goes_is_taken_as_it_is_then() {
    let bench = Bench::new().await;
    let old = push_image(&bench, "app", "moving", 1).await;
    push_image(&bench, "app", "stays", 2).await;
    let new = push_image(&bench, "app", "new", 3).await;
    let app = bench.another("app").await;
    let (old, target) = (digest(old.as_bytes()), new.clone());
    let run = async move {
        app.manifest_put(push_of("moving", &target)).await.unwrap();
        app.manifest_purge(&old, true).await.unwrap();
    };
    // The tags were read, the manifests not yet.
    let matches = |call: &Call| is_of(call, "get", "repositories/app/_manifests/");
    let (report, registry) = back_up_during(&bench, matches, run).await;
    assert_eq!(report.missing, []);
    let tags = tagged(&registry).await;
    let moving = tags.iter().find(|(_, tag, _)| tag == "moving").unwrap();
    assert_eq!(moving.2, digest(new.as_bytes()));
    assert_eq!(tags.len(), 3);
}

#[tokio::test]
async fn a_manifest_that_is_purged_before_its_links_are_read_is_not_missed() {
    let bench = Bench::new().await;
    let gone = push_image(&bench, "app", "gone", 1).await;
    push_image(&bench, "app", "stays", 2).await;
    let (app, gone) = (bench.another("app").await, digest(gone.as_bytes()));
    let run = async move {
        app.manifest_purge(&gone, true).await.unwrap();
    };
    let (report, registry) = back_up_during(&bench, |call| is_of(call, "get", "links/"), run).await;
    assert_eq!(report.missing, []);
    let tags = tagged(&registry).await;
    assert_eq!(tags.iter().map(|it| &*it.1).collect::<Vec<_>>(), ["stays"]);
}

#[tokio::test]
async fn bytes_that_garbage_collection_moves_are_found_again() {
    let bench = Bench::new().await;
    push_image(&bench, "app", "v1", 1).await;
    let config = Bytes::from_static(b"{\"n\":1}");
    let blob = digest(&config);
    let link: Key = format!("links/sha256/{}/{}/app", blob.hex().get(..2).unwrap(), blob.hex())
        .parse()
        .unwrap();
    let store = bench.faults.clone();
    let run = async move {
        let seen = store.get(&link).await.unwrap();
        let text = String::from_utf8(seen.bytes.to_vec()).unwrap();
        let record: serde_json::Value = serde_json::from_str(&text).unwrap();
        let old: Key = record["location"].as_str().unwrap().parse().unwrap();
        let new: Key = format!("blobs/_/AA/{}AA", "0".repeat(24)).parse().unwrap();
        let bytes = store.get(&old).await.unwrap().bytes;
        store.put(&new, bytes, PutMode::Create).await.unwrap();
        let moved = json_link(&new, config.len());
        store.put(&link, moved.into(), PutMode::Match(seen.etag)).await.unwrap();
        store.delete(&old, None).await.unwrap();
    };
    let matches = |call: &Call| is_of(call, "head", "blobs/");
    let (report, registry) = back_up_during(&bench, matches, run).await;
    assert_eq!(report.missing, []);
    assert_eq!(tagged(&registry).await.len(), 1);
}

fn json_link(location: &Key, size: usize) -> String {
    let nonce = "f".repeat(32);
    format!(r#"{{"nonce":"{nonce}","v":1,"state":"live","location":"{location}","size":{size}}}"#)
}

#[tokio::test]
async fn content_that_is_named_but_gone_is_reported_and_the_rest_is_saved() {
    let bench = Bench::new().await;
    push_image(&bench, "app", "whole", 1).await;
    push_image(&bench, "app", "rotten", 2).await;
    push_image(&bench, "app", "lost", 3).await;
    let dangling = push_image(&bench, "app", "dangling", 4).await;
    let at = |text: &str| {
        let digest = digest(text.as_bytes());
        let link = format!("links/sha256/{}/{}/app", digest.hex().get(..2).unwrap(), digest.hex());
        let store = bench.faults.clone();
        async move {
            let link = store.get(&link.parse().unwrap()).await.unwrap();
            let link: serde_json::Value = serde_json::from_slice(&link.bytes).unwrap();
            link["location"].as_str().unwrap().parse::<Key>().unwrap()
        }
    };
    let rotten = at("{\"n\":2}").await;
    bench.faults.put(&rotten, "{\"n\":9}".into(), PutMode::Overwrite).await.unwrap();
    bench.faults.delete(&at("{\"n\":3}").await, None).await.unwrap();
    let key = format!("repositories/app/_manifests/sha256/{}", digest(dangling.as_bytes()).hex());
    bench.faults.delete(&key.parse().unwrap(), None).await.unwrap();
    let backups = memory();
    let report =
        back_up(&bench.registry, &backups, BackupOptions::default(), &Quiet).await.unwrap();
    let missing: Vec<_> =
        report.missing.iter().map(|it| format!("{}: {}", it.content, it.reason)).collect();
    assert_eq!(missing.len(), 3, "{missing:#?}");
    for expected in ["its bytes have digest", "is absent", "app:dangling"] {
        assert!(missing.iter().any(|it| it.contains(expected)), "{missing:#?}");
    }
    assert_eq!(list_backups(&*backups).await.unwrap()[0].missing, 3);
    let registry = restored(&backups).await;
    let digest = check(&registry, "app", &"whole".parse().unwrap()).await;
    assert_eq!(digest.hex().len(), 64);
}

/// The last backup restored, for a name below which tags move all the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_backup_under_load_has_every_tag_that_stood_still() {
    let bench = Arc::new(Bench::new().await);
    for number in 0..12 {
        push_image(&bench, "still/app", &format!("v{number}"), number).await;
    }
    let still = tagged(&bench.registry).await;
    let stop = Arc::new(AtomicBool::new(false));
    let pushed = Arc::new(AtomicU64::new(0));
    let writers: Vec<_> = (0..2_u16)
        .map(|writer| {
            let (bench, stop, pushed) = (bench.clone(), stop.clone(), pushed.clone());
            tokio::spawn(async move {
                let name = format!("moving/{writer}");
                for number in 0_u16.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let manifest = push_image(&bench, &name, "latest", 20 + number % 100).await;
                    if number % 3 == 0 {
                        // Removed for good, with its blobs.
                        let of = digest(manifest.as_bytes());
                        bench.repository(&name).manifest_purge(&of, true).await.ok();
                    }
                    pushed.fetch_add(1, Ordering::Relaxed);
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    let backups = memory();
    for _ in 0..15 {
        let report = back_up(&bench.registry, &backups, BackupOptions::default(), &Quiet).await;
        assert_eq!(report.unwrap().missing, []);
        let registry = restored(&backups).await;
        let all = tagged(&registry).await;
        let kept: Vec<_> = all.into_iter().filter(|it| it.0 == "still/app").collect();
        assert_eq!(kept, still);
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    assert!(pushed.load(Ordering::Relaxed) > 10);
}

#[tokio::test]
async fn old_snapshots_go_with_what_only_they_name() {
    let bench = Bench::new().await;
    let old = push_image(&bench, "app", "v1", 1).await;
    push_image(&bench, "app", "v2", 2).await;
    let backups = memory();
    let first = backed_up(&bench.registry, &backups).await;
    bench.repository("app").manifest_purge(&digest(old.as_bytes()), true).await.unwrap();
    tokio::time::sleep(Duration::from_millis(5)).await;
    let second = backed_up(&bench.registry, &backups).await;
    assert_eq!((first.blobs, second.blobs, second.copied), (4, 2, 0));
    let day = Duration::from_secs(24 * 3600);
    let kept = prune_backups(&backups, day, SystemTime::now()).await.unwrap();
    assert_eq!((kept.removed.len(), kept.kept.len(), kept.blobs), (0, 2, 0));
    let later = SystemTime::now() + 2 * day;
    let pruned = prune_backups(&backups, day, later).await.unwrap();
    assert_eq!((pruned.removed, pruned.kept), (vec![first.snapshot], vec![second.snapshot]));
    assert_eq!(pruned.blobs, 2);
    assert_eq!(tagged(&restored(&backups).await).await.len(), 1);
    // The last whole one stays, however old it is.
    let pruned = prune_backups(&backups, Duration::ZERO, later).await.unwrap();
    assert_eq!((pruned.removed.len(), pruned.kept.len()), (0, 1));
    let objects = backups.list(&ListRequest::below("")).await.unwrap().entries;
    let below =
        |prefix: &str| objects.iter().filter(|it| it.key.as_str().starts_with(prefix)).count();
    assert_eq!(["snapshots/", "records/", "blobs/", "activity/"].map(below), [1, 1, 2, 0]);
}

#[tokio::test]
async fn a_purged_manifest_is_in_no_backup_any_more() {
    let bench = Bench::new().await;
    let secret = push_image(&bench, "app", "secret", 1).await;
    push_image(&bench, "app", "secret", 2).await;
    push_image(&bench, "other", "same", 1).await;
    let backups = memory();
    backed_up(&bench.registry, &backups).await;
    backed_up(&bench.registry, &backups).await;
    let (name, of) = ("app".parse().unwrap(), digest(secret.as_bytes()));
    let purged = purge_from_backups(&backups, &name, &of).await.unwrap();
    // Another repository shares the bytes of the layer, and has a copy of its own of the small config.
    assert_eq!((purged.snapshots.len(), purged.blobs), (2, 1));
    let purged = purge_from_backups(&backups, &"other".parse().unwrap(), &of).await.unwrap();
    assert_eq!((purged.snapshots.len(), purged.blobs), (2, 2));
    let again = purge_from_backups(&backups, &name, &of).await.unwrap_err();
    assert!(matches!(again, BackupError::NotInBackups { .. }), "{again}");
    for object in backups.list(&ListRequest::below("")).await.unwrap().entries {
        let range = ByteRange { start: 0, end: object.size_bytes };
        let read: Vec<Bytes> =
            backups.read(&object.key, range).await.unwrap().try_collect().await.unwrap();
        let text = String::from_utf8_lossy(&read.concat()).into_owned();
        assert!(!text.contains(&of.hex()) && !text.contains("\"n\":1"), "{}", object.key);
    }
    let tags = tagged(&restored(&backups).await).await;
    assert_eq!(tags.iter().map(|it| &*it.1).collect::<Vec<_>>(), ["secret"]);
}

#[tokio::test]
async fn a_removal_and_a_backup_keep_out_of_each_others_way() {
    let bench = Bench::new().await;
    push_image(&bench, "app", "v1", 1).await;
    let backups = memory();
    backed_up(&bench.registry, &backups).await;
    for (mark, blocks_backup) in [("backup", false), ("removal", true)] {
        let key: Key = format!("activity/01JD4Z0000000000000000000A-{mark}").parse().unwrap();
        backups.put(&key, "{}".into(), PutMode::Create).await.unwrap();
        let pruned = prune_backups(&backups, Duration::ZERO, SystemTime::now()).await;
        assert!(matches!(pruned.unwrap_err(), BackupError::Busy { .. }));
        let backup = back_up(&bench.registry, &backups, BackupOptions::default(), &Quiet).await;
        assert_eq!(backup.is_err(), blocks_backup, "{mark}");
        backups.delete(&key, None).await.unwrap();
    }
    assert_eq!(backups.list(&ListRequest::below("activity/")).await.unwrap().entries, []);
}

#[tokio::test]
async fn what_holds_something_else_takes_no_backup_and_private_keys_stay() {
    let bench = Bench::new().await;
    push_image(&bench, "app", "v1", 1).await;
    for key in ["jreg.json", "docker/registry/v2/x"] {
        let store = memory();
        store.put(&key.parse().unwrap(), "{}".into(), PutMode::Create).await.unwrap();
        let refused = back_up(&bench.registry, &store, BackupOptions::default(), &Quiet).await;
        assert!(matches!(refused.unwrap_err(), BackupError::Foreign { .. }));
        assert!(matches!(list_backups(&*store).await.unwrap_err(), BackupError::NoBackups));
        let refused = restore(&store, None, &memory(), &Quiet).await;
        assert!(matches!(refused.unwrap_err(), BackupError::NoBackups));
    }
    let (keys, token) = ("auth/keys", "auth/access-tokens/0123456789abcdef");
    for key in [keys, token, "auth/acme/account", "auth/acme/order"] {
        let record = format!(r#"{{"nonce":"{:032}","v":1}}"#, 0);
        bench.faults.put(&key.parse().unwrap(), record.into(), PutMode::Create).await.unwrap();
    }
    for (with_secrets, expected) in
        [(false, vec![token]), (true, vec![token, "auth/acme/account", keys])]
    {
        let backups = memory();
        let options = BackupOptions { with_secrets, ..BackupOptions::default() };
        back_up(&bench.registry, &backups, options, &Quiet).await.unwrap();
        assert_eq!(list_backups(&*backups).await.unwrap()[0].with_secrets, with_secrets);
        let target = memory();
        restore(&backups, None, &target, &Quiet).await.unwrap();
        let there = target.list(&ListRequest::below("auth/")).await.unwrap().entries;
        let there: Vec<_> = there.iter().map(|entry| entry.key.as_str()).collect();
        assert_eq!(there, expected);
    }
}

/// A snapshot that rotted is not restored in part.
#[tokio::test]
async fn a_damaged_snapshot_or_blob_is_refused() {
    let bench = Bench::new().await;
    push_image(&bench, "app", "v1", 1).await;
    let backups = memory();
    backed_up(&bench.registry, &backups).await;
    let all = backups.list(&ListRequest::below("")).await.unwrap().entries;
    for object in all.iter().filter(|it| !it.key.as_str().starts_with("activity/")) {
        let record = backups.get(&object.key).await.unwrap();
        let mut damaged = record.bytes.to_vec();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 1;
        backups.put(&object.key, damaged.into(), PutMode::Overwrite).await.unwrap();
        let target = memory();
        let refused = restore(&backups, None, &target, &Quiet).await;
        assert!(refused.is_err(), "{}", object.key);
        assert!(open(target).await.is_err(), "{}", object.key);
        backups.put(&object.key, record.bytes, PutMode::Overwrite).await.unwrap();
    }
    restore(&backups, None, &memory(), &Quiet).await.unwrap();
}

/// An upload in progress, and what was pushed without a manifest, are not part of a backup.
#[tokio::test]
async fn uploads_and_notes_are_left_out() {
    let bench = Bench::new().await;
    push_image(&bench, "app", "v1", 1).await;
    let app = bench.repository("app");
    let id = app.upload_start(None);
    app.upload_append(&id, UploadChunk::of(Bytes::from(vec![1; 100]))).await.unwrap();
    bench.faults.put(&"gc/swept".parse().unwrap(), "{}".into(), PutMode::Create).await.unwrap();
    let backups = memory();
    backed_up(&bench.registry, &backups).await;
    let target = memory();
    restore(&backups, None, &target, &Quiet).await.unwrap();
    for prefix in ["uploads/", "gc/", "probe/", "events/"] {
        assert_eq!(target.list(&ListRequest::below(prefix)).await.unwrap().entries, []);
    }
}

/// What was pulled since the backup is not known: no tag expires by pulls from before it until they have been tracked for
/// as long again.
#[tokio::test]
async fn a_restored_store_knows_nothing_of_pulls_before() {
    const DAY: Duration = Duration::from_secs(24 * 3600);
    let text = "[[retention]]\nrepositories = ['**']\n[[retention.keep]]\npulled_within = '30d'\n";
    let rules = LifecycleRules::parse(&format!("{text}[end]\n")).unwrap();
    let rules = CurrentRules::new(Arc::new(rules));
    let bench = Bench::new().await;
    fill(&bench).await;
    let registry = bench.registry.with_rules(rules.clone());
    registry.update_pulls_since().await.unwrap();
    let (name, tag) = ("team/app".parse().unwrap(), Reference::Tag("v1".parse().unwrap()));
    let repository = registry.repository(name);
    let found = repository.manifest_get(&tag, TouchPolicy::Never).await.unwrap();
    repository.record_pull(&tag, &found);
    registry.flush_pulls().await.unwrap();
    registry.merge_pulls().await.unwrap();
    bench.clock.advance(60 * DAY);
    let removed = async |registry: &Registry| {
        let options = RetentionOptions::default();
        let preview = registry.preview_retention(&options, false, &NoObserver).await.unwrap();
        (preview.removed, preview.unevaluated)
    };
    assert_eq!(removed(&registry).await, (5, 0), "tracked for two months");

    let (backups, store) = (memory(), MemoryStore::builder().clock(bench.clock.clone()).build());
    backed_up(&registry, &backups).await;
    let store: Arc<dyn Store> = Arc::new(store);
    restore(&backups, None, &store, &Quiet).await.unwrap();
    let pulls = store.list(&ListRequest::below("pulls/")).await.unwrap();
    assert!(pulls.entries.is_empty(), "{pulls:?}");
    let restored = Registry::open_existing(store, bench.clock.clone(), RegistryOptions::default());
    let restored = restored.await.unwrap().with_rules(rules);
    assert_eq!(removed(&restored).await, (0, 5), "before an instance tracks");
    restored.update_pulls_since().await.unwrap();
    bench.clock.advance(29 * DAY);
    assert_eq!(removed(&restored).await, (0, 5), "tracked for 29 days");
    bench.clock.advance(2 * DAY);
    assert_eq!(removed(&restored).await, (5, 0));
}
