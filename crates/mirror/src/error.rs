//! [`MirrorError`]: why a request to a mirror failed, and what a failure of the mirrored registry means.

use std::sync::Arc;
use std::time::Duration;

use jreg_client::{UpstreamError, UpstreamErrorKind};
use jreg_oci::{Digest, Reference, RepositoryName};

use crate::{MirrorAction, UpstreamOutcome};

/// A failed request. A clone is the same failure, for clients that waited for one request.
#[derive(Clone, Debug, thiserror::Error)]
pub enum MirrorError {
    /// The store, or content in it.
    #[error(transparent)]
    Registry(Arc<jreg_registry::Error>),
    /// The mirrored registry has no such manifest.
    #[error("manifest {reference} is not known in repository {name}")]
    ManifestUnknown { name: RepositoryName, reference: Reference },
    #[error("blob {digest} is not known in repository {name}")]
    BlobUnknown { name: RepositoryName, digest: Digest },
    /// The mirrored registry has no such repository, or does not show it; or the settings leave it out.
    #[error("repository {name} is not known at the registry that is mirrored, or is not mirrored")]
    NameUnknown { name: RepositoryName },
    /// The client may not have the mirrored registry asked.
    #[error("the content is not stored, and may not be fetched")]
    FetchRefused,
    /// An operator has purged it.
    #[error("{digest} was purged and is not fetched again")]
    Blocked { digest: Digest },
    /// The mirrored registry takes no more requests now.
    #[error("the registry that is mirrored takes no more requests now: {error}")]
    Limited { retry_after: Option<Duration>, error: String },
    /// What it sends cannot be served.
    #[error("the registry that is mirrored cannot be used: {error}")]
    BadGateway { error: String },
    /// It does not work now.
    #[error("the registry that is mirrored does not work now: {error}")]
    Unavailable { error: String },
}

impl From<jreg_registry::Error> for MirrorError {
    fn from(error: jreg_registry::Error) -> Self {
        Self::Registry(Arc::new(error))
    }
}

/// What a failure says of the content.
pub(crate) fn outcome_of(error: &UpstreamError) -> UpstreamOutcome {
    match &error.kind {
        UpstreamErrorKind::NotFound => UpstreamOutcome::NotFound,
        UpstreamErrorKind::CredentialsRefused { .. } => UpstreamOutcome::CredentialsRefused,
        UpstreamErrorKind::RepositoryRefused { .. } => UpstreamOutcome::RepositoryRefused,
        UpstreamErrorKind::TooManyRequests { .. } => UpstreamOutcome::Limited,
        UpstreamErrorKind::Unavailable { .. }
        | UpstreamErrorKind::CredentialsUnavailable { .. } => UpstreamOutcome::Failed,
        UpstreamErrorKind::Timeout { .. } => UpstreamOutcome::TimedOut,
        UpstreamErrorKind::WrongDigest { .. }
        | UpstreamErrorKind::WrongSize { .. }
        | UpstreamErrorKind::TooLarge { .. }
        | UpstreamErrorKind::RangeNotSatisfiable
        | UpstreamErrorKind::AddressRefused { .. }
        | UpstreamErrorKind::Protocol { .. } => UpstreamOutcome::WrongContent,
    }
}

/// The response to an action that serves nothing. `absent` is what is said if the registry has no such
/// content.
pub(crate) fn failure(
    action: MirrorAction,
    name: &RepositoryName,
    error: Option<&UpstreamError>,
    absent: MirrorError,
) -> MirrorError {
    let said = || error.map_or_else(|| "no response".to_owned(), ToString::to_string);
    match action {
        MirrorAction::NotFound => absent,
        MirrorAction::NameUnknown => MirrorError::NameUnknown { name: name.clone() },
        MirrorAction::Refuse => MirrorError::FetchRefused,
        MirrorAction::Limited => {
            let retry_after = error.and_then(|error| match error.kind {
                UpstreamErrorKind::TooManyRequests { retry_after } => retry_after,
                _ => None,
            });
            MirrorError::Limited { retry_after, error: said() }
        }
        MirrorAction::BadGateway => MirrorError::BadGateway { error: said() },
        MirrorAction::Unavailable
        | MirrorAction::Serve
        | MirrorAction::ServeStale
        | MirrorAction::Fetch
        | MirrorAction::Forward => MirrorError::Unavailable { error: said() },
    }
}
