//! [`BucketCapabilities`]: what a bucket honours, found out by attempts that race each other.
//!
//! Stores exist that take `If-None-Match` and `If-Match` and ignore them, or that honour them
//! only one request at a time. So each condition is tried by sixteen writers at once, of which
//! exactly one may win, and its bytes must be what is read. Others list in another order, or from
//! another place, than they are asked for: a few keys are listed. And some show the bytes of one version
//! with the etag of another: keys are read while they are overwritten (`reads`).

mod reads;

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use http::{Method, header};
use uuid::Uuid;

use super::bucket::{BucketClient, BufferedResponse, RESPONSE_BYTES_MAX, S3Request, etag};
use super::failure::{FailureClass, S3Failure};
use crate::{ETag, Error, ErrorKind, Key, ListRequest, Result};

/// The ends of the keys that are listed, in byte order.
const LISTED: [&str; 3] = ["1-", "1/2", "10"];

/// How many try at once.
const RIVALS: usize = 16;

/// The capabilities of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BucketCapabilities {
    /// Of many writers that create a key, exactly one succeeds.
    pub create_once: bool,
    /// Of many writers that replace one version, exactly one succeeds.
    pub compare_and_swap: bool,
    /// A write over a version is refused where there is nothing (MinIO before September 2025
    /// writes it: minio/minio#21526).
    pub swap_needs_key: bool,
    /// A delete of one version spares every other.
    pub conditional_delete: bool,
    /// Versions in conditions are written without their quotes.
    pub bare_etags: bool,
    /// How far the store's clock is from ours. It is told in whole seconds.
    pub clock_difference: Duration,
}

impl BucketCapabilities {
    /// Whether several instances may use the bucket at the same time.
    pub fn is_shareable(&self) -> bool {
        self.create_once && self.compare_and_swap
    }

    /// Whether what is no longer needed of a record may be removed from a bucket that is shared.
    ///
    /// Where a delete has no condition, it could remove a newer version. Where a swap writes a
    /// missing key, one that comes after the removal would bring back a record that its writer
    /// believes to be alive. As long as every record keeps its key, as a tombstone at the least,
    /// no swap ever meets a missing key, and such a store is as good as any.
    pub fn may_remove_records(&self) -> bool {
        self.conditional_delete && self.swap_needs_key
    }
}

/// One line for a log.
impl fmt::Display for BucketCapabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let yes = |honoured: bool| if honoured { "yes" } else { "NO" };
        write!(
            f,
            "create once: {}, compare-and-swap: {}{}{}, conditional delete: {}, \
             clock difference: {} s",
            yes(self.create_once),
            yes(self.compare_and_swap),
            if self.bare_etags { " (bare etags)" } else { "" },
            if self.compare_and_swap && !self.swap_needs_key {
                " (WRITES a missing key)"
            } else {
                ""
            },
            yes(self.conditional_delete),
            self.clock_difference.as_secs(),
        )
    }
}

/// How a race ended.
enum Race {
    /// One writer won, and what it wrote is there.
    Won,
    /// All were turned away.
    None,
    /// Several won, or another than the winner is there.
    Broken,
}

impl BucketClient {
    pub(super) async fn probe(&self) -> Result<BucketCapabilities> {
        // First what writes nothing: with a wrong clock the rest is refused.
        let list = self.bucket(Method::GET).query("list-type", "2").query("max-keys", "1");
        let list = list.query("prefix", self.stored("probe/"));
        let listed = self.ask(&list, self.effort(0), RESPONSE_BYTES_MAX).await;
        listed.map_err(|failure| failure.on("a listing"))?;
        let name = format!("probe/{}", Uuid::new_v4().simple());
        let key = Key::try_from(name.clone()).expect("hex digits make a key");
        let found = self.try_probe(&key).await;
        let cleaned = self.delete(&key, None).await;
        let found = found.map_err(|failure| failure.on(&key))?;
        cleaned?;
        self.probe_listing(&name).await?;
        self.probe_reads(&name).await?;
        Ok(found)
    }

    /// Lists keys whose order as bytes is not their order as folders: GC and fsck rely on every
    /// listing.
    async fn probe_listing(&self, name: &str) -> Result<()> {
        let keys = LISTED.map(|end| Key::try_from(format!("{name}/{end}")).expect("it is a key"));
        let listed = self.try_listing(name, &keys).await;
        let mut cleaned = Ok(());
        for key in &keys {
            cleaned = cleaned.and(self.delete(key, None).await);
        }
        listed.and(cleaned)
    }

    async fn try_listing(&self, name: &str, keys: &[Key]) -> Result<()> {
        for key in keys {
            let put = self.object(Method::PUT, key).body(nonce());
            let put = self.ask(&put, self.effort(0), RESPONSE_BYTES_MAX).await;
            put.map_err(|failure| failure.on(key))?;
        }
        for (after, limit) in [(None, keys.len()), (None, 2), (keys.first(), keys.len())] {
            let start_after = after.map(Key::to_string);
            let below = ListRequest::below(format!("{name}/"));
            let page = self.list(&ListRequest { start_after, limit, ..below }).await?;
            let due = keys.iter().filter(|key| after.is_none_or(|after| *key > after));
            if !page.entries.iter().map(|entry| &entry.key).eq(due.take(limit)) {
                let shown: Vec<_> = page.entries.iter().map(|entry| entry.key.as_str()).collect();
                let why =
                    format!("the listing of the bucket cannot be relied on: it shows {shown:?}");
                return Err(Error::with_source(ErrorKind::Unavailable, name, why));
            }
        }
        Ok(())
    }

    async fn try_probe(&self, key: &Key) -> Result<BucketCapabilities, S3Failure> {
        let create = self.object(Method::PUT, key).header(header::IF_NONE_MATCH, "*");
        let created = self.race(key, &create).await?;
        // The swap is tried from a known version, whichever request won.
        let first = self.overwrite(key).await?;
        let (swapped, bare_etags) = self.race_to_swap(key, &first).await?;
        let current = self.overwrite(key).await?;
        let conditional_delete = self.deletes_on_condition(key, &first, &current).await?;
        let swap_needs_key = self.refuses_to_swap_nothing(key, &current).await?;
        Ok(BucketCapabilities {
            create_once: matches!(created, Race::Won),
            compare_and_swap: swapped,
            swap_needs_key,
            conditional_delete,
            bare_etags,
            clock_difference: self.clock.difference().unwrap_or_default(),
        })
    }

    async fn race_to_swap(&self, key: &Key, first: &ETag) -> Result<(bool, bool), S3Failure> {
        for bare in [false, true] {
            self.use_bare_tags(bare);
            let swap = self.object(Method::PUT, key).header(header::IF_MATCH, &self.tag(first));
            match self.race(key, &swap).await? {
                Race::Won => return Ok((true, bare)),
                // With these quotes no version is ever the right one.
                Race::None => {}
                Race::Broken => break,
            }
        }
        self.use_bare_tags(false);
        Ok((false, false))
    }

    /// Sends the write from sixteen writers at once, each with bytes of its own.
    async fn race(&self, key: &Key, request: &S3Request) -> Result<Race, S3Failure> {
        let mut effort = self.effort(0);
        loop {
            let rivals: Vec<S3Request> =
                (0..RIVALS).map(|_| request.clone().body(nonce())).collect();
            let within = self.options.request_timeout;
            let runs = rivals.iter().map(|rival| self.once(rival, within, RESPONSE_BYTES_MAX));
            let ends = join_all(runs).await;
            let won = |end: &Result<BufferedResponse, S3Failure>| end.is_ok();
            let winners: Vec<&Bytes> = rivals
                .iter()
                .zip(&ends)
                .filter(|(_, end)| won(end))
                .map(|(r, _)| &r.body)
                .collect();
            match winners.as_slice() {
                [bytes] => return self.judge(key, bytes).await,
                [] => {}
                _ => return Ok(Race::Broken),
            }
            let faults = ends.into_iter().filter_map(Result::err).filter(is_fault);
            // Of one that is unsure, if there is: it may have won without being told.
            let fault = faults.max_by_key(|fault| fault.verdict == FailureClass::Unsure);
            let Some(fault) = fault else { return Ok(Race::None) };
            if fault.verdict == FailureClass::Unsure && self.holds_one_of(key, &rivals).await? {
                return Ok(Race::Won);
            }
            if !fault.verdict.is_passing() || !effort.again(fault.retry_after).await {
                return Err(fault);
            }
        }
    }

    async fn holds_one_of(&self, key: &Key, rivals: &[S3Request]) -> Result<bool, S3Failure> {
        let get = self.object(Method::GET, key);
        match self.ask(&get, self.effort(0), RESPONSE_BYTES_MAX).await {
            Ok(there) => Ok(rivals.iter().any(|rival| rival.body == there.body)),
            Err(failure) if failure.verdict == FailureClass::Absent => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    async fn judge(&self, key: &Key, bytes: &Bytes) -> Result<Race, S3Failure> {
        let get = self.object(Method::GET, key);
        let there = self.ask(&get, self.effort(0), RESPONSE_BYTES_MAX).await?;
        match there.body == *bytes {
            true => Ok(Race::Won),
            false => Ok(Race::Broken),
        }
    }

    async fn overwrite(&self, key: &Key) -> Result<ETag, S3Failure> {
        let put = self.object(Method::PUT, key).body(nonce());
        let response = self.ask(&put, self.effort(0), RESPONSE_BYTES_MAX).await?;
        etag(&response.headers)
    }

    /// Whether the stale version is spared and the current one removed.
    async fn deletes_on_condition(
        &self,
        key: &Key,
        stale: &ETag,
        current: &ETag,
    ) -> Result<bool, S3Failure> {
        let delete = |etag: &ETag| {
            self.object(Method::DELETE, key).header(header::IF_MATCH, &self.tag(etag))
        };
        let within = self.options.request_timeout;
        // Only a store that looked says why: one that failed may ignore the condition.
        match self.ask(&delete(stale), self.effort(0), RESPONSE_BYTES_MAX).await {
            Err(failure) if failure.verdict == FailureClass::Condition => {}
            _ => return Ok(false),
        }
        if !self.is_there(key).await? {
            return Ok(false);
        }
        let removed = self.once(&delete(current), within, RESPONSE_BYTES_MAX).await;
        Ok(removed.is_ok() && !self.is_there(key).await?)
    }

    async fn is_there(&self, key: &Key) -> Result<bool, S3Failure> {
        let get = self.object(Method::GET, key);
        match self.ask(&get, self.effort(0), RESPONSE_BYTES_MAX).await {
            Ok(_) => Ok(true),
            Err(failure) if failure.verdict == FailureClass::Absent => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    /// Whether a swap of the version that was just removed leaves nothing behind.
    async fn refuses_to_swap_nothing(&self, key: &Key, gone: &ETag) -> Result<bool, S3Failure> {
        let delete = self.object(Method::DELETE, key);
        match self.ask(&delete, self.effort(0), RESPONSE_BYTES_MAX).await {
            Err(failure) if failure.verdict != FailureClass::Absent => return Err(failure),
            _ => {}
        }
        let swap = self.object(Method::PUT, key).header(header::IF_MATCH, &self.tag(gone));
        match self.ask(&swap.body(nonce()), self.effort(0), RESPONSE_BYTES_MAX).await {
            Ok(_) => Ok(false),
            Err(failure) if failure.verdict.is_passing() => Err(failure),
            // Also of an attempt whose response was lost.
            Err(_) => Ok(!self.is_there(key).await?),
        }
    }
}

/// Whether the failure says nothing of the condition. Some stores have none (Backblaze B2), and
/// say so.
fn is_fault(failure: &S3Failure) -> bool {
    let refusals = [FailureClass::Condition, FailureClass::Absent, FailureClass::Conflict];
    !refusals.contains(&failure.verdict) && !failure.is_not_implemented()
}

fn nonce() -> Bytes {
    Bytes::from(Uuid::new_v4().simple().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_what_is_missing() {
        let capabilities = BucketCapabilities {
            create_once: true,
            compare_and_swap: false,
            swap_needs_key: false,
            conditional_delete: false,
            bare_etags: false,
            clock_difference: Duration::from_secs(2),
        };
        assert_eq!(
            capabilities.to_string(),
            "create once: yes, compare-and-swap: NO, conditional delete: NO, clock difference: 2 s"
        );
        assert!(!capabilities.is_shareable());
        let capabilities =
            BucketCapabilities { compare_and_swap: true, conditional_delete: true, ..capabilities };
        assert!(
            capabilities.to_string().contains("compare-and-swap: yes (WRITES a missing key), ")
        );
        assert!(capabilities.is_shareable() && !capabilities.may_remove_records());
    }
}
