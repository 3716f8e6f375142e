//! A registry on a shared store whose clock, faults and interleavings a test commands.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use futures::channel::mpsc;
use jreg_oci::{Algorithm, DESCRIPTORS_MAX, Digest};
use jreg_registry::{
    Blob, ManifestPush, Registry, RegistryOptions, Repository, Result, UploadChunk,
};
use jreg_storage::testing::{Call, FaultyStore, GateStore, ManualClock, RecordingStore};
use jreg_storage::{
    ByteRange, ErrorKind, Key, ListRequest, MemoryStore, PartRules, PutMode, Store,
};

/// Small, so that a few bytes are several parts.
pub(crate) const PART: usize = 8;
pub(crate) const MINUTE: Duration = Duration::from_secs(60);
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

pub(crate) struct Bench {
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) faults: Arc<FaultyStore>,
    pub(crate) gate: Arc<GateStore>,
    pub(crate) calls: Arc<RecordingStore>,
    pub(crate) registry: Registry,
}

pub(crate) fn digest(bytes: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, bytes)
}

/// Bytes of which no two are alike nearby.
pub(crate) fn bytes(length: usize) -> Bytes {
    (0..length).map(|n| u8::try_from(n % 251).unwrap()).collect()
}

/// A body that the test sends piece by piece.
pub(crate) fn open_body() -> (mpsc::Sender<Result<Bytes, jreg_registry::BodyError>>, UploadChunk) {
    let (sender, body) = mpsc::channel(8);
    (sender, UploadChunk::new(None, None, Box::pin(body)))
}

/// An image manifest with more layers than a push may have now. The last is this blob.
pub(crate) fn image_with_many_layers(blob: &Digest) -> String {
    let layer = |digest: &Digest| {
        let media = "application/vnd.oci.image.layer.v1.tar";
        format!(r#"{{"mediaType":"{media}","digest":"{digest}","size":1}}"#)
    };
    let mut layers: Vec<_> =
        (0..DESCRIPTORS_MAX).map(|n| layer(&digest(n.to_string().as_bytes()))).collect();
    layers.push(layer(blob));
    let config = layer(&digest(b"{}")).replace("layer.v1.tar", "config.v1+json");
    format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{}]}}"#, layers.join(","))
}

/// A record, or the header line of one, as an earlier version wrote it.
pub(crate) fn without_checksum(record: &str) -> String {
    let (before, check) = record.rsplit_once(r#","check":""#).expect("a checksum");
    let (_, after) = check.split_once('"').expect("its end");
    format!("{before}{after}")
}

/// The push of a manifest by a tag or its digest.
pub(crate) fn push_of(reference: &str, manifest: &str) -> ManifestPush {
    ManifestPush {
        reference: reference.parse().unwrap(),
        tags: Vec::new(),
        media_type: None,
        bytes: Bytes::copy_from_slice(manifest.as_bytes()),
        condition: None,
    }
}

/// What the store of a [`Bench`] behaves like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BenchStoreKind {
    Local,
    Remote,
}

impl Bench {
    pub(crate) async fn new() -> Self {
        Self::with(RegistryOptions::default()).await
    }

    pub(crate) async fn with(options: RegistryOptions) -> Self {
        Self::at(BenchStoreKind::Remote, options).await
    }

    /// On a store that behaves like a folder, or like a bucket.
    pub(crate) async fn at(kind: BenchStoreKind, options: RegistryOptions) -> Self {
        let clock = Arc::new(ManualClock::default());
        let uniform = kind == BenchStoreKind::Remote;
        let rules = PartRules { part_bytes: PART as u64, uniform, parts_max: 100 };
        let memory = match kind {
            BenchStoreKind::Local => MemoryStore::builder(),
            BenchStoreKind::Remote => MemoryStore::builder().remote(),
        };
        let memory = memory.part_rules(rules);
        let memory = Arc::new(memory.clock(clock.clone()).build());
        let faults = Arc::new(FaultyStore::new(memory));
        let calls = Arc::new(RecordingStore::new(faults.clone()));
        let gate = Arc::new(GateStore::new(calls.clone()));
        let registry = Registry::open(gate.clone(), clock.clone(), options).await.unwrap();
        calls.take();
        Self { clock, faults, gate, calls, registry }
    }

    pub(crate) fn repository(&self, name: &str) -> Repository {
        self.registry.repository(name.parse().unwrap())
    }

    /// The same repository as another instance sees it, which remembers nothing.
    pub(crate) async fn another(&self, name: &str) -> Repository {
        self.another_with(name, RegistryOptions::default()).await
    }

    pub(crate) async fn another_with(&self, name: &str, options: RegistryOptions) -> Repository {
        let (store, clock) = (self.gate.clone(), self.clock.clone());
        let registry = Registry::open(store, clock, options).await.unwrap();
        registry.repository(name.parse().unwrap())
    }

    pub(crate) async fn push(&self, name: &str, bytes: &Bytes) -> Blob {
        let repository = self.repository(name);
        repository.blob_push(&digest(bytes), UploadChunk::of(bytes.clone())).await.unwrap()
    }

    pub(crate) async fn put_manifest(&self, name: &str, tag: &str, manifest: &str) -> Result<()> {
        self.repository(name).manifest_put(push_of(tag, manifest)).await.map(|_| ())
    }

    /// Stores an image manifest and a tag of it without a push, as an earlier version with other limits
    /// did.
    pub(crate) async fn store_manifest(&self, name: &str, tag: &str, manifest: &str) {
        let (digest, size) = (digest(manifest.as_bytes()), manifest.len());
        let media = "application/vnd.oci.image.manifest.v1+json";
        let header = format!(r#"{{"nonce":"{:032}","mediaType":"{media}","size":{size}}}"#, 0);
        let target = format!(
            r#"{{"nonce":"{:032}","digest":"{digest}","mediaType":"{media}","size":{size},"time":0}}"#,
            0
        );
        let record = format!("{header}\n{manifest}");
        let manifest = format!("repositories/{name}/_manifests/sha256/{}", digest.hex());
        for (key, bytes) in
            [(manifest, record), (format!("repositories/{name}/_tags/{tag}"), target)]
        {
            let key = key.parse().unwrap();
            self.faults.put(&key, bytes.into(), PutMode::Overwrite).await.unwrap();
        }
    }

    /// What a pull of the blob gives.
    pub(crate) async fn pull(&self, name: &str, digest: &Digest) -> Result<Bytes> {
        let reader = self.repository(name).blob_open(digest).await?;
        let range = ByteRange { start: 0, end: reader.blob().size_bytes };
        let read: Vec<Bytes> = reader.read(range).await?.try_collect().await?;
        Ok(read.concat().into())
    }

    /// The keys below a prefix.
    pub(crate) async fn keys(&self, prefix: &str) -> Vec<Key> {
        let page = self.faults.list(&ListRequest::below(prefix)).await.unwrap();
        page.entries.into_iter().map(|entry| entry.key).collect()
    }

    /// The calls that changed something since the last time, as "operation key".
    pub(crate) fn writes(&self) -> Vec<String> {
        let calls = self.calls.take();
        let changes = |call: &Call| !call.is_read() && call.operation != "sync_parts";
        let writes = calls.into_iter().filter(changes);
        writes.map(|call| format!("{} {}", call.operation, call.key)).collect()
    }

    /// Whether the store no longer knows a multipart upload.
    pub(crate) async fn multipart_is_absent(&self, upload: &jreg_storage::Multipart) -> bool {
        match self.faults.resume_multipart(upload, upload.writer + 1).await {
            Err(error) => error.kind() == ErrorKind::NotFound,
            Ok(_) => false,
        }
    }

    /// The multipart upload that the session of the only upload with one names.
    pub(crate) async fn multipart(&self) -> jreg_storage::Multipart {
        for session in self.keys("uploads/").await {
            let record = self.faults.get(&session).await.unwrap();
            let record: Option<serde_json::Value> = serde_json::from_slice(&record.bytes).ok();
            let named = record.and_then(|record| record.get("multipart").cloned());
            if let Some(upload) = named {
                return serde_json::from_value(upload).unwrap();
            }
        }
        panic!("no session names a multipart upload")
    }
}

/// Keeps what a GC run did.
#[derive(Debug, Default)]
pub(crate) struct Actions {
    actions: std::sync::Mutex<Vec<jreg_registry::GcAction>>,
    findings: std::sync::Mutex<Vec<jreg_registry::FsckFinding>>,
}

impl Actions {
    pub(crate) fn take(&self) -> Vec<jreg_registry::GcAction> {
        std::mem::take(&mut self.actions.lock().unwrap())
    }

    pub(crate) fn findings(&self) -> Vec<jreg_registry::FsckFinding> {
        self.findings.lock().unwrap().clone()
    }
}

impl jreg_registry::GcObserver for Actions {
    fn phase(&self, _: jreg_registry::GcPhase) {}

    fn progress(&self, _: u64) {}

    fn action(&self, action: &jreg_registry::GcAction, _: jreg_registry::GcOutcome) {
        self.actions.lock().unwrap().push(action.clone());
    }

    fn finding(&self, finding: &jreg_registry::FsckFinding) {
        self.findings.lock().unwrap().push(finding.clone());
    }
}
