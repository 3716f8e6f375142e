//! [`Capabilities`]: what a bucket honours, found out by attempts that race each other.
//!
//! Stores exist that take `If-None-Match` and `If-Match` and ignore them, or that honour them
//! only one request at a time. So each condition is tried by sixteen writers at once, of which
//! exactly one may win, and its bytes must be what is read.

use std::fmt;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::future::join_all;
use http::{Method, header};
use uuid::Uuid;

use super::bucket::{ANSWER_BYTES_MAX, Bucket, Request, Whole, date, etag};
use super::failure::{Failure, Verdict};
use crate::{ETag, Key, Result};

/// How many try at once.
const RIVALS: usize = 16;

/// How often a race is run again that no one could finish.
const RACES_MAX: usize = 3;

/// What a bucket honours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Of many writers that create a key, exactly one succeeds.
    pub create_once: bool,
    /// Of many writers that replace one version, exactly one succeeds.
    pub compare_and_swap: bool,
    /// A delete of one version spares every other.
    pub conditional_delete: bool,
    /// Versions in conditions are written without their quotes.
    pub bare_etags: bool,
    /// How far the store's clock is from ours. It is told in whole seconds.
    pub clock_difference: Duration,
}

impl Capabilities {
    /// Whether several instances may use the bucket at the same time.
    pub fn is_shareable(&self) -> bool {
        self.create_once && self.compare_and_swap
    }
}

/// One line for a log.
impl fmt::Display for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let yes = |honoured: bool| if honoured { "yes" } else { "NO" };
        write!(
            f,
            "create once: {}, compare-and-swap: {}{}, conditional delete: {}, clock difference: {} s",
            yes(self.create_once),
            yes(self.compare_and_swap),
            if self.bare_etags { " (bare etags)" } else { "" },
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
    Nobody,
    /// Several won, or another than the winner is there.
    Broken,
}

impl Bucket {
    pub(super) async fn probe(&self) -> Result<Capabilities> {
        let name = format!("probe/{}", Uuid::new_v4().simple());
        let key = Key::try_from(name.clone()).expect("hex digits make a key");
        let found = self.try_probe(&key).await;
        let cleaned = self.delete(&key, None).await;
        let found = found.map_err(|failure| failure.on(&key))?;
        cleaned.map(|()| found)
    }

    async fn try_probe(&self, key: &Key) -> Result<Capabilities, Failure> {
        let create = self.object(Method::PUT, key).header(header::IF_NONE_MATCH, "*");
        let created = self.race(key, &create).await?;
        // The swap is tried from a known version, whoever won.
        let first = self.overwrite(key).await?;
        let (swapped, bare_etags) = self.race_to_swap(key, &first).await?;
        let current = self.overwrite(key).await?;
        let conditional_delete = self.deletes_on_condition(key, &first, &current).await?;
        Ok(Capabilities {
            create_once: matches!(created, Race::Won),
            compare_and_swap: swapped,
            conditional_delete,
            bare_etags,
            clock_difference: self.clock_difference().await?,
        })
    }

    async fn race_to_swap(&self, key: &Key, first: &ETag) -> Result<(bool, bool), Failure> {
        for bare in [false, true] {
            self.use_bare_tags(bare);
            let swap = self.object(Method::PUT, key).header(header::IF_MATCH, &self.tag(first));
            match self.race(key, &swap).await? {
                Race::Won => return Ok((true, bare)),
                // With these quotes no version is ever the right one.
                Race::Nobody => {}
                Race::Broken => break,
            }
        }
        self.use_bare_tags(false);
        Ok((false, false))
    }

    /// Sends the write from sixteen writers at once, each with bytes of its own.
    async fn race(&self, key: &Key, request: &Request) -> Result<Race, Failure> {
        let mut last = None;
        for _ in 0..RACES_MAX {
            let rivals: Vec<Request> = (0..RIVALS).map(|_| request.clone().body(nonce())).collect();
            let within = self.options.request_timeout;
            let runs = rivals.iter().map(|rival| self.once(rival, within, ANSWER_BYTES_MAX));
            let ends = join_all(runs).await;
            let won = |end: &Result<Whole, Failure>| end.is_ok();
            let winners: Vec<&Bytes> = rivals
                .iter()
                .zip(&ends)
                .filter(|(_, end)| won(end))
                .map(|(r, _)| &r.body)
                .collect();
            match winners.as_slice() {
                [bytes] => return self.judge(key, bytes).await,
                [] => match ends.into_iter().filter_map(Result::err).find(is_fault) {
                    None => return Ok(Race::Nobody),
                    failure => last = failure,
                },
                _ => return Ok(Race::Broken),
            }
        }
        Err(last.unwrap_or_else(|| Failure::new(Verdict::Unsure, "no writer came through")))
    }

    async fn judge(&self, key: &Key, bytes: &Bytes) -> Result<Race, Failure> {
        let get = self.object(Method::GET, key);
        let there = self.ask(&get, self.effort(0), ANSWER_BYTES_MAX).await?;
        match there.body == *bytes {
            true => Ok(Race::Won),
            false => Ok(Race::Broken),
        }
    }

    async fn overwrite(&self, key: &Key) -> Result<ETag, Failure> {
        let put = self.object(Method::PUT, key).body(nonce());
        let answer = self.ask(&put, self.effort(0), ANSWER_BYTES_MAX).await?;
        etag(&answer.headers)
    }

    /// Whether the stale version is spared and the current one removed.
    async fn deletes_on_condition(
        &self,
        key: &Key,
        stale: &ETag,
        current: &ETag,
    ) -> Result<bool, Failure> {
        let delete = |etag: &ETag| {
            self.object(Method::DELETE, key).header(header::IF_MATCH, &self.tag(etag))
        };
        let within = self.options.request_timeout;
        let spared = self.once(&delete(stale), within, ANSWER_BYTES_MAX).await;
        if spared.is_ok() || !self.is_there(key).await? {
            return Ok(false);
        }
        let removed = self.once(&delete(current), within, ANSWER_BYTES_MAX).await;
        Ok(removed.is_ok() && !self.is_there(key).await?)
    }

    async fn is_there(&self, key: &Key) -> Result<bool, Failure> {
        let get = self.object(Method::GET, key);
        match self.ask(&get, self.effort(0), ANSWER_BYTES_MAX).await {
            Ok(_) => Ok(true),
            Err(failure) if failure.verdict == Verdict::Absent => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    async fn clock_difference(&self) -> Result<Duration, Failure> {
        let list = self.bucket(Method::GET).query("list-type", "2").query("max-keys", "1");
        let before = SystemTime::now();
        let answer = self.ask(&list, self.effort(0), ANSWER_BYTES_MAX).await?;
        let after = SystemTime::now();
        Ok(distance(date(&answer.headers)?, before, after))
    }
}

/// How far a time in whole seconds lies outside of the span in which it was told.
fn distance(told: SystemTime, before: SystemTime, after: SystemTime) -> Duration {
    let latest = told + Duration::from_secs(1);
    let ahead = told.duration_since(after).unwrap_or_default();
    let behind = before.duration_since(latest).unwrap_or_default();
    ahead.max(behind)
}

/// Whether the failure says nothing of the condition.
fn is_fault(failure: &Failure) -> bool {
    let refusals = [Verdict::Condition, Verdict::Absent, Verdict::Conflict];
    !refusals.contains(&failure.verdict)
}

fn nonce() -> Bytes {
    Bytes::from(Uuid::new_v4().simple().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_differ_by_what_rounding_and_the_way_do_not_explain() {
        let at = |millis| SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
        let seconds = |told, before, after| distance(at(told), at(before), at(after)).as_secs_f32();
        assert_eq!(seconds(10_000, 10_100, 10_900), 0.0);
        assert_eq!(seconds(10_000, 9_000, 10_000), 0.0);
        assert_eq!(seconds(15_000, 9_000, 10_000), 5.0);
        assert_eq!(seconds(10_000, 13_500, 14_000), 2.5);
    }

    #[test]
    fn the_line_says_what_is_missing() {
        let capabilities = Capabilities {
            create_once: true,
            compare_and_swap: false,
            conditional_delete: false,
            bare_etags: false,
            clock_difference: Duration::from_secs(2),
        };
        assert_eq!(
            capabilities.to_string(),
            "create once: yes, compare-and-swap: NO, conditional delete: NO, clock difference: 2 s"
        );
        assert!(!capabilities.is_shareable());
    }
}
