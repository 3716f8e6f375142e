//! Writers of tags and of manifests beside each other.

use std::time::Duration;

use futures::future::try_join_all;
use jreg_oci::{Digest, MediaType, Reference, Tag};
use jreg_registry::{
    DeleteProtection, Error, MANIFEST_READS_MAX, ManifestPush, PROTECTING_RECORDS_MAX,
    PROTECTING_TAGS_MAX, PageRequest, Repository, Result, TagTransition, TouchPolicy,
};
use jreg_storage::testing::{Call, Fault};
use jreg_storage::{ErrorKind, Key, PutMode, Store};

use crate::bench::{Bench, digest, image_with_many_layers, push_of};

const IMAGE: &str =
    r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
/// Several for each of some hundred locks.
const OTHERS: usize = 200;
/// Reached only by a test that fails.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// What protects a digest from a requester who may remove only some tags.
async fn protection_of(
    repository: &Repository,
    digest: &Digest,
    may_remove: impl Fn(&Tag) -> bool,
) -> Result<DeleteProtection> {
    let Some(tags) = repository.list_all_tags().await? else {
        return Ok(DeleteProtection::TooMany);
    };
    let kept = tags.into_iter().filter(|tag| !may_remove(tag)).collect();
    repository.find_protection(digest, kept).await
}

/// Writers of one tag in a process take turns; writers of other tags do not wait for them, or a
/// busy instance would do no more than a few tags at a time.
#[tokio::test(start_paused = true)]
async fn fixed_writers_of_other_tags_do_not_wait() {
    let bench = Bench::new().await;
    let repository = bench.repository("a");
    let mut slow =
        bench.gate.hold(|call| call.operation == "put" && call.key.ends_with("_tags/slow"));
    let first = tokio::spawn({
        let push = push_of("slow", IMAGE);
        async move { repository.manifest_put(push).await }
    });
    slow.reached(1).await;
    for number in 0..OTHERS {
        let tag = format!("v{number}");
        let pushed = tokio::time::timeout(WAIT_MAX, bench.put_manifest("a", &tag, IMAGE)).await;
        pushed.unwrap_or_else(|_| panic!("{tag} waits for another tag")).unwrap();
    }
    slow.release();
    let pushed = first.await.unwrap().unwrap();
    assert_eq!(pushed.digest, digest(IMAGE.as_bytes()));
}

/// A hundred requests for large manifests read them all at the same time, and kept them until they had
/// been hashed one after the other: 3 GiB.
#[tokio::test(start_paused = true)]
async fn fixed_manifests_are_read_a_few_at_a_time() {
    const MANIFESTS: usize = 100;
    let bench = Bench::new().await;
    let manifest = |number| IMAGE.replace('}', &format!(r#","annotations":{{"n":"{number}"}}}}"#));
    for number in 0..MANIFESTS {
        bench.put_manifest("a", &format!("v{number}"), &manifest(number)).await.unwrap();
    }
    let other = bench.another("a").await;
    let mut held =
        bench.gate.hold(|call| call.operation == "get" && call.key.contains("/_manifests/"));
    let reads: Vec<_> = (0..MANIFESTS)
        .map(|number| {
            let (other, reference) =
                (other.clone(), Reference::Digest(digest(manifest(number).as_bytes())));
            tokio::spawn(async move { other.manifest_get(&reference, TouchPolicy::Never).await })
        })
        .collect();
    held.reached(MANIFEST_READS_MAX).await;
    let more = held.reached(MANIFEST_READS_MAX + 1);
    assert!(tokio::time::timeout(WAIT_MAX, more).await.is_err());
    held.release();
    for read in try_join_all(reads).await.unwrap() {
        read.unwrap();
    }
}

/// The same for pages of referrers with large annotations.
#[tokio::test(start_paused = true)]
async fn fixed_pages_of_referrers_are_read_a_few_at_a_time() {
    const SUBJECTS: usize = 100;
    let bench = Bench::new().await;
    let subject = |number: usize| digest(number.to_string().as_bytes());
    for number in 0..SUBJECTS {
        let subject = format!(
            r#","subject":{{"mediaType":"application/x","digest":"{}","size":1}}}}"#,
            subject(number)
        );
        bench
            .put_manifest("a", &format!("v{number}"), &IMAGE.replace('}', &subject))
            .await
            .unwrap();
    }
    let other = bench.another("a").await;
    let mut held =
        bench.gate.hold(|call| call.operation == "get" && call.key.contains("/_referrers/"));
    let page = PageRequest { limit: 10, last: None };
    let reads: Vec<_> = (0..SUBJECTS)
        .map(|number| {
            let (other, subject, page) = (other.clone(), subject(number), page.clone());
            tokio::spawn(async move { other.referrers(&subject, None, &page).await })
        })
        .collect();
    held.reached(MANIFEST_READS_MAX).await;
    let more = held.reached(MANIFEST_READS_MAX + 1);
    assert!(tokio::time::timeout(WAIT_MAX, more).await.is_err());
    held.release();
    for read in try_join_all(reads).await.unwrap() {
        assert_eq!(read.unwrap().items.len(), 1);
    }
}

/// A tag that is set while its manifest is deleted is asked for as well: the check before the
/// delete cannot have seen it. A tag that only a hint is left of protects nothing.
#[tokio::test]
async fn c13_a_delete_stops_at_a_tag_that_may_not_be_removed() {
    let bench = Bench::new().await;
    for tag in ["dev", "v1"] {
        bench.put_manifest("a", tag, IMAGE).await.unwrap();
    }
    let repository = bench.repository("a");
    let by_digest = Reference::Digest(digest(IMAGE.as_bytes()));
    let may_remove = |tag: &Tag| !tag.as_str().starts_with('v');
    let mut removed = Vec::new();
    let refused = repository.manifest_delete_if(&by_digest, None, &may_remove, &mut removed).await;
    assert!(matches!(refused, Err(Error::TagProtected { .. })), "{refused:?}");
    let v1 = "v1".parse().unwrap();
    repository.manifest_get(&v1, TouchPolicy::Never).await.unwrap();
    let other = IMAGE.replace("[]", "[ ]");
    bench.put_manifest("a", "v1", &other).await.unwrap();
    bench.put_manifest("a", "dev", IMAGE).await.unwrap();
    removed.clear();
    repository.manifest_delete_if(&by_digest, None, &may_remove, &mut removed).await.unwrap();
    assert_eq!(names(&removed), ["dev"]);
    repository.manifest_get(&v1, TouchPolicy::Never).await.unwrap();
}

/// The names of some tags, in order.
fn names(tags: &[TagTransition]) -> Vec<&str> {
    let mut names: Vec<_> = tags.iter().map(|tag| tag.tag.as_str()).collect();
    names.sort_unstable();
    names
}

#[tokio::test]
async fn a_delete_that_fails_says_which_tags_it_removed() {
    let bench = Bench::new().await;
    let by_digest = Reference::Digest(digest(IMAGE.as_bytes()));
    let repository = bench.repository("a");
    // The manifest cannot be removed, or one of its tags, while the removal of another is on its way.
    for (failing, left) in [("/_manifests/", None), ("/_tags/v1", Some("v1"))] {
        for tag in ["dev", "v1"] {
            bench.put_manifest("a", tag, IMAGE).await.unwrap();
        }
        let operation = if left.is_some() { "put" } else { "delete" };
        let fails = move |call: &Call| call.operation == operation && call.key.contains(failing);
        bench.faults.inject(Fault::fail(ErrorKind::Unavailable).on(fails));
        let slow = |call: &Call| call.operation == "put" && call.key.contains("/_tags/dev");
        let mut slow = bench.gate.hold_response(slow);
        let (mut removed, may_remove) = (Vec::new(), |_: &Tag| true);
        let deleting = repository.manifest_delete_if(&by_digest, None, &may_remove, &mut removed);
        let release = async {
            slow.reached(1).await;
            tokio::task::yield_now().await;
            slow.release();
        };
        let (deleted, ()) = futures::join!(deleting, release);
        deleted.unwrap_err();
        let mut expected = vec!["dev", "v1"];
        expected.retain(|tag| left != Some(*tag));
        assert_eq!(names(&removed), expected, "{failing}");
        let pushed = Some(digest(IMAGE.as_bytes()));
        assert!(removed.iter().all(|tag| tag.before == pushed && tag.after.is_none()));
    }
}

#[tokio::test]
async fn c13_protection_follows_tags_through_indexes() {
    let bench = Bench::new().await;
    let index_of = |child: &str| {
        let child = format!(
            r#"{{"mediaType":"application/vnd.oci.image.index.v1+json","digest":"{}","size":2}}"#,
            digest(child.as_bytes())
        );
        IMAGE.replace("[]", &format!("[{child}]"))
    };
    let (middle, other) = (index_of(IMAGE), IMAGE.replace("[]", "[ ]"));
    let top = index_of(&middle);
    for (tag, manifest) in [("x", IMAGE), ("x", &*middle), ("v1", &*top), ("x", &*other)] {
        bench.put_manifest("a", tag, manifest).await.unwrap();
    }
    let repository = bench.repository("a");
    let may_remove = |tag: &Tag| tag.as_str() == "x";
    for (manifest, protection) in [
        (IMAGE, DeleteProtection::Tag("v1".parse().unwrap())),
        (&*middle, DeleteProtection::Tag("v1".parse().unwrap())),
        (&*top, DeleteProtection::Tag("v1".parse().unwrap())),
        (&*other, DeleteProtection::None),
    ] {
        let digest = digest(manifest.as_bytes());
        assert_eq!(protection_of(&repository, &digest, may_remove).await.unwrap(), protection);
        assert_eq!(
            protection_of(&repository, &digest, |_| true).await.unwrap(),
            DeleteProtection::None
        );
    }
}

/// Deletes by digest share one budget for the manifests that they read, however many protect something
/// and however many deletes run concurrently.
#[tokio::test(start_paused = true)]
async fn c13_manifests_that_may_protect_take_bounded_memory() {
    const MANIFEST_BYTES: usize = 2 << 20;
    const ROOM_BYTES: usize = 32 << 20;
    let bench = Bench::new().await;
    for number in 0..9 {
        let padding = format!("{number}").repeat(MANIFEST_BYTES);
        let manifest = IMAGE.replace("[]", &format!(r#"[],"annotations":{{"x":"{padding}"}}"#));
        bench.put_manifest("a", &format!("v{number}"), &manifest).await.unwrap();
    }
    // The cache knows none of them.
    let repository = bench.another("a").await;
    bench.calls.take();
    let is_read = |call: &Call| call.operation == "get" && call.key.contains("_manifests/");
    let held = bench.gate.hold_response(is_read);
    let deletes = (0..4).map(|_| {
        let repository = repository.clone();
        tokio::spawn(async move { protection_of(&repository, &digest(b"x"), |_| false).await })
    });
    let deletes: Vec<_> = deletes.collect();
    // The clock of the runtime goes on only once nothing else can.
    tokio::time::sleep(WAIT_MAX).await;
    let reads = bench.calls.take().into_iter().filter(is_read).count();
    assert!((1..=ROOM_BYTES / MANIFEST_BYTES / 2).contains(&reads), "{reads} manifests in memory");
    held.release();
    for delete in deletes {
        assert_eq!(delete.await.unwrap().unwrap(), DeleteProtection::None);
    }
}

/// How many records a delete reads is bounded, whether they are tags or manifests.
#[tokio::test]
async fn c13_a_repository_with_too_much_to_read_protects_everything() {
    let bench = Bench::new().await;
    let repository = bench.repository("a");
    let image_with = |count: usize| {
        let any = (0..count).map(|n| format!(r#""{}""#, digest(format!("any {n}").as_bytes())));
        let any = any.collect::<Vec<_>>().join(",");
        image_with_many_layers(&digest(b"x")).replacen('{', &format!(r#"{{"any":[{any}],"#), 1)
    };
    // A tag, its manifest, and what may be manifests below it.
    let most = PROTECTING_RECORDS_MAX - 2;
    for (below, protection) in
        [(most, DeleteProtection::None), (most + 1, DeleteProtection::TooMany)]
    {
        bench.store_manifest("a", "v1", &image_with(below)).await;
        bench.calls.take();
        let found = protection_of(&repository, &digest(b"y"), |_| false).await.unwrap();
        assert_eq!(found, protection, "{below}");
        let calls = bench.calls.take().len();
        assert!(calls <= 1 + PROTECTING_RECORDS_MAX, "{below}: {calls} requests");
    }
    for number in 0..=PROTECTING_RECORDS_MAX {
        let key: Key = format!("repositories/a/_tags/t{number}").parse().unwrap();
        bench.gate.put(&key, "{}".into(), PutMode::Create).await.unwrap();
    }
    bench.calls.take();
    let found = protection_of(&repository, &digest(b"y"), |_| false).await.unwrap();
    assert_eq!(found, DeleteProtection::TooMany);
    let calls = bench.calls.take();
    assert!(calls.iter().all(|call| call.operation == "list"), "{calls:?}");
}

/// A manifest that was accepted under other limits protects like any other. One that cannot be
/// understood may protect anything, and that is not the client's fault.
#[tokio::test]
async fn c13_a_manifest_beyond_the_limits_of_a_push_protects_what_it_needs() {
    let bench = Bench::new().await;
    let blob = digest(b"a layer");
    let old = image_with_many_layers(&blob);
    bench.put_manifest("a", "old", &old).await.unwrap_err();
    bench.store_manifest("a", "v1", &old).await;
    let repository = bench.repository("a");
    let protection = protection_of(&repository, &blob, |_| false).await.unwrap();
    assert_eq!(protection, DeleteProtection::Tag("v1".parse().unwrap()));
    bench.store_manifest("a", "v2", "[]").await;
    let unknown = protection_of(&repository, &digest(b"another"), |_| false).await;
    assert!(matches!(unknown, Err(Error::Damaged { .. })), "{unknown:?}");
}

#[tokio::test]
async fn c13_a_repository_with_too_many_tags_protects_everything() {
    let bench = Bench::new().await;
    for number in 0..=PROTECTING_TAGS_MAX {
        let key: Key = format!("repositories/a/_tags/t{number}").parse().unwrap();
        bench.gate.put(&key, "{}".into(), PutMode::Create).await.unwrap();
    }
    let digest = digest(IMAGE.as_bytes());
    let protection = protection_of(&bench.repository("a"), &digest, |_| true).await.unwrap();
    assert_eq!(protection, DeleteProtection::TooMany);
}

/// An index without `mediaType`, so that nothing but the push says what it is.
const BARE: &str = r#"{"schemaVersion":2,"manifests":[]}"#;

fn push_as(media_type: &MediaType, reference: &str) -> ManifestPush {
    ManifestPush { media_type: Some(media_type.clone()), ..push_of(reference, BARE) }
}

fn by_digest() -> Reference {
    Reference::Digest(digest(BARE.as_bytes()))
}

async fn media_type(repository: &jreg_registry::Repository) -> MediaType {
    repository.manifest_get(&by_digest(), TouchPolicy::Never).await.unwrap().media_type.clone()
}

/// A client that may push and not delete does not change what a tag of others is.
#[tokio::test]
async fn a_manifest_keeps_its_media_type_until_it_is_deleted() {
    let bench = Bench::new().await;
    let repository = bench.repository("a");
    let other: MediaType = "application/vnd.example+json".parse().unwrap();
    repository.manifest_put(push_as(&MediaType::OCI_IMAGE_INDEX, "v1")).await.unwrap();
    for reference in ["v1", "v2", &by_digest().to_string()] {
        for pusher in [&repository, &bench.another("a").await] {
            let error = pusher.manifest_put(push_as(&other, reference)).await.unwrap_err();
            let Error::ManifestTypeConflict { digest: of, stored } = &error else {
                panic!("{error:?}")
            };
            assert_eq!((of, stored), (&digest(BARE.as_bytes()), &MediaType::OCI_IMAGE_INDEX));
        }
    }
    assert_eq!(media_type(&repository).await, MediaType::OCI_IMAGE_INDEX);
    assert_eq!(bench.keys("repositories/a/_tags/").await.len(), 1);
    // The same, by RFC 9110.
    let upper = MediaType::OCI_IMAGE_INDEX.as_str().to_uppercase().parse().unwrap();
    repository.manifest_put(push_as(&upper, "v3")).await.unwrap();
    repository.manifest_delete(&by_digest(), None).await.unwrap();
    repository.manifest_put(push_as(&other, "v1")).await.unwrap();
    assert_eq!(media_type(&repository).await, other);
}

/// Two pushes of the same bytes as different types, neither of which finds the other: one is refused.
#[tokio::test]
async fn of_two_types_at_the_same_time_one_wins() {
    let bench = Bench::new().await;
    let other: MediaType = "application/vnd.example+json".parse().unwrap();
    let mut writes =
        bench.gate.hold(|call| call.operation == "put" && call.key.contains("/_manifests/"));
    let mut pushes = Vec::new();
    for kind in [&MediaType::OCI_IMAGE_INDEX, &other] {
        let (pusher, push) = (bench.another("a").await, push_as(kind, &by_digest().to_string()));
        pushes.push(tokio::spawn(async move { pusher.manifest_put(push).await }));
    }
    writes.reached(2).await;
    writes.release();
    let mut refused = 0;
    for push in pushes {
        match push.await.unwrap() {
            Ok(_) => {}
            Err(Error::ManifestTypeConflict { .. }) => refused += 1,
            Err(other) => panic!("{other:?}"),
        }
    }
    assert_eq!(refused, 1);
}

/// What an instance remembers of a manifest that others deleted and pushed as something else is
/// forgotten once it takes a push of it itself.
#[tokio::test]
async fn a_push_makes_the_cache_forget_what_was_there() {
    let bench = Bench::new().await;
    let (repository, elsewhere) = (bench.repository("a"), bench.another("a").await);
    let other: MediaType = "application/vnd.example+json".parse().unwrap();
    repository.manifest_put(push_as(&MediaType::OCI_IMAGE_INDEX, "v1")).await.unwrap();
    assert_eq!(media_type(&repository).await, MediaType::OCI_IMAGE_INDEX);
    elsewhere.manifest_delete(&by_digest(), None).await.unwrap();
    elsewhere.manifest_put(push_as(&other, "v1")).await.unwrap();
    repository.manifest_put(push_as(&other, "v1")).await.unwrap();
    assert_eq!(media_type(&repository).await, other);
}

/// A crowd that pushes one manifest by tags of its own, to one instance and to several: a push that finds
/// that another has written it since need not write it again.
#[tokio::test]
async fn a_crowd_pushes_one_manifest() {
    const CROWD: usize = 32;
    for instances in [1, CROWD] {
        let bench = Bench::new().await;
        bench.put_manifest("a", "v0", IMAGE).await.unwrap();
        let mut repositories = Vec::new();
        for _ in 0..instances {
            repositories.push(bench.another("a").await);
        }
        let is_manifest = |key: &str| key.contains("/_manifests/");
        let mut writes =
            bench.gate.hold(move |call| call.operation == "put" && is_manifest(&call.key));
        bench.calls.take();
        let pushes = (0..CROWD).map(|n| {
            let repository = repositories[n % instances].clone();
            tokio::spawn(async move {
                repository.manifest_put(push_of(&format!("t{n}"), IMAGE)).await.unwrap()
            })
        });
        let pushes: Vec<_> = pushes.collect();
        writes.reached(instances).await;
        // In one process the others have read what is there, and wait.
        tokio::time::sleep(Duration::from_millis(50)).await;
        writes.release();
        tokio::time::timeout(WAIT_MAX, try_join_all(pushes)).await.unwrap().unwrap();
        let calls = bench.calls.take();
        let written =
            calls.iter().filter(|call| call.operation == "put" && is_manifest(&call.key)).count();
        // The first version may have been read by a delete that has missed a hint: it serves nobody.
        assert!(written <= 2 * instances, "{written}: tried twice by one of each process");
        // Manifest, tag, catalog, hint; tag; and two more looks.
        assert!(calls.len() <= CROWD * 7 + 2 * instances, "{} requests", calls.len());
        assert_eq!(bench.keys("repositories/a/_tags/").await.len(), CROWD + 1);
    }
}

/// A delete removes the tags of a manifest several at a time, and a concurrent push does not
/// wait for that; what was tagged meanwhile goes as well, or the manifest stays.
#[tokio::test]
async fn tags_of_a_manifest_are_removed_together() {
    const TAGS: usize = 50;
    let bench = Bench::new().await;
    for n in 0..TAGS {
        bench.put_manifest("a", &format!("t{n}"), IMAGE).await.unwrap();
    }
    let is_tag = |key: &str| key.contains("/_tags/t");
    let mut removals = bench.gate.hold(move |call| call.operation == "put" && is_tag(&call.key));
    let repository = bench.repository("a");
    let of = Reference::Digest(digest(IMAGE.as_bytes()));
    let deleting = tokio::spawn({
        let of = of.clone();
        async move { repository.manifest_delete(&of, None).await }
    });
    tokio::time::timeout(WAIT_MAX, removals.reached(TAGS)).await.expect("all at the same time");
    let pushed = tokio::time::timeout(WAIT_MAX, bench.put_manifest("a", "late", IMAGE)).await;
    pushed.expect("a push waits for tags that are removed").unwrap();
    removals.release();
    deleting.await.unwrap().unwrap();
    let left = bench.repository("a").tags(&PageRequest { limit: 100, last: None }).await.unwrap();
    assert_eq!(left.items, []);
    assert_eq!(bench.keys("repositories/a/_manifests/").await, []);
}

/// Manifests are hashed and read beside the runtime's threads if they are large; here it has but one.
#[tokio::test]
async fn a_large_manifest_does_not_keep_the_runtime() {
    let bench = Bench::new().await;
    let annotations = (0..1000).map(|n| format!(r#""k{n}":"{}""#, "x".repeat(1000)));
    let annotations = annotations.collect::<Vec<_>>().join(",");
    let large = IMAGE.replacen('{', &format!(r#"{{"annotations":{{{annotations}}},"#), 1);
    let reference = digest(large.as_bytes()).to_string();
    let mut push = Box::pin(bench.put_manifest("a", &reference, &large));
    let first = futures::poll!(&mut push);
    assert!(first.is_pending());
    assert_eq!(bench.calls.take().len(), 0, "it is not yet understood, and others may go on");
    push.await.unwrap();
    let pulled = bench.another("a").await;
    let pulled =
        pulled.manifest_get(&reference.parse().unwrap(), TouchPolicy::Never).await.unwrap();
    assert_eq!(pulled.bytes, large);
}
