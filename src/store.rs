//! Opens the configured store with its decorators, for serving and for maintenance.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jreg_config::{Settings, StorageLocation};
use jreg_storage::{
    CoalescedStore, ErrorKind, FsOptions, FsStore, GATHER_MAX, Hedge, HedgedStore, MemoryStore,
    MeteredStore, Store, StoreObserver,
};
use jreg_telemetry::metrics::Metrics;
use jreg_telemetry::trace;

use crate::bucket;
use crate::error::StartError;
use crate::folder::{self, FolderContent};
use crate::options;

/// Opens the configured store.
pub(crate) async fn open_store(settings: &Settings) -> Result<Arc<dyn Store>, StartError> {
    let path = match &settings.storage {
        StorageLocation::Memory => return Ok(Arc::new(MemoryStore::new())),
        StorageLocation::Bucket(url) => {
            let access = match settings.read_only {
                true => bucket::BucketAccess::ReadOnly,
                false => bucket::BucketAccess::Serve,
            };
            return Ok(bucket::open(settings, url, access).await?);
        }
        StorageLocation::Folder(path) => path.clone(),
    };
    let (options, read_only) = (options::folder(settings), settings.read_only);
    let opening = tokio::task::spawn_blocking(move || open_folder(&path, options, read_only));
    opening.await.map_err(io::Error::other)?
}

/// Opens a folder, unless it contains another program's files.
fn open_folder(
    path: &Path,
    options: FsOptions,
    read_only: bool,
) -> Result<Arc<dyn Store>, StartError> {
    // Errors are reported when it is opened, with instructions.
    if let Ok(FolderContent::Foreign(foreign)) = folder::look(path) {
        return Err(foreign.into());
    }
    Ok(match read_only {
        true => Arc::new(FsStore::open_read_only(path, options)?),
        false => Arc::new(FsStore::open(path, options)?),
    })
}

/// Adds the decorators of every store, and those of remote stores.
pub(crate) fn surrounded(
    store: Arc<dyn Store>,
    hedges_reads: bool,
    metrics: &Arc<Metrics>,
) -> Arc<dyn Store> {
    let observer = Arc::new(StoreMetrics(Arc::clone(metrics)));
    let mut store: Arc<dyn Store> = Arc::new(MeteredStore::new(store, observer.clone()));
    if !store.capabilities().is_remote {
        return store;
    }
    if hedges_reads {
        store = Arc::new(HedgedStore::new(store, observer));
    }
    Arc::new(CoalescedStore::new(store, GATHER_MAX))
}

/// Counts store requests.
#[derive(Debug)]
struct StoreMetrics(Arc<Metrics>);

impl StoreObserver for StoreMetrics {
    fn observe(&self, operation: &'static str, duration: Duration, result: Result<(), ErrorKind>) {
        let outcome = result.map_or_else(outcome, |()| "ok");
        self.0.count_store_request(operation, outcome, duration);
        trace::note(operation, outcome, duration);
        if WRITES.contains(&operation)
            && let Some(is_writable) = says_writable(outcome)
        {
            self.0.set_store_writable(is_writable);
        }
    }

    fn hedge(&self, hedge: Hedge) {
        self.0.count_hedge(match hedge {
            Hedge::Won => "won",
            Hedge::Lost => "lost",
            Hedge::Withheld => "withheld",
        });
    }
}

/// Store operations that change something.
/// Not deletes: a folder on a full disk still takes them.
const WRITES: [&str; 7] = [
    "put",
    "put_after",
    "create_multipart",
    "put_part",
    "put_last_part",
    "sync_parts",
    "complete_multipart",
];

/// What an outcome of a write says about whether the store takes writes; `None`: nothing.
fn says_writable(outcome: &str) -> Option<bool> {
    match outcome {
        "ok" => Some(true),
        "throttled" | "unavailable" | "refused" | "full" | "other" => Some(false),
        _ => None,
    }
}

fn outcome(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::NotFound => "not_found",
        ErrorKind::AlreadyExists => "already_exists",
        ErrorKind::Precondition => "precondition",
        ErrorKind::OutOfRange => "out_of_range",
        ErrorKind::TooLarge => "too_large",
        ErrorKind::Throttled => "throttled",
        ErrorKind::Unavailable => "unavailable",
        ErrorKind::Refused => "refused",
        ErrorKind::Full => "full",
        ErrorKind::ReadOnly => "read_only",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The decorators, outermost first.
    fn around(store: MemoryStore, hedges_reads: bool) -> Vec<String> {
        let text = format!("{:?}", surrounded(Arc::new(store), hedges_reads, &Arc::default()));
        let names = text.split(" { inner: ").map(|part| part.split(' ').next().unwrap_or_default());
        names.take_while(|name| *name != "MemoryStore").map(str::to_owned).collect()
    }

    #[test]
    fn reads_are_shared_and_hedged_where_requests_travel() {
        let remote = || MemoryStore::builder().remote().build();
        assert_eq!(around(MemoryStore::new(), true), ["MeteredStore"]);
        assert_eq!(around(remote(), true), ["CoalescedStore", "HedgedStore", "MeteredStore"]);
        assert_eq!(around(remote(), false), ["CoalescedStore", "MeteredStore"]);
    }
}
