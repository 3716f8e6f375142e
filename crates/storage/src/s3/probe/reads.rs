//! Whether a read shows the bytes of an object with their own version.
//!
//! Servers exist that store bytes and version one after the other (versitygw with `--sidecar`). A read in
//! between shows old bytes with the new version; a swap that relies on it succeeds, and the update in between
//! is lost, however strictly conditions are kept. So keys are read while they are overwritten.

use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures::future::{join, join_all, try_join_all};
use http::Method;

use super::super::bucket::{BucketClient, RESPONSE_BYTES_MAX, etag};
use super::super::failure::S3Failure;
use super::nonce;
use crate::{ETag, Error, ErrorKind, Key, Result};

/// Number of keys that are overwritten at once: some stores take one write per second to a key. Eight of them
/// find out versitygw with `--sidecar` at three of four starts.
const KEYS: usize = 32;
/// Number of concurrent readers of each.
const READERS: usize = 2;
/// Maximum number of reads of a reader while its key is overwritten.
const READS_MAX: usize = 16;

/// What a write stored, or what a read shows.
#[derive(Debug, PartialEq, Eq)]
struct ObjectVersion {
    bytes: Bytes,
    etag: ETag,
}

impl BucketClient {
    /// Reads keys while they are overwritten.
    pub(super) async fn probe_reads(&self, name: &str) -> Result<()> {
        let key = |number| Key::try_from(format!("{name}/read-{number}")).expect("it is a key");
        let keys: Vec<Key> = (0..KEYS).map(key).collect();
        let found = join_all(keys.iter().map(|key| self.race_reads(key))).await;
        let cleaned = join_all(keys.iter().map(|key| self.delete(key, None))).await;
        found.into_iter().chain(cleaned).collect()
    }

    async fn race_reads(&self, key: &Key) -> Result<()> {
        let found = self.try_race_reads(key).await.map_err(|failure| failure.on(key))?;
        let Some(why) = found else { return Ok(()) };
        let why = format!("reads of the bucket cannot be relied on: {why}");
        Err(Error::with_source(ErrorKind::Unavailable, key, why))
    }

    /// What is wrong with the reads of this key.
    async fn try_race_reads(&self, key: &Key) -> Result<Option<&'static str>, S3Failure> {
        let old = self.write_version(key).await?;
        let is_written = AtomicBool::new(false);
        let writing = async {
            let new = self.write_version(key).await;
            is_written.store(true, Ordering::Relaxed);
            new
        };
        let reading = try_join_all((0..READERS).map(|_| self.read_until(key, &is_written)));
        let (new, shown) = join(writing, reading).await;
        let new = new?;
        let last = self.read_version(key).await?;
        // Not compared with what is known alone: a write that was retried may have had two versions.
        let is_torn = |shown: &ObjectVersion| {
            (shown.bytes == old.bytes && shown.etag == new.etag)
                || (shown.bytes == new.bytes && shown.etag == old.etag)
        };
        Ok(if shown?.iter().flatten().chain([&last]).any(is_torn) {
            Some("one shows the bytes of a version with the ETag of another")
        } else if last.bytes == old.bytes {
            Some("one shows what was overwritten before")
        } else {
            None
        })
    }

    async fn read_until(
        &self,
        key: &Key,
        is_written: &AtomicBool,
    ) -> Result<Vec<ObjectVersion>, S3Failure> {
        let mut shown = Vec::new();
        while shown.len() < READS_MAX && !is_written.load(Ordering::Relaxed) {
            shown.push(self.read_version(key).await?);
        }
        Ok(shown)
    }

    async fn write_version(&self, key: &Key) -> Result<ObjectVersion, S3Failure> {
        let bytes = nonce();
        let put = self.object(Method::PUT, key).body(bytes.clone());
        let response = self.ask(&put, self.effort(0), RESPONSE_BYTES_MAX).await?;
        Ok(ObjectVersion { bytes, etag: etag(&response.headers)? })
    }

    async fn read_version(&self, key: &Key) -> Result<ObjectVersion, S3Failure> {
        let get = self.object(Method::GET, key);
        let response = self.ask(&get, self.effort(0), RESPONSE_BYTES_MAX).await?;
        Ok(ObjectVersion { etag: etag(&response.headers)?, bytes: response.body })
    }
}
