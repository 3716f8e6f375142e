//! Request budgets: store requests per operation, cold, on a shared store. Performance is guarded
//! by counting requests to a store and to a bucket, not by a clock.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::TryStreamExt;
use jreg_access::{
    AuthContext, AuthError, Authorizer, CredentialState, Principal, RefusedAccess, RequestInfo,
    Right,
};
use jreg_auth::DecisionReason;
use jreg_oci::{Algorithm, Digest, Endpoint, LOOKUPS_MAX, Reference, Tag};
use jreg_registry::{
    EXTRA_LIST_REQUESTS_MAX, LIST_KEYS_MAX, ManifestPush, PROTECTING_RECORDS_MAX,
    PROTECTING_TAGS_MAX, PageRequest, PushedManifest, REFERRERS_EXAMINED_MAX, Registry,
    RegistryOptions, Repository, TouchPolicy, UploadChunk,
};
use jreg_storage::testing::{Call, RecordingStore};
use jreg_storage::{
    ByteRange, FsOptions, FsStore, MemoryStore, PartRules, PutMode, Store, SystemClock,
};
use jreg_testkit::s3::{RecordedRequest, S3Server, S3Spec};
use jreg_testkit::{Image, Manifest, Request, Response, ServerSpec, StoreKind, TestServer};
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
                store.take().into_iter().map(listed).collect()
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
            "first: 3 links, manifest, tag, catalog; manifest, hint, catalog; tag",
            6 + 3 + 1,
        );
        bench.cold().await;
        bench.put(&image.manifest, "v2".parse().unwrap()).await;
        bench.costs("second: 3 links, manifest, tag, catalog; manifest, hint; tag", 6 + 2 + 1);
        bench.cold().await;
        bench.put(&image.manifest, by_digest(&image.manifest)).await;
        bench.costs("by digest: 3 links, manifest, catalog; manifest", 5 + 1);

        let referrer = Image::referrer(2, &image.manifest, "application/x");
        bench.push("a", referrer.blobs[0].bytes.clone()).await;
        bench.cold().await;
        bench.put(&referrer.manifest, "sbom".parse().unwrap()).await;
        bench
            .costs("referrer: link, manifest, tag, catalog; manifest, hint; tag, entry", 4 + 2 + 2);
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
                "each digest twice; manifest, tag, catalog; manifest, hint, catalog; tag",
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
            "3 links, manifest, tag, catalog; a write that mostly fails, a look; hint; tag",
            CROWD * (6 + 2 + 2),
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
        bench.costs("tag: tag, tombstone", 2);
        bench.cold().await;
        bench.repository("a").manifest_delete(&by_digest(&image.manifest), None).await.unwrap();
        bench.costs("manifest: manifest, hints, two tags, one tombstone, tombstone", 6);
        bench.cold().await;
        bench.repository("a").blob_delete(&digest(&image.blobs[0].bytes)).await.unwrap();
        bench.costs("blob: link, tombstone", 2);
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
    assert_eq!(streamed.logs - known.logs, 2, "its bytes with its session, that with its link");
}

/// Authorization: everything below `hidden/` is hidden. In `kept`, tags with this prefix may not be
/// deleted.
#[derive(Debug)]
struct Hides;

#[async_trait]
impl Authorizer for Hides {
    async fn identify(
        &self,
        request_info: RequestInfo,
        _: &Right,
    ) -> Result<AuthContext, AuthError> {
        Ok(AuthContext::new(Principal::anonymous(), request_info))
    }

    fn grant(&self, _: &AuthContext, right: &Right) -> Result<DecisionReason, AuthError> {
        match right {
            Right::See(name) | Right::Mount(name) if name.as_str().starts_with("hidden/") => {
                let access = RefusedAccess::new(CredentialState::No, right);
                Err(AuthError::Forbidden { access, reason: "it is hidden".to_owned() })
            }
            _ => Ok(DecisionReason::Open),
        }
    }

    fn grant_tag(
        &self,
        auth: &AuthContext,
        right: &Right,
        tag: &Tag,
    ) -> Result<DecisionReason, AuthError> {
        if self.depends_on_tag(auth, right) && tag.as_str().starts_with("kept") {
            let access = RefusedAccess::new(CredentialState::No, right);
            return Err(AuthError::Forbidden { access, reason: "the tag stays".to_owned() });
        }
        self.grant(auth, right)
    }

    fn depends_on_tag(&self, _: &AuthContext, right: &Right) -> bool {
        matches!(right, Right::Delete(name) if name.as_str() == "kept")
    }
}

/// A server whose store counts.
struct Counted {
    home: Home,
    server: TestServer,
}

/// Maximum cost of each endpoint, for any request.
///
/// Each row has the worst known scenario.
struct Worst {
    endpoint: &'static str,
    request: fn(&Content) -> Request,
    /// Maximum number of store requests.
    at_most: usize,
    why: &'static str,
}

/// What the rows ask for.
struct Content {
    blob: String,
    /// One that is large enough for many ranges that are far from each other.
    scattered: String,
    image: String,
    upload: String,
    /// An upload that is cancelled.
    cancelled: String,
    /// A manifest of `kept` that no tag protects.
    unprotected: String,
    /// A blob of `kept` that no tag protects.
    unprotected_blob: String,
    /// A manifest of `past` that `moved` does not point to.
    earlier: String,
    /// A manifest of `past` that was deleted with [`PAST_TAGS`] tags.
    deleted: String,
}

/// Number of keys that every listing has to skip: tombstones in a bucket, records elsewhere.
const IN_THE_WAY: usize = 12_000;
/// Number of referrers of a subject. None has the requested type.
const REFERRERS: usize = 400;
/// Number of tags that point to the deleted manifest.
const TAGS: usize = 8;
/// Number of tags of `kept` that may not be deleted, each with a manifest of its own.
const PROTECTING: usize = 2;
/// Number of references of these manifests.
const BELOW: usize = PROTECTING_RECORDS_MAX - 2 * PROTECTING;
/// Number of changes of a tag of `past`.
const CHANGES: usize = 30;
/// Number of tags of a manifest of `past` that was deleted.
const PAST_TAGS: usize = 2;
/// Cost of finding out whether a tag protects content from a delete by digest.
const PROTECTION: usize = PROTECTION_LISTS + 2 * PROTECTING + 2 * BELOW;
/// `list_requests_max(PROTECTING_TAGS_MAX)`
const PROTECTION_LISTS: usize =
    PROTECTING_TAGS_MAX.div_ceil(LIST_KEYS_MAX) + EXTRA_LIST_REQUESTS_MAX;
const TOMBSTONE: &[u8] = b"\0deleted0123456789abcdef";

/// A POST of JSON.
fn send_json(target: String, body: serde_json::Value) -> Request {
    Request::new("POST", target).header("Content-Type", "application/json").body(body.to_string())
}

fn read(method: &'static str, target: String) -> Request {
    Request::new(method, target)
}

const WORST: &[Worst] = &[
    Worst {
        endpoint: "ping",
        request: |_| read("GET", "/v2/".into()),
        at_most: 0,
        why: "nothing is read",
    },
    Worst {
        endpoint: "catalog",
        request: |_| read("GET", "/v2/_catalog?n=1".into()),
        at_most: 1 + EXTRA_LIST_REQUESTS_MAX,
        why: "list requests of one page",
    },
    Worst {
        endpoint: "tag_list",
        request: |_| read("GET", "/v2/a/tags/list?n=1".into()),
        at_most: 1 + EXTRA_LIST_REQUESTS_MAX,
        why: "list requests of one page",
    },
    Worst {
        endpoint: "referrers",
        request: |content| {
            read("GET", format!("/v2/a/referrers/{}?n=1&artifactType=none/such", content.image))
        },
        at_most: 1 + EXTRA_LIST_REQUESTS_MAX + REFERRERS_EXAMINED_MAX,
        why: "list requests of one page, the entries that it looks at",
    },
    Worst {
        endpoint: "extensions",
        request: |_| read("GET", "/v2/_oci/ext/discover".into()),
        at_most: 0,
        why: "nothing is read",
    },
    Worst {
        endpoint: "repository_extensions",
        request: |_| read("GET", "/v2/past/_oci/ext/discover".into()),
        at_most: 0,
        why: "nothing is read",
    },
    Worst {
        endpoint: "tag_history",
        request: |_| read("GET", "/v2/past/_jreg/tags/moved/history?n=20".into()),
        at_most: 1 + 1 + 19,
        why: "tag, list request, entries but the current one (EXTRA_LIST_REQUESTS_MAX more if the \
              store's pages are short)",
    },
    Worst {
        endpoint: "oci_tag_history",
        request: |content| {
            let digest = jreg_testkit::sha256("of no entry");
            let earlier = &content.earlier;
            assert_ne!(*earlier, digest);
            read("GET", format!("/v2/past/_oci/tag-history/moved?n=1&digest={digest}"))
        },
        at_most: 1 + 1 + CHANGES,
        why: "tag, list request; with a digest every entry (page-items-max of them at the most)",
    },
    Worst {
        endpoint: "tag_restore",
        request: |content| {
            let body = json!({ "digest": content.earlier });
            send_json("/v2/past/_jreg/tags/moved/restore".into(), body)
        },
        at_most: 1 + 3 + 4,
        why: "manifest; manifest, tag, catalog; manifest, hint, what is replaced, tag",
    },
    Worst {
        endpoint: "deleted_manifests",
        request: |_| read("GET", "/v2/past/_jreg/deleted?n=1".into()),
        at_most: 1 + 3,
        why: "list request; is it there again, was it purged, copy",
    },
    Worst {
        endpoint: "manifest_restore",
        request: |content| {
            let target = format!("/v2/past/_jreg/deleted/{}/restore", content.deleted);
            send_json(target, json!({ "tags": true }))
        },
        at_most: 2 + 2 + 1 + 8 * PAST_TAGS + 1,
        why: "",
    },
    Worst {
        endpoint: "blob_get",
        request: |content| {
            // Each gap is too large to be read, and larger than the one before.
            let starts = (0..290).map(|n| n * 66_000 + n * (n - 1) / 2);
            let far: Vec<_> = starts.map(|start| format!("{start}-{start}")).collect();
            read("GET", format!("/v2/a/blobs/{}", content.scattered))
                .header("Range", format!("bytes={}", far.join(",")))
        },
        at_most: 1 + 256,
        why: "link; ranges that are far from each other, 256 reads at the most",
    },
    Worst {
        endpoint: "blob_head",
        request: |content| read("HEAD", format!("/v2/a/blobs/{}", content.blob)),
        at_most: 1,
        why: "link (and a swap, if it is old)",
    },
    Worst {
        endpoint: "manifest_get",
        request: |_| read("GET", "/v2/a/manifests/v1".into()),
        at_most: 2,
        why: "tag, manifest",
    },
    Worst {
        endpoint: "manifest_head",
        request: |_| read("HEAD", "/v2/a/manifests/v1".into()),
        at_most: 2,
        why: "tag, manifest (and swaps, if they are old)",
    },
    Worst {
        endpoint: "upload_start",
        request: |_| {
            let absent = jreg_testkit::sha256("held elsewhere");
            Request::new("POST", format!("/v2/new/blobs/uploads/?mount={absent}")).body("")
        },
        at_most: 1 + 3 * 16,
        why: "a list request, three for each of 16 candidates (mount_candidates_max)",
    },
    Worst {
        endpoint: "upload_status",
        request: |content| read("GET", content.upload.clone()),
        at_most: 1,
        why: "session",
    },
    Worst {
        endpoint: "upload_patch",
        request: |content| Request::new("PATCH", content.upload.clone()).body("world"),
        at_most: 10,
        why: "at an instance that does not know the auth: bytes, session; auth, swap, both bytes \
              read, bytes, swap, both bytes away",
    },
    Worst {
        endpoint: "upload_put",
        request: |content| {
            let digest = jreg_testkit::sha256("helloworld");
            Request::new("PUT", format!("{}?digest={digest}", content.upload)).body("")
        },
        at_most: 8,
        why: "auth, bytes, swap, link, what is left away",
    },
    Worst {
        endpoint: "upload_cancel",
        request: |content| read("DELETE", content.cancelled.clone()),
        at_most: 4,
        why: "auth, swap, bytes away",
    },
    Worst {
        endpoint: "manifest_put",
        request: |_| {
            let image = Image::plain(1);
            Request::new("PUT", "/v2/a/manifests/again")
                .header("Content-Type", &image.manifest.media_type)
                .body(image.manifest.bytes)
        },
        at_most: 6 + 2 + 1,
        why: "a link for each blob, manifest, tag, catalog; manifest, hint; tag (one for each layer, two \
              where a digest may be a blob or a manifest: at the most 2,048 lookups, LOOKUPS_MAX)",
    },
    Worst {
        endpoint: "manifest_delete",
        request: |content| read("DELETE", format!("/v2/a/manifests/{}", content.image)),
        at_most: 4 + EXTRA_LIST_REQUESTS_MAX + 3 * (TAGS + 2),
        why: "manifest, hints, three for each tag, tombstones",
    },
    Worst {
        endpoint: "blob_delete",
        request: |content| read("DELETE", format!("/v2/a/blobs/{}", content.blob)),
        at_most: 2,
        why: "link, tombstone",
    },
    Worst {
        endpoint: "manifest_delete",
        request: |content| read("DELETE", format!("/v2/kept/manifests/{}", content.unprotected)),
        at_most: PROTECTION + 4 + EXTRA_LIST_REQUESTS_MAX + 3 * (1 + 2),
        why: "under rules on tags: list requests of all tags; each tag that may not be deleted, its \
              manifest, and two for each manifest below; and the delete",
    },
    Worst {
        endpoint: "blob_delete",
        request: |content| read("DELETE", format!("/v2/kept/blobs/{}", content.unprotected_blob)),
        at_most: PROTECTION + 2,
        why: "under rules on tags: the same, and the delete",
    },
];

impl Counted {
    async fn start(home: Home) -> Self {
        let store: Arc<dyn Store> = match &home {
            Home::Memory(store) => store.clone(),
            Home::Bucket(server) => server.store(),
        };
        let mut spec = ServerSpec::default().authorizer(Hides).store(StoreKind::Given(store));
        spec.settings.gc_interval = None;
        // No time-dependent options.
        spec.settings.s3_hedge_reads = false;
        Self { home, server: TestServer::start(spec).await }
    }

    async fn send(&self, request: Request) -> Response {
        self.server.client().send_unchecked(&request).await.unwrap()
    }

    /// Puts an object into the store below all decorators.
    async fn insert(&self, key: &str, bytes: impl Into<Bytes>) {
        match &self.home {
            Home::Memory(store) => {
                let key = key.parse().unwrap();
                store.put(&key, bytes.into(), PutMode::Overwrite).await.unwrap();
            }
            Home::Bucket(server) => server.insert(key, bytes),
        }
    }

    async fn must(&self, request: Request, status: u16) -> Response {
        let outcome = self.send(request).await;
        assert_eq!(outcome.status, status, "{outcome}");
        outcome
    }

    async fn push(&self, bytes: &Bytes) -> String {
        self.push_to("a", bytes).await
    }

    async fn push_to(&self, name: &str, bytes: &Bytes) -> String {
        let digest = jreg_testkit::sha256(bytes);
        let target = format!("/v2/{name}/blobs/uploads/?digest={digest}");
        self.must(Request::new("POST", target).body(bytes.clone()), 201).await;
        digest
    }

    /// Repositories, tags and referrers with the maximum number of keys to skip.
    async fn fill(&self) -> Content {
        let image = Image::plain(1);
        for blob in &image.blobs {
            self.push(&blob.bytes).await;
        }
        let put = |tag: String, manifest: &Manifest| {
            Request::new("PUT", format!("/v2/a/manifests/{tag}"))
                .header("Content-Type", &manifest.media_type)
                .body(manifest.bytes.clone())
        };
        self.must(put("v1".into(), &image.manifest), 201).await;
        for tag in 0..TAGS {
            self.must(put(format!("w{tag}"), &image.manifest), 201).await;
        }
        let subject = image.manifest.digest();
        for seed in (10..).take(REFERRERS) {
            let referrer = Image::referrer(seed, &image.manifest, "application/x");
            self.push(&referrer.blobs[0].bytes).await;
            self.must(put(referrer.manifest.digest(), &referrer.manifest), 201).await;
        }
        self.obstruct(&subject).await;
        let blob = self.push(&Bytes::from(vec![7; 500_000])).await;
        let scattered = self.push(&Bytes::from(vec![8; 20_000_000])).await;
        let (upload, cancelled) = (self.begin().await, self.begin().await);
        let (unprotected, unprotected_blob) = self.protect().await;
        let (earlier, deleted) = self.pass().await;
        Content {
            blob,
            scattered,
            image: subject,
            upload,
            cancelled,
            unprotected,
            unprotected_blob,
            earlier,
            deleted,
        }
    }

    /// Fills `past` with a tag that moves between two manifests, and a deleted manifest; returns the
    /// manifest that the tag does not point to, and the deleted one.
    async fn pass(&self) -> (String, String) {
        let of = |number: usize| manifest("application/x", json!({ "number": number }));
        let put = |tag: &str, manifest: &Manifest| {
            Request::new("PUT", format!("/v2/past/manifests/{tag}"))
                .header("Content-Type", &manifest.media_type)
                .body(manifest.bytes.clone())
        };
        for number in 0..CHANGES {
            self.must(put("moved", &of(number % 2)), 201).await;
        }
        for number in 0..PAST_TAGS {
            self.must(put(&format!("past{number}"), &of(2)), 201).await;
        }
        let deleted = of(2).digest();
        let target = format!("/v2/past/manifests/{deleted}");
        self.must(Request::new("DELETE", target), 202).await;
        (of(CHANGES % 2).digest(), deleted)
    }

    /// Fills `kept` with the maximum that a delete by digest reads; returns the manifest and the
    /// blob to delete.
    async fn protect(&self) -> (String, String) {
        let put = |tag: &str, manifest: &Manifest| {
            Request::new("PUT", format!("/v2/kept/manifests/{tag}"))
                .header("Content-Type", &manifest.media_type)
                .body(manifest.bytes.clone())
        };
        let below: Vec<_> = (0..BELOW).map(|n| json!({ "number": n }).to_string()).collect();
        for bytes in &below {
            let (digest, nonce) = (digest(bytes.as_bytes()), "0".repeat(32));
            let header =
                json!({ "nonce": nonce, "mediaType": "application/x", "size": bytes.len() });
            let key = format!("repositories/kept/_manifests/sha256/{}", digest.hex());
            self.insert(&key, format!("{header}\n{bytes}")).await;
        }
        for (number, below) in below.chunks(BELOW / PROTECTING).enumerate() {
            let any: Vec<_> = below.iter().map(|bytes| digest(bytes.as_bytes())).collect();
            let kept = manifest("application/x", json!({ "any": any }));
            self.must(put(&format!("kept{number}"), &kept), 201).await;
        }
        let unprotected = manifest("application/x", json!({ "any": [] }));
        self.must(put("old", &unprotected), 201).await;
        let blob = self.push_to("kept", &Bytes::from_static(BLOB)).await;
        (unprotected.digest(), blob)
    }

    /// An unfinished upload of a few bytes.
    async fn begin(&self) -> String {
        let begun = self.must(Request::new("POST", "/v2/a/blobs/uploads/").body(""), 202).await;
        let (_, path) = begun.header("Location").unwrap().split_once("/v2/").unwrap();
        let upload = format!("/v2/{path}");
        self.must(Request::new("PATCH", upload.clone()).body("hello"), 202).await;
        upload
    }

    async fn obstruct(&self, subject: &str) {
        let (_, hex) = subject.split_once(':').unwrap();
        let elsewhere = jreg_testkit::sha256("held elsewhere");
        let (_, held) = elsewhere.split_once(':').unwrap();
        let links = format!("links/sha256/{}/{held}", held.get(..2).unwrap_or_default());
        let deleted = format!(r#"{{"nonce":"{}","v":1,"state":"deleted"}}"#, "0".repeat(32));
        for number in 0..IN_THE_WAY {
            let name = format!("hidden.r{number:06}");
            let mark = format!(r#"{{"nonce":"{number:032}"}}"#);
            self.insert(&format!("catalog/{name}"), mark).await;
            if matches!(self.home, Home::Bucket(_)) {
                let of = format!("repositories/a/_referrers/sha256/{hex}/sha256-");
                self.insert(&format!("repositories/a/_tags/p{number:06}"), TOMBSTONE).await;
                self.insert(&format!("repositories/kept/_tags/p{number:06}"), TOMBSTONE).await;
                self.insert(&format!("{of}{}{number:06}", "0".repeat(58)), TOMBSTONE).await;
            }
        }
        for number in 0..40 {
            self.insert(&format!("{links}/c{number:06}"), deleted.clone()).await;
        }
    }

    /// Follows every `Link` from the first page; returns the items and the number of pages.
    async fn follow(&self, first: &str, pointer: &str, at_most: usize) -> (Vec<String>, usize) {
        let (mut items, mut next) = (Vec::new(), Some(first.to_owned()));
        for pages in 0..10_000 {
            let Some(target) = next else { return (items, pages) };
            self.home.take();
            let page = self.must(Request::new("GET", &*target), 200).await;
            let requests = self.home.take().len();
            assert!(requests <= at_most, "{target}: {requests} requests");
            let of_page = page.json().pointer(pointer).unwrap().as_array().unwrap().clone();
            items.extend(of_page.iter().map(|item| item.as_str().unwrap_or("x").to_owned()));
            next = page.next_link();
        }
        panic!("no end of pages from {first}");
    }
}

/// However many keys are to be skipped, one request causes a bounded number of store requests.
/// Listings end early then, with a `Link`, and following it returns everything once.
#[tokio::test]
async fn worst_case_of_every_endpoint() {
    for home in [Home::memory(), Home::bucket().await] {
        let counted = Counted::start(home).await;
        let content = counted.fill().await;
        let mut wrong = Vec::new();
        let mut missing: Vec<_> = Endpoint::ALL.iter().map(|info| info.id).collect();
        let bounds = |id| WORST.iter().find(|row| row.endpoint == id).unwrap().at_most;

        let (found, pages) =
            counted.follow("/v2/_catalog?n=1", "/repositories", bounds("catalog")).await;
        assert_eq!(found, ["a", "kept", "past"], "nothing hidden, and what is not hidden once");
        assert!(pages > 2, "{pages}");
        let (tags, _) = counted.follow("/v2/a/tags/list?n=1", "/tags", bounds("tag_list")).await;
        let expected = ["v1", "w0", "w1", "w2", "w3", "w4", "w5", "w6", "w7"];
        assert_eq!(tags, expected);
        let list = format!("/v2/a/referrers/{}", content.image);
        let few = format!("{list}?n=50");
        let most = 50 + 1 + EXTRA_LIST_REQUESTS_MAX;
        let (referrers, _) = counted.follow(&few, "/manifests", most).await;
        assert_eq!(referrers.len(), REFERRERS);
        let filtered = format!("{list}?n=1&artifactType=none/such");
        let (none, _) = counted.follow(&filtered, "/manifests", bounds("referrers")).await;
        assert_eq!(none, [""; 0]);

        for Worst { endpoint, request, at_most, why } in WORST {
            missing.retain(|id| id != endpoint);
            counted.home.take();
            let outcome = counted.send(request(&content)).await;
            let calls = counted.home.take();
            assert!(outcome.status < 400, "{endpoint}: {outcome}{calls:#?}");
            if calls.len() > *at_most {
                wrong.push(format!("{endpoint}: more than {at_most} ({why}): {calls:#?}"));
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
        assert_eq!(missing, [""; 0], "endpoints without a row");
        counted.server.stop().await;
    }
}
