//! Where a command finds the registry: in the process that serves the folder, in the folder itself, or in a
//! bucket beside whoever serves that.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jreg_config::{Settings, StorageLocation};
use jreg_registry::Registry;
use jreg_storage::{FsOpenError, FsOptions, FsStore, S3Url, Store, SystemClock};
use jreg_telemetry::metrics::Metrics;

use super::access::{LocalRegistry, RegistryAccess};
use super::control::ControlClient;
use super::control_store::ControlStore;
use crate::bucket::{self, BucketAccess};
use crate::error::StartError;
use crate::folder::{self, FolderContent, ForeignFolder};
use crate::lifecycle::LifecycleFile;
use crate::options;
use crate::store::surrounded;

/// Maximum wait for a process that is about to release a folder, or about to listen on its socket.
const LOCK_WAIT: Duration = Duration::from_secs(2);
/// How often both are tried.
const ATTEMPTS_MAX: u32 = 3;

/// Why the registry of a command cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    #[error(
        "storage in memory exists only within its process: set --storage to a folder or a bucket"
    )]
    Memory,
    #[error("folder {folder} holds no registry: set --storage to the folder that jreg serves")]
    NoRegistry { folder: String },
    #[error(transparent)]
    Foreign(#[from] ForeignFolder),
    #[error(
        "folder {folder} is in use by process {holder}, which does not respond on its control socket"
    )]
    InUse { folder: String, holder: String },
    #[error(
        "folder {folder} is in use by process {holder}: a backup is restored to a folder that no process uses"
    )]
    Served { folder: String, holder: String },
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("{target} is in the storage of the registry, {folder}, and would be lost with it")]
    InStorage { target: String, folder: String },
    #[error("cannot use the folder {folder}")]
    Folder { folder: String, source: io::Error },
}

/// Fails for a target that lies in the folder of the registry.
pub(super) fn check_outside(settings: &Settings, target: &Path) -> Result<(), PlaceError> {
    let StorageLocation::Folder(folder) = &settings.storage else { return Ok(()) };
    let Ok(storage) = folder.canonicalize() else { return Ok(()) };
    let absolute = std::path::absolute(target).unwrap_or_else(|_| target.to_owned());
    // What does not exist yet is where the first of its parents is that exists.
    let existing = absolute.ancestors().find_map(|parent| parent.canonicalize().ok());
    match existing.is_some_and(|parent| parent.starts_with(&storage)) {
        true => Err(PlaceError::InStorage {
            target: target.display().to_string(),
            folder: folder.display().to_string(),
        }),
        false => Ok(()),
    }
}

/// What a command does with its registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlaceUse {
    /// It only reads.
    Read,
    /// It adds content, and may create the registry.
    Add,
    /// It fills an empty storage.
    Restore,
}

/// The registry of a command.
#[derive(Clone, Debug)]
pub enum Place {
    /// In this process.
    Here(LocalRegistry),
    /// In the process that serves the folder.
    There(Arc<ControlClient>),
}

impl Place {
    /// Opens the registry that the settings name; changes are recorded as those of `command`.
    ///
    /// # Errors
    ///
    /// [`PlaceError`].
    pub async fn open(
        settings: &Settings,
        purpose: PlaceUse,
        command: &'static str,
    ) -> Result<Self, PlaceError> {
        match &settings.storage {
            StorageLocation::Memory => Err(PlaceError::Memory),
            StorageLocation::Bucket(url) => {
                let store = open_bucket(settings, url, purpose).await?;
                here(settings, store, purpose, command).await
            }
            StorageLocation::Folder(path) => {
                check_folder(path, purpose)?;
                match find_folder(settings, path, purpose).await? {
                    FoundFolder::Store(store) => here(settings, store, purpose, command).await,
                    FoundFolder::Served(client) => Ok(Self::There(Arc::new(client))),
                }
            }
        }
    }

    pub fn access(&self) -> Arc<dyn RegistryAccess> {
        match self {
            Self::Here(registry) => Arc::new(registry.clone()),
            Self::There(client) => Arc::clone(client) as _,
        }
    }
}

/// Opens the storage that the settings name, as it lies there: in the process that serves it, only to be read.
///
/// # Errors
///
/// [`PlaceError`].
pub(super) async fn open_store(
    settings: &Settings,
    purpose: PlaceUse,
) -> Result<Arc<dyn Store>, PlaceError> {
    let store = match &settings.storage {
        StorageLocation::Memory => return Err(PlaceError::Memory),
        StorageLocation::Bucket(url) => open_bucket(settings, url, purpose).await?,
        StorageLocation::Folder(path) => {
            check_folder(path, purpose)?;
            match find_folder(settings, path, purpose).await? {
                FoundFolder::Store(store) => store,
                FoundFolder::Served(_) if purpose != PlaceUse::Read => {
                    let (folder, holder) = (path.display().to_string(), "jreg serve".to_owned());
                    return Err(PlaceError::InUse { folder, holder });
                }
                FoundFolder::Served(client) => Arc::new(ControlStore::new(Arc::new(client))),
            }
        }
    };
    Ok(surrounded(store, settings.s3_hedge_reads, &Arc::new(Metrics::new())))
}

async fn open_bucket(
    settings: &Settings,
    url: &S3Url,
    purpose: PlaceUse,
) -> Result<Arc<dyn Store>, PlaceError> {
    let access = match purpose {
        PlaceUse::Read => BucketAccess::ReadOnly,
        PlaceUse::Add | PlaceUse::Restore => BucketAccess::Collect,
    };
    Ok(bucket::open(settings, url, access).await.map_err(StartError::from)?)
}

/// A folder, or the process that serves it.
enum FoundFolder {
    Store(Arc<dyn Store>),
    Served(ControlClient),
}

fn check_folder(path: &Path, purpose: PlaceUse) -> Result<(), PlaceError> {
    let folder = || path.display().to_string();
    match folder::look(path) {
        Err(source) => Err(PlaceError::Folder { folder: folder(), source }),
        // That it is empty is for the restore to see: it may have been interrupted.
        Ok(FolderContent::Registry) => Ok(()),
        Ok(FolderContent::Foreign(foreign)) => Err(foreign.into()),
        Ok(FolderContent::Empty | FolderContent::Absent) => match purpose {
            PlaceUse::Add | PlaceUse::Restore => Ok(()),
            PlaceUse::Read => Err(PlaceError::NoRegistry { folder: folder() }),
        },
    }
}

async fn find_folder(
    settings: &Settings,
    path: &Path,
    purpose: PlaceUse,
) -> Result<FoundFolder, PlaceError> {
    let folder = path.display().to_string();
    let mut holder = String::new();
    for _ in 0..ATTEMPTS_MAX {
        let connected = ControlClient::connect(path).await;
        let failed = |source| PlaceError::Folder { folder: folder.clone(), source };
        if let Some(client) = connected.map_err(failed)? {
            return Ok(FoundFolder::Served(client));
        }
        match open_folder(settings, path, purpose).await? {
            Ok(store) => return Ok(FoundFolder::Store(store)),
            // The process may be starting or stopping.
            Err(FsOpenError::InUse { holder: process, .. }) => holder = process,
            Err(error) => return Err(StartError::from(error).into()),
        }
    }
    Err(PlaceError::InUse { folder, holder })
}

/// Opens a folder; to read it without changing anything in it, if it was stopped cleanly.
async fn open_folder(
    settings: &Settings,
    path: &Path,
    purpose: PlaceUse,
) -> Result<Result<Arc<dyn Store>, FsOpenError>, StartError> {
    let options = FsOptions { lock_wait: LOCK_WAIT, ..options::folder(settings) };
    let path = path.to_owned();
    let opening = tokio::task::spawn_blocking(move || {
        if purpose == PlaceUse::Read {
            match FsStore::open_read_only(&path, options.clone()) {
                Err(FsOpenError::NotReplayed { .. } | FsOpenError::InUse { .. }) => {}
                opened => return opened.map(|store| Arc::new(store) as Arc<dyn Store>),
            }
        }
        FsStore::open(path, options).map(|store| Arc::new(store) as _)
    });
    Ok(opening.await.map_err(io::Error::other)?)
}

async fn here(
    settings: &Settings,
    store: Arc<dyn Store>,
    purpose: PlaceUse,
    command: &'static str,
) -> Result<Place, PlaceError> {
    let metrics = Arc::new(Metrics::new());
    let store = surrounded(store, settings.s3_hedge_reads, &metrics);
    let (clock, options) = (Arc::new(SystemClock::new()), options::registry(settings));
    let registry = match purpose {
        PlaceUse::Add | PlaceUse::Restore => Registry::open(store, clock, options).await,
        PlaceUse::Read => Registry::open_existing(store, clock, options).await,
    };
    let registry = options::with_events(registry.map_err(StartError::from)?, settings);
    let registry = match settings.lifecycle.clone() {
        Some(path) => {
            let opening = tokio::task::spawn_blocking(move || LifecycleFile::open(path, metrics));
            let file = opening.await.map_err(io::Error::other).map_err(StartError::from)?;
            registry.with_rules(file.map_err(StartError::from)?.rules().clone())
        }
        None => registry,
    };
    Ok(Place::Here(LocalRegistry::new(registry, command)))
}
