//! The options of an [`S3Store`](super::S3Store), and why it cannot be opened.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::S3Url;
use crate::{Clock, SystemClock};

const MIB: u64 = 1024 * 1024;

/// The smallest part that S3 takes, but for the last of an upload.
pub const PART_BYTES_MIN: u64 = 5 * MIB;

/// The largest part that S3 takes.
pub const PART_BYTES_MAX: u64 = 5 * 1024 * MIB;

/// How to reach and use a bucket.
#[derive(Clone, Debug)]
pub struct S3Options {
    /// Where the bucket is.
    pub url: S3Url,
    /// Where the keys come from.
    pub credentials: S3Credentials,
    /// Headers added to every request to the bucket, and signed with it.
    pub headers: Vec<(String, String)>,
    /// The header `traceparent` of a request, by the task that sends it. It is not signed.
    pub trace_parent: Option<fn() -> Option<String>>,
    /// Below which keys objects are bulk: they get the storage class.
    pub bulk_prefix: String,
    /// The part size of uploads that nothing else decides.
    pub part_bytes: u64,
    /// The largest object that one request copies from another bucket; a larger one is copied in parts.
    pub copy_bytes_max: u64,
    /// How long a request may take to connect.
    pub connect_timeout: Duration,
    /// How long one attempt of a request with little to carry may take.
    pub request_timeout: Duration,
    /// How long such a request may take with all its repetitions.
    pub request_budget: Duration,
    /// How long a body may stand still in either direction.
    pub idle_timeout: Duration,
    /// How long a failing transfer is repeated.
    pub transfer_budget: Duration,
    /// The clock that the store's is held against.
    pub clock: Arc<dyn Clock>,
}

impl S3Options {
    /// The defaults for a bucket.
    pub fn new(url: S3Url) -> Self {
        Self {
            url,
            credentials: S3Credentials::Environment,
            headers: Vec::new(),
            trace_parent: None,
            bulk_prefix: "blobs/".to_owned(),
            part_bytes: 16 * MIB,
            copy_bytes_max: PART_BYTES_MAX,
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(10),
            request_budget: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(30),
            transfer_budget: Duration::from_secs(180),
            clock: Arc::new(SystemClock::new()),
        }
    }
}

/// Where the keys come from.
#[derive(Clone)]
pub enum S3Credentials {
    /// As the AWS tools find them: `AWS_ACCESS_KEY_ID` with `AWS_SECRET_ACCESS_KEY` (and
    /// `AWS_SESSION_TOKEN`); a web identity (`AWS_WEB_IDENTITY_TOKEN_FILE`, `AWS_ROLE_ARN`); an
    /// EKS pod identity or an ECS task (`AWS_CONTAINER_CREDENTIALS_*`); a profile of
    /// `~/.aws/credentials` and `~/.aws/config`; the instance's metadata service, version 2.
    Environment,
    /// These.
    Static {
        /// The access key's id.
        key_id: String,
        /// The secret. Never printed.
        secret: String,
        /// The token of a session.
        token: Option<String>,
    },
}

impl fmt::Debug for S3Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Environment => f.write_str("Environment"),
            Self::Static { key_id, .. } => f
                .debug_struct("Static")
                .field("key_id", key_id)
                .field("secret", &"[redacted]")
                .finish_non_exhaustive(),
        }
    }
}

/// Why an S3 store cannot be opened. No request was sent yet.
#[derive(Debug, thiserror::Error)]
pub enum S3OpenError {
    /// The profile of the AWS tools cannot be used.
    #[error("cannot get credentials from a profile of the AWS tools: {why}")]
    Profile {
        /// What is wrong, without secrets.
        why: String,
    },
    /// The certificates cannot be read.
    #[error("cannot read the certificates in {}", path.display())]
    Certificates {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The bucket's name cannot be a part of the host's.
    #[error(
        "{address} is no address for the bucket ({reason}): path_style=true keeps its name out of the host's"
    )]
    Address {
        /// The address.
        address: String,
        /// Why.
        reason: String,
    },
    /// A header cannot be sent.
    #[error(
        "header {name:?} cannot be sent: its name or value has a byte that HTTP does not allow, or it is one of the signature's own"
    )]
    Header {
        /// Its name. The value may be a secret.
        name: String,
    },
    /// Parts would be refused.
    #[error("part size {part_bytes} must be {PART_BYTES_MIN} to {PART_BYTES_MAX} bytes")]
    PartBytes {
        /// The size.
        part_bytes: u64,
    },
    /// The credentials or the client are not usable.
    #[error("cannot make a client for the bucket")]
    Client(#[from] object_store::Error),
    /// There are no CAs of the system, for example.
    #[error("cannot make an HTTP client for the bucket")]
    HttpClient(#[from] reqwest::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_printed() {
        let credentials = S3Credentials::Static {
            key_id: "AKIA".into(),
            secret: "hush-hush".into(),
            token: Some("token-hush".into()),
        };
        let text = format!("{credentials:?}");
        assert!(text.contains("AKIA") && !text.contains("hush"), "{text}");
    }
}
