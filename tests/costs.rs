//! Request budgets: store requests per operation, cold, on a shared store. Performance is guarded
//! by counting requests to a store and to a bucket, not by a clock.

mod mirrors;
mod ui;
mod worst;

use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use jreg_oci::{Algorithm, Digest, LOOKUPS_MAX, Reference};
use jreg_registry::{
    ManifestPush, PageRequest, PushedManifest, Registry, RegistryOptions, Repository, TouchPolicy,
    UploadChunk,
};
use jreg_storage::testing::{Call, RecordingStore};
use jreg_storage::{ByteRange, FsOptions, FsStore, MemoryStore, PartRules, Store, SystemClock};
use jreg_testkit::s3::{RecordedRequest, S3Server, S3Spec};
use jreg_testkit::{Image, Manifest};
use serde_json::json;

const BLOB: &[u8] = b"a small blob";
const ALL: PageRequest = PageRequest { limit: 100, last: None };

/// A registry on a shared store that counts.
struct Bench {
    home: Home,
    registry: Registry,
}

enum Home {
    Memory(Arc<RecordingStore>),
    Bucket(Box<S3Server>),
}

impl Home {
    fn memory() -> Self {
        let rules = PartRules { part_bytes: 16 * 1024 * 1024, uniform: true, parts_max: 10_000 };
        let store = MemoryStore::builder().remote().part_rules(rules).build();
        Self::Memory(Arc::new(RecordingStore::new(Arc::new(store))))
    }

    async fn bucket() -> Self {
        Self::Bucket(Box::new(S3Server::start(S3Spec::default()).await))
    }

    async fn open(&self) -> Registry {
        let store: Arc<dyn Store> = match self {
            Self::Memory(store) => store.clone(),
            Self::Bucket(server) => server.store(),
        };
        Registry::open(store, Arc::new(SystemClock::new()), RegistryOptions::default())
            .await
            .unwrap()
    }

    /// Store requests since the last call.
    fn take(&self) -> Vec<String> {
        match self {
            Self::Memory(store) => {
                let listed = |call: Call| format!("{} {}", call.operation, call.key);
                // Whether there is a file is no request to a bucket.
                let requests = store.take().into_iter().filter(|call| call.operation != "file");
                requests.map(listed).collect()
            }
            Self::Bucket(server) => {
                let requests = server.take_requests();
                let copied: u64 = requests.iter().map(|request| request.bytes_copied).sum();
                assert_eq!(copied, 0, "nothing is ever copied");
                let listed =
                    |request: &RecordedRequest| format!("{:?} {}", request.operation, request.key);
                requests.iter().map(listed).collect()
            }
        }
    }
}

fn digest(bytes: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, bytes)
}

fn manifest(media_type: &str, content: serde_json::Value) -> Manifest {
    Manifest { media_type: media_type.to_owned(), bytes: content.to_string().into() }
}

fn by_digest(manifest: &Manifest) -> Reference {
    Reference::Digest(digest(&manifest.bytes))
}

impl Bench {
    async fn new(home: Home) -> Self {
        let registry = home.open().await;
        Self { home, registry }
    }

    fn repository(&self, name: &str) -> Repository {
        self.registry.repository(name.parse().unwrap())
    }

    /// Drops all caches, and resets the counts.
    async fn cold(&mut self) {
        self.registry = self.home.open().await;
        self.home.take();
    }

    #[track_caller]
    fn costs(&self, operation: &str, at_most: usize) {
        let calls = self.home.take();
        assert!(
            calls.len() <= at_most,
            "{operation}: {} requests, not {at_most}: {calls:#?}",
            calls.len()
        );
    }

    async fn push(&self, name: &str, bytes: impl Into<Bytes>) {
        let bytes = bytes.into();
        self.repository(name)
            .blob_push(&digest(&bytes), UploadChunk::of(bytes.clone()))
            .await
            .unwrap();
    }

    async fn read(&self, bytes: &[u8]) {
        let reader = self.repository("a").blob_open(&digest(bytes)).await.unwrap();
        let range = ByteRange { start: 0, end: reader.blob().size_bytes };
        let read: Vec<Bytes> = reader.read(range).await.unwrap().try_collect().await.unwrap();
        assert_eq!(read.concat(), bytes);
    }

    async fn put(&self, manifest: &Manifest, reference: Reference) {
        self.try_put(manifest, reference).await.unwrap();
    }

    async fn try_put(
        &self,
        manifest: &Manifest,
        reference: Reference,
    ) -> jreg_registry::Result<PushedManifest> {
        let push = ManifestPush {
            reference,
            tags: Vec::new(),
            media_type: Some(manifest.media_type.parse().unwrap()),
            bytes: manifest.bytes.clone(),
            condition: None,
        };
        self.repository("a").manifest_put(push).await
    }

    async fn push_image(&self, image: &Image, tag: &str) {
        for blob in &image.blobs {
            self.push("a", blob.bytes.clone()).await;
        }
        self.put(&image.manifest, tag.parse().unwrap()).await;
    }
}

fn on_each(test: impl AsyncFn(Bench)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        for home in [Home::memory(), Home::bucket().await] {
            test(Bench::new(home).await).await;
        }
    });
}

#[test]
fn push_of_a_known_digest() {
    on_each(async |mut bench| {
        bench.cold().await;
        bench.push("a", BLOB).await;
        bench.costs("known digest up to a part: bytes, link", 2);
        bench.cold().await;
        bench.push("b", BLOB).await;
        bench.costs("the same in another repository", 2);
        bench.cold().await;
        bench.push("a", BLOB).await;
        // The stored bytes are removed concurrently.
        bench.costs("known digest that is here: bytes, link, that link, its bytes, bytes away", 5);
    });
}

#[test]
fn upload_as_docker_does() {
    on_each(async |mut bench| {
        bench.cold().await;
        let repository = bench.repository("a");
        let id = repository.upload_start(None);
        bench.costs("begin", 0);
        repository
            .upload_append(&id, UploadChunk { length: None, ..UploadChunk::of(BLOB) })
            .await
            .unwrap();
        bench.costs("first chunk up to a part: bytes, session", 2);
        repository.upload_finish(&id, &digest(BLOB), UploadChunk::empty()).await.unwrap();
        bench.costs("close at the same instance: swap, link", 2);

        let id = repository.upload_start(None);
        repository
            .upload_append(&id, UploadChunk { length: None, ..UploadChunk::of(BLOB) })
            .await
            .unwrap();
        bench.cold().await;
        bench
            .repository("a")
            .upload_finish(&id, &digest(BLOB), UploadChunk::empty())
            .await
            .unwrap();
        bench.costs("close at another: auth, swap, link, that link, its bytes", 5);
    });
}

#[test]
fn upload_in_one_put() {
    on_each(async |mut bench| {
        bench.cold().await;
        let repository = bench.repository("a");
        let id = repository.upload_start(None);
        repository.upload_finish(&id, &digest(BLOB), UploadChunk::of(BLOB)).await.unwrap();
        bench.costs("PUT with the whole body: session looked for beside bytes, link", 3);
    });
}

#[test]
fn reading_blobs() {
    on_each(async |mut bench| {
        bench.push("a", BLOB).await;
        bench.cold().await;
        bench.repository("a").blob_stat(&digest(BLOB), TouchPolicy::IfOld).await.unwrap();
        bench.costs("HEAD: link", 1);
        bench.cold().await;
        bench.read(BLOB).await;
        bench.costs("GET: link, bytes", 2);
        bench.read(BLOB).await;
        bench.costs("GET with the link cached: bytes", 1);
        bench.repository("a").blob_stat(&digest(b"absent"), TouchPolicy::IfOld).await.unwrap_err();
        bench.costs("HEAD of what is absent: link", 1);
    });
}

#[test]
fn mounting() {
    on_each(async |mut bench| {
        bench.push("b", BLOB).await;
        bench.cold().await;
        let from = "b".parse().unwrap();
        bench.repository("a").blob_mount(&digest(BLOB), &from).await.unwrap().unwrap();
        bench.costs("mount: destination, source, its bytes, link", 4);
        bench.cold().await;
        bench.repository("a").blob_mount(&digest(b"absent"), &from).await.unwrap();
        bench.costs("mount of what is not there: destination, source", 2);
    });
}

#[test]
fn reading_manifests() {
    on_each(async |mut bench| {
        let image = Image::plain(1);
        bench.push_image(&image, "v1").await;
        bench.cold().await;
        let repository = bench.repository("a");
        repository.manifest_get(&"v1".parse().unwrap(), TouchPolicy::Never).await.unwrap();
        bench.costs("by tag: tag, manifest", 2);
        repository.manifest_get(&"v1".parse().unwrap(), TouchPolicy::Never).await.unwrap();
        bench.costs("by tag, the manifest cached: tag", 1);
        repository.manifest_get(&by_digest(&image.manifest), TouchPolicy::Never).await.unwrap();
        bench.costs("by digest, cached", 0);
        bench.cold().await;
        bench
            .repository("a")
            .manifest_get(&by_digest(&image.manifest), TouchPolicy::Never)
            .await
            .unwrap();
        bench.costs("by digest: manifest", 1);
    });
}

#[test]
fn pushing_manifests() {
    on_each(async |mut bench| {
        let image = Image::plain(1);
        for blob in &image.blobs {
            bench.push("a", blob.bytes.clone()).await;
        }
        bench.cold().await;
        bench.put(&image.manifest, "v1".parse().unwrap()).await;
        bench.costs(
            "first: 3 links, manifest, tag, catalog, hint; manifest, catalog; tag",
            7 + 2 + 1,
        );
        bench.cold().await;
        bench.put(&image.manifest, "v2".parse().unwrap()).await;
        bench.costs("second: 3 links, manifest, tag, catalog, hint; manifest; tag", 7 + 1 + 1);
        bench.cold().await;
        bench.put(&image.manifest, "v2".parse().unwrap()).await;
        bench
            .costs("the same again: as many, as whether the hint is there is not known", 7 + 1 + 1);
        bench.cold().await;
        bench.put(&image.manifest, by_digest(&image.manifest)).await;
        bench.costs("by digest: 3 links, manifest, catalog; manifest", 5 + 1);

        let referrer = Image::referrer(2, &image.manifest, "application/x");
        bench.push("a", referrer.blobs[0].bytes.clone()).await;
        bench.cold().await;
        bench.put(&referrer.manifest, "sbom".parse().unwrap()).await;
        bench
            .costs("referrer: link, manifest, tag, catalog, hint; manifest; tag, entry", 5 + 1 + 2);
    });
}

/// Maximum number of requests of a push of a few hundred KiB: of an index or document of an unknown
/// type whose references are absent, and of one with more references.
#[test]
fn amplification_of_pushing_a_manifest() {
    on_each(async |mut bench| {
        bench.cold().await;
        let digests = |count: usize| -> Vec<String> {
            (0..count).map(|n| digest(n.to_string().as_bytes()).to_string()).collect()
        };
        let unknown = |count| manifest("application/x", json!({ "any": digests(count) }));
        let index = |count| {
            let child =
                |digest| json!({ "mediaType": "application/x", "digest": digest, "size": 1 });
            let children: Vec<_> = digests(count).into_iter().map(child).collect();
            manifest("application/vnd.oci.image.index.v1+json", json!({ "manifests": children }))
        };
        for document in [unknown(LOOKUPS_MAX / 2), index(LOOKUPS_MAX / 2)] {
            bench.put(&document, "v1".parse().unwrap()).await;
            bench.costs(
                "each digest twice; manifest, tag, catalog, hint; manifest, catalog; tag",
                LOOKUPS_MAX + 7,
            );
        }
        for document in [unknown(4096), index(4096)] {
            bench.try_put(&document, "v2".parse().unwrap()).await.unwrap_err();
            bench.costs("refused before anything is asked", 0);
        }
    });
}

/// Many clients push one manifest by different tags.
#[test]
fn a_crowd_that_pushes_one_manifest() {
    const CROWD: usize = 64;
    on_each(async |mut bench| {
        let image = Image::plain(1);
        bench.push_image(&image, "v0").await;
        bench.cold().await;
        let pushes =
            (0..CROWD).map(|n| bench.put(&image.manifest, format!("t{n}").parse().unwrap()));
        let pushes: Vec<_> = pushes.collect();
        futures::future::join_all(pushes).await;
        bench.costs(
            "3 links, manifest, tag, catalog, hint; two looks at the writes of others; tag",
            CROWD * (7 + 2 + 1),
        );
    });
}

#[test]
fn listing() {
    on_each(async |mut bench| {
        let image = Image::plain(1);
        bench.push_image(&image, "v1").await;
        let referrer = Image::referrer(2, &image.manifest, "application/x");
        bench.push_image(&referrer, "v2").await;
        bench.cold().await;
        bench.repository("a").tags(&ALL).await.unwrap();
        bench.costs("tags: a page", 1);
        bench.repository("none").tags(&ALL).await.unwrap_err();
        bench.costs("tags of an unknown repository: a page, catalog", 2);
        bench.registry.catalog(&ALL).await.unwrap();
        bench.costs("catalog: a page", 1);
        let subject = digest(&image.manifest.bytes);
        bench.repository("a").referrers(&subject, None, &ALL).await.unwrap();
        bench.costs("referrers: a page, each entry", 2);
        bench.repository("a").referrers(&subject, None, &ALL).await.unwrap();
        bench.costs("referrers, their entries known: a page", 1);
        let other = Image::referrer(3, &image.manifest, "application/x");
        bench.push_image(&other, "v3").await;
        bench.home.take();
        let all = bench.repository("a").referrers(&subject, None, &ALL).await.unwrap();
        bench.costs("referrers, one of them new: a page, its entry", 2);
        assert_eq!(all.items.len(), 2);
    });
}

#[test]
fn deleting() {
    on_each(async |mut bench| {
        let image = Image::plain(1);
        bench.push_image(&image, "v1").await;
        bench.put(&image.manifest, "v2".parse().unwrap()).await;
        bench.cold().await;
        bench.repository("a").manifest_delete(&"v1".parse().unwrap(), None).await.unwrap();
        bench.costs("tag: tag, what is replaced, deleted tag", 3);
        bench.cold().await;
        bench.repository("a").manifest_delete(&by_digest(&image.manifest), None).await.unwrap();
        bench.costs(
            "manifest: manifest, hints, two tags, copy; what is replaced, deleted tag; the tag that was deleted \
             again; tombstone",
            9,
        );
        bench.cold().await;
        bench.repository("a").blob_delete(&digest(&image.blobs[0].bytes)).await.unwrap();
        bench.costs("blob: link, tombstone", 2);
    });
}

/// A tag that was pushed to the manifest lately, and has been moved since, is written again.
#[test]
fn deleting_a_manifest_whose_tag_has_moved() {
    on_each(async |mut bench| {
        let (image, other) = (Image::plain(1), Image::plain(2));
        bench.push_image(&image, "v1").await;
        bench.push_image(&other, "v1").await;
        bench.cold().await;
        bench.repository("a").manifest_delete(&by_digest(&image.manifest), None).await.unwrap();
        bench.costs("manifest, hints, tag, copy; that tag again; tombstone", 6);
    });
}

/// A push to a folder waits for one WAL sync per writing request, and concurrent pushes share it.
#[tokio::test]
async fn syncs_of_a_push_to_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(FsStore::open(folder.path(), FsOptions::default()).unwrap());
    let options = RegistryOptions::default();
    let registry = Registry::open(store.clone(), Arc::new(SystemClock::new()), options);
    let repository = registry.await.unwrap().repository("app".parse().unwrap());
    let before = store.sync_counts();
    repository.blob_push(&digest(BLOB), UploadChunk::of(BLOB)).await.unwrap();
    let known = store.sync_counts();
    assert_eq!((known.files, known.folders), (before.files, before.folders));
    assert_eq!(known.logs - before.logs, 1, "its bytes with its link");
    let other = &b"another small blob"[..];
    let id = repository.upload_start(None);
    repository
        .upload_append(&id, UploadChunk { length: None, ..UploadChunk::of(other) })
        .await
        .unwrap();
    repository.upload_finish(&id, &digest(other), UploadChunk::empty()).await.unwrap();
    let streamed = store.sync_counts();
    assert_eq!((streamed.files, streamed.folders), (before.files, before.folders));
    assert_eq!(streamed.logs - known.logs, 2, "its bytes with its session, and its link");
}
