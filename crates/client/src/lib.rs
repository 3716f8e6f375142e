//! A strict client of the distribution API: how jreg sends requests to other registries.
//!
//! [`UpstreamClient`] is made of [`UpstreamOptions`]. Each operation tries the URLs of the upstream in order,
//! authenticates where it is challenged to, waits and retries within its patience, and returns what it has
//! verified, or an [`UpstreamError`] whose kind is what a caller would do differently: only
//! [`UpstreamErrorKind::NotFound`] is absence.
//!
//! Nothing here knows a registry's store, settings or metrics; counts are values that a caller reads.

mod address;
mod auth;
mod blob;
mod breaker;
mod challenge;
mod client;
mod credentials;
mod endpoint;
mod error;
mod link;
mod options;
mod pace;
mod response;
mod response_range;
mod token;
mod transport;
mod url;

pub use blob::UpstreamBlob;
pub use breaker::BreakerStatus;
pub use challenge::{BearerChallenge, CHALLENGE_BYTES_MAX, Challenge, parse_challenges};
pub use client::UpstreamClient;
pub use error::{UpstreamError, UpstreamErrorKind};
pub use link::{LINK_BYTES_MAX, next_link};
pub use options::{
    CredentialSource, EnvironmentVariables, HelperName, HostResolver, InvalidCredentialSource,
    InvalidHelperName, MISMATCH_PAUSE_MIN, RESUMED_BYTES_MIN, SecretSource, UpstreamEndpoint,
    UpstreamLimits, UpstreamOptions, UpstreamTimeouts, UpstreamTracing,
};
pub use response::{
    BlobRequest, ByteRange, PageQuery, RateLimit, UpstreamManifest, UpstreamManifestHead,
    UpstreamOutcome, UpstreamPage, UpstreamReferrers, UpstreamRequestKind, UpstreamStatistics,
};
pub use response_range::ResponseRange;
pub use transport::UpstreamSetupError;
pub use url::{InvalidUpstreamUrl, UpstreamUrl};
