//! Checking: one test for each thing that can be found, with what a repair makes of it. What
//! continues beside a check is in `fsck_concurrent.rs`.

use std::sync::Mutex;

use bytes::Bytes;
use jreg_oci::{Digest, Reference};
use jreg_registry::{
    FindingKind, FsckFinding, FsckObserver, FsckOptions, FsckPhase, FsckReport, PageRequest,
    ReferencePolicy, Registry, RegistryOptions, RepairStatus, TouchPolicy, UploadChunk,
};
use jreg_storage::testing::Fault;
use jreg_storage::{ErrorKind, Key, PutMode, Store};

use crate::bench::{Bench, HOUR, MINUTE, bytes, digest, without_checksum};
use crate::gc::{image, index, referrer};

/// Keeps what a check found.
#[derive(Debug, Default)]
pub(crate) struct FindingList(Mutex<Vec<FsckFinding>>, Mutex<Vec<(String, Vec<String>)>>);

impl FindingList {
    /// The keys of what a repair was announced for before the finding was told, with the images.
    pub(crate) fn announced(&self) -> Vec<(String, Vec<String>)> {
        std::mem::take(&mut self.1.lock().unwrap())
    }

    pub(crate) fn take(&self) -> Vec<FsckFinding> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl FsckObserver for FindingList {
    fn phase(&self, _: FsckPhase) {}

    fn progress(&self, _: u64, _: u64) {}

    fn repairing(&self, finding: &FsckFinding, images: &[String]) {
        let told = self.0.lock().unwrap();
        let is_told = |told: &FsckFinding| (told.kind, &told.key) == (finding.kind, &finding.key);
        assert!(!told.iter().any(|told| is_told(told) && told.repository == finding.repository));
        self.1.lock().unwrap().push((finding.key.clone(), images.to_vec()));
    }

    fn finding(&self, finding: &FsckFinding) {
        self.0.lock().unwrap().push(finding.clone());
    }
}

pub(crate) fn cheap() -> FsckOptions {
    FsckOptions::default()
}

pub(crate) fn deep() -> FsckOptions {
    FsckOptions { deep: true, ..cheap() }
}

pub(crate) fn repairing() -> FsckOptions {
    FsckOptions { repair: true, ..cheap() }
}

pub(crate) async fn check(bench: &Bench, options: &FsckOptions) -> (FsckReport, Vec<FsckFinding>) {
    let found = FindingList::default();
    let done = bench.registry.fsck(options, &found).await.unwrap();
    (done, found.take())
}

fn named(findings: &[FsckFinding]) -> Vec<(&'static str, &str, RepairStatus)> {
    findings.iter().map(|found| (found.kind.name(), found.key.as_str(), found.repair)).collect()
}

/// Checks, and expects exactly these findings.
#[track_caller]
pub(crate) fn expect(found: &[FsckFinding], expected: &[(FindingKind, &Key, RepairStatus)]) {
    let expected: Vec<_> =
        expected.iter().map(|(kind, key, repair)| (kind.name(), key.as_str(), *repair)).collect();
    assert_eq!(named(found), expected, "{found:#?}");
}

const CONFIG: usize = 5;
pub(crate) const LOOSE: usize = 6;

fn manifest() -> String {
    image(&bytes(CONFIG))
}

fn signature() -> String {
    referrer(&manifest(), &bytes(CONFIG))
}

fn child() -> String {
    image(&bytes(LOOSE))
}

fn of(manifest: &str) -> Digest {
    digest(manifest.as_bytes())
}

/// A repository with a tagged image, a signature of it, and an index of another image; all of it
/// old enough that no push can be about to add anything.
pub(crate) async fn healthy() -> Bench {
    healthy_with(RegistryOptions::default()).await
}

async fn healthy_with(options: RegistryOptions) -> Bench {
    let bench = Bench::with(options).await;
    bench.push("a", &bytes(CONFIG)).await;
    bench.push("a", &bytes(LOOSE)).await;
    bench.put_manifest("a", "v1", &manifest()).await.unwrap();
    for untagged in [signature(), child()] {
        bench.put_manifest("a", &of(&untagged).to_string(), &untagged).await.unwrap();
    }
    bench.put_manifest("a", "all", &index(&[&child()])).await.unwrap();
    bench.clock.advance(2 * HOUR);
    bench
}

pub(crate) async fn put(bench: &Bench, key: &Key, bytes: impl Into<Bytes>) {
    bench.faults.put(key, bytes.into(), PutMode::Overwrite).await.unwrap();
}

pub(crate) async fn get(bench: &Bench, key: &Key) -> Bytes {
    bench.faults.get(key).await.unwrap().bytes
}

pub(crate) async fn remove(bench: &Bench, key: &Key) {
    bench.faults.delete(key, None).await.unwrap();
}

pub(crate) fn key(text: impl Into<String>) -> Key {
    text.into().parse().unwrap()
}

fn flat(digest: &Digest) -> String {
    format!("sha256/{}", digest.hex())
}

fn manifest_key(manifest: &str) -> Key {
    key(format!("repositories/a/_manifests/{}", flat(&of(manifest))))
}

/// `<alg>/<aa>/<hex>`.
pub(crate) fn spread(digest: &Digest) -> String {
    let hex = digest.hex();
    format!("sha256/{}/{hex}", hex.get(..2).unwrap())
}

pub(crate) fn link_key(digest: &Digest) -> Key {
    key(format!("links/{}/a", spread(digest)))
}

pub(crate) fn tag_key(tag: &str) -> Key {
    key(format!("repositories/a/_tags/{tag}"))
}

fn hint_key(manifest: &str, tag: &str) -> Key {
    key(format!("repositories/a/_tagged/{}/{tag}", flat(&of(manifest))))
}

fn referrer_key() -> Key {
    let own = of(&signature());
    let subject = flat(&of(&manifest()));
    key(format!("repositories/a/_referrers/{subject}/sha256-{}", own.hex()))
}

/// Where the bytes of a blob that was pushed whole lie.
pub(crate) async fn place(bench: &Bench, digest: &Digest) -> Key {
    bench.keys(&format!("blobs/{}/", spread(digest))).await.remove(0)
}

/// Everything in quarantine, by what it was.
pub(crate) async fn quarantined(bench: &Bench) -> Vec<String> {
    let keys = bench.keys("quarantine/").await;
    keys.iter().map(|key| key.as_str().splitn(3, '/').nth(2).unwrap().to_owned()).collect()
}

/// A manifest references a blob that is absent since a repair: that is all that is left.
async fn expect_one_blob_missing(bench: &Bench, of: &str) {
    let (done, found) = check(bench, &cheap()).await;
    let found: Vec<_> =
        found.into_iter().filter(|found| found.kind != FindingKind::Quarantined).collect();
    expect(&found, &[(FindingKind::BlobMissing, &manifest_key(of), RepairStatus::None)]);
    assert_eq!((done.damage, done.left), (1, 1));
}

async fn expect_nothing(bench: &Bench) {
    let (done, found) = check(bench, &deep()).await;
    let found: Vec<_> =
        found.into_iter().filter(|found| found.kind != FindingKind::Quarantined).collect();
    expect(&found, &[]);
    assert_eq!(done.left, 0);
}

/// Repairs, expects one finding that is repaired, and nothing after that.
async fn expect_repaired(bench: &Bench, kind: FindingKind, at: &Key) {
    let (done, found) = check(bench, &cheap()).await;
    expect(&found, &[(kind, at, RepairStatus::Possible)]);
    assert_eq!((done.repaired, done.left), (0, 1));
    let (done, found) = check(bench, &repairing()).await;
    expect(&found, &[(kind, at, RepairStatus::Done)]);
    assert_eq!((done.repaired, done.left), (1, 0));
    expect_nothing(bench).await;
}

#[tokio::test]
async fn nothing_is_found_where_nothing_is_wrong() {
    let bench = healthy().await;
    let (done, found) = check(&bench, &deep()).await;
    expect(&found, &[]);
    let hashed = (CONFIG + LOOSE) as u64;
    let counted = FsckReport { hashed: 2, hashed_bytes: hashed, objects: done.objects, ..done };
    assert_eq!(done, counted);
    let all = bench.keys("").await.len() as u64;
    // The note of the deep pass came after its folder was listed.
    assert_eq!(done.objects, all - 1);
    bench.writes();
    check(&bench, &repairing()).await;
    assert_eq!(bench.writes(), Vec::<String>::new());
}

#[tokio::test]
async fn fresh_pushes_and_uploads_in_progress_are_no_finding() {
    let bench = Bench::new().await;
    bench.push("a", &bytes(CONFIG)).await;
    bench.put_manifest("a", "v1", &manifest()).await.unwrap();
    let repository = bench.repository("a");
    for length in [3, 20] {
        let id = repository.upload_start(None);
        repository.upload_append(&id, UploadChunk::of(bytes(length))).await.unwrap();
    }
    let done = repository.upload_start(None);
    repository.upload_append(&done, UploadChunk::of(bytes(4))).await.unwrap();
    repository.upload_finish(&done, &digest(&bytes(4)), UploadChunk::empty()).await.unwrap();
    expect(&check(&bench, &deep()).await.1, &[]);
    bench.clock.advance(3 * HOUR);
    expect(&check(&bench, &deep()).await.1, &[]);
}

#[tokio::test]
async fn format_marker_that_is_missing_or_damaged() {
    let bench = healthy().await;
    let marker = key("jreg.json");
    remove(&bench, &marker).await;
    expect_repaired(&bench, FindingKind::FormatMissing, &marker).await;
    put(&bench, &marker, "{\"form").await;
    expect_repaired(&bench, FindingKind::FormatDamaged, &marker).await;
    put(&bench, &marker, "{\"format\":2}").await;
    let (_, found) = check(&bench, &repairing()).await;
    expect(&found[1..], &[(FindingKind::RecordNewer, &marker, RepairStatus::None)]);
    assert_eq!(get(&bench, &marker).await, "{\"format\":2}");
}

#[tokio::test]
async fn unknown_keys_are_reported_and_never_touched() {
    let bench = healthy().await;
    let keys = [
        "blobs/sha256/00/x",
        "catalog/_",
        "events/queue/x",
        "links/sha256/00/x",
        "notes.txt",
        "repositories/a/_history/v1/x",
        "repositories/a/_manifests/sha256/abc",
        "uploads/x",
        "zoo/lion/cub",
    ];
    for unknown in keys {
        put(&bench, &key(unknown), "x").await;
    }
    let (done, found) = check(&bench, &repairing()).await;
    let mut named: Vec<_> = found.iter().map(|found| found.key.as_str()).collect();
    named.sort_unstable();
    assert_eq!(named, keys);
    assert!(found.iter().all(|found| found.kind == FindingKind::UnknownKey));
    assert_eq!((done.untidy, done.left, done.repaired), (9, 9, 0));
    for unknown in keys {
        assert_eq!(get(&bench, &key(unknown)).await, "x");
    }
}

#[tokio::test]
async fn an_object_that_the_store_cannot_give_while_it_gives_others() {
    let bench = healthy().await;
    for at in [link_key(&digest(&bytes(CONFIG))), manifest_key(&manifest()), tag_key("v1")] {
        let this = at.to_string();
        let fails = Fault::fail(ErrorKind::Unavailable);
        let fails = fails.on(move |call| call.operation == "get" && call.key == this);
        bench.faults.inject(fails.from_then_on());
        let (done, found) = check(&bench, &repairing()).await;
        expect(&found, &[(FindingKind::ReadFails, &at, RepairStatus::None)]);
        assert_eq!(done.left, 1);
        bench.faults.heal();
    }
    let at = place(&bench, &digest(&bytes(CONFIG))).await;
    let this = at.to_string();
    let cut = Fault::cut_stream(2, ErrorKind::Unavailable).on(move |call| call.key == this);
    bench.faults.inject(cut.from_then_on());
    let options = FsckOptions { deep: true, ..repairing() };
    expect(&check(&bench, &options).await.1, &[(FindingKind::ReadFails, &at, RepairStatus::None)]);
    bench.faults.heal();
    expect_nothing(&bench).await;
}

#[tokio::test]
async fn a_check_of_a_store_that_fails_fails() {
    for operation in ["list", "get", "read"] {
        let bench = healthy().await;
        let fails = Fault::fail(ErrorKind::Unavailable).on(move |call| call.operation == operation);
        bench.faults.inject(fails.from_then_on());
        let found = FindingList::default();
        let marker_too = Fault::fail(ErrorKind::Unavailable).on(|call| call.key == "jreg.json");
        bench.faults.inject(marker_too.from_then_on());
        bench.registry.fsck(&deep(), &found).await.unwrap_err();
    }
}

#[tokio::test]
async fn a_failure_that_passes_is_no_finding() {
    let bench = healthy().await;
    for n in 1..=2 {
        bench
            .faults
            .inject(Fault::fail(ErrorKind::Unavailable).on(|c| c.operation == "get").nth(n));
    }
    bench.faults.inject(Fault::cut_stream(1, ErrorKind::Unavailable));
    expect(&check(&bench, &deep()).await.1, &[]);
}

#[tokio::test]
async fn a_record_of_a_later_version_is_left_alone() {
    let bench = healthy().await;
    let link = link_key(&digest(&bytes(CONFIG)));
    let later = r#"{"nonce":"n","v":2,"state":"frozen"}"#;
    put(&bench, &link, later).await;
    let (_, found) = check(&bench, &repairing()).await;
    expect(&found, &[(FindingKind::RecordNewer, &link, RepairStatus::None)]);
    assert_eq!(get(&bench, &link).await, later);
    let stays = found[0].detail.contains("version 2");
    assert!(stays, "{found:?}");
}

#[tokio::test]
async fn unreadable_link_is_quarantined_and_the_blob_can_be_pushed_again() {
    for rubbish in ["", "rubbish", "{\"nonce\":\"n\",\"v\":1,\"state\":\"live\"}"] {
        let bench = healthy().await;
        let content = digest(&bytes(CONFIG));
        let link = link_key(&content);
        put(&bench, &link, rubbish).await;
        let (_, found) = check(&bench, &cheap()).await;
        expect(&found, &[(FindingKind::LinkUnreadable, &link, RepairStatus::Possible)]);
        let (done, found) = check(&bench, &repairing()).await;
        expect(&found[..1], &[(FindingKind::LinkUnreadable, &link, RepairStatus::Done)]);
        assert!(found.iter().all(|found| found.kind != FindingKind::BytesOrphan), "{found:?}");
        assert_eq!(done.left, 2);
        assert_eq!(quarantined(&bench).await, [link.as_str()]);
        assert_eq!(get(&bench, &bench.keys("quarantine/").await[0]).await, rubbish);
        bench.repository("a").blob_stat(&content, TouchPolicy::Never).await.unwrap_err();
        bench.push("a", &bytes(CONFIG)).await;
        let (_, found) = check(&bench, &cheap()).await;
        let left: Vec<_> = found.iter().map(|found| found.kind).collect();
        assert_eq!(left, [FindingKind::Quarantined]);
    }
}

#[tokio::test]
async fn bytes_that_are_missing_cut_or_too_many_are_let_go_and_can_be_pushed_again() {
    for (content, kind) in [
        (None, FindingKind::BytesMissing),
        (Some(Bytes::new()), FindingKind::BytesSize),
        (Some(bytes(CONFIG - 1)), FindingKind::BytesSize),
        (Some(bytes(CONFIG + 1)), FindingKind::BytesSize),
    ] {
        let bench = healthy().await;
        let blob = digest(&bytes(CONFIG));
        let at = place(&bench, &blob).await;
        match content {
            None => remove(&bench, &at).await,
            Some(content) => put(&bench, &at, content).await,
        }
        bench.clock.advance(2 * HOUR);
        let (done, found) = check(&bench, &deep()).await;
        expect(&found[..1], &[(kind, &at, RepairStatus::Possible)]);
        assert_eq!((found.len(), done.left), (1, 1));
        assert_eq!(found[0].digest.as_ref(), Some(&blob));
        assert_eq!(found[0].repository.as_ref().unwrap().as_str(), "a");
        let (done, found) = check(&bench, &repairing()).await;
        expect(&found[..1], &[(kind, &at, RepairStatus::Done)]);
        // Both manifests name it as their config.
        assert_eq!((done.repaired, done.left), (1, 2));
        let seen = bench.repository("a").blob_stat(&blob, TouchPolicy::Never).await;
        assert!(matches!(seen, Err(jreg_registry::Error::BlobUnknown { .. })), "{seen:?}");
        bench.push("a", &bytes(CONFIG)).await;
        assert_eq!(bench.pull("a", &blob).await.unwrap(), bytes(CONFIG));
        assert_eq!(check(&bench, &deep()).await.0.left, 0);
    }
}

#[tokio::test]
async fn bytes_of_another_digest_are_found_by_a_deep_check_only() {
    let bench = healthy().await;
    let blob = digest(&bytes(LOOSE));
    let from = "a".parse().unwrap();
    bench.repository("b").blob_mount(&blob, &from).await.unwrap().unwrap();
    let at = place(&bench, &blob).await;
    put(&bench, &at, "wrong!").await;
    expect(&check(&bench, &cheap()).await.1, &[]);
    let (done, found) = check(&bench, &deep()).await;
    let wrong = FindingKind::BytesDigest;
    expect(&found, &[(wrong, &at, RepairStatus::Possible), (wrong, &at, RepairStatus::Possible)]);
    let names = found.iter().flat_map(|found| &found.repository);
    let names: Vec<_> = names.map(|name| name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!((done.hashed, done.left), (2, 2), "bytes that two links name are read once");
    let (done, found) = check(&bench, &FsckOptions { deep: true, ..repairing() }).await;
    let missing = (FindingKind::BlobMissing, &manifest_key(&child()), RepairStatus::None);
    expect(&found, &[(wrong, &at, RepairStatus::Done), (wrong, &at, RepairStatus::Done), missing]);
    assert_eq!((done.repaired, done.left), (2, 1));
    expect_one_blob_missing(&bench, &child()).await;
    bench.push("a", &bytes(LOOSE)).await;
    assert_eq!(bench.pull("a", &blob).await.unwrap(), bytes(LOOSE));
    assert_eq!(check(&bench, &deep()).await.0.left, 0);
}

#[tokio::test]
async fn a_repair_clears_the_cached_damage_of_a_blob() {
    let bench = healthy().await;
    let blob = digest(&bytes(CONFIG));
    bench.pull("a", &blob).await.unwrap();
    let at = place(&bench, &blob).await;
    put(&bench, &at, "wrong").await;
    check(&bench, &FsckOptions { deep: true, ..repairing() }).await;
    let read = bench.pull("a", &blob).await;
    assert!(matches!(read, Err(jreg_registry::Error::BlobUnknown { .. })), "{read:?}");
}

/// What is made of an object's bytes.
type FsckDamage = fn(Bytes) -> Bytes;

#[tokio::test]
async fn manifest_that_is_no_record_or_of_another_digest_is_quarantined() {
    let whole = |bench: Bytes| bench;
    let cut = |bytes: Bytes| bytes.slice(..bytes.len() - 3);
    let other = |bytes: Bytes| {
        let mut bytes = bytes.to_vec();
        *bytes.last_mut().unwrap() = b' ';
        bytes.into()
    };
    let rubbish = |_| Bytes::from_static(b"rubbish");
    let damages: [(FsckDamage, _); 4] = [
        (whole, None),
        (cut, Some(FindingKind::ManifestUnreadable)),
        (other, Some(FindingKind::ManifestDigest)),
        (rubbish, Some(FindingKind::ManifestUnreadable)),
    ];
    for (damage, kind) in damages {
        let bench = healthy().await;
        let at = manifest_key(&child());
        put(&bench, &at, damage(get(&bench, &at).await)).await;
        bench.clock.advance(HOUR);
        let Some(kind) = kind else {
            expect_nothing(&bench).await;
            continue;
        };
        expect(&check(&bench, &cheap()).await.1, &[(kind, &at, RepairStatus::Possible)]);
        let (_, found) = check(&bench, &repairing()).await;
        expect(&found[..1], &[(kind, &at, RepairStatus::Done)]);
        assert_eq!(quarantined(&bench).await, [at.as_str()]);
        let reference = Reference::Digest(of(&child()));
        let read = bench.repository("a").manifest_get(&reference, TouchPolicy::Never).await;
        assert!(matches!(read, Err(jreg_registry::Error::ManifestUnknown { .. })), "{read:?}");
        bench.put_manifest("a", &reference.to_string(), &child()).await.unwrap();
        expect_nothing(&bench).await;
    }
}

#[tokio::test]
async fn a_tag_of_a_quarantined_manifest_is_reported_and_stays() {
    let bench = healthy().await;
    let at = manifest_key(&manifest());
    put(&bench, &at, "rubbish").await;
    let (done, found) = check(&bench, &repairing()).await;
    expect(
        &found,
        &[
            (FindingKind::ManifestUnreadable, &at, RepairStatus::Done),
            (FindingKind::HintStray, &hint_key(&manifest(), "v1"), RepairStatus::None),
            (FindingKind::TagDangling, &tag_key("v1"), RepairStatus::None),
        ],
    );
    assert_eq!((done.repaired, done.left), (1, 1));
    assert!(found[2].detail.contains(&of(&manifest()).to_string()));
    bench.put_manifest("a", &of(&manifest()).to_string(), &manifest()).await.unwrap();
    expect_nothing(&bench).await;
}

#[tokio::test]
async fn header_line_alone_is_made_again_from_the_bytes() {
    for header in ["", "{", r#"{"nonce":"n","mediaType":"application/vnd.x.index+json","size":1}"#]
    {
        let bench = healthy().await;
        let at = manifest_key(&manifest());
        put(&bench, &at, format!("{header}\n{}", manifest())).await;
        bench.clock.advance(HOUR);
        expect_repaired(&bench, FindingKind::ManifestUnreadable, &at).await;
        let read =
            bench.repository("a").manifest_get(&"v1".parse().unwrap(), TouchPolicy::Never).await;
        let read = read.unwrap();
        assert_eq!(read.bytes, manifest());
        assert_eq!(read.media_type.as_str(), "application/vnd.oci.image.manifest.v1+json");
    }
}

#[tokio::test]
async fn header_of_another_media_type_makes_a_manifest_unreadable() {
    for has_checksum in [true, false] {
        let bench = healthy().await;
        let at = manifest_key(&manifest());
        let read = String::from_utf8(get(&bench, &at).await.to_vec()).unwrap();
        let (header, _) = read.split_once('\n').unwrap();
        let header = if has_checksum { header.to_owned() } else { without_checksum(header) };
        let header = header.replace("image.manifest.v1", "image.index.v1");
        put(&bench, &at, format!("{header}\n{}", manifest())).await;
        bench.clock.advance(HOUR);
        expect_repaired(&bench, FindingKind::ManifestUnreadable, &at).await;
    }
}

#[tokio::test]
async fn bytes_that_are_right_and_no_manifest_stay() {
    let bench = healthy().await;
    let odd = "[]";
    let at = manifest_key(odd);
    let header = r#"{"nonce":"n","mediaType":"application/x","size":2}"#;
    put(&bench, &at, format!("{header}\n{odd}")).await;
    let (_, found) = check(&bench, &repairing()).await;
    expect(&found, &[(FindingKind::ManifestInvalid, &at, RepairStatus::None)]);
    assert_eq!(get(&bench, &at).await, format!("{header}\n{odd}"));
}

#[tokio::test]
async fn header_with_another_subject_is_made_again() {
    let bench = healthy().await;
    let at = manifest_key(&signature());
    let read = String::from_utf8(get(&bench, &at).await.to_vec()).unwrap();
    let (header, content) = read.split_once('\n').unwrap();
    let header = without_checksum(header);
    let other = header.replace(&of(&manifest()).to_string(), &of(&child()).to_string());
    assert_ne!(other, header);
    put(&bench, &at, format!("{other}\n{content}")).await;
    bench.clock.advance(HOUR);
    expect_repaired(&bench, FindingKind::ManifestHeader, &at).await;
}

#[tokio::test]
async fn referenced_blob_without_a_link() {
    let bench = healthy().await;
    let at = manifest_key(&child());
    remove(&bench, &link_key(&digest(&bytes(LOOSE)))).await;
    let (done, found) = check(&bench, &repairing()).await;
    let missing = (FindingKind::BlobMissing, &at, RepairStatus::None);
    expect(&found[1..], &[missing]);
    assert_eq!((found[0].kind, done.left), (FindingKind::BytesOrphan, 1));
    bench.push("a", &bytes(LOOSE)).await;
    bench.repository("a").blob_delete(&digest(&bytes(LOOSE))).await.unwrap();
    let (_, found) = check(&bench, &cheap()).await;
    let found: Vec<_> =
        found.into_iter().filter(|found| found.kind != FindingKind::BytesOrphan).collect();
    expect(&found, &[missing]);
    assert!(found[0].detail.ends_with("it was deleted"), "{found:?}");
}

#[tokio::test]
async fn child_that_an_index_names_is_missed_as_the_policy_says() {
    for (references, kind) in [
        (ReferencePolicy::Strict, FindingKind::ChildMissing),
        (ReferencePolicy::SparseIndex, FindingKind::SparseReference),
        (ReferencePolicy::Off, FindingKind::SparseReference),
    ] {
        let bench =
            healthy_with(RegistryOptions { references, ..RegistryOptions::default() }).await;
        remove(&bench, &manifest_key(&child())).await;
        let at = manifest_key(&index(&[&child()]));
        expect(&check(&bench, &repairing()).await.1, &[(kind, &at, RepairStatus::None)]);
    }
}

#[tokio::test]
async fn layers_that_live_elsewhere_and_blobs_in_an_index_are_no_findings() {
    let bench = healthy().await;
    let (config, layer) = (digest(&bytes(CONFIG)), digest(b"elsewhere"));
    let foreign = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
        "config":{{"mediaType":"application/x","digest":"{config}","size":{CONFIG}}},
        "layers":[{{"mediaType":"application/y","digest":"{layer}","size":9,"urls":["https://x/"]}}]}}"#
    );
    let cache = format!(
        r#"{{"schemaVersion":2,"manifests":[
        {{"mediaType":"application/y","digest":"{config}","size":{CONFIG}}}]}}"#
    );
    bench.put_manifest("a", "foreign", &foreign).await.unwrap();
    bench.put_manifest("a", "cache", &cache).await.unwrap();
    bench.clock.advance(HOUR);
    expect_nothing(&bench).await;
}

#[tokio::test]
async fn unreadable_tag_is_quarantined() {
    let bench = healthy().await;
    let at = tag_key("v1");
    put(&bench, &at, "rubbish").await;
    let (_, found) = check(&bench, &cheap()).await;
    expect(&found, &[(FindingKind::TagUnreadable, &at, RepairStatus::Possible)]);
    let (done, found) = check(&bench, &repairing()).await;
    expect(&found, &[(FindingKind::TagUnreadable, &at, RepairStatus::Done)]);
    assert_eq!(done.left, 0);
    assert_eq!(quarantined(&bench).await, [at.as_str()]);
    let hint = (FindingKind::HintStray, &hint_key(&manifest(), "v1"), RepairStatus::None);
    expect(&check(&bench, &cheap()).await.1[1..], &[hint]);
    bench.put_manifest("a", "v1", &manifest()).await.unwrap();
    expect_nothing(&bench).await;
}

#[tokio::test]
async fn tag_whose_manifest_is_absent_stays() {
    let bench = healthy().await;
    remove(&bench, &manifest_key(&manifest())).await;
    let (done, found) = check(&bench, &repairing()).await;
    let hint = (FindingKind::HintStray, &hint_key(&manifest(), "v1"), RepairStatus::None);
    expect(&found, &[hint, (FindingKind::TagDangling, &tag_key("v1"), RepairStatus::None)]);
    assert_eq!((done.notes, done.left), (1, 1));
    get(&bench, &tag_key("v1")).await;
}

#[tokio::test]
async fn hints_that_are_missing_unreadable_or_of_no_tag() {
    let bench = healthy().await;
    let at = hint_key(&manifest(), "v1");
    remove(&bench, &at).await;
    expect_repaired(&bench, FindingKind::HintMissing, &at).await;
    put(&bench, &at, "rubbish").await;
    bench.clock.advance(HOUR);
    expect_repaired(&bench, FindingKind::HintUnreadable, &at).await;
    // A push of the tag writes over it.
    put(&bench, &at, "rubbish").await;
    bench.put_manifest("a", "v1", &manifest()).await.unwrap();
    expect_nothing(&bench).await;
    let stray = hint_key(&manifest(), "v2");
    put(&bench, &stray, r#"{"nonce":"n"}"#).await;
    expect_nothing(&bench).await;
    bench.clock.advance(HOUR);
    let (done, found) = check(&bench, &repairing()).await;
    expect(&found[1..], &[(FindingKind::HintStray, &stray, RepairStatus::None)]);
    assert_eq!(done.left, 0);
}

async fn referrers(bench: &Bench) -> Vec<Digest> {
    let page = PageRequest { limit: 10, last: None };
    let page = bench.repository("a").referrers(&of(&manifest()), None, &page).await.unwrap();
    page.items.into_iter().map(|descriptor| descriptor.digest).collect()
}

#[tokio::test(start_paused = true)]
async fn entry_of_a_referrer_is_made_as_its_push_made_it() {
    let bench = healthy().await;
    let at = referrer_key();
    let page = PageRequest { limit: 10, last: None };
    let repository = bench.repository("a");
    let before = repository.referrers(&of(&manifest()), None, &page).await.unwrap();
    remove(&bench, &at).await;
    expect_repaired(&bench, FindingKind::ReferrerMissing, &at).await;
    for rubbish in ["", "rubbish"] {
        put(&bench, &at, rubbish).await;
        expect_repaired_beside_quarantine(&bench, FindingKind::ReferrerUnreadable, &at).await;
    }
    let entry = String::from_utf8(get(&bench, &at).await.to_vec()).unwrap();
    let entry = without_checksum(&entry);
    put(&bench, &at, entry.replace("application/x", "application/y")).await;
    expect_repaired_beside_quarantine(&bench, FindingKind::ReferrerWrong, &at).await;
    let after = repository.referrers(&of(&manifest()), None, &page).await.unwrap();
    assert_eq!(before.items, after.items);
}

#[tokio::test]
async fn entry_of_a_referrer_that_was_written_anew_is_read_anew() {
    let bench = healthy().await;
    let listed = async |bench: &Bench| {
        let page = PageRequest { limit: 10, last: None };
        let page = bench.repository("a").referrers(&of(&manifest()), None, &page).await.unwrap();
        page.items.into_iter().map(|found| found.artifact_type).collect::<Vec<_>>()
    };
    assert_eq!(listed(&bench).await, [Some("application/x".into())]);
    let at = referrer_key();
    let entry = String::from_utf8(get(&bench, &at).await.to_vec()).unwrap();
    let entry = without_checksum(&entry);
    put(&bench, &at, entry.replace("application/x", "application/y")).await;
    assert_eq!(listed(&bench).await, [Some("application/y".into())]);
    remove(&bench, &at).await;
    assert_eq!(listed(&bench).await, []);
}

async fn expect_repaired_beside_quarantine(bench: &Bench, kind: FindingKind, at: &Key) {
    let (_, found) = check(bench, &repairing()).await;
    let found: Vec<_> =
        found.into_iter().filter(|found| found.kind != FindingKind::Quarantined).collect();
    expect(&found, &[(kind, at, RepairStatus::Done)]);
    expect_nothing(bench).await;
}

#[tokio::test]
async fn entry_of_a_referrer_without_its_manifest_or_under_another_subject() {
    let bench = healthy().await;
    let (right, subject) = (referrer_key(), of(&child()));
    let own = of(&signature());
    let wrong = key(format!("repositories/a/_referrers/{}/sha256-{}", flat(&subject), own.hex()));
    let entry = get(&bench, &right).await;
    put(&bench, &wrong, entry).await;
    expect_nothing(&bench).await;
    bench.clock.advance(HOUR);
    expect_repaired(&bench, FindingKind::ReferrerWrong, &wrong).await;
    remove(&bench, &manifest_key(&signature())).await;
    let (done, found) = check(&bench, &repairing()).await;
    expect(&found[1..], &[(FindingKind::ReferrerStray, &right, RepairStatus::None)]);
    assert_eq!((referrers(&bench).await.len(), done.left), (1, 0));
}

#[tokio::test]
async fn entries_of_the_catalog() {
    let bench = healthy().await;
    let at = key("catalog/a");
    remove(&bench, &at).await;
    expect_repaired(&bench, FindingKind::CatalogMissing, &at).await;
    put(&bench, &at, "rubbish").await;
    expect_repaired(&bench, FindingKind::CatalogUnreadable, &at).await;
    let stray = key("catalog/b");
    put(&bench, &stray, r#"{"nonce":"n"}"#).await;
    expect_nothing(&bench).await;
    bench.clock.advance(HOUR);
    let (done, found) = check(&bench, &repairing()).await;
    expect(&found[1..], &[(FindingKind::CatalogStray, &stray, RepairStatus::None)]);
    assert_eq!(done.left, 0);
}

#[tokio::test(start_paused = true)]
async fn what_a_push_may_still_write_is_not_missed() {
    let bench = Bench::new().await;
    bench.push("a", &bytes(CONFIG)).await;
    bench.put_manifest("a", "v1", &manifest()).await.unwrap();
    bench.put_manifest("a", &of(&signature()).to_string(), &signature()).await.unwrap();
    for late in [referrer_key(), key("catalog/a")] {
        remove(&bench, &late).await;
    }
    bench.clock.advance(20 * MINUTE);
    expect(&check(&bench, &repairing()).await.1, &[]);
    bench.clock.advance(MINUTE);
    let found: Vec<_> = check(&bench, &cheap()).await.1.iter().map(|found| found.kind).collect();
    let mut expected = [FindingKind::CatalogMissing, FindingKind::ReferrerMissing].to_vec();
    assert_eq!(found.len(), 2);
    expected.retain(|kind| !found.contains(kind));
    assert_eq!(expected, []);
}

#[tokio::test]
async fn unreadable_session_is_quarantined() {
    let bench = healthy().await;
    let repository = bench.repository("a");
    let id = repository.upload_start(None);
    repository.upload_append(&id, UploadChunk::of(bytes(4))).await.unwrap();
    let at = key(format!("uploads/{id}"));
    put(&bench, &at, "rubbish").await;
    bench.clock.advance(2 * HOUR);
    let (_, found) = check(&bench, &cheap()).await;
    expect(&found, &[(FindingKind::SessionUnreadable, &at, RepairStatus::Possible)]);
    let (done, found) = check(&bench, &repairing()).await;
    expect(&found[..1], &[(FindingKind::SessionUnreadable, &at, RepairStatus::Done)]);
    assert_eq!((found[1].kind, done.left), (FindingKind::BytesOrphan, 0));
    assert_eq!(quarantined(&bench).await, [at.as_str()]);
}

#[tokio::test]
async fn upload_that_has_lost_bytes_is_cancelled() {
    for content in [None, Some(bytes(2))] {
        let bench = healthy().await;
        let repository = bench.repository("a");
        let id = repository.upload_start(None);
        let before = bench.keys("blobs/_/").await;
        assert_eq!(before, []);
        repository.upload_append(&id, UploadChunk::of(bytes(4))).await.unwrap();
        let bytes_at = bench.keys("blobs/_/").await.remove(0);
        match content {
            None => remove(&bench, &bytes_at).await,
            Some(content) => put(&bench, &bytes_at, content).await,
        }
        let at = key(format!("uploads/{id}"));
        expect_repaired(&bench, FindingKind::UploadBytesMissing, &at).await;
        let append = repository.upload_append(&id, UploadChunk::of(bytes(4))).await;
        assert!(matches!(append, Err(jreg_registry::Error::UploadUnknown { .. })), "{append:?}");
    }
}

#[tokio::test]
async fn bytes_of_a_closed_session_that_nothing_links_are_only_noted() {
    let bench = healthy().await;
    let repository = bench.repository("a");
    let id = repository.upload_start(None);
    repository.upload_append(&id, UploadChunk::of(bytes(4))).await.unwrap();
    let blob = digest(&bytes(4));
    repository.upload_finish(&id, &blob, UploadChunk::empty()).await.unwrap();
    remove(&bench, &bench.keys("blobs/_/").await.remove(0)).await;
    remove(&bench, &link_key(&blob)).await;
    expect_nothing(&bench).await;
    bench.clock.advance(2 * HOUR);
    let (done, found) = check(&bench, &repairing()).await;
    let at = key(format!("uploads/{id}"));
    expect(&found, &[(FindingKind::SessionBytesMissing, &at, RepairStatus::None)]);
    assert_eq!(done.left, 0);
}

#[tokio::test]
async fn tail_of_an_upload_without_a_session() {
    let bench = healthy().await;
    let id = bench.repository("a").upload_start(None);
    let at = key(format!("uploads/{id}.01JD4Z0000000000000000000A"));
    put(&bench, &at, "tail").await;
    expect_nothing(&bench).await;
    bench.clock.advance(HOUR);
    let (done, found) = check(&bench, &repairing()).await;
    expect(&found, &[(FindingKind::UploadPartOrphan, &at, RepairStatus::None)]);
    assert_eq!(done.left, 0);
}

#[tokio::test]
async fn bytes_that_nothing_names_once_they_are_old() {
    let bench = healthy().await;
    let known = key(format!("blobs/{}/01JD4Z0000000000000000000A", spread(&digest(b"x"))));
    let unnamed = key("blobs/_/0A/01JD4Z0000000000000000000A");
    for at in [&known, &unnamed] {
        put(&bench, at, "x").await;
    }
    bench.clock.advance(HOUR + 20 * MINUTE);
    expect_nothing(&bench).await;
    bench.clock.advance(MINUTE);
    let (done, found) = check(&bench, &repairing()).await;
    let orphan = FindingKind::BytesOrphan;
    expect(&found, &[(orphan, &unnamed, RepairStatus::None), (orphan, &known, RepairStatus::None)]);
    assert_eq!((done.notes, done.left), (2, 0));
    for at in [&known, &unnamed] {
        get(&bench, at).await;
    }
}

#[tokio::test]
async fn repairs_on_a_store_that_cannot_remove_a_version() {
    let bench = healthy().await;
    let store = std::sync::Arc::new(
        jreg_storage::TombstoneStore::new(
            jreg_storage::testing::FaultyStore::new(bench.faults.clone()),
            jreg_registry::may_come_back,
        )
        .that_stay(),
    );
    let registry =
        Registry::open(store, bench.clock.clone(), RegistryOptions::default()).await.unwrap();
    let id = bench.repository("a").upload_start(None);
    let session = key(format!("uploads/{id}"));
    let link = link_key(&digest(&bytes(LOOSE)));
    let (tag, manifest) = (tag_key("v1"), manifest_key(&signature()));
    for at in [&session, &link, &tag, &manifest] {
        put(&bench, at, "rubbish").await;
    }
    let found = FindingList::default();
    registry.fsck(&repairing(), &found).await.unwrap();
    let found = found.take();
    let repair =
        |at: &Key| found.iter().find(|found| found.key == at.as_str()).map(|found| found.repair);
    assert_eq!(repair(&session), Some(RepairStatus::None));
    for at in [&link, &tag, &manifest] {
        assert_eq!(repair(at), Some(RepairStatus::Done), "{at}");
    }
}
