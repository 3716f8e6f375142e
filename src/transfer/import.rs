//! `jreg import`: images of a source become content of the registry, by the registry's own rules.
//!
//! Each image is pushed as a client would: its blobs, its manifests (children first), what refers to it, then its
//! tags. So an import that was interrupted leaves no tag without its image, and is continued by running it
//! again: what the registry has is not copied. Content that is only looked at is touched, as by a push, so
//! that garbage collection beside the import never takes it away.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{self, StreamExt, TryStreamExt};
use jreg_archive::{FoundManifest, ImageSource, SkippedItem, SourceBlob, SourceImage, SourcePlace};
use jreg_oci::{Digest, Manifest, MediaType, Reference, ReferenceKind, RepositoryName, Tag};
use jreg_registry::SourceTrust;
use jreg_storage::CopySource;

use super::access::{OpenBlob, PlacedBlob, RegistryAccess, RegistryManifest, TransferError};
use super::landing::BlobLanding;
use super::progress::{ItemStatus, MoveProgress, MoveSummary, MovedItem};

/// How many blobs of one image are copied at the same time.
const BLOBS_AT_ONCE: usize = 3;
/// How deep manifests may refer to each other.
const DEPTH_MAX: usize = 16;
/// How often an image is begun anew because something that it relies on went missing meanwhile, and a blob
/// because the registry was busy.
const ATTEMPTS_MAX: u32 = 3;
/// How long the second attempt waits.
const RETRY_WAIT: Duration = Duration::from_millis(500);

const HARD_LINK_NOTE: &str = "files of the source become files of the registry: do not let another program change \
     them, and retire the source";

/// What to import, and how.
#[derive(Clone, Debug)]
pub struct ImportOptions {
    /// Goes before the names of the source, or names an image that has none.
    pub into: Option<RepositoryName>,
    /// Write nothing.
    pub dry_run: bool,
    /// How many images are copied at the same time.
    pub jobs: usize,
    /// A file of the source may become one of the registry by another name (hard link).
    pub hard_link: bool,
    /// Whether blobs are hashed that the storage shares or copies by itself.
    pub trust: SourceTrust,
    pub json: bool,
}

/// Why an image was not imported.
#[derive(Debug)]
enum ItemError {
    Skipped(String),
    Failed(TransferError),
}

impl<E: Into<TransferError>> From<E> for ItemError {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

fn failed<T>(why: impl Into<String>) -> Result<T, ItemError> {
    Err(ItemError::Failed(TransferError::Content(why.into())))
}

/// A repository of the registry, with the one of the source that it is filled from.
#[derive(Clone, Copy)]
struct RepositoryPair<'a> {
    from: Option<&'a RepositoryName>,
    to: &'a RepositoryName,
}

/// An import.
#[derive(Debug)]
pub struct Importer {
    source: Box<dyn ImageSource>,
    target: Arc<dyn RegistryAccess>,
    options: ImportOptions,
    progress: Arc<MoveProgress>,
    /// Manifests that were copied or found in this run.
    done: Mutex<HashSet<(RepositoryName, Digest)>>,
    /// One request at a time copies a blob: others find it there.
    turns: Mutex<HashMap<Digest, Arc<tokio::sync::Mutex<()>>>>,
    /// Blobs that the registry has from an archive that was read once.
    landing: Option<Arc<BlobLanding>>,
    /// What tags pointed to before.
    earlier: OnceLock<BTreeMap<(RepositoryName, Tag), BTreeSet<Digest>>>,
}

/// Bytes that came to the registry for one image.
#[derive(Debug, Default)]
struct ImageBytes {
    written: AtomicU64,
    shared: AtomicU64,
}

impl Importer {
    pub fn new(
        source: Box<dyn ImageSource>,
        target: Arc<dyn RegistryAccess>,
        options: ImportOptions,
        progress: Arc<MoveProgress>,
    ) -> Self {
        let (done, turns) = (Mutex::default(), Mutex::default());
        let (landing, earlier) = (None, OnceLock::new());
        Self { source, target, options, progress, done, turns, landing, earlier }
    }

    /// The same, of an archive whose blobs are in the registry.
    pub(super) fn with_landing(self, landing: Arc<BlobLanding>) -> Self {
        Self { landing: Some(landing), ..self }
    }

    /// Imports everything that the source lists.
    ///
    /// # Errors
    ///
    /// The source cannot be listed. What fails of single images is counted.
    pub async fn run(&self) -> Result<MoveSummary, TransferError> {
        let index = self.source.index().await?;
        if self.options.hard_link {
            self.progress.note(HARD_LINK_NOTE);
        }
        self.earlier.set(index.earlier).ok();
        for note in &index.notes {
            self.progress.note(note);
        }
        self.progress.set_total(index.images.len());
        for SkippedItem { item, reason } in index.skipped {
            let (status, reason) = (ItemStatus::Skipped, Some(reason));
            let (bytes, shared_bytes) = (0, 0);
            let digest = None;
            self.progress.item(&MovedItem { status, item, digest, bytes, shared_bytes, reason });
        }
        let images = index.images.into_iter().map(|image| self.import_image(image));
        stream::iter(images).buffer_unordered(self.options.jobs.max(1)).collect::<()>().await;
        Ok(self.progress.finish())
    }

    /// The repository that an image comes to.
    fn target_name(&self, image: &SourceImage) -> Result<RepositoryName, ItemError> {
        match (&self.options.into, &image.repository) {
            (None, Some(name)) => Ok(name.clone()),
            (Some(into), None) => Ok(into.clone()),
            (Some(prefix), Some(name)) => match format!("{prefix}/{name}").parse() {
                Ok(name) => Ok(name),
                Err(error) => failed(format!("{error}")),
            },
            (None, None) => {
                failed("the source does not name its images: give a repository with --into")
            }
        }
    }

    /// Imports one image, and prints its lines.
    async fn import_image(&self, image: SourceImage) {
        let bytes = ImageBytes::default();
        let (name, result) = match self.target_name(&image) {
            Ok(name) => {
                let result = self.copy_again(&image, &name, &bytes).await;
                (Some(name), result)
            }
            Err(error) => (None, Err(error)),
        };
        self.print(&image, name.as_ref(), result, bytes);
        self.progress.advance();
    }

    fn print(
        &self,
        image: &SourceImage,
        name: Option<&RepositoryName>,
        result: Result<bool, ItemError>,
        bytes: ImageBytes,
    ) {
        let ImageBytes { written, shared } = bytes;
        let (mut bytes, mut shared_bytes) = (written.into_inner(), shared.into_inner());
        let name = name.or(image.repository.as_ref()).map_or("?", RepositoryName::as_str);
        let (status, reason) = match result {
            Ok(true) => (ItemStatus::Copied, None),
            // A child of an image that has its own line.
            Ok(false) if image.tags.is_empty() && bytes == 0 => return,
            Ok(false) => (ItemStatus::Present, None),
            Err(ItemError::Skipped(reason)) => (ItemStatus::Skipped, Some(reason)),
            Err(ItemError::Failed(error)) => {
                (ItemStatus::Error, Some(jreg_storage::error_chain(&error)))
            }
        };
        let items = match image.tags.is_empty() {
            true => vec![format!("{name}@{}", image.digest)],
            false => image.tags.iter().map(|tag| format!("{name}:{tag}")).collect(),
        };
        for item in items {
            let (digest, reason) = (Some(image.digest.clone()), reason.clone());
            self.progress.item(&MovedItem { status, item, digest, bytes, shared_bytes, reason });
            (bytes, shared_bytes) = (0, 0);
        }
    }

    /// Copies an image; again if something that it relies on went missing meanwhile. `false`: it was there.
    async fn copy_again(
        &self,
        image: &SourceImage,
        name: &RepositoryName,
        bytes: &ImageBytes,
    ) -> Result<bool, ItemError> {
        let pair = RepositoryPair { from: image.repository.as_ref(), to: name };
        let mut attempt = 0;
        loop {
            attempt += 1;
            let root = RootManifest { pair, media_type: image.media_type.as_ref(), bytes };
            match self.copy_root(root, &image.digest, &image.tags).await {
                Err(ItemError::Failed(TransferError::MissingReferences(_)))
                    if attempt < ATTEMPTS_MAX =>
                {
                    self.done.lock().unwrap_or_else(PoisonError::into_inner).clear();
                }
                result => return result,
            }
        }
    }

    async fn copy_root(
        &self,
        root: RootManifest<'_>,
        digest: &Digest,
        tags: &[Tag],
    ) -> Result<bool, ItemError> {
        let mut copied = self.copy_manifest(root, digest, 0).await?;
        let mut missing = Vec::new();
        for tag in tags {
            let reference = Reference::Tag(tag.clone());
            let there = self.target.manifest(root.pair.to, &reference).await?;
            if there.is_none() {
                self.copy_earlier(root, digest, tag).await?;
            }
            if there.is_none_or(|there| there.digest != *digest) {
                missing.push(tag.clone());
            }
        }
        if !missing.is_empty() {
            copied = true;
            if !self.options.dry_run {
                let manifest = self.read_manifest(root, digest).await?;
                let (manifest, _) = manifest.ok_or_else(|| absent(digest))?;
                self.target.push_manifest(root.pair.to, manifest, missing).await?;
            }
        }
        Ok(copied)
    }

    /// Copies what a tag pointed to before, so that it can be moved back.
    async fn copy_earlier(
        &self,
        root: RootManifest<'_>,
        digest: &Digest,
        tag: &Tag,
    ) -> Result<(), ItemError> {
        let earlier = root
            .pair
            .from
            .zip(self.earlier.get())
            .and_then(|(from, earlier)| earlier.get(&(from.clone(), tag.clone())));
        for old in earlier.into_iter().flatten().filter(|old| *old != digest) {
            let root = RootManifest { media_type: None, ..root };
            match self.copy_manifest(root, old, 0).await {
                Ok(_) => {}
                // It was deleted there.
                Err(ItemError::Skipped(_)) => continue,
                Err(error) => return Err(error),
            }
            if let (false, Some((manifest, _))) =
                (self.options.dry_run, self.read_manifest(root, old).await?)
            {
                self.target.push_manifest(root.pair.to, manifest, vec![tag.clone()]).await?;
            }
        }
        Ok(())
    }

    /// Copies a manifest with everything that it references, and then what refers to it. `false`: all of
    /// it was there.
    fn copy_manifest<'a>(
        &'a self,
        root: RootManifest<'a>,
        digest: &'a Digest,
        depth: usize,
    ) -> BoxFuture<'a, Result<bool, ItemError>> {
        Box::pin(async move {
            let key = (root.pair.to.clone(), digest.clone());
            if self.done.lock().unwrap_or_else(PoisonError::into_inner).contains(&key) {
                return Ok(false);
            }
            if depth > DEPTH_MAX {
                return failed(format!("manifests refer to each other more than {DEPTH_MAX} deep"));
            }
            let read = self.read_manifest(root, digest).await?;
            let (manifest, parsed) = read.ok_or_else(|| absent(digest))?;
            let mut copied = self.copy_references(root, &parsed, depth).await?;
            copied |= self.push_if_absent(root, manifest, &parsed).await?;
            self.done.lock().unwrap_or_else(PoisonError::into_inner).insert(key);
            for referrer in self.source.referrers(root.pair.from, digest).await? {
                let root = RootManifest { media_type: None, ..root };
                copied |= self.copy_manifest(root, &referrer, depth + 1).await?;
            }
            Ok(copied)
        })
    }

    /// Reads and checks a manifest of the source; `None`: it is absent.
    async fn read_manifest(
        &self,
        root: RootManifest<'_>,
        digest: &Digest,
    ) -> Result<Option<(RegistryManifest, Manifest)>, ItemError> {
        let found = match self.source.manifest(root.pair.from, digest).await? {
            FoundManifest::Found(found) => found,
            FoundManifest::Skipped(reason) => return Err(ItemError::Skipped(reason)),
            FoundManifest::Absent => return Ok(None),
        };
        let actual = Digest::of(digest.algorithm(), &found.bytes);
        if actual != *digest {
            return failed(format!("the bytes of manifest {digest} have digest {actual}"));
        }
        let hint = found.media_type.as_ref().or(root.media_type);
        let parsed = Manifest::parse(hint, &found.bytes);
        // What a list says of a manifest may be wrong; what it says of itself counts.
        let parsed = parsed.or_else(|_| Manifest::parse(None, &found.bytes));
        match parsed {
            Ok(parsed) => {
                let (media_type, digest) = (parsed.media_type.clone(), digest.clone());
                let bytes = found.bytes;
                Ok(Some((RegistryManifest { digest, media_type, bytes }, parsed)))
            }
            Err(error) => failed(format!("manifest {digest}: {error}")),
        }
    }

    async fn copy_references(
        &self,
        root: RootManifest<'_>,
        parsed: &Manifest,
        depth: usize,
    ) -> Result<bool, ItemError> {
        let mut copied = false;
        let mut blobs = Vec::new();
        for reference in &parsed.references {
            let may_be_manifest = reference.kind.may_be_manifest();
            if may_be_manifest && self.is_manifest(root, &reference.digest).await? {
                let child = RootManifest { media_type: None, ..root };
                copied |= self.copy_manifest(child, &reference.digest, depth + 1).await?;
            } else {
                // An index may lack children, and a digest in an annotation may be of anything.
                let required = reference.required && !may_be_manifest;
                blobs.push((&reference.digest, reference.kind, required));
            }
        }
        let blobs = blobs.into_iter().map(|(digest, kind, required)| async move {
            match self.copy_blob(root, digest).await? {
                Some(copied) => Ok(copied),
                None if required => failed(format!("the source lacks the {} {digest}", word(kind))),
                None => Ok(false),
            }
        });
        // Made before the first is awaited: a borrowing closure kept across an await is not `Send`.
        let blobs: Vec<_> = blobs.collect();
        let blobs: Vec<bool> =
            stream::iter(blobs).buffer_unordered(BLOBS_AT_ONCE).try_collect().await?;
        Ok(copied | blobs.contains(&true))
    }

    /// Whether the source has a manifest under a digest, and not a blob.
    async fn is_manifest(
        &self,
        root: RootManifest<'_>,
        digest: &Digest,
    ) -> Result<bool, ItemError> {
        // Manifests stay with the source.
        if self.landing.as_ref().is_some_and(|landing| landing.has(digest)) {
            return Ok(false);
        }
        match self.source.manifest(root.pair.from, digest).await? {
            FoundManifest::Found(found) => {
                let hint = found.media_type.as_ref();
                Ok(Manifest::parse(hint, &found.bytes).is_ok())
            }
            FoundManifest::Skipped(_) | FoundManifest::Absent => Ok(false),
        }
    }

    /// Whether the registry has a manifest, whole: a push that was interrupted may have left it out of the list of
    /// its subject's referrers.
    async fn is_whole(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        subject: Option<&Digest>,
    ) -> Result<bool, ItemError> {
        if self.target.manifest(name, &Reference::Digest(digest.clone())).await?.is_none() {
            return Ok(false);
        }
        match subject {
            None => Ok(true),
            Some(subject) => Ok(self.target.referrers(name, subject).await?.contains(digest)),
        }
    }

    /// `false`: the registry has the manifest.
    async fn push_if_absent(
        &self,
        root: RootManifest<'_>,
        manifest: RegistryManifest,
        parsed: &Manifest,
    ) -> Result<bool, ItemError> {
        let subject = parsed.subject.as_ref().map(|subject| &subject.digest);
        if self.is_whole(root.pair.to, &manifest.digest, subject).await? {
            return Ok(false);
        }
        self.count(root, manifest.bytes.len() as u64);
        if !self.options.dry_run {
            self.target.push_manifest(root.pair.to, manifest, Vec::new()).await?;
        }
        Ok(true)
    }

    /// Copies a blob that the registry lacks. `Some(false)`: it has it; `None`: neither has.
    async fn copy_blob(
        &self,
        root: RootManifest<'_>,
        digest: &Digest,
    ) -> Result<Option<bool>, ItemError> {
        let turn = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(turns.entry(digest.clone()).or_default())
        };
        let held = turn.lock().await;
        let copied = self.copy_blob_in_turn(root, digest).await;
        drop(held);
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        // No other task waits: this one and the table have it.
        if Arc::strong_count(&turn) == 2 {
            turns.remove(digest);
        }
        copied
    }

    async fn copy_blob_in_turn(
        &self,
        root: RootManifest<'_>,
        digest: &Digest,
    ) -> Result<Option<bool>, ItemError> {
        if self.target.has_blob(root.pair.to, digest).await? {
            return Ok(Some(self.count_landed(root, digest)));
        }
        if self.options.dry_run {
            let blob = self.source.blob(root.pair.from, digest).await?;
            return Ok(blob.map(|blob| {
                self.count(root, blob.size_bytes);
                true
            }));
        }
        if self.target.mount(root.pair.to, digest).await? {
            self.count_landed(root, digest);
            return Ok(Some(true));
        }
        let mut attempt = 0;
        loop {
            attempt += 1;
            let Some(blob) = self.source.blob(root.pair.from, digest).await? else {
                return Ok(None);
            };
            let size_bytes = blob.size_bytes;
            if let Some(place) = blob.place.clone()
                && self.share_blob(root, digest, (size_bytes, place)).await?
            {
                return Ok(Some(true));
            }
            match self.target.push_blob(root.pair.to, digest, self.counted(blob)).await {
                Ok(()) => {
                    root.bytes.written.fetch_add(size_bytes, Ordering::Relaxed);
                    return Ok(Some(true));
                }
                Err(TransferError::Registry(why)) if attempt < ATTEMPTS_MAX && is_busy(&why) => {
                    tokio::time::sleep(RETRY_WAIT * attempt).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Counts a blob that came while the archive was read. `false`: the registry had it before, or it is counted.
    fn count_landed(&self, root: RootManifest<'_>, digest: &Digest) -> bool {
        let written = self.landing.as_ref().and_then(|landing| landing.take_written(digest));
        root.bytes.written.fetch_add(written.unwrap_or_default(), Ordering::Relaxed);
        written.is_some()
    }

    /// Has the storage of the registry make a blob of where its bytes lie. `false`: it cannot.
    async fn share_blob(
        &self,
        root: RootManifest<'_>,
        digest: &Digest,
        (size_bytes, place): (u64, SourcePlace),
    ) -> Result<bool, ItemError> {
        let place = match place {
            SourcePlace::File(path) => CopySource::File { path, may_link: self.options.hard_link },
            SourcePlace::Object { service, bucket, key } => {
                CopySource::Object { service, bucket, key, size_bytes }
            }
        };
        let trust = self.options.trust;
        let placed = PlacedBlob { size_bytes, place, trust };
        let method = self.target.copy_blob(root.pair.to, digest, placed).await?;
        if method.is_some() {
            root.bytes.shared.fetch_add(size_bytes, Ordering::Relaxed);
            self.progress.add_bytes(size_bytes);
        }
        Ok(method.is_some())
    }

    /// A blob whose bytes are shown as they move.
    fn counted(&self, blob: SourceBlob) -> OpenBlob {
        let progress = Arc::clone(&self.progress);
        let stream = blob.stream.inspect_ok(move |chunk| progress.add_bytes(chunk.len() as u64));
        OpenBlob { size_bytes: blob.size_bytes, place: None, stream: stream.boxed() }
    }

    fn count(&self, root: RootManifest<'_>, bytes: u64) {
        root.bytes.written.fetch_add(bytes, Ordering::Relaxed);
        self.progress.add_bytes(bytes);
    }
}

/// The image that is being copied.
#[derive(Clone, Copy)]
struct RootManifest<'a> {
    pair: RepositoryPair<'a>,
    /// What the source's list says of it.
    media_type: Option<&'a MediaType>,
    bytes: &'a ImageBytes,
}

fn absent(digest: &Digest) -> ItemError {
    ItemError::Skipped(format!("manifest {digest} is not in the source"))
}

fn is_busy(why: &str) -> bool {
    why.contains("too busy") || why.contains("429") || why.contains("503")
}

fn word(kind: ReferenceKind) -> &'static str {
    match kind {
        ReferenceKind::Config => "config",
        ReferenceKind::Layer => "layer",
        ReferenceKind::Child | ReferenceKind::Any => "content",
    }
}
