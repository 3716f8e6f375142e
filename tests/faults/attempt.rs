//! The operations that faults are injected into, each like a client from start to end.

use std::fmt::Debug;

use bytes::Bytes;
use futures::StreamExt;
use jreg_oci::{Algorithm, ContentRange, Digest, Reference};
use jreg_registry::{Error, PageRequest, Result, TouchPolicy, UploadChunk};
use jreg_testkit::{Image, Manifest, Rng};

use crate::faults::harness::{FaultHarness, read, sha256};

/// An operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attempt {
    PushSmall,
    PushLarge,
    PushAgain,
    PushHeldElsewhere,
    PushAfterDelete,
    UploadSmall,
    UploadLarge,
    UploadChunks,
    UploadSha512,
    UploadAgain,
    Mount,
    MountAgain,
    PutReferrer,
    PutWithTags,
    Retag,
    DeleteBlob,
    DeleteManifest,
    DeleteTag,
    RestoreTag,
    RestoreManifest,
    Cancel,
}

/// Passes every operation, with the name of its test, to a macro.
macro_rules! for_each_attempt {
    ($tests:ident) => {
        $tests! {
            push_of_a_known_digest: PushSmall,
            push_of_a_known_digest_in_parts: PushLarge,
            push_of_what_is_here: PushAgain,
            push_of_what_is_elsewhere: PushHeldElsewhere,
            push_after_a_delete: PushAfterDelete,
            upload_as_docker_does: UploadSmall,
            upload_as_docker_does_in_parts: UploadLarge,
            upload_in_chunks: UploadChunks,
            upload_closed_with_sha512: UploadSha512,
            upload_of_what_is_here: UploadAgain,
            mount: Mount,
            mount_onto_what_is_here: MountAgain,
            manifest_with_tag_and_subject: PutReferrer,
            manifest_by_digest_with_tags: PutWithTags,
            retag: Retag,
            delete_of_a_blob: DeleteBlob,
            delete_of_a_manifest: DeleteManifest,
            delete_of_a_tag: DeleteTag,
            restore_of_a_tag: RestoreTag,
            restore_of_a_manifest_with_its_tags: RestoreManifest,
            cancelled_upload: Cancel,
        }
    };
}
pub(crate) use for_each_attempt;

/// Bytes per piece.
const PIECE_BYTES: usize = 10_000;

const SMALL: &[u8] = b"a small blob";

/// Longer than a part of a shared store.
fn large(harness: &FaultHarness) -> Bytes {
    Rng::new(1).bytes(harness.large_bytes)
}

/// Longer than the part of an upload whose length is known.
fn very_large(harness: &FaultHarness) -> Bytes {
    Rng::new(2).bytes(harness.large_bytes.max(1300 * 1024))
}

fn subject() -> Image {
    Image::plain(1)
}

fn referrer() -> Image {
    Image::referrer(2, &subject().manifest, "application/x")
}

/// A body that comes in pieces.
fn in_pieces(bytes: &Bytes) -> UploadChunk {
    let pieces: Vec<_> = (0..bytes.len())
        .step_by(PIECE_BYTES)
        .map(|at| bytes.slice(at..bytes.len().min(at + PIECE_BYTES)))
        .collect();
    UploadChunk {
        length: None,
        ..UploadChunk {
            body: futures::stream::iter(pieces.into_iter().map(Ok)).boxed(),
            ..UploadChunk::empty()
        }
    }
}

async fn push(harness: &mut FaultHarness, name: &'static str, bytes: Bytes) -> Result<()> {
    let digest = sha256(&bytes);
    let chunk = UploadChunk { length: Some(bytes.len() as u64), ..in_pieces(&bytes) };
    harness.repository(name).blob_push(&digest, chunk).await?;
    harness.blobs.insert((name, digest), bytes);
    Ok(())
}

async fn upload(harness: &mut FaultHarness, bytes: Bytes, digest: Digest) -> Result<()> {
    let repository = harness.repository("a");
    let id = repository.upload_start(None);
    let progress = repository.upload_append(&id, in_pieces(&bytes)).await?;
    assert_eq!(progress.offset, bytes.len() as u64);
    repository.upload_finish(&id, &digest, UploadChunk::empty()).await?;
    harness.blobs.insert(("a", digest), bytes);
    Ok(())
}

async fn upload_chunks(harness: &mut FaultHarness, bytes: Bytes) -> Result<()> {
    let repository = harness.repository("a");
    let id = repository.upload_start(None);
    let at = |start: usize, end: usize| UploadChunk {
        range: Some(ContentRange { start: start as u64, end_inclusive: end as u64 - 1 }),
        ..UploadChunk::of(bytes.slice(start..end))
    };
    let first = bytes.len() / 5 * 2;
    repository.upload_append(&id, at(0, first)).await?;
    repository.upload_append(&id, at(first, first + 10)).await?;
    assert_eq!(repository.upload_status(&id).await?.offset, first as u64 + 10);
    repository.upload_finish(&id, &sha256(&bytes), at(first + 10, bytes.len())).await?;
    harness.blobs.insert(("a", sha256(&bytes)), bytes);
    Ok(())
}

async fn push_image(
    harness: &mut FaultHarness,
    name: &'static str,
    image: &Image,
    tag: &'static str,
) {
    for blob in &image.blobs {
        push(harness, name, blob.bytes.clone()).await.unwrap();
    }
    harness.put(name, &image.manifest, Some(tag), &[]).await.unwrap();
}

/// A delete that an earlier attempt may have applied: then there is nothing to delete.
fn gone_is_done(outcome: Result<()>) -> Result<()> {
    match outcome {
        Err(
            Error::ManifestUnknown { .. } | Error::BlobUnknown { .. } | Error::NameUnknown { .. },
        ) => Ok(()),
        other => other,
    }
}

impl Attempt {
    /// The preconditions.
    pub(crate) async fn prepare(self, harness: &mut FaultHarness) {
        match self {
            Self::PushAgain | Self::UploadAgain => push(harness, "a", SMALL.into()).await.unwrap(),
            Self::PushHeldElsewhere => push(harness, "b", very_large(harness)).await.unwrap(),
            Self::Mount => push(harness, "b", SMALL.into()).await.unwrap(),
            Self::MountAgain => {
                push(harness, "b", SMALL.into()).await.unwrap();
                push(harness, "a", SMALL.into()).await.unwrap();
            }
            Self::PushAfterDelete => {
                push(harness, "a", SMALL.into()).await.unwrap();
                harness.repository("a").blob_delete(&sha256(SMALL)).await.unwrap();
                harness.blobs.clear();
            }
            Self::PutReferrer => {
                push_image(harness, "a", &subject(), "v1").await;
                for blob in referrer().blobs {
                    push(harness, "a", blob.bytes).await.unwrap();
                }
            }
            Self::PutWithTags | Self::DeleteTag => push_image(harness, "a", &subject(), "v1").await,
            Self::Retag => {
                push_image(harness, "a", &subject(), "v1").await;
                push_image(harness, "a", &Image::plain(3), "v3").await;
            }
            Self::DeleteBlob => push(harness, "a", SMALL.into()).await.unwrap(),
            Self::RestoreTag => {
                push_image(harness, "a", &Image::plain(3), "v3").await;
                push_image(harness, "a", &subject(), "v3").await;
            }
            Self::DeleteManifest | Self::RestoreManifest => {
                push_image(harness, "a", &subject(), "v1").await;
                push_image(harness, "a", &referrer(), "v2").await;
                harness.put("a", &referrer().manifest, Some("v3"), &[]).await.unwrap();
                if self == Self::RestoreManifest {
                    delete_manifest(harness, &referrer().manifest).await.unwrap();
                }
            }
            _ => {}
        }
    }

    /// Runs it, and records in the ledger what is acknowledged or in doubt.
    pub(crate) async fn run(self, harness: &mut FaultHarness) -> Result<()> {
        match self {
            Self::PushSmall | Self::PushAgain | Self::PushAfterDelete => {
                push(harness, "a", SMALL.into()).await
            }
            Self::PushLarge | Self::PushHeldElsewhere => {
                push(harness, "a", very_large(harness)).await
            }
            Self::UploadSmall | Self::UploadAgain => {
                upload(harness, SMALL.into(), sha256(SMALL)).await
            }
            Self::UploadLarge => {
                let bytes = large(harness);
                upload(harness, bytes.clone(), sha256(&bytes)).await
            }
            Self::UploadChunks => upload_chunks(harness, large(harness)).await,
            Self::UploadSha512 => {
                let bytes = large(harness);
                upload(harness, bytes.clone(), Digest::of(Algorithm::Sha512, &bytes)).await
            }
            Self::Mount | Self::MountAgain => mount(harness).await,
            Self::PutReferrer => harness.put("a", &referrer().manifest, Some("sbom"), &[]).await,
            Self::PutWithTags => harness.put("a", &subject().manifest, None, &["v1", "v2"]).await,
            Self::Retag => harness.put("a", &subject().manifest, Some("v3"), &[]).await,
            Self::DeleteBlob => {
                harness.blobs.clear();
                gone_is_done(harness.repository("a").blob_delete(&sha256(SMALL)).await)
            }
            Self::DeleteManifest => delete_manifest(harness, &referrer().manifest).await,
            Self::DeleteTag => delete_tag(harness, "v1").await,
            Self::RestoreTag => restore_tag(harness, "v3", &Image::plain(3).manifest).await,
            Self::RestoreManifest => restore_manifest(harness, &referrer().manifest).await,
            Self::Cancel => cancel(harness).await,
        }
    }

    /// What must hold after an acknowledgement, besides the ledger.
    pub(crate) async fn is_done(self, harness: &mut FaultHarness) {
        match self {
            Self::PutReferrer | Self::RestoreManifest => {
                assert_eq!(referrers(harness).await, [sha256(&referrer().manifest.bytes)])
            }
            Self::DeleteManifest => {
                assert!(referrers(harness).await.is_empty(), "a deleted referrer is listed")
            }
            Self::DeleteBlob => {
                let gone =
                    harness.repository("a").blob_stat(&sha256(SMALL), TouchPolicy::Never).await;
                assert!(matches!(gone, Err(Error::BlobUnknown { .. })), "{gone:?}");
            }
            _ => {}
        }
    }
}

async fn mount(harness: &mut FaultHarness) -> Result<()> {
    let from = "b".parse().unwrap();
    let mounted = harness.repository("a").blob_mount(&sha256(SMALL), &from).await?;
    assert!(mounted.is_some(), "the source holds it");
    harness.blobs.insert(("a", sha256(SMALL)), SMALL.into());
    Ok(())
}

async fn delete_manifest(harness: &mut FaultHarness, manifest: &Manifest) -> Result<()> {
    let digest = sha256(&manifest.bytes);
    harness.manifests.remove(&("a", digest.clone()));
    for tag in ["v2", "v3"] {
        harness.tags.insert(("a", tag), [None, Some(digest.clone())].into());
    }
    let deleted = harness.repository("a").manifest_delete(&Reference::Digest(digest), None).await;
    gone_is_done(deleted)?;
    for tag in ["v2", "v3"] {
        harness.tags.insert(("a", tag), [None].into());
    }
    Ok(())
}

async fn delete_tag(harness: &mut FaultHarness, tag: &'static str) -> Result<()> {
    harness.tags.get_mut(&("a", tag)).unwrap().insert(None);
    gone_is_done(harness.repository("a").manifest_delete(&tag.parse().unwrap(), None).await)?;
    harness.tags.insert(("a", tag), [None].into());
    Ok(())
}

async fn restore_tag(
    harness: &mut FaultHarness,
    tag: &'static str,
    manifest: &Manifest,
) -> Result<()> {
    let digest = sha256(&manifest.bytes);
    harness.tags.get_mut(&("a", tag)).unwrap().insert(Some(digest.clone()));
    let restored =
        harness.repository("a").tag_restore(&tag.parse().unwrap(), &digest, None).await?;
    assert_eq!(restored.after, Some(digest.clone()));
    harness.tags.insert(("a", tag), [Some(digest)].into());
    Ok(())
}

/// Restores a manifest with its tags `v2` and `v3`.
async fn restore_manifest(harness: &mut FaultHarness, manifest: &Manifest) -> Result<()> {
    let digest = sha256(&manifest.bytes);
    for tag in ["v2", "v3"] {
        harness.tags.get_mut(&("a", tag)).unwrap().insert(Some(digest.clone()));
    }
    harness.repository("a").manifest_restore(&digest, true).await?;
    for tag in ["v2", "v3"] {
        harness.tags.insert(("a", tag), [Some(digest.clone())].into());
    }
    harness.manifests.insert(("a", digest), manifest.bytes.clone());
    Ok(())
}

async fn cancel(harness: &mut FaultHarness) -> Result<()> {
    let repository = harness.repository("a");
    let id = repository.upload_start(None);
    repository.upload_append(&id, in_pieces(&large(harness))).await?;
    repository.upload_cancel(&id).await?;
    let status = repository.upload_status(&id).await;
    assert!(status.is_err(), "a cancelled upload goes on");
    Ok(())
}

async fn referrers(harness: &FaultHarness) -> Vec<Digest> {
    let page = PageRequest { limit: 100, last: None };
    let subject = sha256(&subject().manifest.bytes);
    let found = harness.repository("a").referrers(&subject, None, &page).await.unwrap();
    found.items.into_iter().map(|item| item.digest).collect()
}

/// Fills repository `a` for the reads below.
pub(crate) async fn fill(harness: &mut FaultHarness) {
    push_image(harness, "a", &subject(), "v1").await;
    push_image(harness, "a", &referrer(), "sbom").await;
    push(harness, "b", SMALL.into()).await.unwrap();
    harness.put("a", &subject().manifest, Some("moved"), &[]).await.unwrap();
    harness.put("a", &referrer().manifest, Some("moved"), &[]).await.unwrap();
    push_image(harness, "a", &Image::plain(3), "gone").await;
    let gone = Reference::Digest(sha256(&Image::plain(3).manifest.bytes));
    harness.repository("a").manifest_delete(&gone, None).await.unwrap();
}

/// A read of what [`fill`] made.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Read {
    Blob,
    BlobStat,
    ManifestByTag,
    ManifestByDigest,
    Tags,
    Catalog,
    Referrers,
    MountCandidates,
    TagHistory,
    DeletedManifests,
}

impl Read {
    pub(crate) const ALL: [Self; 10] = [
        Self::Blob,
        Self::BlobStat,
        Self::ManifestByTag,
        Self::ManifestByDigest,
        Self::Tags,
        Self::Catalog,
        Self::Referrers,
        Self::MountCandidates,
        Self::TagHistory,
        Self::DeletedManifests,
    ];

    /// Reads, and describes the result.
    pub(crate) async fn run(self, harness: &FaultHarness) -> Result<String> {
        let repository = harness.repository("a");
        let page = PageRequest { limit: 100, last: None };
        let layer = sha256(&subject().blobs[1].bytes);
        let manifest = sha256(&subject().manifest.bytes);
        fn words(outcome: impl Debug) -> String {
            format!("{outcome:?}")
        }
        Ok(match self {
            Self::Blob => words(read(&repository, &layer).await?),
            Self::BlobStat => words(repository.blob_stat(&layer, TouchPolicy::IfOld).await?),
            Self::ManifestByTag => {
                words(repository.manifest_get(&"v1".parse().unwrap(), TouchPolicy::Never).await?)
            }
            Self::ManifestByDigest => words(
                repository.manifest_get(&Reference::Digest(manifest), TouchPolicy::Never).await?,
            ),
            Self::Tags => words(repository.tags(&page).await?),
            Self::Catalog => words(harness.registry().catalog(&page).await?),
            Self::Referrers => words(repository.referrers(&manifest, None, &page).await?),
            Self::MountCandidates => {
                words(harness.repository("c").mount_candidates(&sha256(SMALL)).await?)
            }
            Self::TagHistory => {
                words(repository.tag_history(&"moved".parse().unwrap(), &page).await?)
            }
            Self::DeletedManifests => words(repository.deleted_manifests(&page).await?),
        })
    }
}
