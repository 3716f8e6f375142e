//! [`Registry`]: one value over a store; and [`Repository`], the part of it with one name.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jreg_lifecycle::{CurrentRules, LifecycleRules};
use jreg_oci::RepositoryName;
use jreg_storage::{
    CLOCK_DIFFERENCE_MAX, Clock, ErrorKind, Key, ListRequest, Put, PutMode, PutPurpose, Store,
};

use crate::attempts::SwapAttempts;
use crate::budget::BudgetUsage;
use crate::core::Core;
use crate::format::{FormatMarker, StoreFeature};
use crate::keys;
use crate::page::list_requests_max;
use crate::{
    ChangeOrigin, Error, FORMAT_VERSION, PageRequest, RegistryOptions, Result, ResultPage,
};

/// How many top-level names of a new store are checked, and how many an error lists.
const NAMES_LISTED: usize = 100;
const NAMES_SHOWN: usize = 5;
/// How long a request may wait for a disk before the registry is not ready.
const DISK_WAIT_MAX: Duration = Duration::from_secs(30);

/// A registry over a store. Cheap to clone; the clones are the same registry.
#[derive(Clone, Debug)]
pub struct Registry {
    core: Arc<Core>,
}

/// One repository of a [`Registry`]. Cheap to clone.
///
/// Its operations are in the files of their nouns: `blob.rs`, `upload.rs`, `manifest.rs`,
/// `tag.rs`, `referrer.rs`.
#[derive(Clone, Debug)]
pub struct Repository {
    pub(crate) core: Arc<Core>,
    pub(crate) name: RepositoryName,
    /// Who makes the changes.
    pub(crate) origin: Arc<ChangeOrigin>,
    /// The rules of the file, by which this value is judged as a whole.
    pub(crate) rules: Arc<LifecycleRules>,
    /// Whether the tags that it lists and reads are those that were pulled through a mirror.
    pub(crate) shows_mirrored: bool,
}

/// The registry's use of its limits, and the statistics of its cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegistryUsage {
    /// Uploads that may still begin to send.
    pub upload_slots_free: usize,
    /// The memory that uploads share.
    pub upload_buffer: BudgetUsage,
    /// Manifests and links that were served from memory.
    pub cache_hits: u64,
    /// Manifests and links that were not cached and had to be read.
    pub cache_misses: u64,
    /// Damaged records that pushes replaced or deletes removed.
    pub damaged_records_replaced: u64,
    /// How far the store's clock was from ours at its last response; zero if it has none.
    pub clock_difference: Duration,
    /// Bytes of the disk that are kept back for deletes, if there are any.
    pub reserved_bytes: Option<u64>,
}

/// Why a store cannot be opened as a registry.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Store(#[from] jreg_storage::Error),
    /// The store has no registry.
    #[error("the storage holds no registry: there is no jreg.json")]
    Absent,
    /// The store has the objects of another program.
    #[error(
        "the storage is not empty and holds no jreg.json: it holds {}; name an empty folder, or a \
         prefix of its own in the bucket", names.join(", ")
    )]
    Foreign {
        /// The first names in it.
        names: Vec<String>,
    },
    /// The store was written in a format that this version does not know.
    #[error("the store has format version {found}, this jreg knows {known}")]
    Format {
        /// The version in `jreg.json`.
        found: u32,
        /// What this version writes.
        known: u32,
    },
    /// A backup is being restored into it.
    #[error(
        "a backup is being restored into the storage: start jreg when jreg restore is done, or run it \
         again if it was interrupted"
    )]
    Restoring,
    /// The mark of a registry's store is not what any version wrote.
    #[error(
        "jreg.json is damaged: {found:?} has no format version. Restore it, or remove it unless a backup was being \
         restored: then a start writes a new one (docs/fsck.md)"
    )]
    Damaged {
        /// How it begins.
        found: String,
    },
}

impl Registry {
    /// Opens a store, and marks it as a registry's if it is new. Of a store that has a clock
    /// ([`Store::clock`]), that counts and not this one.
    ///
    /// # Errors
    ///
    /// [`OpenError`].
    pub async fn open(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        options: RegistryOptions,
    ) -> Result<Self, OpenError> {
        let marker = match check_format(&*store).await {
            Err(OpenError::Absent) => create(&*store).await?,
            other => other?,
        };
        Ok(Self { core: Arc::new(Core::new(store, clock, options, &marker)) })
    }

    /// Records what uploads there are in memory alone: to be called when the process stops. Later ones
    /// are recorded before they are acknowledged.
    pub async fn stop_uploads(&self) {
        self.core.unrecorded.stop().await;
    }

    /// Opens a store that has a registry, and writes nothing.
    ///
    /// # Errors
    ///
    /// [`OpenError`].
    pub async fn open_existing(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        options: RegistryOptions,
    ) -> Result<Self, OpenError> {
        let marker = check_format(&*store).await?;
        Ok(Self { core: Arc::new(Core::new(store, clock, options, &marker)) })
    }

    /// Opens a store that a backup was restored into and that nothing else may open yet, to check it.
    ///
    /// # Errors
    ///
    /// [`OpenError`].
    pub async fn open_restored(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        options: RegistryOptions,
    ) -> Result<Self, OpenError> {
        let marker = read_format(&*store).await?;
        Ok(Self { core: Arc::new(Core::new(store, clock, options, &marker)) })
    }

    /// The same registry, with the rules of a file.
    #[must_use]
    pub fn with_rules(&self, rules: CurrentRules) -> Self {
        let mut core = Core::clone(&self.core);
        core.lifecycle = rules;
        Self { core: Arc::new(core) }
    }

    /// The rules of the file that are in use.
    pub fn lifecycle(&self) -> Arc<LifecycleRules> {
        self.core.lifecycle.get()
    }

    /// The part of the registry with this name. It need not exist.
    pub fn repository(&self, name: RepositoryName) -> Repository {
        let (core, rules) = (Arc::clone(&self.core), self.core.lifecycle.get());
        Repository { core, name, origin: Arc::default(), rules, shows_mirrored: false }
    }

    /// The repositories that a manifest was ever pushed to, in byte order.
    ///
    /// # Errors
    ///
    /// [`Error::Store`](crate::Error).
    pub async fn catalog(&self, page: &PageRequest) -> Result<ResultPage<RepositoryName>> {
        let limit = page.limit.min(self.core.options.limits.page_items_max);
        let page = PageRequest { limit, last: page.last.clone() };
        self.catalog_within(&page, list_requests_max(limit)).await
    }

    /// The same, of any limit, in at most `requests_max` store requests, for callers that leave names
    /// out and count the requests of their own page. It may find nothing and have a next page.
    ///
    /// # Errors
    ///
    /// [`Error::Store`](crate::Error).
    pub async fn catalog_within(
        &self,
        page: &PageRequest,
        requests_max: usize,
    ) -> Result<ResultPage<RepositoryName>> {
        let start_after = page.last.as_deref().map(keys::catalog_after);
        let item = |key: &Key| keys::catalog_name(key).map(|name| (name.to_string(), name));
        self.core
            .list_items(
                keys::CATALOG.to_owned(),
                start_after,
                page.limit,
                requests_max,
                item,
                |_| true,
            )
            .await
    }

    /// Checks that the store responds, that no request hangs in it, and that it takes writes from a
    /// clock like ours: one request. A full disk is no reason: pulls continue.
    ///
    /// # Errors
    ///
    /// [`Error::Store`](crate::Error).
    pub async fn ready(&self) -> Result<()> {
        let (store, marker) = (&self.core.store, keys::format());
        store.head(&marker).await?;
        let health = store.health();
        let waited = health.longest_wait.unwrap_or_default();
        if waited > DISK_WAIT_MAX {
            let why = format!("a request has waited for the disk for {} s", waited.as_secs());
            return Err(
                jreg_storage::Error::with_source(ErrorKind::Unavailable, marker, why).into()
            );
        }
        let difference = health.clock_difference.unwrap_or_default();
        // A folder takes writes whatever the machine's clock says.
        if difference <= CLOCK_DIFFERENCE_MAX || !store.capabilities().is_remote {
            return Ok(());
        }
        let why = format!("the clocks are {} s apart: nothing is written", difference.as_secs());
        Err(jreg_storage::Error::with_source(ErrorKind::Unavailable, marker, why).into())
    }

    /// Writes a record that nothing reads, to find out whether the store takes writes.
    ///
    /// # Errors
    ///
    /// [`Error::Store`](crate::Error).
    pub async fn probe_write(&self) -> Result<()> {
        let (key, bytes) = (keys::write_probe(), Bytes::from_static(b"{}"));
        self.core.store.put(&key, bytes, PutMode::Overwrite).await?;
        Ok(())
    }

    /// The same registry, which breaks one of its safety rules.
    #[cfg(feature = "broken-rules")]
    #[must_use]
    pub fn without(&self, rule: crate::Rule) -> Self {
        let mut core = Core::clone(&self.core);
        core.rules = crate::rules::Rules::without(rule);
        Self { core: Arc::new(core) }
    }

    /// A registry that works with this.
    pub(crate) fn of_core(core: Core) -> Self {
        Self { core: Arc::new(core) }
    }

    pub(crate) fn core(&self) -> &Core {
        &self.core
    }

    /// Whether its store is only read.
    pub fn is_read_only(&self) -> bool {
        self.core.is_read_only()
    }

    /// The settings it was opened with.
    pub fn options(&self) -> &RegistryOptions {
        &self.core.options
    }

    /// Its current usage, and the statistics of its cache since it was opened.
    pub fn usage(&self) -> RegistryUsage {
        let (cache_hits, cache_misses) = self.core.cache.hit_counts();
        let health = self.core.store.health();
        RegistryUsage {
            upload_slots_free: self.core.upload_slots.available_permits(),
            upload_buffer: self.core.upload_bytes.usage(),
            cache_hits,
            cache_misses,
            damaged_records_replaced: self.core.damage.count(),
            clock_difference: health.clock_difference.unwrap_or_default(),
            reserved_bytes: health.reserved_bytes,
        }
    }
}

impl Repository {
    pub fn name(&self) -> &RepositoryName {
        &self.name
    }

    /// The same, to which the rules of the file do not apply.
    #[must_use]
    pub fn without_rules(self) -> Self {
        Self { rules: Arc::default(), ..self }
    }

    /// The same, whose changes name who makes them.
    #[must_use]
    pub fn changed_by(self, origin: ChangeOrigin) -> Self {
        Self { origin: Arc::new(origin), ..self }
    }
}

impl Core {
    /// Makes sure that the store's mark names the history, before its first record is written.
    pub(crate) async fn require_history(&self) -> Result<()> {
        self.require(StoreFeature::HISTORY).await
    }

    /// Makes sure that the store's mark names a kind of records, before the first of them is written.
    pub(crate) async fn require(&self, feature: StoreFeature) -> Result<()> {
        if self.required.has(feature) {
            return Ok(());
        }
        let require = |marker: &mut FormatMarker| {
            let is_new = !marker.requires(feature);
            if is_new {
                marker.require(feature);
            }
            is_new
        };
        self.change_marker(require).await
    }

    /// Makes sure that the store's mark says that pulls are tracked, before that begins.
    pub(crate) async fn mark_pulls(&self) -> Result<()> {
        match self.required.has_pulls() {
            true => Ok(()),
            false => self.change_marker(FormatMarker::note_pulls).await,
        }
    }

    /// Changes the store's mark, unless `change` says that it is as it should be.
    async fn change_marker(&self, change: impl Fn(&mut FormatMarker) -> bool) -> Result<()> {
        let key = keys::format();
        let mut attempts =
            SwapAttempts::new("the store's format is being changed by too many others");
        loop {
            attempts.next().await?;
            let record = self.store.get(&key).await?;
            let Some(mut marker) = FormatMarker::decode(&record.bytes) else {
                let reason = "it has no format version".to_owned();
                return Err(Error::Damaged { key: key.to_string(), reason });
            };
            if change(&mut marker) {
                // A delete may wait for it.
                let put = Put::new(key.clone(), marker.encode(), PutMode::Match(record.etag));
                match self.send_put(None, put.with_purpose(PutPurpose::Delete)).await {
                    Ok(_) => {}
                    Err(error) if error.is_conflict() => continue,
                    Err(error) => return Err(error.into()),
                }
            }
            self.required.note(&marker);
            return Ok(());
        }
    }

    /// Fails if the store has kinds of records that this program does not know: it must not delete or
    /// repair anything, as they may keep what it would delete.
    pub(crate) async fn check_required(&self) -> Result<()> {
        let key = keys::format();
        let damaged =
            |reason: &str| Err(Error::Damaged { key: key.to_string(), reason: reason.to_owned() });
        let record = match self.store.get(&key).await {
            Ok(record) => record,
            Err(error) if error.is_not_found() => return damaged("it is absent"),
            Err(error) => return Err(error.into()),
        };
        let Some(marker) = FormatMarker::decode(&record.bytes) else {
            return damaged("it has no format version");
        };
        let names = marker.unknown();
        if !names.is_empty() {
            return Err(Error::FeaturesUnknown { names });
        }
        self.required.note(&marker);
        Ok(())
    }
}

/// Marks a store as a registry's, unless it has what no registry has.
async fn create(store: &dyn Store) -> Result<FormatMarker, OpenError> {
    let all = ListRequest { delimiter: true, limit: NAMES_LISTED, ..ListRequest::below("") };
    let page = store.list(&all).await?;
    let keys = page.entries.iter().map(|entry| entry.key.as_str());
    let names = page.prefixes.iter().map(String::as_str).chain(keys);
    let foreign = names.filter(|name| !keys::is_top_level(name));
    let names: Vec<String> = foreign.take(NAMES_SHOWN).map(str::to_owned).collect();
    if !names.is_empty() {
        return Err(OpenError::Foreign { names });
    }
    let marker = FormatMarker::new();
    match store.put(&keys::format(), marker.encode(), PutMode::Create).await {
        Ok(_) => Ok(marker),
        Err(error) if error.is_conflict() => check_format(store).await,
        Err(error) => Err(error.into()),
    }
}

async fn check_format(store: &dyn Store) -> Result<FormatMarker, OpenError> {
    let marker = read_format(store).await?;
    match marker.requires(StoreFeature::RESTORING) {
        true => Err(OpenError::Restoring),
        false => Ok(marker),
    }
}

/// The mark of a store whose format this program knows, also while it is being restored.
async fn read_format(store: &dyn Store) -> Result<FormatMarker, OpenError> {
    let record = match store.get(&keys::format()).await {
        Err(error) if error.is_not_found() => return Err(OpenError::Absent),
        record => record?,
    };
    match FormatMarker::decode(&record.bytes) {
        Some(marker) if marker.format == FORMAT_VERSION => Ok(marker),
        Some(marker) => Err(OpenError::Format { found: marker.format, known: FORMAT_VERSION }),
        None => {
            let found = String::from_utf8_lossy(&record.bytes).chars().take(100).collect();
            Err(OpenError::Damaged { found })
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use jreg_storage::{MemoryStore, SystemClock};

    use super::*;

    async fn open(marker: &'static str) -> String {
        let store = Arc::new(MemoryStore::new());
        store.put(&keys::format(), marker.into(), PutMode::Create).await.unwrap();
        let clock = Arc::new(SystemClock::new());
        Registry::open(store, clock, RegistryOptions::default()).await.unwrap_err().to_string()
    }

    #[tokio::test]
    async fn a_registry_is_created_only_where_nothing_else_is() {
        let clock = || Arc::new(SystemClock::new());
        let store = Arc::new(MemoryStore::new());
        let existing =
            Registry::open_existing(store.clone(), clock(), RegistryOptions::default()).await;
        assert!(matches!(existing, Err(OpenError::Absent)));
        assert!(store.list(&ListRequest::below("")).await.unwrap().entries.is_empty());
        // What an interrupted start leaves is no obstacle.
        for key in ["auth/keys", "probe/1"] {
            store.put(&key.parse().unwrap(), "1".into(), PutMode::Create).await.unwrap();
        }
        Registry::open(store.clone(), clock(), RegistryOptions::default()).await.unwrap();
        Registry::open_existing(store, clock(), RegistryOptions::default()).await.unwrap();
        let store = Arc::new(MemoryStore::new());
        for key in ["docker/registry/v2/x", "blobs/x", "a.txt"] {
            store.put(&key.parse().unwrap(), "1".into(), PutMode::Create).await.unwrap();
        }
        let foreign =
            Registry::open(store.clone(), clock(), RegistryOptions::default()).await.unwrap_err();
        assert!(foreign.to_string().contains("it holds docker/, a.txt; name an"), "{foreign}");
        assert_eq!(store.list(&ListRequest::below("")).await.unwrap().entries.len(), 3);
    }

    #[tokio::test]
    async fn another_format_and_a_damaged_marker_are_distinguished() {
        assert_eq!(
            open(r#"{"format":7}"#).await,
            "the store has format version 7, this jreg knows 1"
        );
        for marker in ["", "{}", "not JSON"] {
            let refused = open(marker).await;
            let expected = format!("jreg.json is damaged: {marker:?} has no format version. ");
            assert!(refused.starts_with(&expected) && refused.contains("remove it"), "{refused}");
        }
    }
}
