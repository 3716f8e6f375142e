//! [`UpstreamError`]: why a request to an upstream registry failed, by what the caller would do differently.

use std::error::Error as StdError;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jreg_oci::Digest;

/// A failed operation. A clone shares its texts, so that concurrent readers can share a failure.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("upstream {host}: {kind}")]
pub struct UpstreamError {
    /// The host (with its port) that failed: of the upstream, its token service, or where it redirected to.
    pub host: Arc<str>,
    /// What failed.
    pub kind: UpstreamErrorKind,
}

/// What failed. Only [`UpstreamErrorKind::NotFound`] is absence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamErrorKind {
    /// Every URL that may have it responded 404.
    #[error("not found")]
    NotFound,
    /// The registry or its token service refuses the configured credentials.
    #[error("the credentials are refused (status {status})")]
    CredentialsRefused {
        /// 401 or 403.
        status: u16,
    },
    /// No credentials could be had: a helper, a file or the exchange of a cloud failed.
    #[error("no credentials: {why}")]
    CredentialsUnavailable {
        /// What failed.
        why: Arc<str>,
    },
    /// 401 or 403 for this repository, while the credentials (or none) work otherwise. Several registries
    /// respond so for repositories that do not exist.
    #[error("the repository is refused (status {status})")]
    RepositoryRefused {
        /// 401 or 403.
        status: u16,
    },
    /// 429, or no request is sent yet because of an earlier one; or the limits of this client are exhausted.
    #[error("too many requests")]
    TooManyRequests {
        /// How long no request should be sent.
        retry_after: Option<Duration>,
    },
    /// No connection, a connection that ended early, a 5xx, or too many of these recently.
    #[error("unavailable: {why}")]
    Unavailable {
        /// What happened.
        why: Arc<str>,
    },
    /// No response, or no byte of its body, in time.
    #[error("timeout: {what}")]
    Timeout {
        /// What took too long.
        what: &'static str,
    },
    /// The bytes, or the header that names them, have another digest than was requested.
    #[error("wrong digest: {actual} instead of {expected}")]
    WrongDigest {
        /// What was requested.
        expected: Digest,
        /// What the response has.
        actual: Digest,
    },
    /// The body or its `Content-Length` has another size than was expected.
    #[error("wrong size: {actual} bytes instead of {expected}")]
    WrongSize {
        /// In bytes.
        expected: u64,
        /// In bytes; of a body that is too long, what was read of it.
        actual: u64,
    },
    /// A manifest or a list is larger than its limit.
    #[error("the response is larger than {bytes_max} bytes")]
    TooLarge {
        /// The limit.
        bytes_max: u64,
    },
    /// The range lies beyond the end of the blob (416).
    #[error("the range cannot be satisfied")]
    RangeNotSatisfiable,
    /// A connection to an address that is not public; `private-addresses` allows it.
    #[error("{address} is not a public address")]
    AddressRefused {
        /// What the host's name resolved to.
        address: IpAddr,
    },
    /// A response that the protocol does not allow.
    #[error("protocol error: {why}")]
    Protocol {
        /// What is wrong with it.
        why: Arc<str>,
    },
}

impl UpstreamErrorKind {
    /// Whether the same request may succeed later: what was cached before may be served meanwhile.
    pub fn is_temporary(&self) -> bool {
        matches!(
            self,
            Self::TooManyRequests { .. }
                | Self::Unavailable { .. }
                | Self::Timeout { .. }
                | Self::CredentialsUnavailable { .. }
        )
    }

    pub(crate) fn protocol(why: impl Into<Arc<str>>) -> Self {
        Self::Protocol { why: why.into() }
    }

    pub(crate) fn unavailable(why: impl Into<Arc<str>>) -> Self {
        Self::Unavailable { why: why.into() }
    }

    pub(crate) fn no_credentials(why: impl Into<Arc<str>>) -> Self {
        Self::CredentialsUnavailable { why: why.into() }
    }

    pub(crate) fn of(self, host: &Arc<str>) -> UpstreamError {
        UpstreamError { host: Arc::clone(host), kind: self }
    }
}

/// An error and its causes, on one line.
pub(crate) fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
