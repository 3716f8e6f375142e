//! Who may ask, and for which bucket; and what is refused whatever the operation.

use std::time::{Duration, SystemTime};

use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::{S3Auth, SecretKey};
use s3s::dto::{Timestamp, TimestampFormat};
use s3s::{S3Result, s3_error};

use super::S3Clock;

/// The headers that say how long a body is; S3 takes none without (S3 API reference, error code
/// `MissingContentLength`).
const LENGTHS: [&str; 2] = ["content-length", "x-amz-decoded-content-length"];

/// The one pair of keys, and the one bucket.
#[derive(Clone, Debug)]
pub(crate) struct AccessCheck {
    pub(crate) bucket: String,
    pub(crate) access_key: String,
    pub(crate) secret_key: String,
    /// By which presigned addresses expire, beside the machine's.
    pub(crate) clock: S3Clock,
}

#[async_trait::async_trait]
impl S3Auth for AccessCheck {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        if access_key == self.access_key {
            Ok(SecretKey::from(&*self.secret_key))
        } else {
            Err(s3_error!(InvalidAccessKeyId, "no such access key: {access_key}"))
        }
    }
}

#[async_trait::async_trait]
impl S3Access for AccessCheck {
    async fn check(&self, request: &mut S3AccessContext<'_>) -> S3Result<()> {
        if request.credentials().is_none() {
            return Err(s3_error!(AccessDenied, "the request is not signed"));
        }
        if is_expired(request.uri().query().unwrap_or_default(), self.clock.now()) {
            return Err(s3_error!(AccessDenied, "Request has expired"));
        }
        let has_length = LENGTHS.iter().any(|name| request.headers().contains_key(*name));
        if matches!(request.s3_op().name(), "PutObject" | "UploadPart") && !has_length {
            return Err(s3_error!(MissingContentLength, "a body without Content-Length"));
        }
        match request.s3_path().get_bucket_name() {
            Some(name) if name == self.bucket => Ok(()),
            Some(name) => Err(s3_error!(NoSuchBucket, "no such bucket: {name}")),
            None => Err(s3_error!(NotImplemented, "an operation on no bucket")),
        }
    }
}

/// Whether an address that was presigned by SigV4 works no more.
fn is_expired(query: &str, now: SystemTime) -> bool {
    let value =
        |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    let expires_s = value("X-Amz-Expires").and_then(|seconds| seconds.parse().ok());
    match (value("X-Amz-Date").and_then(signing_time), expires_s) {
        (Some(signed), Some(expires_s)) => {
            Timestamp::from(now - Duration::from_secs(expires_s)) > signed
        }
        _ => false,
    }
}

/// Reads a time such as `20261124T001530Z`.
fn signing_time(text: &str) -> Option<Timestamp> {
    let at = |range| text.get(range);
    let (year, month, day) = (at(0..4)?, at(4..6)?, at(6..8)?);
    let (hour, minute, second) = (at(9..11)?, at(11..13)?, at(13..15)?);
    let iso = format!("{year}-{month}-{day}T{hour}:{minute}:{second}Z");
    Timestamp::parse(TimestampFormat::DateTime, &iso).ok()
}
