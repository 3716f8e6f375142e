//! Records: read whole, written and removed under a condition.
//!
//! A conditional write whose response was lost may have happened, and may even happen later. So the
//! key is read back: what we wrote is there, and it has; the version it was to replace is still
//! there (or nothing, after a Create), and it is retried, still under its condition, so that it has
//! at most one effect; anything else is there, and only the caller can say what that means. That
//! last is a conflict if no attempt of ours can have had an effect, else
//! [`ErrorKind::Unavailable`]: ours may have been there for a moment, and been seen.
//!
//! A 500 says nothing of what happened, not even the one by which Ceph RGW 16 tells the losers
//! of a race (`UnknownError`): it stands for every failure that has no name there, also for some
//! after the write. So every swap names in its metadata the version that it replaced. What is
//! found then, having replaced the very version that ours was to replace, proves that ours was
//! never there and never will be, since no version comes twice: a conflict after all.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Method, header};

use super::bucket::{
    BucketClient, BufferedResponse, RESPONSE_BYTES_MAX, S3Request, date, etag, last_modified,
    length,
};
use super::failure::{FailureClass, S3Failure};
use crate::{
    ETag, Error, ErrorKind, Key, PutMode, RECORD_BYTES_MAX, Record, Result, Stat, Written,
};

/// The version that a record replaced.
const REPLACED: HeaderName = HeaderName::from_static("x-amz-meta-jreg-replaced");

/// For how long a conditional write is retried, however large it is and whatever is configured: GC
/// reckons with a minute.
const CONDITIONAL_MAX: Duration = Duration::from_secs(60);

/// What is at a key after a write whose response was lost.
enum ReadBack {
    /// What we wrote.
    Ours(Written),
    /// What the write was to replace.
    Before,
    /// What another writer wrote over what the write was to replace.
    Instead,
    /// What another writer wrote.
    Other,
}

impl BucketClient {
    pub(super) async fn get(&self, key: &Key) -> Result<Record> {
        self.try_get(key).await.map_err(|failure| failure.on(key))
    }

    async fn try_get(&self, key: &Key) -> Result<Record, S3Failure> {
        self.try_get_whole(key).await.and_then(|whole| record(&whole))
    }

    async fn try_get_whole(&self, key: &Key) -> Result<BufferedResponse, S3Failure> {
        let request = self.object(Method::GET, key);
        self.ask(&request, self.effort(0), RECORD_BYTES_MAX).await
    }

    pub(super) async fn head(&self, key: &Key) -> Result<Stat> {
        self.try_head(key).await.map_err(|failure| failure.on(key))
    }

    /// A GET of one byte, because the response to a HEAD has no text: its 404 does not say whether
    /// it is the key that is missing.
    async fn try_head(&self, key: &Key) -> Result<Stat, S3Failure> {
        let get = self.object(Method::GET, key).header(header::RANGE, "bytes=0-0");
        let response = match self.ask(&get, self.effort(0), RESPONSE_BYTES_MAX).await {
            // An object without a byte has no first one.
            Err(failure) if failure.verdict == FailureClass::OutOfRange => {
                let head = self.object(Method::HEAD, key);
                self.ask(&head, self.effort(0), RESPONSE_BYTES_MAX).await?
            }
            response => response?,
        };
        let size_bytes = size(&response.headers).or_else(|| length(&response.headers));
        let unknown = || S3Failure::new(FailureClass::Unsure, "no length in the response");
        Ok(Stat {
            size_bytes: size_bytes.ok_or_else(unknown)?,
            last_modified: last_modified(&response.headers)?,
            date: date(&response.headers)?,
        })
    }

    pub(super) async fn put(&self, key: &Key, bytes: Bytes, mode: &PutMode) -> Result<Written> {
        let length = bytes.len() as u64;
        let put = self.creation(Method::PUT, key).body(bytes);
        let request = match mode {
            PutMode::Create => put.header(header::IF_NONE_MATCH, "*"),
            PutMode::Match(etag) => {
                put.header(header::IF_MATCH, &self.tag(etag)).header(REPLACED, etag.as_str())
            }
            PutMode::Overwrite => {
                let response = self.ask(&put, self.effort(length), RESPONSE_BYTES_MAX).await;
                return response.and_then(|w| written(&w)).map_err(|failure| failure.on(key));
            }
        };
        self.put_on_condition(key, &request, mode).await
    }

    async fn put_on_condition(
        &self,
        key: &Key,
        request: &S3Request,
        mode: &PutMode,
    ) -> Result<Written> {
        let mut effort = self.effort(request.body.len() as u64).within(CONDITIONAL_MAX);
        // The clock of the effort stands while the machine sleeps, and this one continues.
        let began = self.clock.now();
        // Whether an attempt may have had an effect that was not reported.
        let mut unsure = false;
        loop {
            let response = self.once(request, effort.attempt, RESPONSE_BYTES_MAX).await;
            let failure = match response.and_then(|whole| written(&whole)) {
                Ok(written) => return Ok(written),
                Err(failure) => failure,
            };
            unsure |= failure.verdict == FailureClass::Unsure;
            match failure.verdict {
                FailureClass::Condition | FailureClass::Absent if !unsure => {
                    return Err(conflict(key, mode));
                }
                FailureClass::Refused | FailureClass::Skewed if !unsure => {
                    return Err(failure.on(key));
                }
                FailureClass::Throttled | FailureClass::Unsent if !unsure => {}
                _ => match self.read_back(key, &request.body, mode).await? {
                    ReadBack::Ours(written) => return Ok(written),
                    ReadBack::Before => {}
                    ReadBack::Instead => return Err(conflict(key, mode)),
                    ReadBack::Other if !unsure => return Err(conflict(key, mode)),
                    ReadBack::Other => return Err(overtaken(key)),
                },
            }
            let is_in_time = effort.again(failure.retry_after).await
                && self.clock.now().duration_since(began).unwrap_or_default() < CONDITIONAL_MAX;
            if !is_in_time {
                return Err(given_up(failure, unsure, key));
            }
        }
    }

    async fn read_back(&self, key: &Key, bytes: &Bytes, mode: &PutMode) -> Result<ReadBack> {
        if bytes.len() as u64 > RECORD_BYTES_MAX {
            return self.read_back_size(key, bytes.len() as u64).await;
        }
        let whole = self.try_get_whole(key).await;
        match whole.and_then(|whole| Ok((record(&whole)?, whole.headers))) {
            Ok((found, headers)) => Ok(found_by(mode, bytes, found, &headers)),
            Err(failure) if failure.verdict == FailureClass::Absent => match mode {
                PutMode::Create => Ok(ReadBack::Before),
                _ => Ok(ReadBack::Other),
            },
            Err(failure) if failure.verdict == FailureClass::TooLarge => Ok(ReadBack::Other),
            Err(failure) => Err(given_up(failure, true, key)),
        }
    }

    /// What is too large to be a record is at a key that only its one writer knows.
    async fn read_back_size(&self, key: &Key, size_bytes: u64) -> Result<ReadBack> {
        let head = self.object(Method::HEAD, key);
        match self.head(key).await {
            Ok(stat) if stat.size_bytes == size_bytes => {
                let response = self.ask(&head, self.effort(0), RESPONSE_BYTES_MAX).await;
                let written = response.and_then(|whole| written(&whole));
                written.map(ReadBack::Ours).map_err(|failure| failure.on(key))
            }
            Ok(_) => Ok(ReadBack::Other),
            Err(error) if error.is_not_found() => Ok(ReadBack::Before),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn delete(&self, key: &Key, version: Option<&ETag>) -> Result<()> {
        let request = self.object(Method::DELETE, key);
        let Some(etag) = version else {
            return match self.ask(&request, self.effort(0), RESPONSE_BYTES_MAX).await {
                Ok(_) => Ok(()),
                Err(failure) if failure.verdict == FailureClass::Absent => Ok(()),
                Err(failure) => Err(failure.on(key)),
            };
        };
        let request = request.header(header::IF_MATCH, &self.tag(etag));
        self.delete_on_condition(key, &request, etag).await
    }

    async fn delete_on_condition(&self, key: &Key, request: &S3Request, etag: &ETag) -> Result<()> {
        let mut effort = self.effort(0);
        let mut unsure = false;
        loop {
            let failure = match self.once(request, effort.attempt, RESPONSE_BYTES_MAX).await {
                Ok(_) => return Ok(()),
                Err(failure) => failure,
            };
            unsure |= failure.verdict == FailureClass::Unsure;
            match failure.verdict {
                FailureClass::Condition | FailureClass::Absent if !unsure => {
                    return Err(moved(key));
                }
                FailureClass::Refused | FailureClass::Skewed if !unsure => {
                    return Err(failure.on(key));
                }
                FailureClass::Throttled | FailureClass::Unsent if !unsure => {}
                _ => match self.try_get(key).await {
                    // An attempt of ours may have removed it.
                    Err(gone) if gone.verdict == FailureClass::Absent && unsure => return Ok(()),
                    Err(gone) if gone.verdict == FailureClass::Absent => return Err(moved(key)),
                    Ok(found) if found.etag == *etag => {}
                    Ok(_) if unsure => return Err(overtaken(key)),
                    Ok(_) => return Err(moved(key)),
                    Err(failure) => return Err(given_up(failure, true, key)),
                },
            }
            if !effort.again(failure.retry_after).await {
                return Err(given_up(failure, unsure, key));
            }
        }
    }
}

/// What a record that was read back says of a write of `bytes`.
fn found_by(mode: &PutMode, bytes: &Bytes, found: Record, headers: &HeaderMap) -> ReadBack {
    let replaced = headers.get(REPLACED).and_then(|etag| etag.to_str().ok());
    let Record { etag, date, .. } = found;
    match mode {
        _ if found.bytes == *bytes => ReadBack::Ours(Written { etag, date }),
        PutMode::Match(seen) if *seen == etag => ReadBack::Before,
        PutMode::Match(seen) if replaced == Some(seen.as_str()) => ReadBack::Instead,
        _ => ReadBack::Other,
    }
}

fn record(whole: &BufferedResponse) -> Result<Record, S3Failure> {
    let BufferedResponse { headers, body } = whole;
    Ok(Record {
        bytes: body.clone(),
        etag: etag(headers)?,
        last_modified: last_modified(headers)?,
        date: date(headers)?,
    })
}

/// What the response to a write says. It has no body: a page with an ETag is of something in front of the store.
fn written(whole: &BufferedResponse) -> Result<Written, S3Failure> {
    no_body(whole)?;
    Ok(Written { etag: etag(&whole.headers)?, date: date(&whole.headers)? })
}

/// Refuses a response with a body where S3 sends none.
pub(super) fn no_body(whole: &BufferedResponse) -> Result<(), S3Failure> {
    match whole.body.trim_ascii().is_empty() {
        true => Ok(()),
        false => Err(S3Failure::new(FailureClass::Unsure, "a response to a write that has a body")),
    }
}

/// The object's length, from a response with a part of it.
pub(super) fn size(headers: &HeaderMap) -> Option<u64> {
    const CONTENT_RANGE: HeaderName = header::CONTENT_RANGE;
    let (_, size) = headers.get(CONTENT_RANGE)?.to_str().ok()?.rsplit_once('/')?;
    size.parse().ok()
}

fn conflict(key: &Key, mode: &PutMode) -> Error {
    match mode {
        PutMode::Create => Error::new(ErrorKind::AlreadyExists, key),
        _ => moved(key),
    }
}

fn moved(key: &Key) -> Error {
    Error::new(ErrorKind::Precondition, key)
}

fn overtaken(key: &Key) -> Error {
    let why = "a response was lost, and another write has come since";
    Error::with_source(ErrorKind::Unavailable, key, why)
}

/// The last failure of many; one earlier that was ambiguous makes the whole so.
fn given_up(failure: S3Failure, unsure: bool, key: &Key) -> Error {
    if unsure {
        return Error::with_source(ErrorKind::Unavailable, key, failure.on(key));
    }
    failure.on(key)
}
