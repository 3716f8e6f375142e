//! Multipart uploads: a part's number follows from its offset, so that any instance can send any
//! part without asking which there are.

use bytes::Bytes;
use http::Method;

use super::bucket::{BucketClient, RESPONSE_BYTES_MAX, S3Request, etag};
use super::failure::{FailureClass, S3Failure};
use super::records::no_body;
use super::retry::RetryBudget;
use super::xml::{self, InitiatedUpload};
use super::{PART_BYTES_MAX, PART_BYTES_MIN, PARTS_MAX};
use crate::{Error, ErrorKind, Key, Multipart, Part, Result};

impl BucketClient {
    pub(super) async fn create_multipart(
        &self,
        key: &Key,
        writer: u64,
        part_bytes: u64,
    ) -> Result<Multipart> {
        if !(PART_BYTES_MIN..=PART_BYTES_MAX).contains(&part_bytes) {
            let why = format!("parts of {part_bytes} bytes: S3 takes 5 MiB to 5 GiB");
            return Err(Error::with_source(ErrorKind::Refused, key, why));
        }
        // A response that is lost leaves an orphan upload; the bucket's lifecycle ends it.
        let request = self.creation(Method::POST, key).query("uploads", "");
        let response = self.ask(&request, self.effort(0), RESPONSE_BYTES_MAX).await;
        let begun: Result<InitiatedUpload, S3Failure> = response.and_then(|whole| {
            xml::read(&whole.body).map_err(|error| S3Failure::new(FailureClass::Unsure, error))
        });
        let id = begun.map_err(|failure| failure.on(key))?.upload_id;
        Ok(Multipart { key: key.clone(), id, writer, part_bytes, parts: Vec::new() })
    }

    pub(super) async fn put_part(
        &self,
        upload: &Multipart,
        offset: u64,
        bytes: Bytes,
    ) -> Result<Part> {
        let size_bytes = bytes.len() as u64;
        let number = part_number(upload, offset, size_bytes)?;
        let request =
            self.upload(Method::PUT, upload).query("partNumber", number.to_string()).body(bytes);
        let response = self.ask(&request, self.effort(size_bytes), RESPONSE_BYTES_MAX).await;
        let etag = response.and_then(|whole| no_body(&whole).and_then(|()| etag(&whole.headers)));
        let etag = etag.map_err(|failure| failure.on(&upload.key))?;
        Ok(Part { offset, size_bytes, etag: etag.as_str().to_owned() })
    }

    /// Only what failed without a doubt is `NotFound`: after a lost response the key says whether
    /// an attempt has succeeded.
    pub(super) async fn complete_multipart(&self, upload: &Multipart) -> Result<()> {
        let request = self.upload(Method::POST, upload).body(complete(upload)?.into());
        let budget = self.options.transfer_budget;
        // A store may take minutes to put ten thousand parts together.
        let mut effort = RetryBudget::new(budget, budget + budget);
        let mut unsure = false;
        loop {
            let failure = match self.complete_once(&request, &effort).await {
                Ok(()) => return Ok(()),
                Err(failure) => failure,
            };
            unsure |= failure.verdict == FailureClass::Unsure;
            if failure.verdict.is_passing() && effort.again(failure.retry_after).await {
                continue;
            }
            if unsure && self.is_complete(upload).await? {
                return Ok(());
            }
            return Err(failure.on(&upload.key));
        }
    }

    async fn complete_once(
        &self,
        request: &S3Request,
        effort: &RetryBudget,
    ) -> Result<(), S3Failure> {
        let whole = self.once(request, effort.attempt, RESPONSE_BYTES_MAX).await?;
        if xml::is_error(&whole.body) {
            return Err(S3Failure::of_response(http::StatusCode::OK, &whole.headers, &whole.body));
        }
        // A body that ends before the result began is a lost response.
        match whole.body.contains(&b'<') {
            true => Ok(()),
            false => {
                Err(S3Failure::new(FailureClass::Unsure, "the response ended before the result"))
            }
        }
    }

    async fn is_complete(&self, upload: &Multipart) -> Result<bool> {
        match self.head(&upload.key).await {
            Ok(stat) => Ok(stat.size_bytes == upload.size_bytes()),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn abort_multipart(&self, upload: &Multipart) -> Result<()> {
        let request = self.upload(Method::DELETE, upload);
        match self.ask(&request, self.effort(0), RESPONSE_BYTES_MAX).await {
            Ok(_) => Ok(()),
            Err(failure) if failure.verdict == FailureClass::NoUpload => Ok(()),
            Err(failure) => Err(failure.on(&upload.key)),
        }
    }

    fn upload(&self, method: Method, upload: &Multipart) -> S3Request {
        self.object(method, &upload.key).query("uploadId", &upload.id)
    }
}

/// The number of the part at an offset, counted from 1.
fn part_number(upload: &Multipart, offset: u64, size_bytes: u64) -> Result<u64> {
    let refuse = |kind, why: String| Err(Error::with_source(kind, &upload.key, why));
    let part_bytes = upload.part_bytes;
    if part_bytes == 0 || !offset.is_multiple_of(part_bytes) || size_bytes > part_bytes {
        let why = format!("{size_bytes} bytes at {offset} are no part of {part_bytes} bytes");
        return refuse(ErrorKind::Refused, why);
    }
    let number = offset / part_bytes + 1;
    if number > PARTS_MAX {
        let most = part_bytes.saturating_mul(PARTS_MAX);
        return refuse(ErrorKind::TooLarge, format!("more than {PARTS_MAX} parts, {most} bytes"));
    }
    Ok(number)
}

fn complete(upload: &Multipart) -> Result<String> {
    let mut parts = Vec::with_capacity(upload.parts.len());
    for part in &upload.parts {
        let number = part_number(upload, part.offset, part.size_bytes)?;
        parts.push((number, Part { etag: format!("\"{}\"", part.etag), ..part.clone() }));
    }
    if parts.is_empty() {
        let why = "an upload needs at least one part";
        return Err(Error::with_source(ErrorKind::Refused, &upload.key, why));
    }
    Ok(xml::complete(parts.into_iter()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const MIB: u64 = 1 << 20;

    fn upload(part_bytes: u64) -> Multipart {
        let key = "blobs/a".parse().unwrap();
        Multipart { key, id: "id".to_owned(), writer: 1, part_bytes, parts: Vec::new() }
    }

    fn number(offset: u64, size_bytes: u64) -> Result<u64, ErrorKind> {
        part_number(&upload(16 * MIB), offset, size_bytes).map_err(|error| error.kind())
    }

    #[test]
    fn the_number_of_a_part_follows_from_its_offset() {
        assert_eq!(number(0, 16 * MIB), Ok(1));
        assert_eq!(number(32 * MIB, 1), Ok(3));
        assert_eq!(number(9_999 * 16 * MIB, 5), Ok(10_000));
        assert_eq!(number(10_000 * 16 * MIB, 5), Err(ErrorKind::TooLarge));
        assert_eq!(number(1, 5), Err(ErrorKind::Refused));
        assert_eq!(number(0, 16 * MIB + 1), Err(ErrorKind::Refused));
        assert!(part_number(&upload(0), 0, 1).is_err());
    }

    #[test]
    fn an_upload_without_a_part_is_not_completed() {
        assert_eq!(complete(&upload(16 * MIB)).unwrap_err().kind(), ErrorKind::Refused);
    }
}
