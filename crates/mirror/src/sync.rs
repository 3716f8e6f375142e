//! [`Mirrors::sync`]: fetches images before clients ask for them.
//!
//! What is stored already costs a HEAD of its tag and nothing else, so a run that was interrupted goes on where it
//! was. An image is its manifest, its children of the chosen platforms, their blobs, its referrers, and the tags by
//! which older tools attach signatures.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::pin::pin;
use std::str::FromStr;
use std::time::Duration;

use futures::stream::{self, StreamExt, TryStreamExt};
use jreg_oci::{
    Descriptor, Digest, Manifest, Reference, ReferenceKind, RepositoryName, Tag, TagPattern,
    attached_tags,
};
use jreg_registry::{PageRequest, StoredManifest, TouchPolicy};
use jreg_storage::ByteRange;
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use crate::{MirrorError, MirrorRepository, MirroredBlob, Mirrors, RequestedMethod, VersionRange};

/// Maximum tags of a list page.
const PAGE_TAGS: usize = 1000;
/// Maximum pages of the tags of a repository.
const PAGES_MAX: usize = 1000;
/// How deep indexes and referrers of referrers are followed.
const DEPTH_MAX: usize = 4;
/// How long a blob whose last byte was read may take until the store has it.
const STORED_WAIT: Duration = Duration::from_secs(60);
const STORED_LOOK: Duration = Duration::from_millis(20);
const STORED_LOOK_MAX: Duration = Duration::from_secs(2);
/// The operating system of attestations in an index.
const UNKNOWN: &str = "unknown";

/// What is fetched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncRequest {
    pub selections: Vec<SyncSelection>,
    /// Empty: all.
    pub platforms: Vec<SyncPlatform>,
    /// Referrers and attached signatures, too.
    pub has_referrers: bool,
    /// The run ends when the registry allows no more requests than this.
    pub rate_limit_rest: u64,
    /// How many blobs of an image are fetched at the same time.
    pub jobs: usize,
    /// Nothing is fetched; only the tags are asked for.
    pub is_dry_run: bool,
}

/// What is fetched of a mirror regularly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MirrorSchedule {
    /// The namespace of the mirror.
    pub namespace: String,
    pub request: SyncRequest,
    pub interval: Duration,
}

/// Tags of a repository of a mirror: `NAME`, `NAME:PATTERN`, `NAME@RANGE` or `NAME:PATTERN@RANGE`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SyncSelection {
    /// The local name, below the prefix of a mirror.
    pub name: RepositoryName,
    /// Tags; without a pattern and a range, `latest`.
    pub pattern: Option<TagPattern>,
    pub versions: Option<VersionRange>,
}

/// Why a text selects nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be REPOSITORY[:TAGS][@VERSIONS], such as docker.io/library/nginx:*-alpine@>=1.25: {0}"
)]
pub struct InvalidSyncSelection(String);

impl SyncSelection {
    /// Whether a tag is selected. A range without a pattern leaves out tags with a suffix, such as `1.25-alpine`.
    pub fn matches(&self, tag: &Tag) -> bool {
        match (&self.pattern, &self.versions) {
            (Some(pattern), None) => pattern.matches(tag),
            (Some(pattern), Some(versions)) => pattern.matches(tag) && versions.matches(tag),
            (None, Some(versions)) => !tag.as_str().contains('-') && versions.matches(tag),
            (None, None) => tag.as_str() == "latest",
        }
    }

    /// The only tag that it can match.
    fn literal(&self) -> Option<Tag> {
        match (&self.pattern, &self.versions) {
            (None, None) => "latest".parse().ok(),
            (Some(pattern), None) => pattern.as_str().parse().ok(),
            (_, Some(_)) => None,
        }
    }
}

impl FromStr for SyncSelection {
    type Err = InvalidSyncSelection;

    fn from_str(text: &str) -> Result<Self, InvalidSyncSelection> {
        let wrong = |error: &dyn fmt::Display| InvalidSyncSelection(error.to_string());
        let (rest, versions) = match text.split_once('@') {
            Some((rest, versions)) => {
                (rest, Some(versions.parse().map_err(|error| wrong(&error))?))
            }
            None => (text, None),
        };
        let (name, pattern) = match rest.split_once(':') {
            Some((name, pattern)) => (name, Some(pattern.parse().map_err(|error| wrong(&error))?)),
            None => (rest, None),
        };
        Ok(Self { name: name.parse().map_err(|error| wrong(&error))?, pattern, versions })
    }
}

impl TryFrom<String> for SyncSelection {
    type Error = InvalidSyncSelection;

    fn try_from(text: String) -> Result<Self, InvalidSyncSelection> {
        text.parse()
    }
}

impl From<SyncSelection> for String {
    fn from(selection: SyncSelection) -> Self {
        selection.to_string()
    }
}

impl fmt::Display for SyncSelection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name.as_str())?;
        if let Some(pattern) = &self.pattern {
            write!(f, ":{}", pattern.as_str())?;
        }
        match &self.versions {
            Some(versions) => write!(f, "@{versions}"),
            None => Ok(()),
        }
    }
}

/// A platform: `OS/ARCHITECTURE[/VARIANT]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SyncPlatform {
    os: String,
    architecture: String,
    /// `None`: any.
    variant: Option<String>,
}

/// Why a text is no platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be OS/ARCHITECTURE or OS/ARCHITECTURE/VARIANT, such as linux/amd64")]
pub struct InvalidSyncPlatform;

impl FromStr for SyncPlatform {
    type Err = InvalidSyncPlatform;

    fn from_str(text: &str) -> Result<Self, InvalidSyncPlatform> {
        let is_word = |word: &&str| {
            let is_allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
            !word.is_empty() && word.bytes().all(is_allowed)
        };
        let words: Vec<&str> = text.split('/').collect();
        let (os, architecture, variant) = match words.as_slice() {
            [os, architecture] => (os, architecture, None),
            [os, architecture, variant] => (os, architecture, Some((*variant).to_owned())),
            _ => return Err(InvalidSyncPlatform),
        };
        match words.iter().all(is_word) {
            true => {
                Ok(Self { os: (*os).to_owned(), architecture: (*architecture).to_owned(), variant })
            }
            false => Err(InvalidSyncPlatform),
        }
    }
}

impl TryFrom<String> for SyncPlatform {
    type Error = InvalidSyncPlatform;

    fn try_from(text: String) -> Result<Self, InvalidSyncPlatform> {
        text.parse()
    }
}

impl From<SyncPlatform> for String {
    fn from(platform: SyncPlatform) -> Self {
        let SyncPlatform { os, architecture, variant } = platform;
        match variant {
            Some(variant) => format!("{os}/{architecture}/{variant}"),
            None => format!("{os}/{architecture}"),
        }
    }
}

impl SyncPlatform {
    fn is_of(&self, descriptor: &Descriptor) -> bool {
        let Some(platform) = &descriptor.platform else { return true };
        let is = |field: &str, wanted: &str| platform[field].as_str() == Some(wanted);
        is("os", &self.os)
            && is("architecture", &self.architecture)
            && self.variant.as_ref().is_none_or(|variant| is("variant", variant))
    }
}

/// What a run tells as it goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncItem {
    pub name: RepositoryName,
    /// A tag, or `None` for what is about the repository.
    pub tag: Option<Tag>,
    pub outcome: SyncOutcome,
}

/// What happened to a tag.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "outcome")]
pub enum SyncOutcome {
    /// Something of it was fetched.
    Fetched {
        manifests: u64,
        blobs: u64,
        bytes: u64,
    },
    /// All of it was stored.
    Present,
    /// A dry run: the tag is at this manifest.
    Selected {
        digest: Digest,
    },
    Failed {
        error: String,
    },
}

/// What a run did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncReport {
    pub tags: u64,
    pub manifests_fetched: u64,
    pub blobs_fetched: u64,
    pub bytes_fetched: u64,
    pub failed: u64,
    /// It ended because the registry allows few more requests: a later run goes on.
    pub is_limited: bool,
}

/// Is told of each tag.
pub trait SyncObserver: Send + Sync {
    fn note(&self, item: SyncItem);
}

#[derive(Clone, Copy, Debug, Default)]
struct Fetched {
    manifests: u64,
    blobs: u64,
    bytes: u64,
}

impl Mirrors {
    /// The schedules of the mirrors that have one.
    pub fn schedules(&self) -> Vec<MirrorSchedule> {
        let schedule = |registry: &crate::service::MirroredRegistry| {
            let (request, interval) = registry.options.sync.clone()?;
            let namespace = registry.options.name.namespace.clone();
            Some(MirrorSchedule { namespace, request, interval })
        };
        self.registries().iter().filter_map(schedule).collect()
    }

    /// Fetches what is selected and is not stored.
    pub async fn sync(&self, request: &SyncRequest, observer: &dyn SyncObserver) -> SyncReport {
        let mut run = SyncRun { request, observer, report: SyncReport::default() };
        let mut by_mirror: BTreeMap<String, SyncReport> = BTreeMap::new();
        for selection in &request.selections {
            match self.repository(&selection.name) {
                Some(repository) => {
                    let before = run.report;
                    run.repository(&repository, selection).await;
                    let namespace = repository.namespace().to_owned();
                    by_mirror.entry(namespace).or_default().add(&run.report.since(&before));
                }
                None => {
                    let error = "it is not below the prefix of a mirror".to_owned();
                    run.note(&selection.name, None, SyncOutcome::Failed { error });
                }
            }
            if run.report.is_limited {
                break;
            }
        }
        for (namespace, report) in by_mirror.into_iter().filter(|_| !request.is_dry_run) {
            self.shared().runs.note_sync(&namespace, report);
        }
        run.report
    }
}

impl SyncReport {
    /// What was done after `before`.
    fn since(&self, before: &Self) -> Self {
        Self {
            tags: self.tags - before.tags,
            manifests_fetched: self.manifests_fetched - before.manifests_fetched,
            blobs_fetched: self.blobs_fetched - before.blobs_fetched,
            bytes_fetched: self.bytes_fetched - before.bytes_fetched,
            failed: self.failed - before.failed,
            is_limited: self.is_limited,
        }
    }

    fn add(&mut self, other: &Self) {
        self.tags += other.tags;
        self.manifests_fetched += other.manifests_fetched;
        self.blobs_fetched += other.blobs_fetched;
        self.bytes_fetched += other.bytes_fetched;
        self.failed += other.failed;
        self.is_limited |= other.is_limited;
    }
}

struct SyncRun<'a> {
    request: &'a SyncRequest,
    observer: &'a dyn SyncObserver,
    report: SyncReport,
}

impl SyncRun<'_> {
    fn note(&mut self, name: &RepositoryName, tag: Option<&Tag>, outcome: SyncOutcome) {
        match &outcome {
            SyncOutcome::Failed { .. } => self.report.failed += 1,
            SyncOutcome::Fetched { manifests, blobs, bytes } => {
                self.report.manifests_fetched += manifests;
                self.report.blobs_fetched += blobs;
                self.report.bytes_fetched += bytes;
            }
            SyncOutcome::Present | SyncOutcome::Selected { .. } => {}
        }
        self.report.tags += u64::from(tag.is_some());
        self.observer.note(SyncItem { name: name.clone(), tag: tag.cloned(), outcome });
    }

    async fn repository(&mut self, repository: &MirrorRepository, selection: &SyncSelection) {
        let literal = selection.literal();
        let is_list_needed =
            literal.is_none() || (self.request.has_referrers && !self.request.is_dry_run);
        let listed = match is_list_needed {
            true => all_tags(repository).await,
            false => Ok(Vec::new()),
        };
        let listed = match (listed, &literal) {
            (Ok(listed), _) => listed,
            // Not every registry lists its tags.
            (Err(_), Some(_)) => Vec::new(),
            (Err(error), None) => {
                let error = format!("its tags cannot be listed: {error}");
                return self.note(&selection.name, None, SyncOutcome::Failed { error });
            }
        };
        let selected = match literal {
            Some(tag) => vec![tag],
            None => listed.iter().filter(|tag| selection.matches(tag)).cloned().collect(),
        };
        let attached: HashSet<&str> = listed.iter().map(Tag::as_str).collect();
        for tag in selected {
            if self.is_limited(repository) {
                self.report.is_limited = true;
                return;
            }
            let outcome = self.tag(repository, &tag, &attached).await;
            let outcome =
                outcome.unwrap_or_else(|error| SyncOutcome::Failed { error: error.to_string() });
            self.note(&selection.name, Some(&tag), outcome);
        }
    }

    fn is_limited(&self, repository: &MirrorRepository) -> bool {
        let limit = repository.registry.client.rate_limit();
        let remaining = limit.and_then(|limit| limit.remaining);
        remaining.is_some_and(|remaining| remaining <= self.request.rate_limit_rest)
    }

    async fn tag(
        &self,
        repository: &MirrorRepository,
        tag: &Tag,
        attached: &HashSet<&str>,
    ) -> Result<SyncOutcome, MirrorError> {
        let reference = Reference::Tag(tag.clone());
        if self.request.is_dry_run {
            return selected(repository, &reference).await;
        }
        let mut fetched = Fetched::default();
        let (mut seen, mut left) = (HashSet::new(), vec![(reference, 0)]);
        while let Some((reference, depth)) = left.pop() {
            let (manifest, is_new) = match self.manifest(repository, &reference).await {
                Err(MirrorError::ManifestUnknown { .. }) if depth > 0 => {
                    let (count, bytes) = fetch_entry(repository, &reference).await?;
                    (fetched.blobs, fetched.bytes) = (fetched.blobs + count, fetched.bytes + bytes);
                    continue;
                }
                found => found?,
            };
            if !seen.insert(manifest.digest.clone()) {
                continue;
            }
            fetched.manifests += u64::from(is_new);
            let (children, blobs) = self.parts(&manifest);
            let (count, bytes) = fetch_blobs(repository, blobs, self.request.jobs).await?;
            (fetched.blobs, fetched.bytes) = (fetched.blobs + count, fetched.bytes + bytes);
            if depth >= DEPTH_MAX {
                continue;
            }
            left.extend(children.into_iter().map(|child| (Reference::Digest(child), depth + 1)));
            if self.request.has_referrers {
                let found = repository.referrers(&manifest.digest, true).await?;
                let found =
                    found.descriptors.iter().map(|found| Reference::Digest(found.digest.clone()));
                left.extend(found.map(|found| (found, depth + 1)));
                let tags = attached_tags(&manifest.digest);
                let tags = tags.filter(|tag| attached.contains(tag.as_str()));
                left.extend(tags.map(|tag| (Reference::Tag(tag), DEPTH_MAX)));
            }
        }
        Ok(match fetched {
            Fetched { manifests: 0, blobs: 0, .. } => SyncOutcome::Present,
            Fetched { manifests, blobs, bytes } => SyncOutcome::Fetched { manifests, blobs, bytes },
        })
    }

    /// A manifest, and whether it was not stored.
    async fn manifest(
        &self,
        repository: &MirrorRepository,
        reference: &Reference,
    ) -> Result<(std::sync::Arc<StoredManifest>, bool), MirrorError> {
        let before = stored(repository, reference).await?;
        let found = repository.manifest(reference, RequestedMethod::Get, true).await?;
        let absent = || MirrorError::ManifestUnknown {
            name: repository.name().clone(),
            reference: reference.clone(),
        };
        let manifest = found.manifest.ok_or_else(absent)?;
        let is_new = before.as_ref() != Some(&manifest.digest);
        Ok((manifest, is_new))
    }

    /// The manifests and the blobs that a manifest references, of the chosen platforms.
    fn parts(&self, manifest: &StoredManifest) -> (Vec<Digest>, Vec<Digest>) {
        let Ok(parsed) = Manifest::parse_stored(&manifest.media_type, &manifest.bytes) else {
            return (Vec::new(), Vec::new());
        };
        let of_kind = |wanted: fn(ReferenceKind) -> bool| {
            let references =
                parsed.references.iter().filter(move |it| it.required && wanted(it.kind));
            references.map(|reference| reference.digest.clone())
        };
        let blobs =
            of_kind(|kind| matches!(kind, ReferenceKind::Config | ReferenceKind::Layer)).collect();
        let left_out = self.left_out(&manifest.bytes);
        let children = of_kind(|kind| kind == ReferenceKind::Child);
        (children.filter(|child| !left_out.contains(child)).collect(), blobs)
    }

    /// The entries of an index that are of other platforms, with their attestations.
    fn left_out(&self, bytes: &[u8]) -> HashSet<Digest> {
        #[derive(Deserialize)]
        struct Index {
            #[serde(default)]
            manifests: Vec<Descriptor>,
        }
        let platforms = &self.request.platforms;
        let index: Option<Index> = serde_json::from_slice(bytes).ok();
        let Some(index) = index.filter(|_| !platforms.is_empty()) else { return HashSet::new() };
        let is_attestation = |entry: &Descriptor| {
            entry.platform.as_ref().is_some_and(|platform| platform["os"].as_str() == Some(UNKNOWN))
        };
        let is_wanted = |entry: &Descriptor| platforms.iter().any(|platform| platform.is_of(entry));
        let others =
            index.manifests.iter().filter(|entry| !is_attestation(entry) && !is_wanted(entry));
        let mut left_out: HashSet<Digest> = others.map(|entry| entry.digest.clone()).collect();
        let subject = |entry: &Descriptor| -> Option<Digest> {
            entry.annotations.to_map()?.get("vnd.docker.reference.digest")?.parse().ok()
        };
        let theirs = index.manifests.iter().filter(|entry| is_attestation(entry));
        let theirs = theirs.filter(|entry| subject(entry).is_some_and(|of| left_out.contains(&of)));
        let theirs: Vec<_> = theirs.map(|entry| entry.digest.clone()).collect();
        left_out.extend(theirs);
        left_out
    }
}

/// What a tag points to in the mirrored registry. A HEAD through the mirror would fetch the manifest.
async fn selected(
    repository: &MirrorRepository,
    reference: &Reference,
) -> Result<SyncOutcome, MirrorError> {
    if !repository.is_allowed() {
        return Err(MirrorError::NameUnknown { name: repository.name().clone() });
    }
    let head = repository.registry.client.head_manifest(&repository.upstream, reference).await;
    match head {
        Ok(head) => Ok(SyncOutcome::Selected { digest: head.digest }),
        Err(error) => Err(MirrorError::Unavailable { error: error.to_string() }),
    }
}

/// The digest of what is stored of a reference.
async fn stored(
    repository: &MirrorRepository,
    reference: &Reference,
) -> Result<Option<Digest>, MirrorError> {
    let digest = match reference {
        Reference::Digest(digest) => Some(digest.clone()),
        Reference::Tag(tag) => {
            repository.repository.mirror_tag(tag).await?.tag.map(|tag| tag.digest)
        }
    };
    let Some(digest) = digest else { return Ok(None) };
    let reference = Reference::Digest(digest.clone());
    let is_stored =
        repository.repository.manifest_get(&reference, TouchPolicy::Never).await.is_ok();
    Ok(is_stored.then_some(digest))
}

async fn all_tags(repository: &MirrorRepository) -> Result<Vec<Tag>, MirrorError> {
    let mut page = PageRequest { limit: PAGE_TAGS, last: None };
    let mut tags = Vec::new();
    for _ in 0..PAGES_MAX {
        let found = repository.tags(&page, true).await?;
        if let Some(warning) = found.warning {
            return Err(MirrorError::Unavailable { error: warning.to_owned() });
        }
        tags.extend(found.tags);
        match found.next {
            Some(next) => page.last = Some(next),
            None => break,
        }
    }
    Ok(tags)
}

/// Fetches those that are not stored. Returns how many these were, and their bytes.
async fn fetch_blobs(
    repository: &MirrorRepository,
    blobs: Vec<Digest>,
    jobs: usize,
) -> Result<(u64, u64), MirrorError> {
    let fetching = stream::iter(blobs).map(|digest| fetch_blob(repository, digest));
    let sizes: Vec<Option<u64>> = fetching.buffer_unordered(jobs.max(1)).try_collect().await?;
    let fetched = sizes.into_iter().flatten();
    Ok(fetched.fold((0, 0), |(count, bytes), size| (count + 1, bytes + size)))
}

/// Fetches an entry of an index that is no manifest: build caches list layers there, and some entries are not in the
/// registry at all.
async fn fetch_entry(
    repository: &MirrorRepository,
    reference: &Reference,
) -> Result<(u64, u64), MirrorError> {
    let Some(digest) = reference.digest() else { return Ok((0, 0)) };
    match fetch_blob(repository, digest.clone()).await {
        Ok(fetched) => Ok(fetched.map_or((0, 0), |bytes| (1, bytes))),
        Err(MirrorError::BlobUnknown { .. }) => Ok((0, 0)),
        Err(error) => Err(error),
    }
}

/// Fetches a blob; `None` if it was stored.
async fn fetch_blob(
    repository: &MirrorRepository,
    digest: Digest,
) -> Result<Option<u64>, MirrorError> {
    let blob = match repository.blob_open(&digest, true).await? {
        MirroredBlob::Stored(_) => return Ok(None),
        MirroredBlob::Streamed(blob) => blob,
    };
    let size_bytes = blob.size_bytes();
    let mut bytes = pin!(blob.read(ByteRange { start: 0, end: size_bytes }).await?);
    while let Some(chunk) = bytes.next().await {
        chunk?;
    }
    let stored = async {
        let mut pause = STORED_LOOK;
        while repository.repository.blob_stat(&digest, TouchPolicy::Never).await.is_err() {
            sleep(pause).await;
            pause = (pause * 2).min(STORED_LOOK_MAX);
        }
    };
    match tokio::time::timeout(STORED_WAIT, stored).await {
        Ok(()) => Ok(Some(size_bytes)),
        Err(_) => {
            Err(MirrorError::Unavailable { error: format!("{digest} was fetched, but not stored") })
        }
    }
}
