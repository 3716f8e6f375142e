//! Repairs: what is said before them, and what they keep.

use jreg_registry::{
    FindingKind, FsckOptions, GcOptions, NoObserver, RepairStatus, Rule, UploadChunk,
    add_record_checksum,
};
use jreg_storage::{Key, Store};

use crate::bench::{Bench, HOUR, bytes, digest, image_with_many_layers, without_checksum};
use crate::fsck::{
    FindingList, LOOSE, cheap, check, deep, expect, get, healthy, key, link_key, place, put,
    quarantined, remove, repairing, tag_key,
};

/// Before anything is quarantined it is told, with the images that a person would miss.
#[tokio::test]
async fn a_repair_names_the_images_before_it_removes() {
    let bench = healthy().await;
    let at = place(&bench, &digest(&bytes(LOOSE))).await;
    put(&bench, &at, "wrong!").await;
    put(&bench, &tag_key("v1"), "rubbish").await;
    let found = FindingList::default();
    bench.registry.fsck(&deep(), &found).await.unwrap();
    assert_eq!(found.announced(), [], "nothing is repaired");
    found.take();
    let before = bench.keys("links/").await;
    let repair = FsckOptions { deep: true, ..repairing() };
    bench.registry.fsck(&repair, &found).await.unwrap();
    let (tag, blob) = (tag_key("v1").to_string(), at.to_string());
    // The index, by its tag, needs the manifest that needs the blob.
    let expected = [(tag, vec!["a:v1".to_owned()]), (blob, vec!["a:all".to_owned()])];
    assert_eq!(found.announced(), expected);
    assert_eq!(bench.keys("links/").await, before);
}

/// An image with more layers than a push may have now needs them, too.
#[tokio::test]
async fn a_repair_names_images_beyond_the_limits_of_a_push() {
    let bench = healthy().await;
    let blob = digest(&bytes(LOOSE));
    bench.store_manifest("a", "old", &image_with_many_layers(&blob)).await;
    let at = place(&bench, &blob).await;
    put(&bench, &at, "wrong!").await;
    let found = FindingList::default();
    let repair = FsckOptions { deep: true, ..repairing() };
    bench.registry.fsck(&repair, &found).await.unwrap();
    let images = vec!["a:all".to_owned(), "a:old".to_owned()];
    assert!(found.announced().contains(&(at.to_string(), images)));
}

/// Corrupt bytes do not become absent ones: the link that named them is quarantined, and keeps them
/// until a person has removed it.
#[tokio::test]
async fn bytes_that_a_repair_has_let_go_stay_while_their_link_is_in_quarantine() {
    for broken in [None, Some(Rule::QuarantineKeeps)] {
        let bench = healthy().await;
        let blob = digest(&bytes(LOOSE));
        let (at, link) = (place(&bench, &blob).await, link_key(&blob));
        put(&bench, &at, "wrong!").await;
        let (done, _) = check(&bench, &FsckOptions { deep: true, ..repairing() }).await;
        assert_eq!(done.repaired, 1);
        assert_eq!(quarantined(&bench).await, [link.as_str()]);
        let registry = bench.registry.clone();
        let registry = broken.map_or(registry.clone(), |rule| registry.without(rule));
        let collect = async || {
            let options = GcOptions {
                history_keep: std::time::Duration::ZERO,
                sweep_now: true,
                ..GcOptions::default()
            };
            for _ in 0..3 {
                bench.clock.advance(options.grace + 2 * HOUR);
                registry.collect_garbage(&options, &NoObserver).await.unwrap();
            }
            bench.faults.head(&at).await.is_ok()
        };
        assert_eq!(collect().await, broken.is_none(), "{broken:?}");
        if broken.is_none() {
            let found = check(&bench, &cheap()).await.1;
            assert!(found.iter().all(|found| found.kind != FindingKind::BytesOrphan), "{found:?}");
            for copy in bench.keys("quarantine/").await {
                remove(&bench, &copy).await;
            }
            assert!(!collect().await, "then they are garbage");
        }
    }
}

/// A link that is quarantined and cannot be read may name any bytes of its digest, and bytes of
/// which the key says no digest: they stay until a person has removed it.
#[tokio::test]
async fn bytes_stay_while_a_link_of_their_digest_that_cannot_be_read_is_in_quarantine() {
    for is_chunked in [false, true] {
        let bench = Bench::new().await;
        let content = bytes(LOOSE);
        let blob = digest(&content);
        if is_chunked {
            let repository = bench.repository("a");
            let id = repository.upload_start(None);
            repository.upload_append(&id, UploadChunk::of(content.clone())).await.unwrap();
            repository.upload_finish(&id, &blob, UploadChunk::empty()).await.unwrap();
        } else {
            bench.push("a", &content).await;
        }
        let [at] = &*bench.keys("blobs/").await else { panic!("one place") };
        assert_eq!(at.as_str().starts_with("blobs/_/"), is_chunked, "{at}");
        let link = link_key(&blob);
        put(&bench, &link, "rubbish").await;
        let (done, _) = check(&bench, &repairing()).await;
        assert_eq!(done.repaired, 1);
        assert_eq!(quarantined(&bench).await, [link.as_str()]);
        assert!(has_after_sweeps(&bench, at).await, "{at}");
        let found = check(&bench, &cheap()).await.1;
        assert!(found.iter().all(|found| found.kind != FindingKind::BytesOrphan), "{found:?}");
        for copy in bench.keys("quarantine/").await {
            remove(&bench, &copy).await;
        }
        assert!(!has_after_sweeps(&bench, at).await, "then they are garbage");
    }
}

/// One flipped bit, and a link of an earlier version still reads as one, but references bytes that are not there. Those
/// that it named seemed to be named by nothing: two sweeps later they were gone, also after a
/// repair.
#[tokio::test]
async fn bytes_stay_while_a_link_to_bytes_of_their_digest_names_none_that_are_there() {
    for (is_chunked, repairs) in [(false, false), (true, false), (false, true), (true, true)] {
        let bench = Bench::new().await;
        let (content, unnamed) = (bytes(LOOSE), bytes(LOOSE + 1));
        let blob = digest(&content);
        for content in [&content, &unnamed] {
            let repository = bench.repository("a");
            if is_chunked {
                let id = repository.upload_start(None);
                repository.upload_append(&id, UploadChunk::of(content.clone())).await.unwrap();
                repository
                    .upload_finish(&id, &digest(content), UploadChunk::empty())
                    .await
                    .unwrap();
            } else {
                bench.push("a", content).await;
            }
        }
        let image = image_with_many_layers(&blob);
        bench.store_manifest("a", "v1", &image).await;
        let link = link_key(&blob);
        let right = bench.faults.get(&link).await.unwrap().bytes;
        let text = String::from_utf8(right.to_vec()).unwrap();
        let at: Key =
            text.split('"').find(|part| part.starts_with("blobs/")).unwrap().parse().unwrap();
        let mut other = at.to_string();
        let last = if other.pop() == Some('0') { '1' } else { '0' };
        other.push(last);
        put(&bench, &link, without_checksum(&text).replace(at.as_str(), &other)).await;
        bench.faults.delete(&link_key(&digest(&unnamed)), None).await.unwrap();
        if repairs {
            check(&bench, &repairing()).await;
            assert_eq!(quarantined(&bench).await, [link.as_str()]);
        }
        assert!(has_after_sweeps(&bench, &at).await, "{at} {repairs}");
        assert_eq!(
            bench.keys("blobs/").await,
            std::slice::from_ref(&at),
            "what no link lost goes as ever"
        );
        if repairs {
            for copy in bench.keys("quarantine/").await {
                remove(&bench, &copy).await;
            }
        } else {
            bench.push("a", &content).await;
        }
        assert!(!has_after_sweeps(&bench, &at).await, "then they are garbage: {at} {repairs}");
    }
}

/// What such a link keeps is of its digest: other bytes go as ever.
#[tokio::test]
async fn a_link_that_cannot_be_read_in_quarantine_keeps_no_bytes_of_other_digests() {
    let bench = Bench::new().await;
    let (kept, other) = (bytes(LOOSE), bytes(LOOSE + 1));
    for content in [&kept, &other] {
        bench.push("a", content).await;
    }
    let (at, other_at) =
        (place(&bench, &digest(&kept)).await, place(&bench, &digest(&other)).await);
    put(&bench, &link_key(&digest(&kept)), "rubbish").await;
    assert_eq!(check(&bench, &repairing()).await.0.repaired, 1);
    assert!(has_after_sweeps(&bench, &at).await);
    assert!(bench.faults.head(&other_at).await.is_err());
}

/// Whether bytes are still there after three sweeps, each a grace after the one before.
async fn has_after_sweeps(bench: &Bench, at: &Key) -> bool {
    let options = GcOptions {
        history_keep: std::time::Duration::ZERO,
        sweep_now: true,
        ..GcOptions::default()
    };
    for _ in 0..3 {
        bench.clock.advance(options.grace + 2 * HOUR);
        bench.registry.collect_garbage(&options, &NoObserver).await.unwrap();
    }
    bench.faults.head(at).await.is_ok()
}

/// Those are secrets: a finding shows nothing of them, and a repair copies none.
#[tokio::test]
async fn damaged_records_of_authentication_are_reported_and_stay() {
    let earlier = r#"{"nonce":"n","v":1,"key":"MARKED"}"#;
    let whole = add_record_checksum(earlier.into());
    let whole = std::str::from_utf8(&whole).unwrap();
    let damaged = [whole.replace("MARKED", "MARXED"), "MARKED".to_owned(), String::new()];
    for name in ["auth/keys", "auth/access-tokens/0123456789abcdef", "auth/acme/order"] {
        let (bench, at) = (healthy().await, key(name));
        for sound in [earlier, whole] {
            put(&bench, &at, sound.to_owned()).await;
            expect(&check(&bench, &deep()).await.1, &[]);
        }
        for damaged in &damaged {
            put(&bench, &at, damaged.clone()).await;
            let (done, found) = check(&bench, &repairing()).await;
            expect(&found, &[(FindingKind::AuthUnreadable, &at, RepairStatus::None)]);
            assert_eq!((done.damage, done.left), (1, 1));
            assert!(!found[0].detail.contains("MAR"), "{found:?}");
            assert_eq!(get(&bench, &at).await, *damaged);
        }
        put(&bench, &at, earlier.replace("\"v\":1", "\"v\":2")).await;
        let (_, found) = check(&bench, &repairing()).await;
        expect(&found, &[(FindingKind::RecordNewer, &at, RepairStatus::None)]);
    }
}
