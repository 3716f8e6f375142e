//! [`Authenticator`]: the `Authorization` header for the requests to one URL.

use std::sync::Arc;

use jreg_oci::RepositoryName;
use reqwest::header::HeaderValue;

use crate::challenge::Challenge;
use crate::endpoint::Counters;
use crate::transport::Transport;
use crate::{UpstreamEndpoint, UpstreamError, UpstreamErrorKind, UpstreamOptions};

/// What a request needs a token for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    None,
    Catalog,
    Repository(RepositoryName),
}

/// The header, and what it was made of.
#[derive(Clone, Debug)]
pub(crate) struct Authorization {
    pub(crate) header: HeaderValue,
}

/// Authenticates requests to one URL.
#[derive(Debug)]
pub(crate) struct Authenticator {
    host: Arc<str>,
}

impl Authenticator {
    pub(crate) fn new(
        _options: &UpstreamOptions,
        endpoint: &UpstreamEndpoint,
        _transport: Arc<Transport>,
        _counters: Arc<Counters>,
    ) -> Self {
        Self { host: endpoint.url.shared_host() }
    }

    /// What is known before a request.
    pub(crate) async fn authorization(
        &self,
        _scope: &Scope,
    ) -> Result<Option<Authorization>, UpstreamError> {
        Ok(None)
    }

    /// What a 401 challenges to; `None` if nothing else can be sent than was.
    pub(crate) async fn renew(
        &self,
        _challenges: &[Challenge],
        _scope: &Scope,
        _refused: Option<&Authorization>,
    ) -> Result<Option<Authorization>, UpstreamError> {
        Ok(None)
    }

    /// Whether a 401 or 403 is about the credentials or about the repository.
    pub(crate) async fn refusal(
        &self,
        status: u16,
        _authorization: Option<&Authorization>,
    ) -> UpstreamError {
        UpstreamErrorKind::RepositoryRefused { status }.of(&self.host)
    }
}
