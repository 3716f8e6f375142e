//! Objects that the service copies from another bucket of it: nothing passes through this process.

use bytes::Bytes;
use http::{HeaderName, Method};
use percent_encoding::utf8_percent_encode;

use super::bucket::{BucketClient, PATH, RESPONSE_BYTES_MAX, S3Request};
use super::failure::{FailureClass, S3Failure};
use super::xml;
use crate::{CopiedObject, CopyMethod, CopySource, Key, Multipart, Part, Result};

/// The largest part of an object that is copied in parts.
const COPY_PART_BYTES_MAX: u64 = 1024 * 1024 * 1024;

const SOURCE: HeaderName = HeaderName::from_static("x-amz-copy-source");
const SOURCE_RANGE: HeaderName = HeaderName::from_static("x-amz-copy-source-range");

impl BucketClient {
    pub(super) async fn copy_in(
        &self,
        key: &Key,
        source: &CopySource,
    ) -> Result<Option<CopiedObject>> {
        let CopySource::Object { service, bucket, key: from, size_bytes } = source else {
            return Ok(None);
        };
        if service != self.options.url.service() || *size_bytes == 0 {
            return Ok(None);
        }
        let from = format!("/{bucket}/{}", utf8_percent_encode(from, PATH));
        let copied = match *size_bytes <= self.options.copy_bytes_max {
            true => self.copy_whole(key, &from, *size_bytes).await,
            false => self.copy_in_parts(key, &from, *size_bytes).await?,
        };
        match copied {
            Ok(()) => {}
            // It may not read the other bucket, or does not know such requests.
            Err(failure) if is_no_copy(&failure) => return Ok(None),
            Err(failure) => return Err(failure.on(key)),
        }
        // What was copied is what is there, whatever the source was meanwhile.
        let size_bytes = self.head(key).await?.size_bytes;
        Ok(Some(CopiedObject { size_bytes, method: CopyMethod::Service }))
    }

    async fn copy_whole(&self, key: &Key, from: &str, bytes: u64) -> Result<(), S3Failure> {
        let request = self.creation(Method::PUT, key).header(SOURCE, from);
        self.copy(&request, bytes).await.map(|_| ())
    }

    /// `Err(_)` on the outside: the upload cannot be completed or aborted.
    async fn copy_in_parts(
        &self,
        key: &Key,
        from: &str,
        size_bytes: u64,
    ) -> Result<Result<(), S3Failure>> {
        let part_bytes = COPY_PART_BYTES_MAX.min(self.options.copy_bytes_max);
        let mut upload = self.create_multipart(key, 0, part_bytes).await?;
        match self.copy_parts(&mut upload, from, size_bytes).await {
            Ok(()) => self.complete_multipart(&upload).await.map(Ok),
            Err(failure) => {
                self.abort_multipart(&upload).await?;
                Ok(Err(failure))
            }
        }
    }

    async fn copy_parts(
        &self,
        upload: &mut Multipart,
        from: &str,
        size_bytes: u64,
    ) -> Result<(), S3Failure> {
        let (part_bytes, mut offset) = (upload.part_bytes, 0);
        while offset < size_bytes {
            let bytes = part_bytes.min(size_bytes - offset);
            let number = offset / part_bytes + 1;
            let range = format!("bytes={offset}-{}", offset + bytes - 1);
            let request = self
                .object(Method::PUT, &upload.key)
                .query("partNumber", number.to_string())
                .query("uploadId", &upload.id)
                .header(SOURCE, from)
                .header(SOURCE_RANGE, &range);
            let body = self.copy(&request, bytes).await?;
            let copied = xml::read::<xml::CopiedPart>(&body);
            let etag = copied.map_err(|error| S3Failure::new(FailureClass::Unsure, error))?.etag;
            let etag = etag.trim_matches('"').to_owned();
            upload.record(Part { offset, size_bytes: bytes, etag });
            offset += bytes;
        }
        Ok(())
    }

    /// Sends a request to copy. The response begins before the copy is made: it may be an error in the end.
    async fn copy(&self, request: &S3Request, bytes: u64) -> Result<Bytes, S3Failure> {
        let mut effort = self.effort(bytes);
        loop {
            let failure = match self.once(request, effort.attempt, RESPONSE_BYTES_MAX).await {
                Ok(whole) if xml::is_error(&whole.body) => {
                    S3Failure::of_response(http::StatusCode::OK, &whole.headers, &whole.body)
                }
                Ok(whole) if whole.body.contains(&b'<') => return Ok(whole.body),
                Ok(_) => {
                    let why = "the response ended before the result";
                    S3Failure::new(FailureClass::Unsure, why)
                }
                Err(failure) => failure,
            };
            if !failure.verdict.is_passing() || !effort.again(failure.retry_after).await {
                return Err(failure);
            }
        }
    }
}

fn is_no_copy(failure: &S3Failure) -> bool {
    matches!(failure.verdict, FailureClass::Refused | FailureClass::Absent)
}
