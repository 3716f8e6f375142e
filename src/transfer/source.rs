//! Opens what `jreg import` reads: a folder, an archive, standard input, a bucket, or another registry.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jreg_archive::{
    ArchiveError, ArchiveStream, DistributionOptions, DistributionSource, ImageSource,
    LayoutSource, OpenedArchive, SourceKind, SourceTree, Spool, TagList, detect, open_archive,
};
use jreg_client::CredentialSource;
use jreg_config::{Settings, StorageLocation, Value};
use jreg_registry::Registry;
use jreg_reload::read_bounded;
use jreg_storage::{FsOptions, FsStore, Store, SystemClock};

use super::access::LocalRegistry;
use super::control::ControlClient;
use super::registry_source::RegistrySource;
use super::remote_source::{RemotePlace, RemoteSource};
use super::store_tree::{StorePlace, StoreTree};
use crate::bucket::{self, BucketAccess};
use crate::error::StartError;
use crate::options;

/// The longest list of tags, in bytes.
const TAGS_BYTES_MAX: usize = 1024 * 1024 * 1024;

/// Why a source cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("cannot read {place}")]
    Io { place: String, source: io::Error },
    #[error("{0}")]
    Unsupported(String),
}

/// What to read.
#[derive(Clone, Debug)]
pub struct SourceSpec {
    /// As the operator wrote it.
    pub place: String,
    /// How to log in to a registry.
    pub credentials: CredentialSource,
    /// A list of tags that the source does not have.
    pub tags: Option<PathBuf>,
    /// Whether the manifests that tags of distribution pointed to before are imported.
    pub has_old_tags: bool,
    pub spool: Spool,
}

/// A source that is open.
#[derive(Debug)]
pub enum OpenSource {
    Images(Box<dyn ImageSource>),
    /// An archive that is read once: its blobs go to the registry before its images are known.
    Stream {
        stream: Box<ArchiveStream>,
        /// As the operator wrote it.
        place: String,
        options: DistributionOptions,
    },
}

impl SourceSpec {
    /// Opens it.
    ///
    /// # Errors
    ///
    /// [`SourceError`].
    pub async fn open(self, settings: &Settings) -> Result<OpenSource, SourceError> {
        let tags = self.tag_list()?;
        if self.place == "-" {
            let spool = self.spool.clone();
            let open = move || ArchiveStream::open(io::stdin(), &spool);
            let stream = Box::new(blocking(&self.place, open).await?);
            let (place, options) = ("standard input".to_owned(), self.distribution(tags));
            return Ok(OpenSource::Stream { stream, place, options });
        }
        if let Some(path) = self.archive()? {
            let (opened, spool) = (path.clone(), self.spool.clone());
            let archive = blocking(&self.place, move || open_archive(&opened, &spool)).await?;
            let (place, options) = (self.place.clone(), self.distribution(tags));
            return Ok(match archive {
                OpenedArchive::Stream(stream) => {
                    OpenSource::Stream { stream: Box::new(stream), place, options }
                }
                OpenedArchive::Tree(tree) => {
                    OpenSource::Images(jreg_archive::open(Box::new(tree), &place, options).await?)
                }
            });
        }
        self.open_images(settings, tags).await.map(OpenSource::Images)
    }

    /// The path of a file.
    fn archive(&self) -> Result<Option<PathBuf>, SourceError> {
        if self.place.contains("://") {
            return Ok(None);
        }
        let path = PathBuf::from(&self.place);
        let failed = |source| SourceError::Io { place: self.place.clone(), source };
        let is_folder = std::fs::metadata(&path).map_err(failed)?.is_dir();
        Ok((!is_folder).then_some(path))
    }

    /// A folder, a bucket or a registry.
    async fn open_images(
        self,
        settings: &Settings,
        tags: TagList,
    ) -> Result<Box<dyn ImageSource>, SourceError> {
        if let Some(StorageLocation::Bucket(url)) = bucket_of(&self.place) {
            let opened = bucket::open(settings, &url, BucketAccess::ReadOnly).await;
            let store = opened.map_err(StartError::from)?;
            let place = StorePlace::Bucket(Box::new(url));
            return of_store(settings, (store, place), &self.place, self.distribution(tags)).await;
        }
        if let Some(remote) = RemotePlace::parse(&self.place) {
            let remote = remote.map_err(SourceError::Unsupported)?;
            let failed = |source| SourceError::Io { place: self.place.clone(), source };
            return Ok(Box::new(RemoteSource::new(remote, self.credentials).map_err(failed)?));
        }
        if self.place.contains("://") {
            let message = format!(
                "{} is no source of images: it must be a folder, an archive, -, or an s3:// or https:// address",
                self.place
            );
            return Err(SourceError::Unsupported(message));
        }
        of_folder(settings, Path::new(&self.place), self.distribution(tags)).await
    }

    fn distribution(&self, tags: TagList) -> DistributionOptions {
        DistributionOptions { tags, has_old_tags: self.has_old_tags }
    }

    fn tag_list(&self) -> Result<TagList, SourceError> {
        let Some(path) = &self.tags else { return Ok(TagList::default()) };
        let place = path.display().to_string();
        let failed = |source| SourceError::Io { place: place.clone(), source };
        let text = read_bounded(path, TAGS_BYTES_MAX).map_err(failed)?;
        Ok(TagList::parse(&place, &text)?)
    }
}

fn bucket_of(place: &str) -> Option<StorageLocation> {
    place.starts_with("s3://").then(|| <StorageLocation as Value>::parse(place)).flatten()
}

/// Work that blocks the thread.
async fn blocking<T: Send + 'static>(
    place: &str,
    work: impl FnOnce() -> jreg_archive::Result<T> + Send + 'static,
) -> Result<T, SourceError> {
    let done = tokio::task::spawn_blocking(work).await;
    let failed = |source| SourceError::Io { place: place.to_owned(), source };
    Ok(done.map_err(io::Error::other).map_err(failed)??)
}

/// A folder; that of another jreg may be served meanwhile.
async fn of_folder(
    settings: &Settings,
    path: &Path,
    distribution: DistributionOptions,
) -> Result<Box<dyn ImageSource>, SourceError> {
    let place = path.display().to_string();
    let failed = |source| SourceError::Io { place: place.clone(), source };
    if path.join("jreg.json").exists()
        && let Some(client) = ControlClient::connect(path).await.map_err(failed)?
    {
        return Ok(Box::new(RegistrySource::new(Arc::new(client))));
    }
    let (opened, options) = (path.to_owned(), FsOptions::default());
    let opening =
        tokio::task::spawn_blocking(move || FsStore::open_read_only(opened, options)).await;
    let store = opening.map_err(io::Error::other).map_err(failed)?.map_err(StartError::from)?;
    let store = (Arc::new(store) as _, StorePlace::Folder(path.to_owned()));
    of_store(settings, store, &place, distribution).await
}

async fn of_store(
    settings: &Settings,
    (store, at): (Arc<dyn Store>, StorePlace),
    place: &str,
    distribution: DistributionOptions,
) -> Result<Box<dyn ImageSource>, SourceError> {
    let tree: Box<dyn SourceTree> = Box::new(StoreTree::new(Arc::clone(&store), at.clone()));
    match detect(&*tree).await? {
        Some(SourceKind::Jreg) => {
            let (clock, options) = (Arc::new(SystemClock::new()), options::registry(settings));
            let registry = Registry::open_existing(store, clock, options).await;
            let registry = LocalRegistry::new(registry.map_err(StartError::from)?, "import");
            let registry = registry.placed(at);
            Ok(Box::new(RegistrySource::new(Arc::new(registry))))
        }
        Some(SourceKind::Distribution(root)) => {
            Ok(Box::new(DistributionSource::new(tree, root, distribution)))
        }
        Some(SourceKind::Layouts) => Ok(Box::new(LayoutSource::storage(tree))),
        _ => Ok(jreg_archive::open(tree, place, distribution).await?),
    }
}
