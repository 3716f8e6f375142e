//! What the manifests of a repository reference, and how many bytes of it only some tags do.

use std::collections::{HashMap, HashSet};

use jreg_lifecycle::{ManifestState, TagState};
use jreg_oci::{Digest, Manifest, RepositoryName};
use serde::Deserialize;

use crate::core::Core;
use crate::manifest_read::verified;
use crate::record::ManifestRecord;
use crate::{Result, StoredManifest, keys};

/// What retention knows of a manifest.
#[derive(Clone, Debug)]
pub(super) struct ManifestContent {
    digest: Digest,
    size_bytes: u64,
    /// The manifests of this repository that it references.
    children: Vec<Digest>,
    subject: Option<Digest>,
    /// What else it references, with the size that it declares.
    blobs: Vec<(Digest, u64)>,
}

impl ManifestContent {
    pub(super) fn state(&self) -> ManifestState {
        let Self { digest, children, subject, .. } = self.clone();
        ManifestState { digest, children, subject }
    }

    fn new(stored: &StoredManifest, present: &HashSet<&Digest>) -> Result<Self> {
        let manifest = Manifest::parse_stored(&stored.media_type, &stored.bytes)?;
        let declared = declared_sizes(&stored.bytes);
        let (mut children, mut blobs) = (Vec::new(), Vec::new());
        for reference in manifest.references {
            match present.contains(&reference.digest) {
                true => children.push(reference.digest),
                false => {
                    let size = declared.get(&reference.digest).copied().unwrap_or_default();
                    blobs.push((reference.digest, size));
                }
            }
        }
        Ok(Self {
            digest: stored.digest.clone(),
            size_bytes: stored.bytes.len() as u64,
            children,
            subject: manifest.subject.map(|subject| subject.digest),
            blobs,
        })
    }
}

/// Reads a manifest; `None` if it was deleted meanwhile.
pub(super) async fn read(
    core: &Core,
    name: &RepositoryName,
    digest: &Digest,
    present: &HashSet<&Digest>,
) -> Result<Option<ManifestContent>> {
    let key = keys::manifest(name, digest);
    let Some(record) = core.read::<ManifestRecord>(&key).await? else { return Ok(None) };
    let stored = verified(&key, digest, record.value)?;
    let content = ManifestContent::new(&stored, present).map_err(|error| {
        let reason = error.to_string();
        crate::Error::Damaged { key: key.to_string(), reason }
    })?;
    Ok(Some(content))
}

/// The fields of manifests that declare sizes.
#[derive(Default, Deserialize)]
#[serde(default)]
struct SizedFields {
    config: Option<SizedDescriptor>,
    layers: Option<Vec<SizedDescriptor>>,
    blobs: Option<Vec<SizedDescriptor>>,
    manifests: Option<Vec<SizedDescriptor>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct SizedDescriptor {
    digest: Option<Digest>,
    size: Option<u64>,
}

/// The sizes that the descriptors of a manifest declare. What has another form declares none.
fn declared_sizes(bytes: &[u8]) -> HashMap<Digest, u64> {
    let fields: SizedFields = serde_json::from_slice(bytes).unwrap_or_default();
    let lists = [fields.layers, fields.blobs, fields.manifests].into_iter().flatten().flatten();
    let descriptors = fields.config.into_iter().chain(lists);
    descriptors.filter_map(|descriptor| Some((descriptor.digest?, descriptor.size?))).collect()
}

/// Who references some content, of the tags that are removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ContentOwner {
    /// A tag that is not removed.
    Kept,
    /// Only this one, by its index.
    One(usize),
    /// Several that are removed.
    Several,
}

/// The content of a repository as a graph.
struct ContentGraph<'a> {
    manifests: HashMap<&'a Digest, &'a ManifestContent>,
    referrers: HashMap<&'a Digest, Vec<&'a Digest>>,
}

impl<'a> ContentGraph<'a> {
    fn new(manifests: &'a [ManifestContent]) -> Self {
        let mut referrers: HashMap<_, Vec<_>> = HashMap::new();
        for manifest in manifests {
            if let Some(subject) = &manifest.subject {
                referrers.entry(subject).or_default().push(&manifest.digest);
            }
        }
        let manifests = manifests.iter().map(|manifest| (&manifest.digest, manifest)).collect();
        Self { manifests, referrers }
    }

    /// Visits a manifest, and everything that goes with it: what it references, and its referrers. `enters` says
    /// whether to go on from some content of so many bytes.
    fn visit(&self, from: &'a Digest, mut enters: impl FnMut(&'a Digest, u64) -> bool) {
        let mut stack = vec![from];
        while let Some(digest) = stack.pop() {
            let Some(manifest) = self.manifests.get(digest) else { continue };
            if !enters(digest, manifest.size_bytes) {
                continue;
            }
            for (blob, size) in &manifest.blobs {
                enters(blob, *size);
            }
            stack.extend(&manifest.children);
            stack.extend(self.referrers.get(digest).into_iter().flatten());
        }
    }
}

/// The bytes of content that only one removed tag references, by its index; and that only removed tags
/// reference, together. Bytes are those of manifests and the sizes that they declare, each content once.
pub(super) fn only_bytes(
    tags: &[TagState],
    removed: &[bool],
    manifests: &[ManifestContent],
) -> (HashMap<usize, u64>, u64) {
    let graph = ContentGraph::new(manifests);
    let mut owners: HashMap<&Digest, (ContentOwner, u64)> = HashMap::new();
    let tagged = || tags.iter().zip(removed).enumerate();
    for (_, (tag, _)) in tagged().filter(|(_, (_, removed))| !**removed) {
        graph.visit(&tag.digest, |content, size| {
            owners.insert(content, (ContentOwner::Kept, size)).is_none()
        });
    }
    let removals = || tagged().filter(|(_, (_, removed))| **removed);
    for (index, (tag, _)) in removals() {
        let mut visited = HashSet::new();
        graph.visit(&tag.digest, |content, size| {
            if !visited.insert(content) {
                return false;
            }
            let (owner, _) = owners.entry(content).or_insert((ContentOwner::One(index), size));
            if *owner != ContentOwner::Kept && *owner != ContentOwner::One(index) {
                *owner = ContentOwner::Several;
            }
            *owner != ContentOwner::Kept
        });
    }
    let mut bytes: HashMap<usize, u64> = removals().map(|(index, _)| (index, 0)).collect();
    let mut together = 0;
    for (owner, size) in owners.into_values() {
        match owner {
            ContentOwner::Kept => {}
            ContentOwner::One(index) => {
                together += size;
                *bytes.entry(index).or_default() += size;
            }
            ContentOwner::Several => together += size,
        }
    }
    (bytes, together)
}
