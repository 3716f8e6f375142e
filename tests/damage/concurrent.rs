//! fsck concurrent with clients and GC at random, with time passing at random: on a sound store the
//! only findings are notes, at any moment. Every store call yields now and then, and listings have
//! small pages, so that each has many interleavings.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::join_all;
use jreg_oci::{Digest, Reference};
use jreg_registry::{
    Error, FsckFinding, FsckOptions, GcError, GcOptions, ManifestPush, NoObserver, Registry,
    RegistryOptions, Severity, TouchPolicy, UploadChunk,
};
use jreg_storage::testing::{Call, InterceptedStore, Interceptor, ManualClock};
use jreg_storage::{ByteStream, MemoryStore, PartRules, Result};
use jreg_testkit::{Image, Manifest, Rng, SmallPagesStore, index_of};
use tokio::sync::RwLock;

use crate::damage::scenario::sha256;
use crate::damage::{Findings, block_on};

const SEEDS: u64 = 6;
const CHECKS: usize = 8;
const CLIENTS: u64 = 5;
const NAMES: [&str; 3] = ["a", "a/b", "c"];
const TAGS: [&str; 2] = ["v1", "v2"];

/// Yields before and after store calls, by a seed.
#[derive(Debug)]
struct Yields(Mutex<Rng>);

impl Yields {
    async fn pass(&self) {
        let times = self.0.lock().unwrap().below(4);
        for _ in 0..times {
            tokio::task::yield_now().await;
        }
    }
}

#[async_trait]
impl Interceptor for Yields {
    type Plan = ();

    async fn before(&self, _call: &Call) -> Result<()> {
        self.pass().await;
        Ok(())
    }

    async fn after(&self, _call: &Call, _plan: &()) -> Result<()> {
        self.pass().await;
        Ok(())
    }

    fn stream(&self, _call: &Call, _plan: &(), stream: ByteStream) -> ByteStream {
        stream
    }
}

/// What clients push: images that share blobs, an index, and signatures of all of these.
struct Content {
    blobs: Vec<Bytes>,
    manifests: Vec<Manifest>,
}

fn content() -> Content {
    let images: Vec<_> = (1..4).map(Image::plain).collect();
    let index = index_of(&images.iter().map(|i| i.manifest.descriptor()).collect::<Vec<_>>());
    let subjects: Vec<_> = images.iter().map(|image| &image.manifest).chain([&index]).collect();
    let signatures: Vec<_> = (10..)
        .zip(subjects)
        .map(|(seed, subject)| Image::referrer(seed, subject, "application/signature"))
        .collect();
    let all = images.iter().chain(&signatures);
    let blobs = all.clone().flat_map(|image| image.blobs.iter().map(|blob| blob.bytes.clone()));
    let blobs = blobs.collect();
    let manifests = all.map(|image| image.manifest.clone()).chain([index]).collect();
    Content { blobs, manifests }
}

struct DamageScenario {
    registry: Registry,
    clock: Arc<ManualClock>,
    content: Content,
    /// Time passes between the calls of clients, not during a store request: a push may take
    /// minutes, and is refused after that.
    /// take minutes, and is refused after that.
    time: RwLock<()>,
    /// The last fsck has ended.
    is_over: AtomicBool,
}

impl DamageScenario {
    async fn new(seed: u64) -> Self {
        let clock = Arc::new(ManualClock::default());
        let rules = PartRules { part_bytes: 512, uniform: true, parts_max: 100 };
        let memory = MemoryStore::builder().remote().part_rules(rules);
        let memory = Arc::new(memory.clock(clock.clone()).build());
        let yields = Yields(Mutex::new(Rng::new(seed)));
        let store =
            Arc::new(SmallPagesStore::new(Arc::new(InterceptedStore::with(memory, yields)), 3));
        let registry =
            Registry::open(store, clock.clone(), RegistryOptions::default()).await.unwrap();
        Self {
            registry,
            clock,
            content: content(),
            time: RwLock::default(),
            is_over: AtomicBool::default(),
        }
    }

    async fn client(&self, mut rng: Rng) {
        while !self.is_over.load(Ordering::Relaxed) {
            let name = rng.pick(&NAMES).parse().unwrap();
            let repository = self.registry.repository(name);
            match rng.below(10) {
                0..5 => self.push(&repository, &mut rng).await,
                5 => {
                    let tag: Reference = rng.pick(&TAGS).parse().unwrap();
                    let _time = self.time.read().await;
                    may_be_unknown(repository.manifest_delete(&tag, None).await);
                }
                6..8 => {
                    let manifest = rng.pick(&self.content.manifests);
                    let digest = Reference::Digest(sha256(&manifest.bytes));
                    let _time = self.time.read().await;
                    may_be_unknown(repository.manifest_delete(&digest, None).await);
                }
                8 => {
                    let (blob, from) = (rng.pick(&self.content.blobs), rng.pick(&NAMES));
                    let _time = self.time.read().await;
                    repository.blob_mount(&sha256(blob), &from.parse().unwrap()).await.unwrap();
                }
                _ => {
                    let id = repository.upload_start(None);
                    let _time = self.time.read().await;
                    repository.upload_append(&id, UploadChunk::of("never finished")).await.unwrap();
                }
            }
        }
    }

    /// Pushes the references of a manifest, and the manifest. A blob may have been collected
    /// meanwhile.
    async fn push(&self, repository: &jreg_registry::Repository, rng: &mut Rng) {
        let manifest = rng.pick(&self.content.manifests).clone();
        let text = String::from_utf8_lossy(&manifest.bytes).into_owned();
        for blob in &self.content.blobs {
            let digest = sha256(blob);
            if !text.contains(&digest.to_string()) {
                continue;
            }
            let _time = self.time.read().await;
            if repository.blob_stat(&digest, TouchPolicy::IfOld).await.is_err() {
                self.push_blob(repository, &digest, blob, rng.chance(1, 2)).await;
            }
        }
        let digest = Reference::Digest(sha256(&manifest.bytes));
        let push = ManifestPush {
            reference: if rng.chance(2, 3) { rng.pick(&TAGS).parse().unwrap() } else { digest },
            tags: Vec::new(),
            media_type: Some(manifest.media_type.parse().unwrap()),
            bytes: manifest.bytes,
            condition: None,
        };
        let _time = self.time.read().await;
        match repository.manifest_put(push).await {
            Ok(_) | Err(Error::ReferencesUnknown { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }

    async fn push_blob(
        &self,
        repository: &jreg_registry::Repository,
        digest: &Digest,
        bytes: &Bytes,
        streams: bool,
    ) {
        let bytes = UploadChunk::of(bytes.clone());
        if !streams {
            repository.blob_push(digest, bytes).await.unwrap();
            return;
        }
        let id = repository.upload_start(None);
        repository.upload_append(&id, bytes).await.unwrap();
        repository.upload_finish(&id, digest, UploadChunk::empty()).await.unwrap();
    }

    async fn collector(&self, mut rng: Rng) {
        while !self.is_over.load(Ordering::Relaxed) {
            let options = GcOptions {
                grace: Duration::from_secs(2 * 3600),
                share_max_percent: 100,
                sweep_now: true,
                untagged: rng.chance(1, 2).then_some(Duration::ZERO),
                ..GcOptions::default()
            };
            match self.registry.collect_garbage(&options, &NoObserver).await {
                // The clock advanced while it moved a link, so it gives up.
                Ok(_) | Err(GcError::Registry(Error::Interrupted { .. })) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    async fn passing_time(&self, mut rng: Rng) {
        while !self.is_over.load(Ordering::Relaxed) {
            for _ in 0..rng.below(400) {
                tokio::task::yield_now().await;
            }
            let _time = self.time.write().await;
            self.clock.advance(Duration::from_secs(60 * rng.below(90)));
        }
    }

    /// The findings that are not notes.
    async fn wrong(&self) -> Vec<FsckFinding> {
        let options = FsckOptions { deep: true, ..FsckOptions::default() };
        let found = Findings::default();
        self.registry.fsck(&options, &found).await.unwrap();
        let found = found.0.into_inner().unwrap().into_iter();
        found.filter(|finding| finding.severity() > Severity::Note).collect()
    }

    async fn checks(&self, seed: u64) {
        for _ in 0..CHECKS {
            assert_eq!(self.wrong().await, [], "seed {seed}");
        }
        self.is_over.store(true, Ordering::Relaxed);
    }
}

fn may_be_unknown(outcome: jreg_registry::Result<()>) {
    match outcome {
        Ok(()) | Err(Error::ManifestUnknown { .. }) => {}
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_check_beside_anything_finds_nothing_wrong() {
    for seed in 0..SEEDS {
        block_on(async {
            let scenario = DamageScenario::new(seed).await;
            let rng = |n: u64| Rng::new(seed * 100 + n);
            let clients = join_all((0..CLIENTS).map(|n| scenario.client(rng(n))));
            tokio::join!(
                clients,
                scenario.collector(rng(90)),
                scenario.passing_time(rng(91)),
                scenario.checks(seed),
            );
            scenario.clock.advance(Duration::from_secs(3 * 3600));
            assert_eq!(scenario.wrong().await, [], "seed {seed}, at the end");
        });
    }
}
