//! Who may ask, and for which bucket; and what is refused whatever the operation.

use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::{S3Auth, SecretKey};
use s3s::{S3Result, s3_error};

/// The headers that say how long a body is; S3 takes none without (S3 API reference, error code
/// `MissingContentLength`).
const LENGTHS: [&str; 2] = ["content-length", "x-amz-decoded-content-length"];

/// The one pair of keys, and the one bucket.
#[derive(Clone, Debug)]
pub(crate) struct Guard {
    pub(crate) bucket: String,
    pub(crate) access_key: String,
    pub(crate) secret_key: String,
}

#[async_trait::async_trait]
impl S3Auth for Guard {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        if access_key == self.access_key {
            Ok(SecretKey::from(&*self.secret_key))
        } else {
            Err(s3_error!(InvalidAccessKeyId, "no such access key: {access_key}"))
        }
    }
}

#[async_trait::async_trait]
impl S3Access for Guard {
    async fn check(&self, request: &mut S3AccessContext<'_>) -> S3Result<()> {
        if request.credentials().is_none() {
            return Err(s3_error!(AccessDenied, "the request is not signed"));
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
