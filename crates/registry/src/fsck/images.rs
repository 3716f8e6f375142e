//! Which images a repair affects: tags and untagged manifests that reference some content.

use std::collections::{HashMap, HashSet};

use futures::stream::{self, StreamExt};
use jreg_oci::{Digest, Manifest, RepositoryName};
use jreg_storage::Key;

use super::read::{RecordState, read_state};
use super::{FindingKind, FindingSubject, FsckFinding, FsckRun, RepairStatus};
use crate::Result;
use crate::keys::{self, ParsedKey};
use crate::manifest_header::HeadlessManifest;
use crate::manifest_read::verified;
use crate::record::ManifestRecord;
use crate::tag_record::TagRecord;

/// Maximum number of images listed for one finding.
const IMAGES_MAX: usize = 20;

/// Maximum number of repositories whose references are kept for further findings.
const REPOSITORIES_KEPT: usize = 8;

/// A manifest with the digests that it references.
#[derive(Debug)]
struct ManifestDigests {
    digest: Digest,
    references: HashSet<Digest>,
}

/// The references and tags of a repository.
#[derive(Debug, Default)]
pub(super) struct RepositoryReferences {
    manifests: Vec<ManifestDigests>,
    /// Each tag with the manifest that it points to.
    tags: Vec<(String, Digest)>,
}

/// The references of the repositories of the last findings.
pub(super) type KnownReferences = HashMap<RepositoryName, RepositoryReferences>;

impl FsckRun<'_> {
    /// Reports that content will be quarantined or marked as deleted, and which images reference it,
    /// before that is done.
    pub(super) async fn announce_repair(
        &mut self,
        kind: FindingKind,
        of: &FindingSubject<'_>,
        detail: &str,
    ) -> Result<()> {
        if !self.options.repair {
            return Ok(());
        }
        let images = match (ParsedKey::parse(of.key), of.repository, of.digest) {
            (Some(ParsedKey::Tag(name, tag)), ..) => vec![format!("{name}:{tag}")],
            (_, Some(name), Some(digest)) => self.images(name, digest).await?,
            _ => Vec::new(),
        };
        let finding = FsckFinding {
            kind,
            key: of.key.to_string(),
            repository: of.repository.cloned(),
            digest: of.digest.cloned(),
            detail: detail.to_owned(),
            repair: RepairStatus::Possible,
        };
        self.watch.repairing(&finding, &images);
        Ok(())
    }

    /// The images of a repository that need a manifest or a blob: `NAME:TAG`, or `NAME@DIGEST` where
    /// no tag leads to it.
    async fn images(&mut self, name: &RepositoryName, digest: &Digest) -> Result<Vec<String>> {
        if !self.seen.references.contains_key(name) {
            let references = self.references(name).await?;
            if self.seen.references.len() >= REPOSITORIES_KEPT {
                self.seen.references.clear();
            }
            self.seen.references.insert(name.clone(), references);
        }
        let known = self.seen.references.get(name);
        Ok(known.map(|references| references.needing(name, digest)).unwrap_or_default())
    }

    /// Reads the manifests and the tags of a repository. Manifests whose bytes are damaged count as
    /// without references.
    async fn references(&self, name: &RepositoryName) -> Result<RepositoryReferences> {
        let manifests = self.manifest_references(name).await?;
        Ok(RepositoryReferences { manifests, tags: self.tag_targets(name).await? })
    }

    async fn manifest_references(&self, name: &RepositoryName) -> Result<Vec<ManifestDigests>> {
        let mut manifests = Vec::new();
        let mut pages = self.core.list_pages(keys::manifests(name));
        while let Some(page) = pages.next().await? {
            let reads = page.entries.iter().map(|entry| read_state(&self.core, &entry.key));
            let reads: Vec<_> = reads.collect();
            let mut reads = stream::iter(reads).buffered(self.width());
            for entry in &page.entries {
                let Some(state) = reads.next().await else { break };
                let Some(ParsedKey::Manifest(_, digest)) = ParsedKey::parse(&entry.key) else {
                    continue;
                };
                let references = referenced(&entry.key, &digest, state?).unwrap_or_default();
                manifests.push(ManifestDigests { digest, references });
            }
        }
        Ok(manifests)
    }

    async fn tag_targets(&self, name: &RepositoryName) -> Result<Vec<(String, Digest)>> {
        let mut tags = Vec::new();
        let mut pages = self.core.list_pages(keys::tags(name));
        while let Some(page) = pages.next().await? {
            let reads = page.entries.iter().map(|entry| read_state(&self.core, &entry.key));
            let reads: Vec<_> = reads.collect();
            let mut reads = stream::iter(reads).buffered(self.width());
            for entry in &page.entries {
                let Some(state) = reads.next().await else { break };
                let state: RecordState<TagRecord> = state?;
                if let (Some(ParsedKey::Tag(_, tag)), RecordState::Valid(read)) =
                    (ParsedKey::parse(&entry.key), state)
                {
                    let target = read.value.into_live();
                    tags.extend(target.map(|target| (tag.to_string(), target.digest)));
                }
            }
        }
        Ok(tags)
    }
}

/// The digests that a manifest references, if its bytes are sound.
fn referenced(
    key: &Key,
    digest: &Digest,
    state: RecordState<ManifestRecord>,
) -> Option<HashSet<Digest>> {
    let manifest = match state {
        RecordState::Absent => None,
        RecordState::Unreadable(bad) => HeadlessManifest::read(digest, &bad.record?.bytes)?.parse(),
        RecordState::Valid(read) => {
            let stored = verified(key, digest, read.value).ok()?;
            Manifest::parse_stored(&stored.media_type, &stored.bytes).ok()
        }
    }?;
    Some(manifest.references.into_iter().map(|reference| reference.digest).collect())
}

impl RepositoryReferences {
    fn needing(&self, name: &RepositoryName, digest: &Digest) -> Vec<String> {
        let mut needing = HashSet::from([digest]);
        // An index needs what its manifests need.
        loop {
            let before = needing.len();
            for manifest in &self.manifests {
                if manifest.references.iter().any(|digest| needing.contains(digest)) {
                    needing.insert(&manifest.digest);
                }
            }
            if needing.len() == before {
                break;
            }
        }
        let tagged = self.tags.iter().filter(|(_, target)| needing.contains(target));
        let mut images: Vec<_> = tagged.map(|(tag, _)| format!("{name}:{tag}")).collect();
        if images.is_empty() {
            let digests = self.manifests.iter().map(|manifest| &manifest.digest);
            let untagged = digests.filter(|digest| needing.contains(digest));
            images.extend(untagged.map(|digest| format!("{name}@{digest}")));
        }
        let more = images.len().saturating_sub(IMAGES_MAX);
        images.truncate(IMAGES_MAX);
        if more > 0 {
            images.push(format!("and {more} more"));
        }
        images
    }
}
