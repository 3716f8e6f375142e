//! Eviction: which manifests of a mirror go, because they are not pulled any more or because there is no room.
//!
//! The unit is the manifest, as old as the last pull of it (`pulls.rs`), the last check of a tag that points to it, or
//! the same of an index that lists it. What is not known of pulls counts as pulled: until these times have been tracked
//! for `keep`, nothing goes for its age alone. Blobs that no manifest references any more go with GC.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, SystemTime};

use futures::stream::{self, StreamExt, TryStreamExt};
use jreg_oci::{Digest, Manifest, ReferenceKind, RepositoryName};

use crate::core::Core;
use crate::keys::{self, ParsedKey};
use crate::manifest_read::verified;
use crate::mirror::MirrorTagRecord;
use crate::pulls::PullTimes;
use crate::record::{Link, ManifestRecord};
use crate::{Error, Registry, Result};

/// What stays of a mirror.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvictionOptions {
    /// Its repositories are below this.
    pub prefix: RepositoryName,
    /// How long a manifest stays since its last use.
    pub keep: Option<Duration>,
    /// How many bytes of manifests and their blobs stay.
    pub bytes_max: Option<u64>,
}

/// What a run has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EvictionReport {
    /// Manifests of the mirror.
    pub manifests: u64,
    /// Those that were removed.
    pub evicted: u64,
    /// Bytes that stay, and those that go with GC, each blob of a repository once.
    pub kept_bytes: u64,
    pub evicted_bytes: u64,
}

type ContentName = (RepositoryName, Digest);

/// A manifest, and when it was last used.
#[derive(Clone, Debug)]
struct UsedManifest {
    name: RepositoryName,
    digest: Digest,
    last_used: SystemTime,
    size_bytes: u64,
    children: Vec<Digest>,
    blobs: Vec<Digest>,
}

impl Registry {
    /// Evicts what the options do not keep.
    ///
    /// # Errors
    ///
    /// [`Error::Store`].
    pub async fn evict(&self, options: &EvictionOptions) -> Result<EvictionReport> {
        let core = self.core();
        core.check_required().await?;
        let (mut used, now) = core.used_manifests(&options.prefix).await?;
        let known_since = core.add_pulls(&mut used).await?.unwrap_or(now);
        let mut report =
            EvictionReport { manifests: used.len() as u64, ..EvictionReport::default() };
        pass_uses_on(&mut used);
        used.sort_by_key(|manifest| std::cmp::Reverse(manifest.last_used));
        let mut counted: BTreeSet<ContentName> = BTreeSet::new();
        for manifest in used {
            let bytes = match options.bytes_max {
                None => 0,
                Some(_) => core.own_bytes(&manifest, &mut counted).await?,
            };
            let age = now.duration_since(manifest.last_used.max(known_since)).unwrap_or_default();
            let is_unused = options.keep.is_some_and(|keep| age > keep);
            let is_too_much =
                options.bytes_max.is_some_and(|max| report.kept_bytes.saturating_add(bytes) > max);
            if !is_unused && !is_too_much {
                report.kept_bytes += bytes;
                continue;
            }
            let UsedManifest { name, digest, .. } = manifest;
            match self.repository(name).evict_manifest(&digest).await {
                Ok(()) => {
                    report.evicted += 1;
                    report.evicted_bytes += bytes;
                }
                Err(Error::ManifestUnknown { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(report)
    }
}

/// A manifest was used whenever an index was that lists it.
fn pass_uses_on(used: &mut [UsedManifest]) {
    let mut places: HashMap<ContentName, usize> = HashMap::new();
    for (place, manifest) in used.iter().enumerate() {
        places.insert((manifest.name.clone(), manifest.digest.clone()), place);
    }
    // Indexes of indexes are rare, and deeper ones are used by themselves.
    for _ in 0..2 {
        for place in 0..used.len() {
            let (name, last_used) = (used[place].name.clone(), used[place].last_used);
            for child in used[place].children.clone() {
                if let Some(child) = places.get(&(name.clone(), child)) {
                    used[*child].last_used = used[*child].last_used.max(last_used);
                }
            }
        }
    }
}

impl Core {
    /// The manifests below a prefix that come from a mirrored registry, and the time of the store.
    async fn used_manifests(
        &self,
        prefix: &RepositoryName,
    ) -> Result<(Vec<UsedManifest>, SystemTime)> {
        let mut used = Vec::new();
        let mut now = SystemTime::UNIX_EPOCH;
        let mut pages = self.list_pages(format!("{}{prefix}/", keys::REPOSITORIES));
        while let Some(page) = pages.next().await? {
            now = now.max(page.date);
            let found =
                page.entries.iter().filter_map(|entry| match ParsedKey::parse(&entry.key) {
                    Some(ParsedKey::Manifest(name, digest)) => {
                        Some((name, digest, entry.last_modified))
                    }
                    _ => None,
                });
            let reads = found.map(|(name, digest, written)| self.used(name, digest, written));
            let reads: Vec<_> = reads.collect();
            let reads = stream::iter(reads).buffered(self.reads_in_flight_max());
            let read: Vec<_> = reads.try_collect().await?;
            used.extend(read.into_iter().flatten());
        }
        let tags = self.tag_uses(prefix).await?;
        for manifest in &mut used {
            let key = (manifest.name.clone(), manifest.digest.clone());
            if let Some(checked) = tags.get(&key) {
                manifest.last_used = manifest.last_used.max(*checked);
            }
        }
        Ok((used, now))
    }

    /// Adds when each manifest was pulled last. Returns since when no pull was missed, if that is known.
    async fn add_pulls(&self, used: &mut [UsedManifest]) -> Result<Option<SystemTime>> {
        let times = PullTimes::open(self).await?;
        let mut known_since = None;
        // They were listed by repository.
        for of_one in used.chunk_by_mut(|one, other| one.name == other.name) {
            let Some(name) = of_one.first().map(|manifest| manifest.name.clone()) else { continue };
            let digests: Vec<Digest> = of_one.iter().map(|it| it.digest.clone()).collect();
            let last = times.of_digests(&name, &digests.iter().collect::<Vec<_>>()).await?;
            for (manifest, pulled) in of_one.iter_mut().zip(last.times) {
                manifest.last_used =
                    pulled.map_or(manifest.last_used, |at| at.max(manifest.last_used));
            }
            // What was found to be damaged on the way stays so.
            known_since = last.since;
        }
        Ok(known_since)
    }

    /// `None`: it is gone, a client has pushed it, or it cannot be read.
    async fn used(
        &self,
        name: RepositoryName,
        digest: Digest,
        last_used: SystemTime,
    ) -> Result<Option<UsedManifest>> {
        let key = keys::manifest(&name, &digest);
        let read = match self.read::<ManifestRecord>(&key).await {
            Ok(Some(read)) if read.value.header.is_mirrored() => read.value,
            Ok(_) | Err(Error::Damaged { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let size_bytes = read.header.size;
        let Ok(stored) = verified(&key, &digest, read) else { return Ok(None) };
        let Ok(parsed) = Manifest::parse_stored(&stored.media_type, &stored.bytes) else {
            return Ok(None);
        };
        let (mut children, mut blobs) = (Vec::new(), Vec::new());
        for reference in parsed.references {
            match reference.kind {
                ReferenceKind::Child => children.push(reference.digest),
                _ => blobs.push(reference.digest),
            }
        }
        Ok(Some(UsedManifest { name, digest, last_used, size_bytes, children, blobs }))
    }

    /// When tags were last checked, by what they point to.
    async fn tag_uses(&self, prefix: &RepositoryName) -> Result<HashMap<ContentName, SystemTime>> {
        let mut uses: HashMap<ContentName, SystemTime> = HashMap::new();
        let mut pages = self.list_pages(keys::mirrors_below(prefix));
        while let Some(page) = pages.next().await? {
            let tags = page.entries.iter().filter_map(|entry| match ParsedKey::parse(&entry.key) {
                Some(ParsedKey::MirrorTag(name, _)) => Some((entry.key.clone(), name)),
                _ => None,
            });
            let reads = tags.map(|(key, name)| async move {
                match self.read::<MirrorTagRecord>(&key).await {
                    Ok(read) => {
                        Ok(read.map(|read| ((name, read.value.digest), read.last_modified)))
                    }
                    Err(Error::Damaged { .. }) => Ok(None),
                    Err(error) => Err(error),
                }
            });
            let reads: Vec<_> = reads.collect();
            let reads = stream::iter(reads).buffered(self.reads_in_flight_max());
            let read: Vec<_> = reads.try_collect().await?;
            for (content, checked) in read.into_iter().flatten() {
                let latest = uses.entry(content).or_insert(checked);
                *latest = (*latest).max(checked);
            }
        }
        Ok(uses)
    }

    /// The bytes of a manifest, and of its blobs that are stored and not counted yet.
    async fn own_bytes(
        &self,
        manifest: &UsedManifest,
        counted: &mut BTreeSet<ContentName>,
    ) -> Result<u64> {
        let mut bytes = manifest.size_bytes;
        for blob in &manifest.blobs {
            if !counted.insert((manifest.name.clone(), blob.clone())) {
                continue;
            }
            match self.read::<Link>(&keys::link(blob, &manifest.name)).await {
                Ok(link) => {
                    let location = link.and_then(|link| link.value.live().cloned());
                    bytes += location.map_or(0, |location| location.size_bytes);
                }
                Err(Error::Damaged { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(bytes)
    }
}
