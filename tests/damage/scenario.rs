//! A registry in a folder or a bucket with a manual clock: one repository with every kind of
//! object, and another repository.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use jreg_oci::{Algorithm, Digest, Reference};
use jreg_registry::{
    ManifestPush, PageRequest, Registry, RegistryOptions, Repository, Result, TouchPolicy,
    UploadChunk,
};
use jreg_storage::testing::ManualClock;
use jreg_storage::{ByteRange, Clock, Durability, FsOptions, FsStore, ListRequest, Store};
use jreg_testkit::s3::{S3Server, S3Spec};
use jreg_testkit::{Image, ImageSpec, Manifest, index_of};
use tempfile::TempDir;

use crate::damage::object::{Damage, Object};

pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// The storage backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    Folder,
    Bucket,
}

enum BackendHandle {
    Folder(TempDir, Arc<ManualClock>),
    Bucket(Box<S3Server>),
}

/// What is pushed.
struct Content {
    image: Image,
    index: Manifest,
    signature: Image,
    good: Image,
    upload: Bytes,
}

pub(crate) struct DamageScenario {
    backend: BackendHandle,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) registry: Registry,
    content: Content,
    /// The key of each object.
    keys: BTreeMap<&'static str, String>,
    /// The sessions of finished uploads.
    finished: Vec<String>,
}

pub(crate) fn sha256(bytes: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, bytes)
}

fn content() -> Content {
    let image = ImageSpec { layers: 1, layer_bytes: 300_000, ..ImageSpec::default() }.build();
    let index = index_of(&[image.manifest.descriptor()]);
    let mut signature = Image::referrer(2, &image.manifest, "application/signature");
    // The same config as the image's.
    let text = String::from_utf8(signature.manifest.bytes.to_vec()).unwrap();
    let (own, same) = (&signature.blobs[0], &image.blobs[0]);
    let text = text.replace(&own.digest(), &same.digest()).replace(
        &format!("\"size\": {}", own.bytes.len()),
        &format!("\"size\": {}", same.bytes.len()),
    );
    signature.manifest.bytes = text.into();
    signature.blobs = vec![same.clone()];
    let upload = Bytes::from_static(b"the beginning of an upload");
    Content { image, index, signature, good: Image::plain(3), upload }
}

async fn push(repository: &Repository, manifest: &Manifest, tag: Option<&str>) {
    let digest = Reference::Digest(sha256(&manifest.bytes));
    let push = ManifestPush {
        reference: tag.map_or(digest, |tag| tag.parse().unwrap()),
        tags: Vec::new(),
        media_type: Some(manifest.media_type.parse().unwrap()),
        bytes: manifest.bytes.clone(),
        condition: None,
    };
    repository.manifest_put(push).await.unwrap();
}

/// Like a client: existing content is not pushed again.
async fn push_blob(repository: &Repository, bytes: &Bytes, streams: bool) {
    let digest = sha256(bytes);
    if repository.blob_stat(&digest, TouchPolicy::IfOld).await.is_ok() {
        return;
    }
    if !streams {
        repository.blob_push(&digest, UploadChunk::of(bytes.clone())).await.unwrap();
        return;
    }
    let id = repository.upload_start(None);
    repository.upload_append(&id, UploadChunk::of(bytes.clone())).await.unwrap();
    repository.upload_finish(&id, &digest, UploadChunk::empty()).await.unwrap();
}

pub(crate) async fn pull(repository: &Repository, digest: &Digest) -> Result<Bytes> {
    let reader = repository.blob_open(digest).await?;
    let range = ByteRange { start: 0, end: reader.blob().size_bytes };
    let bytes: BytesMut = reader.read(range).await?.try_collect().await?;
    Ok(bytes.freeze())
}

impl DamageScenario {
    pub(crate) async fn new(home: Backend) -> Self {
        let (backend, store, clock): (_, Arc<dyn Store>, Arc<dyn Clock>) = match home {
            Backend::Folder => {
                let (folder, clock) = (TempDir::new().unwrap(), Arc::new(ManualClock::default()));
                // No test simulates a power failure.
                let durability = Durability::Relaxed;
                let options =
                    FsOptions { durability, clock: clock.clone(), ..FsOptions::default() };
                let store = Arc::new(FsStore::open(folder.path(), options).unwrap());
                (BackendHandle::Folder(folder, clock.clone()), store, clock)
            }
            Backend::Bucket => {
                let server = S3Server::start(S3Spec::default()).await;
                let (store, clock) = (server.store(), Arc::new(server.clock().clone()));
                (BackendHandle::Bucket(Box::new(server)), store, clock)
            }
        };
        // The cache would hide damage.
        let options = RegistryOptions { cache_bytes: 0, ..RegistryOptions::default() };
        let registry = Registry::open(store.clone(), clock, options).await.unwrap();
        let (content, keys) = (content(), BTreeMap::new());
        let finished = Vec::new();
        let mut scenario = Self { backend, store, registry, content, keys, finished };
        scenario.fill().await;
        scenario
    }

    pub(crate) fn damaged(&self) -> Repository {
        self.registry.repository("team/app".parse().unwrap())
    }

    fn good(&self) -> Repository {
        self.registry.repository("good".parse().unwrap())
    }

    async fn fill(&mut self) {
        self.push_again().await;
        let before = self.keys().await;
        let is_session = |key: &&String| key.starts_with("uploads/");
        self.finished = before.iter().filter(is_session).cloned().collect();
        let repository = self.damaged();
        let id = repository.upload_start(None);
        repository.upload_append(&id, UploadChunk::of(self.content.upload.clone())).await.unwrap();
        // In a folder its session is recorded before any other request of the upload.
        repository.upload_status(&id).await.unwrap();
        let of_upload: Vec<_> =
            self.keys().await.into_iter().filter(|key| !before.contains(key)).collect();
        for object in Object::ALL.into_iter().chain([Object::IndexTag, Object::IndexHint]) {
            let key = match object {
                Object::Session | Object::UploadBytes => {
                    let is_session = object == Object::Session;
                    let mut keys = of_upload.iter();
                    keys.find(|key| key.starts_with("uploads/") == is_session).cloned()
                }
                _ => self.find(object, &before),
            };
            if let Some(key) = key {
                self.keys.insert(name(object), key);
            } else {
                // A folder stores upload data outside of keys.
                let is_hidden = object == Object::UploadBytes;
                let is_folder = matches!(self.backend, BackendHandle::Folder(..));
                assert!(is_hidden && is_folder, "no {object:?} in {before:#?}");
            }
        }
    }

    /// The key of an object among these.
    fn find(&self, object: Object, keys: &[String]) -> Option<String> {
        let Content { image, index, signature, .. } = &self.content;
        let hex = |bytes: &[u8]| sha256(bytes).hex();
        let [config, layer] = [0, 1].map(|n: usize| hex(&image.blobs[n].bytes));
        let (image, index) = (hex(&image.manifest.bytes), hex(&index.bytes));
        let signature = hex(&signature.manifest.bytes);
        let app = |rest: String| format!("repositories/team/app/{rest}");
        let prefix = match object {
            Object::KnownBytes => format!("blobs/sha256/{}/{config}/", config.get(..2).unwrap()),
            Object::StreamedBytes => "blobs/_/".to_owned(),
            Object::Link => format!("links/sha256/{}/{layer}/team.app", layer.get(..2).unwrap()),
            Object::Manifest => app(format!("_manifests/sha256/{image}")),
            Object::Index => app(format!("_manifests/sha256/{index}")),
            Object::Signature => app(format!("_manifests/sha256/{signature}")),
            Object::Tag => app("_tags/v1".to_owned()),
            Object::IndexTag => app("_tags/all".to_owned()),
            Object::Hint => app(format!("_tagged/sha256/{image}/v1")),
            Object::IndexHint => app(format!("_tagged/sha256/{index}/all")),
            Object::Referrer => app(format!("_referrers/sha256/{image}/sha256-{signature}")),
            Object::Catalog => "catalog/team.app".to_owned(),
            Object::Marker => "jreg.json".to_owned(),
            Object::Session | Object::UploadBytes => return None,
        };
        keys.iter().find(|key| key.starts_with(&prefix)).cloned()
    }

    /// The key of an object; `None`: this backend has no such object.
    pub(crate) fn key(&self, object: Object) -> Option<&str> {
        self.keys.get(name(object)).map(String::as_str)
    }

    /// Whether a key is the session of a finished upload, which is deleted soon.
    pub(crate) fn is_finished_session(&self, key: &str) -> bool {
        self.finished.iter().any(|session| session == key)
    }

    /// The digest of a blob.
    pub(crate) fn blob(&self, object: Object) -> (Digest, Bytes) {
        let index = usize::from(object == Object::StreamedBytes);
        let bytes = &self.content.image.blobs[index].bytes;
        (sha256(bytes), bytes.clone())
    }

    /// All keys, except those of GC and fsck.
    pub(crate) async fn keys(&self) -> Vec<String> {
        let mut request = ListRequest::below("");
        let mut keys = Vec::new();
        loop {
            let page = self.store.list(&request).await.unwrap();
            keys.extend(page.entries.into_iter().map(|entry| entry.key.to_string()));
            match page.next {
                Some(next) => request.start_after = Some(next),
                None => break,
            }
        }
        keys.retain(|key| !key.starts_with("gc/") && !key.starts_with("quarantine/"));
        keys
    }

    pub(crate) fn advance(&self, by: Duration) {
        match &self.backend {
            BackendHandle::Folder(_, clock) => clock.advance(by),
            BackendHandle::Bucket(server) => server.clock().advance(by),
        }
    }

    /// Damages an object behind the registry, without a new version.
    pub(crate) fn damage(&self, object: Object, damage: Damage) {
        self.change(object, |bytes| damage.of(bytes));
    }

    /// Changes the bytes of an object behind the registry.
    pub(crate) fn change(&self, object: Object, by: impl Fn(&[u8]) -> Option<Vec<u8>>) {
        self.change_at(self.key(object).unwrap(), by);
    }

    /// Changes the bytes at a key behind the registry.
    pub(crate) fn change_at(&self, key: &str, by: impl Fn(&[u8]) -> Option<Vec<u8>>) {
        match &self.backend {
            BackendHandle::Folder(folder, clock) => {
                let path: PathBuf = folder.path().join(key);
                match by(&std::fs::read(&path).unwrap()) {
                    None => std::fs::remove_file(&path).unwrap(),
                    Some(bytes) => {
                        let written = std::fs::metadata(&path).unwrap().modified().unwrap();
                        assert!(written <= clock.now());
                        std::fs::write(&path, bytes).unwrap();
                        let file = std::fs::File::options().write(true).open(&path).unwrap();
                        file.set_modified(written).unwrap();
                    }
                }
            }
            BackendHandle::Bucket(server) => match by(&server.object(key).unwrap().bytes) {
                None => assert!(server.discard(key)),
                Some(bytes) => {
                    server.insert(key, bytes);
                    server.clock().advance(2 * HOUR);
                }
            },
        }
    }

    /// Pushes all content like a client that has it.
    pub(crate) async fn push_again(&self) {
        let Content { image, index, signature, good, .. } = &self.content;
        let repository = self.damaged();
        for (number, blob) in image.blobs.iter().enumerate() {
            push_blob(&repository, &blob.bytes, number == 1).await;
        }
        push(&repository, &image.manifest, Some("v1")).await;
        push(&repository, index, Some("all")).await;
        push(&repository, &signature.manifest, None).await;
        for blob in &good.blobs {
            push_blob(&self.good(), &blob.bytes, false).await;
        }
        push(&self.good(), &good.manifest, Some("v1")).await;
    }

    /// Responses have the pushed content. Damaged blob bytes of the right length are served: the
    /// client rejects them by the digest.
    pub(crate) async fn pulls_are_right_or_fail(
        &self,
        object: Object,
        damage: Damage,
        context: &str,
    ) {
        let repository = self.damaged();
        for (reference, manifest) in self.references() {
            if let Ok(read) = repository.manifest_get(&reference, TouchPolicy::Never).await {
                assert_eq!(read.bytes, manifest.bytes, "{context}: {reference}");
            }
        }
        for blob in [Object::KnownBytes, Object::StreamedBytes] {
            let (digest, right) = self.blob(blob);
            let read = pull(&repository, &digest).await;
            if blob == object && damage.keeps_size() {
                let read = read.unwrap();
                assert_eq!(read.len(), right.len(), "{context}");
                assert_ne!(sha256(&read), digest, "{context}");
            } else if blob == object {
                read.unwrap_err();
            } else if let Ok(read) = read {
                assert!(read == right, "{context}: {blob:?} has other bytes");
            }
        }
        if let Ok(listed) = self.listed_referrers().await {
            let signature = sha256(&self.content.signature.manifest.bytes);
            assert!(listed.iter().all(|digest| *digest == signature), "{context}: {listed:?}");
        }
        self.other_repository_is_whole(context).await;
    }

    pub(crate) fn references(&self) -> Vec<(Reference, &Manifest)> {
        let Content { image, index, signature, .. } = &self.content;
        let all = [&image.manifest, index, &signature.manifest];
        let digests = all.map(|manifest| (Reference::Digest(sha256(&manifest.bytes)), manifest));
        let tags = [("v1", &image.manifest), ("all", index)];
        let tags = tags.map(|(tag, manifest)| (tag.parse().unwrap(), manifest));
        digests.into_iter().chain(tags).collect()
    }

    pub(crate) async fn listed_referrers(&self) -> Result<Vec<Digest>> {
        let subject = sha256(&self.content.image.manifest.bytes);
        let page = PageRequest { limit: 10, last: None };
        let page = self.damaged().referrers(&subject, None, &page).await?;
        Ok(page.items.into_iter().map(|descriptor| descriptor.digest).collect())
    }

    pub(crate) async fn everything_is_right(&self, context: &str) {
        let repository = self.damaged();
        for (reference, manifest) in self.references() {
            let read = repository.manifest_get(&reference, TouchPolicy::Never).await;
            let read = read.unwrap_or_else(|error| panic!("{context}: {reference}: {error}"));
            assert_eq!(read.bytes, manifest.bytes, "{context}: {reference}");
        }
        for blob in [Object::KnownBytes, Object::StreamedBytes] {
            let (digest, right) = self.blob(blob);
            let read = pull(&repository, &digest).await;
            let read = read.unwrap_or_else(|error| panic!("{context}: {blob:?}: {error}"));
            assert!(read == right, "{context}: {blob:?} has other bytes");
        }
        let signature = sha256(&self.content.signature.manifest.bytes);
        assert_eq!(self.listed_referrers().await.unwrap(), [signature], "{context}");
        let page = PageRequest { limit: 10, last: None };
        let catalog = self.registry.catalog(&page).await.unwrap().items;
        assert_eq!(catalog, ["good", "team/app"].map(|name| name.parse().unwrap()), "{context}");
        let tags = repository.tags(&page).await.unwrap().items;
        assert_eq!(tags, ["all", "v1"].map(|tag| tag.parse().unwrap()), "{context}");
        self.other_repository_is_whole(context).await;
    }

    pub(crate) async fn other_repository_is_whole(&self, context: &str) {
        let (repository, good) = (self.good(), &self.content.good);
        let read =
            repository.manifest_get(&"v1".parse().unwrap(), TouchPolicy::Never).await.unwrap();
        assert_eq!(read.bytes, good.manifest.bytes, "{context}");
        for blob in &good.blobs {
            let read = pull(&repository, &sha256(&blob.bytes)).await.unwrap();
            assert!(read == blob.bytes, "{context}");
        }
    }
}

fn name(object: Object) -> &'static str {
    match object {
        Object::KnownBytes => "known bytes",
        Object::StreamedBytes => "streamed bytes",
        Object::Link => "link",
        Object::Manifest => "manifest",
        Object::Index => "index",
        Object::Signature => "signature",
        Object::Tag => "tag",
        Object::Hint => "hint",
        Object::Referrer => "referrer",
        Object::Catalog => "catalog",
        Object::Session => "session",
        Object::UploadBytes => "upload bytes",
        Object::Marker => "marker",
        Object::IndexTag => "index tag",
        Object::IndexHint => "index hint",
    }
}
