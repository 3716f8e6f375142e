//! Explaining: everything that references some content, or when GC may remove it.
//!
//! The report is what GC would find now. It is completed from the records themselves, not from
//! hints or memory, so it costs a read of every manifest of the repositories concerned.

use std::time::{Duration, SystemTime};

use futures::stream::{self, StreamExt, TryStreamExt};
use jreg_oci::{Digest, Manifest, RepositoryName, Tag};
use serde::{Deserialize, Serialize};

use crate::core::Core;
use crate::gc::GcOptions;
use crate::keys::{self, ParsedKey};
use crate::manifest_read::verified;
use crate::record::{Link, ManifestRecord};
use crate::tag_record::TagRecord;
use crate::window::CLOCK_ERROR;
use crate::{Registry, Result};

/// The content to explain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainRequest {
    /// The manifest or blob.
    pub digest: Digest,
    /// In this repository; `None`: in every repository that has it.
    pub repository: Option<RepositoryName>,
}

/// The kind of content in a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ContentKind {
    Manifest,
    Blob,
}

/// Why something stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "kebab-case")]
pub enum RetentionReason {
    /// A tag points to it.
    Tag { tag: Tag },
    /// A manifest references it: an index its child, an image its config or layer.
    Manifest { digest: Digest },
    /// It is a referrer of this manifest, which is there.
    Subject { digest: Digest },
    /// Manifests without a tag are kept by the settings.
    UntaggedKept,
    /// It comes from a mirrored registry: it stays until it is evicted.
    Mirrored,
}

/// Some content in one repository, and what keeps it from GC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainedContent {
    /// Where.
    pub repository: RepositoryName,
    /// As what.
    pub kind: ContentKind,
    pub size_bytes: u64,
    /// The store key of its bytes, of a blob.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub location: Option<String>,
    /// How long ago it was last written or touched, in seconds.
    pub age_s: u64,
    /// Why it is kept; empty: it is unreferenced.
    pub reasons: Vec<RetentionReason>,
    /// If it is unreferenced: from when on a run may delete it, in seconds of the Unix epoch. A
    /// manifest without a tag must first be seen by a run, and is deleted later.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub goes_after: Option<u64>,
}

/// A reason why GC keeps content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainReport {
    #[serde(flatten)]
    pub request: ExplainRequest,
    /// The content in each repository that has it, in the order of the names.
    pub holdings: Vec<ExplainedContent>,
}

impl Registry {
    /// Lists every reason why content is kept, as a GC run with `options` would see it.
    ///
    /// # Errors
    ///
    /// [`Error::Store`](crate::Error), [`Error::Damaged`](crate::Error).
    pub async fn explain(
        &self,
        request: ExplainRequest,
        options: &GcOptions,
    ) -> Result<ExplainReport> {
        let core = self.core();
        let names = match &request.repository {
            Some(name) => vec![name.clone()],
            None => core.repositories_with(&request.digest).await?,
        };
        let mut holdings = Vec::new();
        for name in names {
            holdings.extend(core.explain_in(&name, &request.digest, options).await?);
        }
        Ok(ExplainReport { request, holdings })
    }
}

/// The references to one digest in a repository's manifests and tags.
#[derive(Default)]
struct FoundReferences {
    tags: Vec<Tag>,
    manifests: Vec<Digest>,
    /// Whether a manifest of some digest is there, of all that were listed.
    present: Vec<Digest>,
}

impl Core {
    /// The repositories that have a digest as a blob or as a manifest.
    async fn repositories_with(&self, digest: &Digest) -> Result<Vec<RepositoryName>> {
        let mut names = self.repositories_with_blob(digest).await?;
        // Every repository with a manifest is in the catalog.
        let mut listed = Vec::new();
        self.each_key(keys::CATALOG.to_owned(), |place| {
            if let ParsedKey::Catalog(name) = place {
                listed.push(name);
            }
        })
        .await?;
        let looks = listed.into_iter().map(|name| async move {
            let is_there = self.exists(&keys::manifest(&name, digest)).await?;
            Ok::<_, crate::Error>(is_there.then_some(name))
        });
        let looks: Vec<_> = looks.collect();
        let looks = stream::iter(looks).buffered(self.reads_in_flight_max());
        let found: Vec<_> = looks.try_filter_map(|name| async { Ok(name) }).try_collect().await?;
        names.extend(found);
        names.sort();
        names.dedup();
        Ok(names)
    }

    async fn each_key(&self, prefix: String, mut see: impl FnMut(ParsedKey)) -> Result<()> {
        let mut after = None;
        loop {
            let page = self.list(prefix.clone(), after, 1000).await?;
            page.entries.iter().filter_map(|entry| ParsedKey::parse(&entry.key)).for_each(&mut see);
            match page.entries.last() {
                Some(last) if page.more => after = Some(last.key.to_string()),
                _ => return Ok(()),
            }
        }
    }

    async fn explain_in(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        options: &GcOptions,
    ) -> Result<Vec<ExplainedContent>> {
        let manifest = self.read::<ManifestRecord>(&keys::manifest(name, digest)).await?;
        let link = self.read::<Link>(&keys::link(digest, name)).await?;
        if manifest.is_none() && link.is_none() {
            return Ok(Vec::new());
        }
        let found = self.found(name, digest, manifest.is_some()).await?;
        let mut holdings = Vec::new();
        if let Some(read) = manifest {
            let mut reasons = found.of_manifest(read.value.header.subject.as_ref());
            let rules = self.lifecycle.get();
            if read.value.header.is_mirrored() {
                reasons.push(RetentionReason::Mirrored);
            } else if reasons.is_empty() && options.untagged_in(name, &rules).is_none() {
                reasons.push(RetentionReason::UntaggedKept);
            }
            let holding = ExplainedContent {
                repository: name.clone(),
                kind: ContentKind::Manifest,
                size_bytes: read.value.header.size,
                location: None,
                age_s: read.age().as_secs(),
                goes_after: None,
                reasons,
            };
            holdings.push(holding.with_expiry(read.last_modified, options.grace));
        }
        if let Some(read) = link
            && let Some(at) = read.value.live()
        {
            let holding = ExplainedContent {
                repository: name.clone(),
                kind: ContentKind::Blob,
                size_bytes: at.size_bytes,
                location: Some(at.key.to_string()),
                age_s: read.age().as_secs(),
                goes_after: None,
                reasons: found.naming(),
            };
            holdings.push(holding.with_expiry(read.last_modified, options.grace));
        }
        Ok(holdings)
    }

    async fn found(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        is_manifest: bool,
    ) -> Result<FoundReferences> {
        let mut found = FoundReferences::default();
        self.each_key(keys::manifests(name), |place| {
            if let ParsedKey::Manifest(_, digest) = place {
                found.present.push(digest);
            }
        })
        .await?;
        let reads = found.present.iter().map(|manifest| async move {
            let names = self.refers_to(name, manifest, digest).await?;
            Ok::<_, crate::Error>(names.then(|| manifest.clone()))
        });
        let reads: Vec<_> = reads.collect();
        let reads = stream::iter(reads).buffered(self.reads_in_flight_max());
        found.manifests =
            reads.try_filter_map(|manifest| async { Ok(manifest) }).try_collect().await?;
        if is_manifest {
            found.tags = self.tags_pointing_to(name, digest).await?;
        }
        Ok(found)
    }

    /// Whether a manifest references a digest.
    async fn refers_to(
        &self,
        name: &RepositoryName,
        manifest: &Digest,
        digest: &Digest,
    ) -> Result<bool> {
        let key = keys::manifest(name, manifest);
        let Some(record) = self.read::<ManifestRecord>(&key).await? else { return Ok(false) };
        let stored = verified(&key, manifest, record.value)?;
        let parsed = Manifest::parse_stored(&stored.media_type, &stored.bytes)?;
        Ok(parsed.references.iter().any(|reference| reference.digest == *digest))
    }

    async fn tags_pointing_to(&self, name: &RepositoryName, digest: &Digest) -> Result<Vec<Tag>> {
        let mut tags = Vec::new();
        self.each_key(keys::tags(name), |place| {
            if let ParsedKey::Tag(_, tag) = place {
                tags.push(tag);
            }
        })
        .await?;
        let records = tags.iter().map(|tag| keys::tag(name, tag)).collect();
        let targets = self.read_all::<TagRecord>(records).await?;
        let pointing = tags.into_iter().zip(targets).filter(|(_, read)| {
            let target = read.as_ref().and_then(|read| read.value.live());
            target.is_some_and(|target| target.digest == *digest)
        });
        Ok(pointing.map(|(tag, _)| tag).collect())
    }
}

impl FoundReferences {
    fn naming(&self) -> Vec<RetentionReason> {
        let digests = self.manifests.iter().cloned();
        digests.map(|digest| RetentionReason::Manifest { digest }).collect()
    }

    fn of_manifest(&self, subject: Option<&Digest>) -> Vec<RetentionReason> {
        let tags = self.tags.iter().cloned().map(|tag| RetentionReason::Tag { tag });
        let mut reasons: Vec<_> = tags.chain(self.naming()).collect();
        if let Some(subject) = subject.filter(|subject| self.present.contains(subject)) {
            reasons.push(RetentionReason::Subject { digest: subject.clone() });
        }
        reasons
    }
}

impl ExplainedContent {
    /// With the time from which on it may be removed, if it is unreferenced.
    fn with_expiry(mut self, last_modified: SystemTime, grace: Duration) -> Self {
        let after = last_modified + grace + CLOCK_ERROR;
        let after = after.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        self.goes_after = self.reasons.is_empty().then_some(after);
        self
    }
}
