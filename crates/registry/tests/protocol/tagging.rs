//! Writers of tags beside each other.

use std::time::Duration;

use jreg_oci::{Reference, Tag};
use jreg_registry::{Error, PROTECTING_TAGS_MAX, Protection, Touch};
use jreg_storage::{Key, PutMode, Store};

use crate::bench::{Bench, digest, push_of};

const IMAGE: &str =
    r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
/// Several for each of some hundred locks.
const OTHERS: usize = 200;
/// Reached only by a test that fails.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Writers of one tag in a process take turns; whoever writes another does not wait for them, or a
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
    let refused = repository.manifest_delete_if(&by_digest, None, &may_remove).await;
    assert!(matches!(refused, Err(Error::TagProtected { .. })), "{refused:?}");
    let v1 = "v1".parse().unwrap();
    repository.manifest_get(&v1, Touch::Never).await.unwrap();
    let other = IMAGE.replace("[]", "[ ]");
    bench.put_manifest("a", "v1", &other).await.unwrap();
    bench.put_manifest("a", "dev", IMAGE).await.unwrap();
    let removed = repository.manifest_delete_if(&by_digest, None, &may_remove).await.unwrap();
    assert_eq!(removed, ["dev".parse().unwrap()]);
    repository.manifest_get(&v1, Touch::Never).await.unwrap();
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
        (IMAGE, Protection::Tag("v1".parse().unwrap())),
        (&*middle, Protection::Tag("v1".parse().unwrap())),
        (&*top, Protection::Tag("v1".parse().unwrap())),
        (&*other, Protection::None),
    ] {
        let digest = digest(manifest.as_bytes());
        assert_eq!(repository.protection(&digest, &may_remove).await.unwrap(), protection);
        assert_eq!(repository.protection(&digest, &|_| true).await.unwrap(), Protection::None);
    }
}

#[tokio::test]
async fn c13_a_repository_with_too_many_tags_protects_everything() {
    let bench = Bench::new().await;
    for number in 0..=PROTECTING_TAGS_MAX {
        let key: Key = format!("repositories/a/_tags/t{number}").parse().unwrap();
        bench.gate.put(&key, "{}".into(), PutMode::Create).await.unwrap();
    }
    let digest = digest(IMAGE.as_bytes());
    let protection = bench.repository("a").protection(&digest, &|_| true).await.unwrap();
    assert_eq!(protection, Protection::TooMany);
}
