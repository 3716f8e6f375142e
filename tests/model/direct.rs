//! Runs operations on the registry, without a server.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use jreg_oci::{ContentRange, Digest, Reference};
use jreg_registry::{
    Error, ManifestPush, PageRequest, ReferencePrecondition, Registry, RegistryOptions, Repository,
    TouchPolicy, UploadChunk, UploadId,
};
use jreg_storage::{ByteRange, Store, SystemClock};

use crate::fixtures::Fixtures;
use crate::model::fixtures::{REPOSITORIES, TAGS, TYPES};
use crate::model::operation::{By, Driver, If, Operation, Outcome, Place};

type Result<T> = std::result::Result<T, Error>;

struct Upload {
    id: UploadId,
    repository: usize,
    blob: usize,
    offset: usize,
}

/// A registry over a store, which can be reopened.
pub(crate) struct Direct<F> {
    open: F,
    registry: Option<Registry>,
    uploads: BTreeMap<usize, Upload>,
}

impl<F: Fn() -> Arc<dyn Store>> Direct<F> {
    pub(crate) async fn new(open: F) -> Self {
        let mut direct = Self { open, registry: None, uploads: BTreeMap::new() };
        direct.restart().await;
        direct
    }

    async fn restart(&mut self) {
        self.registry = None;
        let clock = Arc::new(SystemClock::new());
        self.registry =
            Some(Registry::open((self.open)(), clock, RegistryOptions::default()).await.unwrap());
    }

    fn registry(&self) -> &Registry {
        self.registry.as_ref().unwrap()
    }

    fn repository(&self, number: usize) -> Repository {
        self.registry().repository(REPOSITORIES[number].parse().unwrap())
    }

    async fn attempt(&mut self, fixtures: &Fixtures, operation: &Operation) -> Result<Outcome> {
        use Operation::*;
        let digest = |blob: &usize| -> Digest { fixtures.blobs[*blob].digest.clone() };
        match operation {
            PushBlob { repository, blob } => {
                let chunk = UploadChunk::of(fixtures.blobs[*blob].bytes.clone());
                self.repository(*repository).blob_push(&digest(blob), chunk).await?;
            }
            PushWrongBytes { repository, blob } => {
                self.repository(*repository)
                    .blob_push(&digest(blob), UploadChunk::of("not these"))
                    .await?;
            }
            Mount { repository, from, blob } => {
                let from = REPOSITORIES[*from].parse().unwrap();
                let mounted = self.repository(*repository).blob_mount(&digest(blob), &from).await?;
                return Ok(if mounted.is_some() { Outcome::Done } else { Outcome::Missed });
            }
            DeleteBlob { repository, blob } => {
                self.repository(*repository).blob_delete(&digest(blob)).await?
            }
            ReadBlob { repository, blob, start } => {
                return read(&self.repository(*repository), &digest(blob), *start)
                    .await
                    .map(Outcome::Bytes);
            }
            Begin { slot, repository, blob } => {
                let id = self.repository(*repository).upload_start(None);
                self.uploads
                    .insert(*slot, Upload { id, repository: *repository, blob: *blob, offset: 0 });
            }
            Append { .. } | Finish { .. } | Cancel { .. } | Status { .. } => {
                return self.upload(fixtures, operation).await;
            }
            PutManifest { .. } | GetManifest { .. } | DeleteManifest { .. } => {
                return self.manifest(fixtures, operation).await;
            }
            Tags { .. } | Catalog { .. } | Referrers { .. } => {
                return self.list(fixtures, operation).await;
            }
            Restart => self.restart().await,
        }
        Ok(Outcome::Done)
    }

    async fn upload(&mut self, fixtures: &Fixtures, operation: &Operation) -> Result<Outcome> {
        use Operation::*;
        let (Append { slot, .. } | Finish { slot, .. } | Cancel { slot } | Status { slot }) =
            operation
        else {
            unreachable!("only called for uploads")
        };
        let upload = &self.uploads[slot];
        let repository = self.repository(upload.repository);
        let blob = &fixtures.blobs[upload.blob];
        match operation {
            Append { len, place, .. } => {
                let end = blob.bytes.len().min(upload.offset + len);
                let chunk = chunk(blob.bytes.slice(upload.offset..end), upload.offset, *place);
                let progress = repository.upload_append(&upload.id, chunk).await?;
                let offset = usize::try_from(progress.offset).unwrap();
                self.uploads.get_mut(slot).unwrap().offset = offset;
                Ok(Outcome::Offset(offset))
            }
            Finish { right, .. } => {
                let digest = if *right {
                    blob.digest.clone()
                } else {
                    jreg_testkit::sha256("something else").parse().unwrap()
                };
                let rest = UploadChunk::of(blob.bytes.slice(upload.offset..));
                repository.upload_finish(&upload.id, &digest, rest).await?;
                Ok(Outcome::Done)
            }
            Cancel { .. } => repository.upload_cancel(&upload.id).await.map(|()| Outcome::Done),
            _ => {
                let progress = repository.upload_status(&upload.id).await?;
                Ok(Outcome::Offset(usize::try_from(progress.offset).unwrap()))
            }
        }
    }

    async fn manifest(&self, fixtures: &Fixtures, operation: &Operation) -> Result<Outcome> {
        use Operation::*;
        match operation {
            PutManifest { repository, manifest, by_tag, tags, condition } => {
                let by = by_tag.map_or(By::Digest(*manifest), By::Tag);
                let beside = if by_tag.is_none() { tags.as_slice() } else { &[] };
                let push = ManifestPush {
                    reference: reference(fixtures, by),
                    tags: beside.iter().map(|tag| TAGS[*tag].parse().unwrap()).collect(),
                    media_type: Some(fixtures.manifests[*manifest].media_type.clone()),
                    bytes: fixtures.manifests[*manifest].bytes.clone(),
                    condition: condition_of(fixtures, *condition),
                };
                let pushed = self.repository(*repository).manifest_put(push).await?;
                assert_eq!(pushed.digest, fixtures.manifests[*manifest].digest);
                Ok(Outcome::Done)
            }
            GetManifest { repository, by } => {
                let found = self
                    .repository(*repository)
                    .manifest_get(&reference(fixtures, *by), TouchPolicy::Never)
                    .await?;
                Ok(Outcome::Bytes(found.bytes.clone()))
            }
            DeleteManifest { repository, by, condition } => {
                let condition = condition_of(fixtures, *condition);
                self.repository(*repository)
                    .manifest_delete(&reference(fixtures, *by), condition)
                    .await?;
                Ok(Outcome::Done)
            }
            _ => unreachable!("only called for manifests"),
        }
    }

    async fn list(&self, fixtures: &Fixtures, operation: &Operation) -> Result<Outcome> {
        use Operation::*;
        let page = |limit: &usize, last: Option<&str>| PageRequest {
            limit: *limit,
            last: last.map(str::to_owned),
        };
        let names = match operation {
            Tags { repository, limit, last } => {
                let page = page(limit, last.map(|tag| TAGS[tag]));
                self.repository(*repository)
                    .tags(&page)
                    .await?
                    .items
                    .iter()
                    .map(ToString::to_string)
                    .collect()
            }
            Catalog { limit, last } => {
                let page = page(limit, last.map(|name| REPOSITORIES[name]));
                self.registry()
                    .catalog(&page)
                    .await?
                    .items
                    .iter()
                    .map(ToString::to_string)
                    .collect()
            }
            Referrers { repository, subject, artifact_type } => {
                let subject = fixtures.manifests[*subject].digest.clone();
                let kind = artifact_type.map(|kind| TYPES[kind]);
                let found = self
                    .repository(*repository)
                    .referrers(&subject, kind, &page(&100, None))
                    .await?;
                let mut digests: Vec<_> =
                    found.items.iter().map(|item| item.digest.to_string()).collect();
                digests.sort();
                digests
            }
            _ => unreachable!("only called for listings"),
        };
        Ok(Outcome::Names(names))
    }
}

impl<F: Fn() -> Arc<dyn Store>> Driver for Direct<F> {
    async fn apply(&mut self, fixtures: &Fixtures, operation: &Operation) -> Outcome {
        self.attempt(fixtures, operation)
            .await
            .unwrap_or_else(|error| Outcome::refused(code(&error)))
    }
}

async fn read(repository: &Repository, digest: &Digest, start: usize) -> Result<Bytes> {
    let reader = repository.blob_open(digest).await?;
    let end = reader.blob().size_bytes;
    let range = ByteRange { start: (start as u64).min(end), end };
    let bytes: BytesMut = reader.read(range).await?.try_collect().await?;
    Ok(bytes.freeze())
}

fn chunk(bytes: Bytes, offset: usize, place: Place) -> UploadChunk {
    let start = match place {
        Place::Unsaid => return UploadChunk::of(bytes),
        Place::Right if bytes.is_empty() => return UploadChunk::of(bytes),
        Place::Right => offset as u64,
        Place::Wrong => offset as u64 + 1,
    };
    let bytes = if bytes.is_empty() { Bytes::from_static(b"x") } else { bytes };
    let range = ContentRange { start, end_inclusive: start + bytes.len() as u64 - 1 };
    UploadChunk { range: Some(range), ..UploadChunk::of(bytes) }
}

fn reference(fixtures: &Fixtures, by: By) -> Reference {
    match by {
        By::Tag(tag) => TAGS[tag].parse().unwrap(),
        By::Digest(manifest) => Reference::Digest(fixtures.manifests[manifest].digest.clone()),
    }
}

fn condition_of(fixtures: &Fixtures, condition: If) -> Option<ReferencePrecondition> {
    match condition {
        If::Always => None,
        If::Absent => Some(ReferencePrecondition::Absent),
        If::Present => Some(ReferencePrecondition::Exists),
        If::Is(manifest) => {
            Some(ReferencePrecondition::IsOneOf(vec![fixtures.manifests[manifest].digest.clone()]))
        }
    }
}

/// The specification's error code, by which server and registry are compared.
fn code(error: &Error) -> &'static str {
    match error {
        Error::BlobUnknown { .. } => "BLOB_UNKNOWN",
        Error::ManifestUnknown { .. } => "MANIFEST_UNKNOWN",
        Error::NameUnknown { .. } => "NAME_UNKNOWN",
        Error::UploadUnknown { .. } => "BLOB_UPLOAD_UNKNOWN",
        Error::ChunkOutOfOrder { .. } => "OUT_OF_ORDER",
        Error::DigestMismatch { .. } | Error::ManifestDigestMismatch { .. } => "DIGEST_INVALID",
        Error::ReferencesUnknown { .. } => "MANIFEST_BLOB_UNKNOWN",
        Error::PreconditionFailed { .. } => "412",
        other => panic!("no operation of the model may end in {other:?}"),
    }
}
