//! Copies of deleted manifests, by which they can be restored until the copies expire.
//!
//! A delete writes the copy before it removes the manifest; until it expires, GC keeps what the copy
//! references. A restore is a push of the copied bytes: it makes sure that what they reference is there.

use std::time::SystemTime;

use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use jreg_oci::{Digest, Manifest, MediaType, Reference, Tag};
use jreg_storage::{Key, Put, PutMode, PutPurpose};
use serde::{Deserialize, Serialize};

use crate::keys::{self, ParsedKey};
use crate::manifest::RestoredCopy;
use crate::page::list_requests_max;
use crate::record::{
    JsonRecord, ManifestHeader, ManifestRecord, StoredRecord, decode_json, encode_with, header_line,
};
use crate::rules::Rule;
use crate::tag::TagTransition;
use crate::window::WriteWindow;
use crate::{
    ChangeId, ChangeOrigin, Error, ManifestPush, PageRequest, ReferencePrecondition, Repository,
    Result, ResultPage, TouchPolicy,
};

/// Maximum number of tags that the copy of a manifest names.
pub const COPIED_TAGS_MAX: usize = 1000;

/// Says whether the requester may set a tag.
pub type MaySetTag<'a> = &'a (dyn Fn(&Tag) -> bool + Send + Sync);

/// A manifest that was deleted and can be restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeletedManifest {
    pub digest: Digest,
    pub media_type: MediaType,
    pub artifact_type: Option<String>,
    /// Size in bytes.
    pub size: u64,
    /// The change that deleted it.
    pub change: ChangeId,
    /// Who deleted it.
    pub origin: ChangeOrigin,
    /// The tags that pointed to it, at most [`COPIED_TAGS_MAX`].
    pub tags: Vec<Tag>,
}

impl DeletedManifest {
    /// When it was deleted.
    pub fn deleted_at(&self) -> SystemTime {
        self.change.time()
    }
}

/// What a restore did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoredManifest {
    pub digest: Digest,
    /// The tags that were set again.
    pub transitions: Vec<TagTransition>,
    /// The tags that exist again and stay what they are.
    pub tags_kept: Vec<Tag>,
}

/// The record of a copy.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ManifestCopy {
    change: ChangeId,
    origin: ChangeOrigin,
    tags: Vec<Tag>,
    pub(crate) manifest: ManifestRecord,
}

/// The header line of a copy.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct CopyHeader {
    change: ChangeId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    actor: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    request: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tags: Vec<Tag>,
    media_type: MediaType,
    size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    subject: Option<Digest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    artifact_type: Option<String>,
    /// The change by which the manifest came into being.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pushed: Option<ChangeId>,
}

impl JsonRecord for CopyHeader {
    const HAS_NONCE: bool = false;
}

impl StoredRecord for ManifestCopy {
    fn decode(bytes: &Bytes) -> Result<Self, String> {
        let line = header_line(bytes).ok_or("it has no header line")?;
        let header: CopyHeader = decode_json(line)?;
        let content = bytes.slice(line.len() + 1..);
        if content.len() as u64 != header.size {
            return Err(format!("{} bytes follow the header, not {}", content.len(), header.size));
        }
        let CopyHeader { media_type, size, subject, artifact_type, pushed: change, .. } = header;
        let (restored, origin) = (None, None);
        let manifest =
            ManifestHeader { media_type, size, subject, artifact_type, change, restored, origin };
        Ok(Self {
            change: header.change,
            origin: ChangeOrigin::stored(header.actor, header.request),
            tags: header.tags,
            manifest: ManifestRecord { header: manifest, bytes: content },
        })
    }

    fn encode(&self) -> Bytes {
        let of = self.manifest.header.clone();
        let header = CopyHeader {
            change: self.change,
            actor: self.origin.actor().map(str::to_owned),
            request: self.origin.request_id().map(str::to_owned),
            tags: self.tags.clone(),
            media_type: of.media_type,
            size: of.size,
            subject: of.subject,
            artifact_type: of.artifact_type,
            pushed: of.change,
        };
        let mut bytes = encode_with(&header, &[], 0);
        bytes.push(b'\n');
        bytes.extend_from_slice(&self.manifest.bytes);
        bytes.into()
    }

    fn encode_over(&self, _seen: &Bytes) -> Bytes {
        self.encode()
    }
}

impl ManifestCopy {
    fn described(self, digest: Digest) -> DeletedManifest {
        let ManifestHeader { media_type, artifact_type, size, .. } = self.manifest.header;
        let Self { change, origin, tags, .. } = self;
        DeletedManifest { digest, media_type, artifact_type, size, change, origin, tags }
    }
}

impl Repository {
    /// Copies a manifest that is about to be deleted, with the tags that point to it.
    pub(crate) async fn copy_manifest(
        &self,
        window: WriteWindow,
        digest: &Digest,
        manifest: &ManifestRecord,
        tags: Vec<Tag>,
    ) -> Result<()> {
        let core = &self.core;
        // Damaged bytes cannot be restored, and a copy of them would suspend GC.
        if !core.rules.keep(Rule::CopyFirst) || !self.is_sound(digest, manifest).await? {
            return Ok(());
        }
        let change = ChangeId::after(None, core.clock.now());
        let copy = ManifestCopy {
            change,
            origin: ChangeOrigin::clone(&self.origin),
            tags,
            manifest: manifest.clone(),
        };
        let key = keys::manifest_copy(&self.name, digest, change);
        let put = Put::new(key, copy.encode(), PutMode::Create);
        core.archive(window, put.with_purpose(PutPurpose::Delete)).await
    }

    async fn is_sound(&self, digest: &Digest, manifest: &ManifestRecord) -> Result<bool> {
        let (digest, manifest) = (digest.clone(), manifest.clone());
        let length = manifest.bytes.len();
        let check = move || {
            Digest::of(digest.algorithm(), &manifest.bytes) == digest
                && Manifest::parse_stored(&manifest.header.media_type, &manifest.bytes).is_ok()
        };
        self.core.compute.run(length, check).await
    }

    /// The manifests of the repository that were deleted and can be restored, by digest; of one that was
    /// deleted several times the latest copy. `page.last` is a digest. A page may be short, or empty, and
    /// have a next one: those that were pushed again are left out.
    ///
    /// The requests of a listing; and for each manifest one to read the copy, and one to see
    /// whether it was pushed again.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidCursor`]; [`Error::Damaged`]; [`Error::Store`].
    pub async fn deleted_manifests(
        &self,
        page: &PageRequest,
    ) -> Result<ResultPage<DeletedManifest>> {
        let core = &self.core;
        let prefix = keys::deleted_manifests(&self.name);
        let last = page.last.as_ref().map(|last| last.parse::<Digest>());
        let last = last.transpose().map_err(|_| Error::InvalidCursor)?;
        // After every copy of it.
        let start_after = last.map(|last| format!("{}~", keys::copies(&self.name, &last)));
        let limit = page.limit.min(core.options.limits.page_items_max);
        let item = |key: &Key| match ParsedKey::parse(key) {
            Some(ParsedKey::ManifestCopy(_, digest, _)) => {
                Some((digest.to_string(), (digest, key.clone())))
            }
            _ => None,
        };
        let requests = list_requests_max(limit);
        let listed = core.list_items(prefix, start_after, limit, requests, item, |_| true).await?;
        let mut latest: Vec<(Digest, Key)> = Vec::new();
        for (digest, key) in listed.items {
            match latest.last_mut() {
                Some(last) if last.0 == digest => last.1 = key,
                _ => latest.push((digest, key)),
            }
        }
        let reads = latest.into_iter().map(|(digest, key)| async move {
            if core.exists(&keys::manifest(&self.name, &digest)).await?
                || core.exists(&keys::purge_mark(&self.name, &digest)).await?
            {
                return Ok(None);
            }
            let copy = core.read::<ManifestCopy>(&key).await?;
            Ok::<_, Error>(copy.map(|copy| copy.value.described(digest)))
        });
        // Made before the first is awaited: a borrowing closure kept across an await is not `Send`.
        let reads: Vec<_> = reads.collect();
        let reads = stream::iter(reads).buffered(core.reads_in_flight_max());
        let items = reads.try_filter_map(|copy| async { Ok(copy) }).try_collect().await?;
        Ok(ResultPage { items, next: listed.next })
    }

    /// Pushes a deleted manifest again, from its latest copy, and with `with_tags` sets those tags again that
    /// pointed to it and do not exist now. Counts as a push.
    ///
    /// # Errors
    ///
    /// [`Error::ManifestUnknown`] if there is no copy, or it was purged;
    /// [`Error::ReferencesUnknown`] names what it references and is not there any more; those of
    /// [`Repository::manifest_put`].
    pub async fn manifest_restore(
        &self,
        digest: &Digest,
        with_tags: bool,
    ) -> Result<RestoredManifest> {
        let all: MaySetTag<'_> = &|_| true;
        self.manifest_restore_if(digest, with_tags.then_some(all), &mut Vec::new()).await
    }

    /// The same for a client that may not set every tag: if `tags` refuses one that the manifest had,
    /// nothing is restored. Adds the tags that were set to `restored`, also if the restore fails after that.
    ///
    /// # Errors
    ///
    /// As [`Repository::manifest_restore`], and [`Error::TagProtected`].
    pub async fn manifest_restore_if(
        &self,
        digest: &Digest,
        tags: Option<MaySetTag<'_>>,
        restored: &mut Vec<TagTransition>,
    ) -> Result<RestoredManifest> {
        let reference = Reference::Digest(digest.clone());
        // Later a purge may have been forgotten that was not seen.
        let window = self.core.open_window();
        let copy = self.latest_copy(digest).await?.ok_or_else(|| self.unknown(&reference))?;
        let denied = tags.and_then(|may_set| copy.tags.iter().find(|tag| !may_set(tag)));
        if let Some(tag) = denied {
            return Err(Error::TagProtected { name: self.name.clone(), tag: tag.clone() });
        }
        let with_tags = tags.is_some();
        let from = RestoredCopy { change: copy.change, window };
        let key = keys::manifest_copy(&self.name, digest, copy.change);
        let stored = self.core.verified(key, digest, copy.manifest).await?;
        let push = ManifestPush {
            reference: reference.clone(),
            tags: Vec::new(),
            media_type: Some(stored.media_type),
            bytes: stored.bytes,
            condition: None,
        };
        let tags = copy.tags.into_iter().filter(|_| with_tags).collect();
        let pushed = self.push_restored(push, from, tags, restored).await;
        // Also if it failed: it may have written the manifest. If this request ends before it looks, the
        // header says what GC removes.
        if self.core.rules.keep(Rule::LookForPurge)
            && self.core.exists(&keys::purge_mark(&self.name, digest)).await?
        {
            self.delete_restored(digest).await?;
            // With the tags that led to it.
            restored.clear();
            return Err(self.unknown(&reference));
        }
        pushed
    }

    async fn push_restored(
        &self,
        push: ManifestPush,
        copy: RestoredCopy,
        tags: Vec<Tag>,
        restored: &mut Vec<TagTransition>,
    ) -> Result<RestoredManifest> {
        let digest = self.put_restored(push.clone(), copy).await?.digest;
        let mut tags_kept = Vec::new();
        for tag in tags {
            let absent = Some(ReferencePrecondition::Absent);
            match self.put_tag(push.clone(), &tag, absent, Some(copy)).await {
                Ok(set) => restored.push(set),
                Err(Error::PreconditionFailed { .. }) => tags_kept.push(tag),
                Err(error) => return Err(error),
            }
        }
        Ok(RestoredManifest { digest, transitions: restored.clone(), tags_kept })
    }

    /// Sets a tag to a manifest of the repository, as a push of that manifest does.
    ///
    /// # Errors
    ///
    /// [`Error::ManifestUnknown`] if the manifest is not there; [`Error::PreconditionFailed`];
    /// those of [`Repository::manifest_put`].
    pub async fn tag_restore(
        &self,
        tag: &Tag,
        digest: &Digest,
        condition: Option<ReferencePrecondition>,
    ) -> Result<TagTransition> {
        let reference = Reference::Digest(digest.clone());
        let found = self.find_manifest(digest, TouchPolicy::Never).await?;
        let stored = found.ok_or_else(|| self.unknown(&reference))?;
        let push = ManifestPush {
            reference: reference.clone(),
            tags: Vec::new(),
            media_type: Some(stored.media_type.clone()),
            bytes: stored.bytes.clone(),
            condition: None,
        };
        self.put_tag(push, tag, condition, None).await
    }

    /// The latest copy of a deleted manifest; `None` if there is none, or it was purged.
    pub(crate) async fn latest_copy(&self, digest: &Digest) -> Result<Option<ManifestCopy>> {
        let keys = self.core.list_all(keys::copies(&self.name, digest)).await?;
        let is_mark = |key: &Key| matches!(ParsedKey::parse(key), Some(ParsedKey::PurgeMark(..)));
        match keys.iter().any(is_mark) {
            true => Ok(None),
            false => self.last_of(keys).await,
        }
    }

    /// The same, also if it was purged: a purge may have to be continued.
    pub(crate) async fn latest_copy_of_any(&self, digest: &Digest) -> Result<Option<ManifestCopy>> {
        self.last_of(self.core.list_all(keys::copies(&self.name, digest)).await?).await
    }

    async fn last_of(&self, keys: Vec<Key>) -> Result<Option<ManifestCopy>> {
        let is_copy =
            |key: &Key| matches!(ParsedKey::parse(key), Some(ParsedKey::ManifestCopy(..)));
        let Some(key) = keys.into_iter().rfind(is_copy) else { return Ok(None) };
        Ok(self.core.read::<ManifestCopy>(&key).await?.map(|copy| copy.value))
    }
}

#[cfg(test)]
mod tests {
    use jreg_oci::Algorithm;

    use super::*;

    #[test]
    fn a_copy_comes_back_as_it_was() {
        let bytes = Bytes::from_static(b"{\n}");
        let header = ManifestHeader {
            media_type: MediaType::OCI_IMAGE_MANIFEST,
            size: bytes.len() as u64,
            subject: Some(Digest::of(Algorithm::Sha512, b"")),
            artifact_type: Some("application/x".to_owned()),
            change: Some(ChangeId::after(None, SystemTime::now())),
            restored: None,
            origin: None,
        };
        let copy = ManifestCopy {
            change: ChangeId::after(None, SystemTime::now()),
            origin: ChangeOrigin::request("alice", "id"),
            tags: vec!["v1".parse().expect("a tag"), "v2".parse().expect("a tag")],
            manifest: ManifestRecord { header, bytes },
        };
        let encoded = copy.encode();
        assert_eq!(ManifestCopy::decode(&encoded), Ok(copy));
        assert!(ManifestCopy::decode(&encoded.slice(..encoded.len() - 1)).is_err());
    }
}
