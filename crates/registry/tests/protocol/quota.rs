//! Quotas: what counts in a pool, and when a push is refused.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt, StreamExt, stream};
use jreg_lifecycle::{CurrentRules, LifecycleRules, QuotaUsage};
use jreg_oci::Reference;
use jreg_registry::{Error, Registry, RegistryOptions, Repository, UploadChunk};

use crate::bench::{Bench, digest, open_body, push_of};
use crate::usage::image;

const SECOND: Duration = Duration::from_secs(1);

/// A pool of `team/**` with this limit.
fn rules(limit: usize) -> CurrentRules {
    parse(&format!("[[quota]]\nrepositories = ['team/**']\nbytes = {limit}\n"))
}

fn parse(rules: &str) -> CurrentRules {
    CurrentRules::new(Arc::new(LifecycleRules::parse(&format!("{rules}[end]\n")).unwrap()))
}

fn repository(registry: &Registry, name: &str) -> Repository {
    registry.repository(name.parse().unwrap())
}

async fn push_blob(repository: &Repository, bytes: &Bytes) -> Result<(), Error> {
    repository.blob_push(&digest(bytes), UploadChunk::of(bytes.clone())).await.map(|_| ())
}

/// Pushes the blobs and the manifest of an image.
async fn push(repository: &Repository, tag: &str, layers: &[&Bytes]) -> Result<(), Error> {
    let config = Bytes::from_static(b"{}");
    for blob in [&config].into_iter().chain(layers.iter().copied()) {
        push_blob(repository, blob).await?;
    }
    put(repository, tag, layers).await
}

async fn put(repository: &Repository, tag: &str, layers: &[&Bytes]) -> Result<(), Error> {
    let manifest = image(&Bytes::from_static(b"{}"), layers);
    repository.manifest_put(push_of(tag, &manifest)).await.map(|_| ())
}

fn manifest_bytes(layers: &[&Bytes]) -> usize {
    image(&Bytes::from_static(b"{}"), layers).len()
}

fn layer(number: u8, length: usize) -> Bytes {
    vec![number; length].into()
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, Error>) -> QuotaUsage {
    match result {
        Err(Error::Quota(usage)) => *usage,
        other => panic!("{other:?}"),
    }
}

/// Lets a count that was begun beside a request end.
async fn settle() {
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
}

/// Another process on the same store.
async fn other(bench: &Bench, rules: CurrentRules) -> Registry {
    let (store, clock) = (bench.faults.clone(), bench.clock.clone());
    let other = Registry::open(store, clock, RegistryOptions::default()).await.unwrap();
    other.with_rules(rules)
}

#[tokio::test]
async fn shared_layers_of_a_pool_count_once() {
    let bench = Bench::new().await;
    let (base, own) = (layer(1, 600), layer(2, 100));
    let once = 2 + 600 + manifest_bytes(&[&base]);
    let limit = once + 100 + manifest_bytes(&[&base, &own]);
    let registry = bench.registry.with_rules(rules(limit));
    for name in ["team/a", "team/b", "team/c"] {
        push(&repository(&registry, name), "v1", &[&base]).await.unwrap();
    }
    // Another instance, which counts all of it first.
    let registry = other(&bench, rules(limit)).await;
    let source = repository(&registry, "team/a");
    for name in ["team/a", "team/d"] {
        let repository = repository(&registry, name);
        if name == "team/d" {
            for blob in [&Bytes::from_static(b"{}"), &base, &own] {
                let mounted = repository.blob_mount(&digest(blob), source.name()).await.unwrap();
                assert!(mounted.is_some());
            }
        }
        push(&repository, "v2", &[&base, &own]).await.unwrap();
        push(&repository, "v2", &[&base, &own]).await.unwrap();
    }
    let usage = refused(push(&repository(&registry, "team/e"), "v1", &[&layer(3, 1)]).await);
    assert_eq!((usage.number, usage.used, usage.limit), (1, limit as u64, limit as u64));
    let message = usage.to_string();
    assert!(message.starts_with("quota 1 (team/**): "), "{message}");
    push(&repository(&registry, "other"), "v1", &[&layer(3, 700)]).await.unwrap();
}

#[tokio::test]
async fn pushes_that_fail_do_not_count() {
    let bench = Bench::new().await;
    let (one, two) = (layer(1, 500), layer(2, 400));
    let limit = 2 + 500 + manifest_bytes(&[&one]);
    let registry = bench.registry.with_rules(rules(limit));
    let repository = repository(&registry, "team/a");
    push_blob(&repository, &Bytes::from_static(b"{}")).await.unwrap();
    for _ in 0..3 {
        let failed = put(&repository, "v1", &[&two]).await.unwrap_err();
        assert!(matches!(failed, Error::ReferencesUnknown { .. }), "{failed}");
    }
    push(&repository, "v1", &[&one]).await.unwrap();
    // It is unreferenced, and garbage collection removes it.
    refused(put(&repository, "v2", &[]).await);
}

#[tokio::test]
async fn what_another_instance_pushes_and_deletes_is_counted_before_a_refusal() {
    let bench = Bench::new().await;
    let (one, two) = (layer(1, 500), layer(2, 500));
    let limit = 2 + 500 + manifest_bytes(&[&one]) + 300;
    let registry = bench.registry.with_rules(rules(limit));
    let here = repository(&registry, "team/a");
    let there = repository(&other(&bench, rules(limit)).await, "team/b");
    push_blob(&here, &Bytes::from_static(b"{}")).await.unwrap();
    push(&there, "v1", &[&one]).await.unwrap();
    bench.clock.advance(61 * SECOND);
    // It lets the pool be counted.
    push_blob(&here, &two).await.unwrap();
    settle().await;
    let message = refused(push(&here, "v1", &[&two]).await).to_string();
    assert!(message.contains("are used, and 500 more are requested"), "{message}");
    let manifest = digest(image(&Bytes::from_static(b"{}"), &[&one]).as_bytes());
    there.manifest_delete(&Reference::Digest(manifest), None).await.unwrap();
    bench.clock.advance(11 * SECOND);
    push(&here, "v1", &[&two]).await.unwrap();
    bench.clock.advance(61 * SECOND);
    push_blob(&there, &Bytes::from_static(b"{}")).await.unwrap();
    settle().await;
    refused(push(&there, "v2", &[&one]).await);
}

#[tokio::test]
async fn every_pool_of_a_repository_must_hold() {
    let bench = Bench::new().await;
    let pool = |pattern: &str, bytes: usize| {
        format!("[[quota]]\nrepositories = ['{pattern}']\nbytes = {bytes}\n")
    };
    let text = [pool("team/**", 100_000), pool("team/a", 600)].concat();
    let registry = bench.registry.with_rules(parse(&text));
    assert_eq!(
        refused(push(&repository(&registry, "team/a"), "v1", &[&layer(1, 601)]).await).number,
        2
    );
    push(&repository(&registry, "team/b"), "v1", &[&layer(1, 601)]).await.unwrap();
}

/// The client reads the response only after it has sent everything.
#[tokio::test]
async fn body_of_unknown_length_is_refused_after_its_end() {
    let bench = Bench::new().await;
    let registry = bench.registry.with_rules(rules(500));
    let repository = repository(&registry, "team/a");
    let id = repository.upload_start(None);
    let (mut sender, chunk) = open_body();
    let sending = async {
        for _ in 0..20 {
            sender.send(Ok(layer(1, 100))).await.unwrap();
        }
        sender.close().await.unwrap();
    };
    let (appended, ()) = futures::join!(repository.upload_append(&id, chunk), sending);
    assert_eq!(refused(appended).limit, 500);
    assert!(matches!(repository.upload_status(&id).await, Err(Error::UploadUnknown { .. })));
    assert_eq!(bench.keys("blobs/").await, [], "its bytes are freed");
    let (mut sender, chunk) = open_body();
    sender.send(Ok(layer(1, 500))).await.unwrap();
    sender.close().await.unwrap();
    let id = repository.upload_start(None);
    repository.upload_append(&id, chunk).await.unwrap();
    // By the next count it is an open upload.
    bench.clock.advance(61 * SECOND);
    push_blob(&repository, &layer(2, 1)).await.unwrap();
    settle().await;
    refused(push_blob(&repository, &layer(3, 1)).await);
}

/// A digest that a client only names tells it nothing of repositories that it may not pull from.
#[tokio::test]
async fn fixed_an_announced_digest_adds_nothing_only_where_the_repository_has_it() {
    let bench = Bench::new().await;
    let (hidden, absent, length) = (layer(1, 700), layer(2, 700), 700);
    let registry = bench.registry.with_rules(rules(1800));
    let (secret, public) =
        (repository(&registry, "team/secret"), repository(&registry, "team/pub"));
    push(&secret, "v1", &[&hidden]).await.unwrap();
    push(&public, "v1", &[]).await.unwrap();
    let announced = || UploadChunk::new(None, Some(length), stream::pending().boxed());
    for blob in [&hidden, &absent] {
        let digest = digest(blob);
        let pushed = refused(public.blob_push(&digest, announced()).await);
        let id = public.upload_start(None);
        let finished = refused(public.upload_finish(&id, &digest, announced()).await);
        assert_eq!((pushed.adding, &pushed), (length, &finished));
        let id = public.upload_start(None);
        public.upload_append(&id, UploadChunk::of(layer(3, 10))).await.unwrap();
        let finished = refused(public.upload_finish(&id, &digest, announced()).await);
        assert_eq!(pushed, finished);
    }
    push_blob(&secret, &hidden).await.unwrap();
    // Who may pull from the other repository mounts it.
    public.blob_mount(&digest(&hidden), secret.name()).await.unwrap().unwrap();
    push_blob(&public, &hidden).await.unwrap();
    put(&public, "v2", &[&hidden]).await.unwrap();
}

#[tokio::test]
async fn without_a_quota_nothing_is_read_for_it() {
    let calls_of = async |rules: CurrentRules| {
        let bench = Bench::new().await;
        let repository = repository(&bench.registry.with_rules(rules), "a");
        push(&repository, "v1", &[&layer(1, 100)]).await.unwrap();
        bench.calls.take().into_iter().map(|call| call.operation).collect::<Vec<_>>()
    };
    assert_eq!(calls_of(rules(1)).await, calls_of(CurrentRules::default()).await);
}

/// More requests of the first push to a pool, which counts it and reads whether there was a warning, and of a later
/// one.
const COSTS: (usize, usize) = (10, 1);

/// Requests of a push of two blobs and a manifest: without quota, the first and a later one with.
#[tokio::test]
async fn quota_costs_a_count_and_then_a_read_of_each_link_that_is_not_cached() {
    let bench = Bench::new().await;
    let limited = repository(&bench.registry.with_rules(rules(100_000)), "team/a");
    let free = repository(&bench.registry, "team/a");
    let mut counts = Vec::new();
    for (number, repository) in [(1, &free), (2, &free), (3, &limited), (4, &limited)] {
        push(repository, &format!("v{number}"), &[&layer(number, 100)]).await.unwrap();
        counts.push(bench.calls.take().len());
    }
    let [_, free, first, later] = counts[..] else { panic!("{counts:?}") };
    assert_eq!((first - free, later - free), COSTS, "{counts:?}");
}
