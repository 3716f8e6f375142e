//! The multipart uploads of the bucket that are not completed: what no key shows.

use std::time::{Duration, SystemTime};

use futures::stream::{StreamExt, TryStreamExt, iter};
use http::Method;

use super::bucket::{BucketClient, RESPONSE_BYTES_MAX};
use super::failure::{FailureClass, S3Failure};
use super::xml::{self, ListedUpload, UploadedParts, UploadsPage};
use crate::{Key, Multipart, Result, StagedUpload};

/// Number of uploads whose parts are listed at the same time.
const LISTS_AT_ONCE: usize = 16;

/// The most pages of a listing that are followed: a million uploads.
const PAGES_MAX: usize = 1000;

impl BucketClient {
    /// The uploads below a prefix, each with the size of its stored parts. One that ends meanwhile is left out.
    pub(super) async fn multipart_uploads(&self, prefix: &str) -> Result<Vec<StagedUpload>> {
        let uploads = self.list_uploads(prefix).await.map_err(|failure| failure.on(prefix))?;
        let sized: Vec<_> = uploads.into_iter().map(|upload| self.with_parts(upload)).collect();
        let sized: Vec<_> = iter(sized).buffered(LISTS_AT_ONCE).try_collect().await?;
        Ok(sized.into_iter().flatten().collect())
    }

    async fn list_uploads(&self, prefix: &str) -> Result<Vec<ListedUpload>, S3Failure> {
        let (prefix, mut after) = (self.stored(prefix), None);
        let mut uploads = Vec::new();
        for _ in 0..PAGES_MAX {
            let mut asked =
                self.bucket(Method::GET).query("uploads", "").query("prefix", prefix.clone());
            if let Some((key, id)) = &after {
                asked = asked.query("key-marker", key).query("upload-id-marker", id);
            }
            let whole = self.ask(&asked, self.effort(0), RESPONSE_BYTES_MAX).await?;
            let page: UploadsPage = xml::read(&whole.body).map_err(unsure)?;
            let is_more = page.is_truncated;
            uploads.extend(page.uploads);
            let next = page.next_key_marker.zip(page.next_upload_id_marker);
            match next.filter(|next| is_more && after.as_ref() != Some(next)) {
                Some(next) => after = Some(next),
                None if is_more => break,
                None => return Ok(uploads),
            }
        }
        Err(unsure("the list of multipart uploads does not end"))
    }

    /// `None`: it has ended, or is not ours.
    async fn with_parts(&self, listed: ListedUpload) -> Result<Option<StagedUpload>> {
        let Some(key) = self.own(&listed.key).and_then(|key| key.parse::<Key>().ok()) else {
            return Ok(None);
        };
        let id = listed.upload_id;
        let upload = Multipart { key, id, writer: 0, part_bytes: 0, parts: Vec::new() };
        match self.parts_of(&upload, &listed.initiated).await {
            Ok((size_bytes, last_modified)) => {
                Ok(Some(StagedUpload { upload, size_bytes, last_modified, may_be_named: true }))
            }
            Err(failure) if failure.verdict == FailureClass::NoUpload => Ok(None),
            Err(failure) => Err(failure.on(&upload.key)),
        }
    }

    /// The bytes of the stored parts, and when the last was stored, or when the upload began.
    async fn parts_of(
        &self,
        upload: &Multipart,
        initiated: &str,
    ) -> Result<(u64, SystemTime), S3Failure> {
        let (mut bytes, mut last, mut after) = (0, time(initiated)?, None::<u64>);
        for _ in 0..PAGES_MAX {
            let mut asked = self.object(Method::GET, &upload.key).query("uploadId", &upload.id);
            if let Some(after) = after {
                asked = asked.query("part-number-marker", after.to_string());
            }
            let whole = self.ask(&asked, self.effort(0), RESPONSE_BYTES_MAX).await?;
            let page: UploadedParts = xml::read(&whole.body).map_err(unsure)?;
            for part in &page.parts {
                bytes += part.size;
                last = last.max(time(&part.last_modified)?);
            }
            match page.next_part_number_marker.filter(|next| Some(*next) > after) {
                Some(next) if page.is_truncated => after = Some(next),
                None if page.is_truncated => break,
                _ => return Ok((bytes, last)),
            }
        }
        Err(unsure("the list of the parts of an upload does not end"))
    }
}

fn unsure(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> S3Failure {
    S3Failure::new(FailureClass::Unsure, why)
}

fn time(text: &str) -> Result<SystemTime, S3Failure> {
    let time = chrono::DateTime::parse_from_rfc3339(text).map_err(unsure)?;
    let seconds = u64::try_from(time.timestamp()).unwrap_or_default();
    Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}
