//! Manifests whose bytes or header line have rotted: no request takes them for whole, or for absent
//! where they can be read.

use bytes::Bytes;
use jreg_oci::{Digest, Reference};
use jreg_registry::{Error, NoObserver, ReferencePolicy, RegistryOptions, TouchPolicy};
use jreg_storage::{Key, Store};

use crate::bench::{Bench, HOUR, bytes, digest};
use crate::fsck::{FindingList, healthy, place, put, remove, repairing};
use crate::gc::{image, index};

fn of(manifest: &str) -> Digest {
    digest(manifest.as_bytes())
}

fn manifest_key(manifest: &str) -> Key {
    format!("repositories/a/_manifests/sha256/{}", of(manifest).hex()).parse().unwrap()
}

/// Replaces a digit in the bytes, and leaves the header line whole.
async fn rot_bytes(bench: &Bench, at: &Key) {
    let record = bench.faults.get(at).await.unwrap().bytes;
    let text = std::str::from_utf8(&record).unwrap();
    let (header, body) = text.split_once('\n').unwrap();
    let rotted = body.replacen("\"schemaVersion\":2", "\"schemaVersion\":3", 1);
    assert_ne!(rotted, body);
    put(bench, at, format!("{header}\n{rotted}")).await;
}

/// Replaces the header line, and leaves the bytes whole.
async fn rot_header(bench: &Bench, at: &Key) {
    let record = bench.faults.get(at).await.unwrap().bytes;
    let end = record.iter().position(|byte| *byte == b'\n').unwrap();
    put(bench, at, [b"rubbish", record.get(end..).unwrap()].concat()).await;
}

async fn with_manifest(manifest: &str) -> Bench {
    let references = ReferencePolicy::Strict;
    let bench = Bench::with(RegistryOptions { references, ..RegistryOptions::default() }).await;
    bench.push("a", &bytes(5)).await;
    bench.put_manifest("a", &of(manifest).to_string(), manifest).await.unwrap();
    bench
}

/// A new version of it would be as good as a push to all that trust young records.
#[tokio::test]
async fn a_manifest_of_other_bytes_is_not_touched() {
    let manifest = image(&bytes(5));
    let (bench, at) = (with_manifest(&manifest).await, manifest_key(&manifest));
    rot_bytes(&bench, &at).await;
    bench.clock.advance(2 * HOUR);
    let rotted = bench.faults.get(&at).await.unwrap().etag;
    let repository = bench.another("a").await;
    let reference = Reference::Digest(of(&manifest));
    let asked = repository.manifest_get(&reference, TouchPolicy::IfOld).await;
    assert!(matches!(asked, Err(Error::ManifestUnknown { .. })), "{asked:?}");
    let of_index = bench.put_manifest("a", "all", &index(&[&manifest])).await;
    let Err(Error::ReferencesUnknown { missing, .. }) = of_index else { panic!("{of_index:?}") };
    assert_eq!(missing, [of(&manifest)]);
    assert_eq!(bench.faults.get(&at).await.unwrap().etag, rotted);
}

#[tokio::test]
async fn a_push_over_other_bytes_counts_as_a_repair() {
    let manifest = image(&bytes(5));
    let (bench, at) = (with_manifest(&manifest).await, manifest_key(&manifest));
    rot_bytes(&bench, &at).await;
    bench.put_manifest("a", "v1", &manifest).await.unwrap();
    assert_eq!(bench.registry.usage().damaged_records_replaced, 1);
    let repository = bench.another("a").await;
    let read = repository.manifest_get(&"v1".parse().unwrap(), TouchPolicy::Never).await.unwrap();
    assert_eq!(read.bytes, Bytes::from(manifest));
}

/// A copy of it could not be restored, and would stop GC as it did.
#[tokio::test]
async fn a_deleted_manifest_of_other_bytes_leaves_no_copy() {
    let manifest = image(&bytes(5));
    let (bench, at) = (with_manifest(&manifest).await, manifest_key(&manifest));
    rot_bytes(&bench, &at).await;
    let gc = async || bench.registry.collect_garbage(&crate::gc::options(), &NoObserver).await;
    gc().await.unwrap_err();
    let repository = bench.another("a").await;
    repository.manifest_delete(&Reference::Digest(of(&manifest)), None).await.unwrap();
    assert_eq!(bench.keys("deleted/").await, []);
    gc().await.unwrap();
}

/// Nothing says any more what it was pushed as, and its subject does not depend on that.
#[tokio::test]
async fn a_delete_of_a_manifest_without_media_type_finds_its_subject() {
    let subject = image(&bytes(5));
    let untyped = crate::gc::referrer(&subject, &bytes(5)).replacen(
        "\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",",
        "",
        1,
    );
    let bench = with_manifest(&subject).await;
    bench.put_manifest("a", &of(&untyped).to_string(), &untyped).await.unwrap();
    assert_eq!(bench.keys("repositories/a/_referrers/").await.len(), 1);
    rot_header(&bench, &manifest_key(&untyped)).await;
    let repository = bench.another("a").await;
    repository.manifest_delete(&Reference::Digest(of(&untyped)), None).await.unwrap();
    assert_eq!(bench.keys("repositories/a/_referrers/").await, []);
}

/// A push that ended between the two left a signature out of the list for ever: its client found the manifest, and did not push it
/// again.
#[tokio::test]
async fn a_manifest_that_is_not_in_its_list_of_referrers_is_absent_to_a_pusher() {
    let subject = image(&bytes(5));
    let signature = crate::gc::referrer(&subject, &bytes(5));
    let bench = with_manifest(&subject).await;
    let push = async || bench.put_manifest("a", "signed", &signature).await.unwrap();
    push().await;
    let entries = bench.keys("repositories/a/_referrers/").await;
    let entry = entries.first().unwrap().clone();
    remove(&bench, &entry).await;
    let by_digest = Reference::Digest(of(&signature));
    let get = async |reference: &Reference, touch| {
        bench.repository("a").manifest_get(reference, touch).await.map(|found| found.bytes.clone())
    };
    let asked = get(&by_digest, TouchPolicy::IfOld).await;
    assert!(matches!(asked, Err(Error::ManifestUnknown { .. })), "{asked:?}");
    // Who pulls it gets it.
    get(&by_digest, TouchPolicy::Never).await.unwrap();
    get(&"signed".parse().unwrap(), TouchPolicy::IfOld).await.unwrap();
    push().await;
    assert_eq!(bench.keys("repositories/a/_referrers/").await, entries);
    get(&by_digest, TouchPolicy::IfOld).await.unwrap();
}

/// A person who is told what a repair removes is told of an index whose header line is damaged, too.
#[tokio::test]
async fn a_repair_names_images_whose_header_line_is_damaged() {
    let bench = healthy().await;
    let at = place(&bench, &digest(&bytes(crate::fsck::LOOSE))).await;
    remove(&bench, &at).await;
    rot_header(&bench, &manifest_key(&index(&[&image(&bytes(crate::fsck::LOOSE))]))).await;
    let found = FindingList::default();
    bench.registry.fsck(&repairing(), &found).await.unwrap();
    let announced = found.announced();
    let (_, images) = announced.iter().find(|(key, _)| *key == at.to_string()).unwrap();
    assert_eq!(*images, ["a:all"]);
}
