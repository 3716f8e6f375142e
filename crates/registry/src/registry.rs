//! [`Registry`]: one value over a store; and [`Repository`], the part of it with one name.
use std::sync::Arc;
use jreg_oci::{Descriptor, Digest, RepositoryName, Tag};
use jreg_storage::{Clock, Store};
use crate::*;

/// A registry over a store.
#[derive(Clone, Debug)]
pub struct Registry;

/// Why a store cannot be opened as a registry.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] jreg_storage::Error),
    /// The store was written in a format that this version does not know.
    #[error("the store has format version {found}, this jreg knows {known}")]
    Format {
        /// What `jreg.json` says.
        found: String,
        /// What this version writes.
        known: u32,
    },
}

impl Registry {
    /// Opens a store, and marks it as a registry's if it is new.
    pub async fn open(_store: Arc<dyn Store>, _clock: Arc<dyn Clock>, _options: Options) -> Result<Self, OpenError> { todo!() }
    /// The part of the registry with this name. It need not exist.
    pub fn repository(&self, _name: RepositoryName) -> Repository { todo!() }
    /// The repositories that a manifest was ever pushed to.
    pub async fn catalog(&self, _page: &PageRequest) -> Result<Page<RepositoryName>> { todo!() }
    /// Asks the store whether it answers: one request.
    pub async fn ready(&self) -> Result<()> { todo!() }
    /// The settings it was opened with.
    pub fn options(&self) -> &Options { todo!() }
}

/// One repository.
#[derive(Clone, Debug)]
pub struct Repository;

impl Repository {
    /// Its name.
    pub fn name(&self) -> &RepositoryName { todo!() }
    /// Its tags.
    pub async fn tags(&self, _page: &PageRequest) -> Result<Page<Tag>> { todo!() }
    /// The descriptors of the manifests whose subject is `subject`; with a filter only those of that artifact type.
    pub async fn referrers(&self, _subject: &Digest, _artifact_type: Option<&str>, _page: &PageRequest) -> Result<Page<Descriptor>> { todo!() }
}
