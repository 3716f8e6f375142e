//! Listings, a page at a time.

use std::sync::atomic::Ordering;
use std::time::SystemTime;

use bytes::Bytes;
use futures::stream::{StreamExt, TryStreamExt, iter};
use http::{HeaderName, Method};
use md5::{Digest, Md5};

use super::bucket::{BucketClient, BufferedResponse, RESPONSE_BYTES_MAX, S3Request, bare, date};
use super::failure::{FailureClass, S3Failure};
use super::xml::{self, DeleteResult, ListBucketResult, ListedContent};
use crate::{Key, ListPage, ListRequest, Listed, Result};

/// The most that one response lists.
const PAGE_MAX: usize = 1000;

/// Maximum number of keys that one request removes.
const DELETE_MAX: usize = 1000;

/// How many keys are removed at once where each takes a request.
const SINGLE_DELETES: usize = 16;

/// The most responses without an entry that are followed to make one page.
const EMPTY_RESPONSES_MAX: u32 = 100;

/// How much of a wrong name an error repeats.
const NAME_CHARS_SHOWN: usize = 200;

impl BucketClient {
    pub(super) async fn list(&self, request: &ListRequest) -> Result<ListPage> {
        let page = self.page(request).await;
        page.map_err(|failure| failure.on(&request.prefix))
    }

    async fn page(&self, request: &ListRequest) -> Result<ListPage, S3Failure> {
        if !Key::may_start_with(&request.prefix) {
            return self.empty_page().await;
        }
        let limit = request.limit.clamp(1, PAGE_MAX);
        let mut asked = self.first(request, limit);
        for _ in 0..EMPTY_RESPONSES_MAX {
            let BufferedResponse { headers, body } =
                self.ask(&asked, self.effort(0), RESPONSE_BYTES_MAX).await?;
            let broken = |error| S3Failure::new(FailureClass::Unsure, error);
            let listing: ListBucketResult = xml::read(&body).map_err(broken)?;
            let token = listing.next_continuation_token.clone();
            let page = self.page_of(request, limit, listing, date(&headers)?)?;
            let empty = page.entries.is_empty() && page.prefixes.is_empty();
            match token {
                Some(token) if empty && page.next.is_some() => asked = following(asked, token),
                None if empty && page.next.is_some() => break,
                Some(token) => {
                    if let Some(last) = &page.next {
                        self.continuations.keep(request, last, token, &headers);
                    }
                    return Ok(page);
                }
                None => return Ok(page),
            }
        }
        Err(S3Failure::new(
            FailureClass::Unsure,
            "the listing says that there is more, and shows nothing",
        ))
    }

    /// For a prefix that no key has. The request is for the store's time: MinIO refuses some of
    /// these prefixes.
    async fn empty_page(&self) -> Result<ListPage, S3Failure> {
        let asked = self.listing(self.stored(""), 1);
        let response = self.ask(&asked, self.effort(0), RESPONSE_BYTES_MAX).await?;
        let date = date(&response.headers)?;
        Ok(ListPage { entries: Vec::new(), prefixes: Vec::new(), next: None, date })
    }

    fn listing(&self, prefix: String, limit: usize) -> S3Request {
        self.bucket(Method::GET)
            .query("list-type", "2")
            .query("max-keys", limit.to_string())
            .query("prefix", prefix)
    }

    fn first(&self, request: &ListRequest, limit: usize) -> S3Request {
        // Some stores group keys after `start_after` into the common prefix that contains it: one
        // more.
        let folds = request.delimiter && request.start_after.is_some();
        let limit = (limit + usize::from(folds)).min(PAGE_MAX);
        let mut asked = self.listing(self.stored(&request.prefix), limit);
        if request.delimiter {
            asked = asked.query("delimiter", "/");
        }
        if let Some(token) = self.continuations.of(request) {
            return following(asked, token);
        }
        match request.start_after.as_deref() {
            // S3 takes an empty one for none, which is the same.
            Some(after) if after > request.prefix.as_str() => {
                asked.query("start-after", self.stored(after))
            }
            _ => asked,
        }
    }

    fn page_of(
        &self,
        request: &ListRequest,
        limit: usize,
        listing: ListBucketResult,
        date: SystemTime,
    ) -> Result<ListPage, S3Failure> {
        let after = request.start_after.as_deref().unwrap_or_default();
        self.check_page(request, &listing)?;
        let mut entries = Vec::with_capacity(listing.contents.len());
        for content in listing.contents {
            entries.extend(self.listed(content)?);
        }
        let folded = listing.common_prefixes.iter().filter_map(|folded| self.own(&folded.prefix));
        let mut prefixes: Vec<String> =
            folded.filter(|prefix| *prefix > after).map(str::to_owned).collect();
        entries.sort_by(|a, b| a.key.cmp(&b.key));
        prefixes.sort();
        let cut = cut(&mut entries, &mut prefixes, limit);
        let last_entry = entries.last().map(|entry| entry.key.to_string());
        let last = last_entry.max(prefixes.last().cloned());
        let more = cut || listing.is_truncated;
        let next = more.then(|| last.unwrap_or_else(|| after.to_owned()));
        Ok(ListPage { entries, prefixes, next, date })
    }

    /// Refuses a response that no store gives that lists by the book: with it, what is there would be
    /// taken for absent. Every later page relies on the last key of the one before.
    fn check_page(
        &self,
        request: &ListRequest,
        listing: &ListBucketResult,
    ) -> Result<(), S3Failure> {
        let prefix = self.stored(&request.prefix);
        let after = request.start_after.as_deref().unwrap_or_default();
        let after = if after.is_empty() { String::new() } else { self.stored(after) };
        let keys = || listing.contents.iter().map(|content| content.key.as_str());
        let prefixes = || listing.common_prefixes.iter().map(|folded| folded.prefix.as_str());
        let wrong =
            |why, name: &str| Err(S3Failure::new(FailureClass::Unsure, Unlisted::new(why, name)));
        for names in [keys().collect::<Vec<_>>(), prefixes().collect()] {
            let next = names.iter().skip(1);
            if let Some((_, name)) = names.iter().zip(next).find(|(one, next)| one >= next) {
                return wrong("is not in ascending order", name);
            }
        }
        if let Some(name) = keys().chain(prefixes()).find(|name| !name.starts_with(&prefix)) {
            return wrong("is outside the prefix", name);
        }
        // Some stores show the common prefix in which `start_after` lies.
        let early = prefixes().filter(|name| !after.starts_with(*name)).chain(keys());
        if let Some(name) = early.into_iter().find(|name| **name <= *after) {
            return wrong("does not follow start-after", name);
        }
        let is_below = |key: &&str| key.get(prefix.len()..).is_some_and(|rest| rest.contains('/'));
        match keys().find(is_below).filter(|_| request.delimiter) {
            Some(name) => wrong("is below the delimiter", name),
            None => Ok(()),
        }
    }

    /// A key as we call it.
    pub(super) fn own<'k>(&self, stored: &'k str) -> Option<&'k str> {
        match self.options.url.prefix.as_str() {
            "" => Some(stored),
            prefix => stored.strip_prefix(prefix)?.strip_prefix('/'),
        }
    }

    /// An entry; `None` for what cannot be ours (the folder marker that some tools leave).
    fn listed(&self, content: ListedContent) -> Result<Option<Listed>, S3Failure> {
        let Some(key) = self.own(&content.key).and_then(|key| key.parse::<Key>().ok()) else {
            return Ok(None);
        };
        let time = chrono::DateTime::parse_from_rfc3339(&content.last_modified);
        let time = time.map_err(|error| S3Failure::new(FailureClass::Unsure, error))?;
        // Headers tell times in whole seconds; one object must not have two times.
        let seconds = u64::try_from(time.timestamp()).unwrap_or_default();
        Ok(Some(Listed {
            key,
            size_bytes: content.size,
            last_modified: SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds),
            etag: content.etag.as_deref().map(bare),
        }))
    }

    pub(super) async fn delete_many(&self, keys: &[Key]) -> Result<()> {
        for keys in keys.chunks(DELETE_MAX) {
            self.delete_some(keys).await?;
        }
        Ok(())
    }

    async fn delete_some(&self, keys: &[Key]) -> Result<()> {
        if self.deletes_singly.load(Ordering::Relaxed) {
            return self.delete_each(keys).await;
        }
        let name = keys.first().map(Key::as_str).unwrap_or_default();
        match self.delete_together(keys).await {
            Err(failure) if failure.is_unknown_request() => {}
            response => return response.map_err(|failure| failure.on(name)),
        }
        self.delete_each(keys).await?;
        // Only now it is certain that it was the request, and not our right to it.
        if !self.deletes_singly.swap(true, Ordering::Relaxed) {
            tracing::warn!("the bucket does not take DeleteObjects: keys are removed one by one");
        }
        Ok(())
    }

    async fn delete_each(&self, keys: &[Key]) -> Result<()> {
        let deletes: Vec<_> = keys.iter().map(|key| self.delete(key, None)).collect();
        iter(deletes).buffer_unordered(SINGLE_DELETES).try_collect().await
    }

    async fn delete_together(&self, keys: &[Key]) -> Result<(), S3Failure> {
        let body = xml::delete(keys.iter().map(|key| self.stored(key.as_str())));
        let request = self
            .bucket(Method::POST)
            .query("delete", "")
            .header(HeaderName::from_static("content-md5"), &content_md5(body.as_bytes()))
            .header(http::header::CONTENT_TYPE, "application/xml")
            .body(Bytes::from(body));
        let mut effort = self.effort(0);
        loop {
            let response = self.once(&request, effort.attempt, RESPONSE_BYTES_MAX).await;
            let failure = match response.and_then(|whole| undeleted(&whole.body)) {
                Ok(()) => return Ok(()),
                Err(failure) => failure,
            };
            if !failure.verdict.is_passing() || !effort.again(failure.retry_after).await {
                return Err(failure);
            }
        }
    }
}

/// The first key that was not deleted, as a failure.
fn undeleted(body: &[u8]) -> Result<(), S3Failure> {
    // Some stores answer a quiet deletion of everything with no document at all.
    if body.is_empty() {
        return Ok(());
    }
    let deleted: DeleteResult =
        xml::read(body).map_err(|error| S3Failure::new(FailureClass::Unsure, error))?;
    match deleted.errors.into_iter().find(|error| error.code != "NoSuchKey") {
        None => Ok(()),
        Some(error) => {
            let verdict = FailureClass::of_code(http::StatusCode::FORBIDDEN, &error.code);
            Err(S3Failure::new(verdict, format!("{}: {}", error.key, error.code)))
        }
    }
}

/// A name in a listing that cannot be there.
#[derive(Debug, thiserror::Error)]
#[error("the listing of the bucket cannot be relied on: {name:?} {why}")]
struct Unlisted {
    why: &'static str,
    name: String,
}

impl Unlisted {
    fn new(why: &'static str, name: &str) -> Self {
        Self { why, name: name.chars().take(NAME_CHARS_SHOWN).collect() }
    }
}

fn following(mut asked: S3Request, token: String) -> S3Request {
    asked.query.retain(|(name, _)| *name != "continuation-token");
    asked.query("continuation-token", token)
}

/// Cuts a page to the limit; what goes is the last in byte order.
fn cut(entries: &mut Vec<Listed>, prefixes: &mut Vec<String>, limit: usize) -> bool {
    let mut cut = false;
    while entries.len() + prefixes.len() > limit {
        cut = true;
        let entry = entries.last().map(|entry| entry.key.as_str());
        if entry > prefixes.last().map(String::as_str) {
            entries.pop();
        } else {
            prefixes.pop();
        }
    }
    cut
}

/// RFC 1864: the digest in base64, which S3 wants of this request.
fn content_md5(body: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(24);
    for chunk in Md5::digest(body).chunks(3) {
        let byte = |n: usize| u32::from(chunk.get(n).copied().unwrap_or_default());
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for n in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * n) & 63) as usize];
            text.push(if n > chunk.len() { '=' } else { char::from(letter) });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_of_a_body_is_in_base64() {
        // RFC 1321 A.5, as base64.
        assert_eq!(content_md5(b""), "1B2M2Y8AsgTpgAmY7PhCfg==");
        assert_eq!(content_md5(b"abc"), "kAFQmDzST7DWlj99KOF/cg==");
    }
}
