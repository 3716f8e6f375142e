//! Immutable tags: which changes are refused, by whichever way they come.

use std::sync::Arc;

use jreg_lifecycle::{CurrentRules, ImmutableRefusal, LifecycleRules};
use jreg_oci::{Digest, Reference, Tag};
use jreg_registry::{Error, Registry, RegistryOptions, Repository, TouchPolicy};
use jreg_storage::Store;
use jreg_storage::testing::Call;

use crate::bench::{Bench, HOUR, digest, push_of};

const RULES: &str = r#"
[[immutable]]
repositories = ["a"]
tags = ["v*"]
except = ["vx"]
"#;

fn image(number: usize) -> String {
    let config = digest(b"{}");
    format!(
        r#"{{"schemaVersion":2,"annotations":{{"n":"{number}"}},"config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{config}","size":2}},"layers":[]}}"#
    )
}

fn digest_of(number: usize) -> Digest {
    digest(image(number).as_bytes())
}

fn tag(name: &str) -> Tag {
    name.parse().unwrap()
}

fn rules() -> CurrentRules {
    CurrentRules::new(Arc::new(LifecycleRules::parse(&format!("{RULES}[end]\n")).unwrap()))
}

async fn bench() -> (Bench, Registry) {
    let bench = Bench::new().await;
    bench.push("a", &"{}".into()).await;
    let registry = bench.registry.with_rules(rules());
    bench.calls.take();
    (bench, registry)
}

/// Another process, whose requests no gate holds.
async fn other(bench: &Bench) -> Repository {
    let (store, clock) = (bench.faults.clone(), bench.clock.clone());
    let other = Registry::open(store, clock, RegistryOptions::default()).await.unwrap();
    other.with_rules(rules()).repository("a".parse().unwrap())
}

fn refusal<T: std::fmt::Debug>(result: Result<T, Error>) -> ImmutableRefusal {
    match result {
        Err(Error::Immutable(refusal)) => *refusal,
        other => panic!("{other:?}"),
    }
}

async fn put(repository: &Repository, reference: &str, number: usize) -> Result<(), Error> {
    repository.manifest_put(push_of(reference, &image(number))).await.map(|_| ())
}

async fn points_to(repository: &Repository, name: &str) -> Option<Digest> {
    let read = repository.manifest_get(&name.parse().unwrap(), TouchPolicy::Never).await;
    read.ok().map(|manifest| manifest.digest.clone())
}

#[tokio::test]
async fn an_immutable_tag_neither_moves_nor_goes() {
    let (bench, registry) = bench().await;
    let repository = registry.repository("a".parse().unwrap());
    put(&repository, "v1", 1).await.unwrap();
    bench.writes();
    let moved = refusal(put(&repository, "v1", 2).await);
    assert!(
        matches!(moved, ImmutableRefusal::Move { present, .. } if present == Some(digest_of(1)))
    );
    let by_digest: Reference = digest_of(1).to_string().parse().unwrap();
    let deleted = refusal(repository.manifest_delete(&tag("v1").into(), None).await);
    assert!(matches!(deleted, ImmutableRefusal::DeleteTag { .. }));
    let deleted = refusal(repository.manifest_delete(&by_digest, None).await);
    assert!(matches!(deleted, ImmutableRefusal::DeleteManifest { .. }));
    let deleted = refusal(repository.blob_delete(&digest(b"{}")).await);
    assert!(matches!(deleted, ImmutableRefusal::DeleteBlob { .. }));
    let restored = refusal(
        repository
            .tag_restore(&tag("v1"), &digest_of(1), None)
            .await
            .and(put(&repository, "v1", 3).await),
    );
    assert!(matches!(restored, ImmutableRefusal::Move { .. }));
    let purged = refusal(repository.manifest_purge(&digest_of(1), false).await);
    assert!(matches!(purged, ImmutableRefusal::DeleteManifest { .. }));
    let hints = |write: &String| write.contains("/_tagged/");
    let writes: Vec<_> = bench.writes().into_iter().filter(|write| !hints(write)).collect();
    assert_eq!(writes.len(), 2, "only the restore to where it is: {writes:?}");
    // The same, exceptions and other repositories are as ever.
    put(&repository, "v1", 1).await.unwrap();
    put(&repository, "vx", 1).await.unwrap();
    put(&repository, "vx", 2).await.unwrap();
    repository.manifest_delete(&tag("vx").into(), None).await.unwrap();
    let free = registry.repository("b".parse().unwrap());
    bench.push("b", &"{}".into()).await;
    put(&free, "v1", 1).await.unwrap();
    put(&free, "v1", 2).await.unwrap();
    free.manifest_delete(&by_digest, None).await.unwrap();
    free.blob_delete(&digest(b"{}")).await.unwrap();
    assert_eq!(points_to(&repository, "v1").await, Some(digest_of(1)));
    repository.manifest_purge(&digest_of(1), true).await.unwrap();
    assert_eq!(points_to(&repository, "v1").await, None);
}

#[tokio::test]
async fn what_an_index_of_an_immutable_tag_needs_stays() {
    let (_bench, registry) = bench().await;
    let repository = registry.repository("a".parse().unwrap());
    let child: Reference = digest_of(1).to_string().parse().unwrap();
    put(&repository, &child.to_string(), 1).await.unwrap();
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{}","size":{}}}]}}"#,
        digest_of(1),
        image(1).len()
    );
    repository.manifest_put(push_of("v1", &index)).await.unwrap();
    let refused = refusal(repository.manifest_delete(&child, None).await);
    assert!(
        matches!(refused, ImmutableRefusal::DeleteManifest { manifest, .. } if manifest == digest_of(1))
    );
}

#[tokio::test]
async fn further_tags_that_are_immutable_are_left_out() {
    let (_bench, registry) = bench().await;
    let repository = registry.repository("a".parse().unwrap());
    put(&repository, "v1", 1).await.unwrap();
    let mut push = push_of(&digest_of(2).to_string(), &image(2));
    push.tags = vec![tag("v1"), tag("v2"), tag("dev")];
    let pushed = repository.manifest_put(push).await.unwrap();
    assert_eq!(pushed.tags, [tag("v2"), tag("dev")]);
    assert!(
        matches!(&pushed.refused[..], [ImmutableRefusal::Move { tag, .. }] if tag.as_str() == "v1")
    );
    assert_eq!(points_to(&repository, "v1").await, Some(digest_of(1)));
}

/// Both have read that the tag does not exist; the second is judged again on what the first has made.
#[tokio::test]
async fn one_of_two_that_push_a_new_immutable_tag_is_refused() {
    let (bench, registry) = bench().await;
    let is_tag = |call: &Call| call.operation == "put" && call.key.contains("/_tags/");
    let mut held = bench.gate.hold(is_tag);
    let repository = registry.repository("a".parse().unwrap());
    let late = tokio::spawn(async move { put(&repository, "v1", 2).await });
    held.reached(1).await;
    let other = other(&bench).await;
    put(&other, "v1", 1).await.unwrap();
    held.release();
    let refused = refusal(late.await.unwrap());
    assert!(
        matches!(refused, ImmutableRefusal::Move { present, .. } if present == Some(digest_of(1)))
    );
    assert_eq!(points_to(&other, "v1").await, Some(digest_of(1)));
}

/// Without it the push of the tag would be acknowledged, and its manifest gone.
#[tokio::test]
async fn a_delete_sees_the_hint_of_an_immutable_tag_that_is_being_pushed() {
    let (bench, registry) = bench().await;
    let is_tag = |call: &Call| call.operation == "put" && call.key.contains("/_tags/");
    let mut held = bench.gate.hold(is_tag);
    let repository = registry.repository("a".parse().unwrap());
    let pushing = tokio::spawn(async move { put(&repository, "v1", 1).await });
    held.reached(1).await;
    let other = other(&bench).await;
    let by_digest: Reference = digest_of(1).to_string().parse().unwrap();
    let refused = refusal(other.manifest_delete(&by_digest, None).await);
    assert!(matches!(refused, ImmutableRefusal::DeleteManifest { .. }));
    held.release();
    pushing.await.unwrap().unwrap();
    assert_eq!(points_to(&other, "v1").await, Some(digest_of(1)));
    // The hint of a push that was given up counts for a while.
    let key = format!("repositories/a/_tagged/sha256/{}/v9", digest_of(2).hex());
    put(&other, &digest_of(2).to_string(), 2).await.unwrap();
    let hint = bench.faults.get(&bench.keys("repositories/a/_tagged/").await[0]).await.unwrap();
    let mode = jreg_storage::PutMode::Create;
    bench.faults.put(&key.parse().unwrap(), hint.bytes, mode).await.unwrap();
    let by_digest: Reference = digest_of(2).to_string().parse().unwrap();
    refusal(other.manifest_delete(&by_digest, None).await);
    bench.clock.advance(2 * HOUR);
    other.manifest_delete(&by_digest, None).await.unwrap();
}
