//! After the last operation: all referenced content exists at every instance, and after enough GC
//! runs nothing else does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jreg_oci::Digest;
use jreg_storage::{Key, ListRequest, Store};

use crate::fixtures::Fixtures;
use crate::soak::client::{Client, Shared};
use crate::soak::cluster::{INSTANCES, Removal};
use crate::soak::fixtures::{REPOSITORIES, TAGS};
use crate::soak::gc::collect_once;
use crate::soak::ledger::Register;

const HOUR: Duration = Duration::from_secs(3600);
/// Number of additional GC runs, more than any orphan needs to be deleted step by step.
const RUNS: usize = 12;
/// The size of a tombstone.
const TOMBSTONE_BYTES: usize = 24;

/// The target of each tag, by repository and tag.
type Tags = BTreeMap<(usize, usize), usize>;

/// Checks everything after the faults have ended.
pub(crate) async fn audit(shared: &Shared) {
    let cluster = &shared.cluster;
    cluster.replace();
    let before = read_all(shared).await;
    for run in 0..RUNS {
        cluster.schedule.advance(3 * HOUR).await;
        let done = collect_once(cluster, run % INSTANCES, Duration::ZERO).await.unwrap();
        let left = [done.links, done.manifests, done.orphans, done.blobs, done.deduplicated];
        assert!(left.iter().all(|tally| tally.failed + tally.withheld == 0), "{done:?}");
        if run == RUNS - 1 {
            let removed: u64 = left.iter().map(|tally| tally.removed).sum();
            assert_eq!(removed + done.queued + done.tombstones, 0, "{done:?}");
        }
    }
    cluster.replace();
    let after = read_all(shared).await;
    assert_eq!(before, after, "collectors change no tag");
    check_what_is_left(shared, &after).await;
}

/// Reads everything at every instance. All must agree.
async fn read_all(shared: &Shared) -> Tags {
    let mut reader = Client::new(shared.clone(), 0);
    let mut found = Vec::new();
    for instance in 0..INSTANCES {
        let mut tags = Tags::new();
        for repository in 0..REPOSITORIES.len() {
            for tag in 0..TAGS.len() {
                let led_to = reader.pull_at(instance, repository, tag).await;
                let led_to = led_to.expect("nothing goes wrong any more");
                tags.extend(led_to.map(|manifest| ((repository, tag), manifest)));
            }
            for blob in 0..shared.fixtures.blobs.len() {
                reader.check_promised_blob(instance, repository, blob).await;
            }
            for manifest in 0..shared.fixtures.manifests.len() {
                reader.check_promised_manifest(instance, repository, manifest).await;
            }
        }
        found.push(tags);
    }
    assert!(found.iter().all(|tags| *tags == found[0]), "instances differ: {found:?}");
    found.remove(0)
}

/// Everything that is in the store.
async fn everything(store: &Arc<dyn Store>) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut request = ListRequest::below("");
    loop {
        let page = store.list(&request).await.unwrap();
        for entry in &page.entries {
            // Of blob bytes only the key matters, and they may be large.
            let is_bytes = entry.key.as_str().starts_with("blobs/");
            let bytes = if is_bytes { Vec::new() } else { record(store, &entry.key).await };
            found.insert(entry.key.to_string(), bytes);
        }
        match page.next {
            Some(next) => request.start_after = Some(next),
            None => return found,
        }
    }
}

async fn record(store: &Arc<dyn Store>, key: &Key) -> Vec<u8> {
    store.get(key).await.unwrap().bytes.to_vec()
}

/// What tags reference, by fixture numbers.
#[derive(Debug, Default)]
struct Kept {
    manifests: BTreeSet<(usize, usize)>,
    blobs: BTreeSet<(usize, usize)>,
}

/// Existing content that is referenced.
fn kept(fixtures: &Fixtures, tags: &Tags, is_there: impl Fn(usize, usize) -> bool) -> Kept {
    let mut kept = Kept::default();
    let mut next: Vec<_> = tags.iter().map(|((repository, _), to)| (*repository, *to)).collect();
    while let Some((repository, manifest)) = next.pop() {
        if !is_there(repository, manifest) || !kept.manifests.insert((repository, manifest)) {
            continue;
        }
        let found = &fixtures.manifests[manifest];
        kept.blobs.extend(found.needs.iter().map(|blob| (repository, *blob)));
        let more = found.children.iter().copied().chain(fixtures.referrers(manifest));
        next.extend(more.map(|manifest| (repository, manifest)));
    }
    kept
}

/// Exactly the referenced content is left.
async fn check_what_is_left(shared: &Shared, tags: &Tags) {
    let all = everything(&shared.cluster.bare()).await;
    let removes = shared.cluster.removal == Removal::OnVersion;
    let (tombstones, all): (BTreeMap<_, _>, BTreeMap<_, _>) =
        all.into_iter().partition(|(key, bytes)| {
            key.starts_with("repositories/") && bytes.len() == TOMBSTONE_BYTES
        });
    if removes {
        same("tombstones", &keys(&tombstones, ""), &BTreeSet::new());
    }
    let below = |prefix: &str| keys(&all, prefix);
    let fixtures = &shared.fixtures;
    let is_there = |repository, manifest: usize| {
        all.contains_key(&manifest_key(repository, &fixtures.manifests[manifest].digest))
    };
    let kept = kept(fixtures, tags, is_there);
    check_repositories(shared, tags, &kept, &all);
    check_blobs(shared, &kept, &all, removes);
    let holding: BTreeSet<_> =
        kept.manifests.iter().map(|(r, _)| format!("catalog/{}", REPOSITORIES[*r])).collect();
    if removes {
        same("the catalog", &below("catalog/"), &holding);
    } else {
        assert!(below("catalog/").is_superset(&holding));
    }
    same("uploads", &below("uploads/"), &BTreeSet::new());
    same("queues", &below("gc/queue/"), &BTreeSet::new());
}

/// The manifests, their tags, hints and referrers.
fn check_repositories(shared: &Shared, tags: &Tags, kept: &Kept, all: &BTreeMap<String, Vec<u8>>) {
    let fixtures = &shared.fixtures;
    let mut expected = BTreeSet::new();
    // An interrupted push or delete leaves a referrer without its entry.
    let mut possible = BTreeSet::new();
    for (repository, manifest) in &kept.manifests {
        let found = &fixtures.manifests[*manifest];
        expected.insert(manifest_key(*repository, &found.digest));
        let Some(subject) = found.subject() else { continue };
        let entry = entry_key(*repository, &fixtures.manifests[subject].digest, &found.digest);
        if shared.ledger.bound_to(*repository, subject).contains(manifest) {
            expected.insert(entry.clone());
        }
        possible.insert(entry);
    }
    for (repository, tag) in tags.keys() {
        expected.insert(format!("repositories/{}/_tags/{}", REPOSITORIES[*repository], TAGS[*tag]));
    }
    let (hints, others): (BTreeSet<_>, BTreeSet<_>) =
        keys(all, "repositories/").into_iter().partition(|key| key.contains("/_tagged/"));
    let surely = others.difference(&possible).chain(expected.intersection(&others)).cloned();
    let surely: BTreeSet<_> = surely.collect();
    if let Some(missing) = expected.difference(&surely).next() {
        let digest = missing.rsplit(['/', '-']).next().unwrap();
        shared.cluster.schedule.violation(&format!("there is no {missing}"), &[digest]);
    }
    same("repositories", &surely, &expected);
    for ((repository, tag), manifest) in tags {
        let hint = hint_key(*repository, &fixtures.manifests[*manifest].digest, TAGS[*tag]);
        if !hints.contains(&hint) {
            let (hex, tag) = (fixtures.manifests[*manifest].digest.hex(), TAGS[*tag]);
            let tag = format!("{}/_tags/{tag}", REPOSITORIES[*repository]);
            shared.cluster.schedule.violation(&format!("there is no {hint}"), &[&hex, &tag, "T0"]);
        }
    }
    for hint in &hints {
        let mut parts = hint.rsplit('/');
        let (tag, hex) = (parts.next().unwrap(), parts.next().unwrap());
        let (folder, _) = hint.split_once("/_tagged/").unwrap();
        let manifest_is_there = others.contains(&format!("{folder}/_manifests/sha256/{hex}"));
        // A tag whose manifest is absent: a later push of the manifest makes it valid again.
        let is_of_use = all.get(&format!("{folder}/_tags/{tag}")).is_some_and(|record| {
            manifest_is_there || String::from_utf8_lossy(record).contains(hex)
        });
        assert!(is_of_use, "{hint} is left");
    }
}

/// The links, and the locations that they refer to.
fn check_blobs(shared: &Shared, kept: &Kept, all: &BTreeMap<String, Vec<u8>>, removes: bool) {
    let mut places: BTreeMap<String, BTreeSet<usize>> = BTreeMap::new();
    let mut live = BTreeSet::new();
    for (key, bytes) in all.range("links/".to_owned().."links0".to_owned()) {
        let link: serde_json::Value = serde_json::from_slice(bytes).unwrap();
        let Some(location) = link["location"].as_str() else {
            assert!(!removes, "{key} is left");
            continue;
        };
        let held = held(&shared.fixtures, key);
        live.insert(held);
        places.entry(location.to_owned()).or_default().insert(held.1);
    }
    let stays = |(repository, blob): &&(usize, usize)| {
        // A manifest may reference content that clients deleted.
        let register = Register::Blob(*repository, *blob);
        !shared.ledger.possible(register).contains(&None)
    };
    let surely: BTreeSet<_> = kept.blobs.iter().filter(stays).copied().collect();
    assert!(live.is_superset(&surely), "links are gone: {:?}", surely.difference(&live));
    assert!(kept.blobs.is_superset(&live), "links are left: {:?}", live.difference(&kept.blobs));
    let blobs: BTreeSet<_> = live.iter().map(|(_, blob)| *blob).collect();
    assert_eq!(places.len(), blobs.len(), "bytes lie several times: {places:?}");
    same("bytes", &keys(all, "blobs/"), &places.into_keys().collect());
}

/// The repository and the blob that a link's key names.
fn held(fixtures: &Fixtures, link: &str) -> (usize, usize) {
    let mut parts = link.rsplit('/');
    let (name, hex) = (parts.next().unwrap(), parts.next().unwrap());
    let repository = REPOSITORIES.iter().position(|other| *other == name).unwrap();
    let digest: Digest = format!("sha256:{hex}").parse().unwrap();
    (repository, fixtures.blob_of(&digest).unwrap())
}

fn manifest_key(repository: usize, digest: &Digest) -> String {
    format!("repositories/{}/_manifests/sha256/{}", REPOSITORIES[repository], digest.hex())
}

fn entry_key(repository: usize, subject: &Digest, own: &Digest) -> String {
    let (name, subject, own) = (REPOSITORIES[repository], subject.hex(), own.hex());
    format!("repositories/{name}/_referrers/sha256/{subject}/sha256-{own}")
}

fn hint_key(repository: usize, digest: &Digest, tag: &str) -> String {
    format!("repositories/{}/_tagged/sha256/{}/{tag}", REPOSITORIES[repository], digest.hex())
}

fn keys(all: &BTreeMap<String, Vec<u8>>, prefix: &str) -> BTreeSet<String> {
    all.keys().filter(|key| key.starts_with(prefix)).cloned().collect()
}

#[track_caller]
fn same(what: &str, found: &BTreeSet<String>, expected: &BTreeSet<String>) {
    let missing: Vec<_> = expected.difference(found).collect();
    let left: Vec<_> = found.difference(expected).collect();
    assert!(missing.is_empty() && left.is_empty(), "{what}: missing {missing:?}, left {left:?}");
}
