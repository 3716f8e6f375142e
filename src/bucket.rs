//! Opens a bucket from settings: probes it, and adds the decorators that its capabilities require.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jreg_config::{SecretValue, Settings};
use jreg_reload::read_regular;
use jreg_storage::{
    BucketCapabilities, CLOCK_DIFFERENCE_MAX, ReadOnlyStore, S3Credentials, S3OpenError, S3Options,
    S3Store, S3Url, SingleWriterStore, Store, TombstoneStore,
};

/// Maximum length of a secret in a file, in bytes. Session tokens have about 1 KiB.
const SECRET_BYTES_MAX: usize = 64 * 1024;

/// Why a bucket cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BucketError {
    /// The settings are inconsistent.
    #[error(transparent)]
    Open(#[from] S3OpenError),
    /// Only one of access key id and secret access key was given.
    #[error(
        "s3-access-key-id and s3-secret-access-key must be set together, a session token only with them"
    )]
    HalfAKey,
    /// The secret file cannot be used.
    #[error("cannot read {setting} {}: it must hold one line of at most {SECRET_BYTES_MAX} bytes", path.display())]
    SecretFile { setting: &'static str, path: PathBuf, source: io::Error },
    /// No response, or access was denied.
    #[error("cannot use the bucket {url}")]
    Unusable { url: Box<S3Url>, source: jreg_storage::Error },
    /// Several instances cannot share it.
    #[error(
        "the bucket {url} does not honour conditional writes ({found}): several instances would \
         overwrite each other; with --single-instance one alone can use it"
    )]
    NotShareable {
        url: Box<S3Url>,
        /// Result of the probe.
        found: BucketCapabilities,
    },
    /// Only the instance that serves it may change it.
    #[error(
        "the bucket {url} does not honour conditional writes: only the process that serves it may run GC (every gc-interval) or repair"
    )]
    OnlyInServe { url: Box<S3Url> },
    /// Clock skew is too large.
    #[error(
        "the clock of the bucket {url} is {} s from this machine's, more than {} s: set the clock",
        difference.as_secs(), CLOCK_DIFFERENCE_MAX.as_secs()
    )]
    Clock {
        url: Box<S3Url>,
        /// The skew.
        difference: Duration,
    },
}

/// What a bucket is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BucketAccess {
    /// Serving.
    Serve,
    /// Deleting, concurrently with the serving instances.
    Collect,
    /// Reading, concurrently with the serving instances.
    Look,
    /// Reading what others may write: without a probe, which writes, and with every write refused.
    ReadOnly,
}

/// Opens the bucket, probes its capabilities, and logs them.
pub async fn open(
    settings: &Settings,
    url: &S3Url,
    access: BucketAccess,
) -> Result<Arc<dyn Store>, BucketError> {
    let store = S3Store::open(options(settings, url)?)?;
    if access == BucketAccess::ReadOnly {
        return Ok(read_only(store));
    }
    let probed = store.probe().await;
    let found = probed.map_err(|source| unusable(url, store.health().clock_difference, source))?;
    tracing::info!(bucket = %url, "the bucket honours {found}");
    if !found.is_shareable() && access == BucketAccess::Collect {
        return Err(BucketError::OnlyInServe { url: Box::new(url.clone()) });
    }
    if !found.is_shareable() && access == BucketAccess::Serve && !settings.single_instance {
        return Err(BucketError::NotShareable { url: Box::new(url.clone()), found });
    }
    if found.is_shareable() {
        if !found.may_remove_records() {
            tracing::info!(
                "the bucket has no conditional delete: each deleted record leaves a tombstone of 24 bytes"
            );
        }
        let removes = found.may_remove_records();
        let store = TombstoneStore::new(store, jreg_registry::may_come_back);
        return Ok(Arc::new(if removes { store } else { store.that_stay() }));
    }
    if access == BucketAccess::Look {
        return Ok(Arc::new(SingleWriterStore::new(store)));
    }
    tracing::warn!(
        "conditional writes are enforced by this process only: do not start a second instance"
    );
    Ok(Arc::new(SingleWriterStore::new(store)))
}

/// A bucket that is only read. Tombstones are hidden, whatever wrote them.
fn read_only(store: S3Store) -> Arc<dyn Store> {
    let store = TombstoneStore::new(store, jreg_registry::may_come_back);
    Arc::new(ReadOnlyStore::new(Arc::new(store)))
}

fn unusable(url: &S3Url, clock: Option<Duration>, source: jreg_storage::Error) -> BucketError {
    let url = Box::new(url.clone());
    match clock.filter(|difference| *difference > CLOCK_DIFFERENCE_MAX) {
        Some(difference) => BucketError::Clock { url, difference },
        None => BucketError::Unusable { url, source },
    }
}

fn options(settings: &Settings, url: &S3Url) -> Result<S3Options, BucketError> {
    let defaults = S3Options::new(url.clone());
    Ok(S3Options {
        credentials: credentials(settings)?,
        headers: settings.s3_header.iter().filter_map(|header| split(header)).collect(),
        trace_parent: Some(jreg_telemetry::trace::parent_header),
        part_bytes: settings.part_bytes.unwrap_or(defaults.part_bytes),
        connect_timeout: settings.s3_connect_timeout,
        request_timeout: settings.s3_request_timeout,
        request_budget: settings.s3_request_budget,
        idle_timeout: settings.s3_idle_timeout,
        transfer_budget: settings.s3_transfer_budget,
        ..defaults
    })
}

fn split(header: &str) -> Option<(String, String)> {
    let (name, value) = header.split_once(':')?;
    Some((name.trim().to_owned(), value.trim().to_owned()))
}

fn credentials(settings: &Settings) -> Result<S3Credentials, BucketError> {
    let secret = secret_of(
        &settings.s3_secret_access_key,
        "s3-secret-access-key-file",
        settings.s3_secret_access_key_file.as_deref(),
    )?;
    let token = secret_of(
        &settings.s3_session_token,
        "s3-session-token-file",
        settings.s3_session_token_file.as_deref(),
    )?;
    match (settings.s3_access_key_id.clone(), secret, token) {
        (Some(key_id), Some(secret), token) => Ok(S3Credentials::Static { key_id, secret, token }),
        (None, None, None) => Ok(S3Credentials::Environment),
        _ => Err(BucketError::HalfAKey),
    }
}

/// A secret from its setting or its file.
fn secret_of(
    given: &Option<SecretValue>,
    setting: &'static str,
    file: Option<&str>,
) -> Result<Option<String>, BucketError> {
    let Some(path) = file else {
        return Ok(given.as_ref().map(|secret| secret.reveal().to_owned()));
    };
    let failed = |source| BucketError::SecretFile { setting, path: PathBuf::from(path), source };
    read_secret(Path::new(path)).map(Some).map_err(failed)
}

fn read_secret(path: &Path) -> io::Result<String> {
    let text = read_regular(path, SECRET_BYTES_MAX)?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    let is_line = !line.is_empty() && !line.contains(char::is_control);
    if !is_line {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(line.to_owned())
}
