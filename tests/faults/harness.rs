//! A registry over a store with injected faults, and a ledger of what was acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use jreg_oci::{Algorithm, Digest, Reference};
use jreg_registry::{
    Error, ManifestPush, PageRequest, Registry, RegistryOptions, Repository, Result, TouchPolicy,
};
use jreg_storage::testing::FaultyStore;
use jreg_storage::{
    ByteRange, Durability, FsOptions, FsStore, MemoryStore, PartRules, Store, SystemClock,
};
use jreg_testkit::Manifest;
use serde_json::Value;
use tempfile::TempDir;

/// What kind of store it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Memory as it is.
    InProcess,
    /// Memory with the properties of S3: shared, parts of one size.
    Shared,
    Folder,
}

impl Shape {
    pub(crate) const ALL: [Self; 3] = [Self::InProcess, Self::Shared, Self::Folder];

    fn store(self, folder: &TempDir) -> Arc<dyn Store> {
        let rules = PartRules { part_bytes: 16 * 1024, uniform: true, parts_max: 10_000 };
        match self {
            Self::InProcess => Arc::new(MemoryStore::new()),
            Self::Folder => {
                // No test simulates a power failure.
                let relaxed = FsOptions { durability: Durability::Relaxed, ..FsOptions::default() };
                Arc::new(FsStore::open(folder.path(), relaxed).unwrap())
            }
            Self::Shared => Arc::new(MemoryStore::builder().remote().part_rules(rules).build()),
        }
    }
}

/// The registry under test, and its acknowledgements.
pub(crate) struct FaultHarness {
    pub(crate) faulty: Arc<FaultyStore>,
    registry: Registry,
    #[expect(dead_code, reason = "it is removed when the harness goes")]
    folder: Option<TempDir>,
    /// What is more than a part.
    pub(crate) large_bytes: usize,
    context: String,
    /// Acknowledged blobs, by repository.
    pub(crate) blobs: BTreeMap<(&'static str, Digest), Bytes>,
    /// Acknowledged manifests, by repository and digest.
    pub(crate) manifests: BTreeMap<(&'static str, Digest), Bytes>,
    /// Possible targets of a tag: one when acknowledged, several after a failed push or delete.
    /// `None` is absence.
    pub(crate) tags: BTreeMap<(&'static str, &'static str), BTreeSet<Option<Digest>>>,
}

pub(crate) fn sha256(bytes: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, bytes)
}

async fn open(store: Arc<dyn Store>) -> Registry {
    Registry::open(store, Arc::new(SystemClock::new()), RegistryOptions::default()).await.unwrap()
}

impl FaultHarness {
    pub(crate) async fn new(shape: Shape, context: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let harness = Self::over(shape.store(&folder), 50_000, context).await;
        Self { folder: Some(folder), ..harness }
    }

    /// A registry over a store whose parts have fewer than `large_bytes`.
    pub(crate) async fn over(store: Arc<dyn Store>, large_bytes: usize, context: &str) -> Self {
        let faulty = Arc::new(FaultyStore::new(store));
        let registry = open(faulty.clone()).await;
        let context = context.to_owned();
        Self {
            faulty,
            registry,
            folder: None,
            large_bytes,
            context,
            blobs: BTreeMap::new(),
            manifests: BTreeMap::new(),
            tags: BTreeMap::new(),
        }
    }

    /// Reopens the registry like another process: with empty caches.
    pub(crate) async fn reopen(&mut self) {
        self.registry = open(self.faulty.clone()).await;
    }

    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }

    pub(crate) fn repository(&self, name: &str) -> Repository {
        self.registry.repository(name.parse().unwrap())
    }

    /// Pushes a manifest and records what may be visible: all of it when acknowledged.
    pub(crate) async fn put(
        &mut self,
        name: &'static str,
        manifest: &Manifest,
        by: Option<&'static str>,
        tags: &[&'static str],
    ) -> Result<()> {
        let digest = sha256(&manifest.bytes);
        let all: Vec<_> = by.iter().chain(tags).copied().collect();
        for tag in &all {
            self.tags
                .entry((name, *tag))
                .or_insert_with(|| [None].into())
                .insert(Some(digest.clone()));
        }
        let push = ManifestPush {
            reference: by.map_or(Reference::Digest(digest.clone()), |tag| tag.parse().unwrap()),
            tags: tags.iter().map(|tag| tag.parse().unwrap()).collect(),
            media_type: Some(manifest.media_type.parse().unwrap()),
            bytes: manifest.bytes.clone(),
            condition: None,
        };
        self.repository(name).manifest_put(push).await?;
        self.manifests.insert((name, digest.clone()), manifest.bytes.clone());
        for tag in all {
            self.tags.insert((name, tag), [Some(digest.clone())].into());
        }
        Ok(())
    }

    /// The invariants.
    pub(crate) async fn check(&self) {
        for ((name, digest), bytes) in &self.blobs {
            let read = read(&self.repository(name), digest).await;
            let read = read.unwrap_or_else(|e| panic!("{}: {name}@{digest}: {e:?}", self.context));
            assert!(read == bytes, "{}: {name}@{digest} has other bytes", self.context);
        }
        for ((name, digest), bytes) in &self.manifests {
            let found = self
                .repository(name)
                .manifest_get(&Reference::Digest(digest.clone()), TouchPolicy::Never)
                .await;
            let found = found
                .unwrap_or_else(|error| panic!("{}: {name}@{digest}: {error:?}", self.context));
            assert!(found.bytes == bytes, "{}: {name}@{digest} has other bytes", self.context);
        }
        for ((name, tag), allowed) in &self.tags {
            let at = self.stands_at(name, tag).await;
            assert!(
                allowed.contains(&at),
                "{}: {name}:{tag} is at {at:?}, not {allowed:?}",
                self.context
            );
        }
        for name in ["a", "b"] {
            self.tags_are_whole(name).await;
        }
    }

    /// The target of a tag; no visible manifest lacks a blob.
    pub(crate) async fn stands_at(&self, name: &str, tag: &str) -> Option<Digest> {
        match self.repository(name).manifest_get(&tag.parse().unwrap(), TouchPolicy::Never).await {
            Ok(manifest) => Some(manifest.digest.clone()),
            Err(Error::ManifestUnknown { .. } | Error::NameUnknown { .. }) => None,
            Err(error) => panic!("{}: {name}:{tag}: {error:?}", self.context),
        }
    }

    async fn tags_are_whole(&self, name: &str) {
        let page = PageRequest { limit: 100, last: None };
        let tags = match self.repository(name).tags(&page).await {
            Ok(page) => page.items,
            Err(Error::NameUnknown { .. }) => return,
            Err(error) => panic!("{}: tags of {name}: {error:?}", self.context),
        };
        for tag in tags {
            let reference = Reference::Tag(tag.clone());
            let manifest = self.repository(name).manifest_get(&reference, TouchPolicy::Never).await;
            let manifest = manifest.unwrap_or_else(|error| {
                panic!("{}: {name}:{tag} dangles: {error:?}", self.context)
            });
            for digest in blobs_of(&manifest.bytes) {
                let bytes = read(&self.repository(name), &digest).await;
                let bytes = bytes.unwrap_or_else(|error| {
                    panic!("{}: {name}:{tag} lacks {digest}: {error:?}", self.context)
                });
                assert_eq!(Digest::of(digest.algorithm(), &bytes), digest, "{}", self.context);
            }
        }
    }
}

fn blobs_of(manifest: &[u8]) -> Vec<Digest> {
    let manifest: Value = serde_json::from_slice(manifest).unwrap();
    let layers = manifest["layers"].as_array().cloned().unwrap_or_default();
    let descriptors = layers.into_iter().chain([manifest["config"].clone()]);
    descriptors.filter_map(|d| Some(d["digest"].as_str()?.parse().unwrap())).collect()
}

/// Reads a blob whole.
pub(crate) async fn read(repository: &Repository, digest: &Digest) -> Result<Bytes> {
    let reader = repository.blob_open(digest).await?;
    let range = ByteRange { start: 0, end: reader.blob().size_bytes };
    let bytes: BytesMut = reader.read(range).await?.try_collect().await?;
    Ok(bytes.freeze())
}
