//! Who may do what: which right an operation needs, who is asked for it, and the handle that a
//! handler gets instead of the registry.
//!
//! The promise: no handler can reach the registry without the right its operation needs. The
//! registry is private to [`Gate`]; [`Gate::admit`] asks the [`Authorizer`] and returns an
//! [`Authorized`] handle that carries the one right that was granted; every method of the handle
//! names the right it takes and refuses any other.
//!
//! [`Guard`] is the authorizer that a configured registry has: it finds out who asks (`jreg_auth`
//! says how, as values) and asks the policy. [`Open`] grants everything.

mod access_tokens;
mod challenge;
mod credential_cache;
mod cursor;
mod failures;
mod guard;
mod handle;
mod hasher;
mod issuers;
pub mod limits;
mod refused;
mod signing;
mod tokens;

use std::fmt::Debug;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::HeaderMap;
use jreg_auth::{AccessToken, ClientCertificate, DecisionReason, Identity, Network, TokenScope};
use jreg_oci::{Endpoint, Reference, RepositoryName, Tag};
use jreg_registry::{Registry, RegistryUsage};
use jreg_storage::error_chain;

pub use access_tokens::{AccessTokenStore, AccessTokenStoreError};
pub use challenge::BASIC as BASIC_CHALLENGE;
pub use credential_cache::TRUST_MAX;
pub use guard::{Guard, GuardError, GuardOptions, RELOAD_INTERVAL};
pub use handle::{AccessError, Authorized, CATALOG_NAMES_EXAMINED_MAX};
pub use issuers::{Fetch, FetchError, HttpFetch, JWKS_AGE_MAX, JWKS_OUTAGE_MAX, JWKS_RETRY_MIN};
pub use refused::{Credentialed, RefusedAccess};
pub use tokens::{IssuedToken, TokenProof, TokenRequest};

/// A right to do something.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Right {
    /// Ask whether this is a registry. Clients learn from the answer whether to log in.
    Enter,
    /// List the repositories. Those that may not be pulled from are left out.
    List,
    /// See a repository in that list.
    See(RepositoryName),
    /// Read a repository: its blobs, manifests, tags and referrers.
    Pull(RepositoryName),
    /// Mount blobs of a repository into another.
    Mount(RepositoryName),
    /// Write to a repository.
    Push(RepositoryName),
    /// Delete from a repository.
    Delete(RepositoryName),
}

/// The right that an operation needs.
pub fn right_of(endpoint: &Endpoint) -> Right {
    match endpoint {
        Endpoint::Ping => Right::Enter,
        Endpoint::Catalog { .. } => Right::List,
        Endpoint::BlobGet { name, .. }
        | Endpoint::BlobHead { name, .. }
        | Endpoint::ManifestGet { name, .. }
        | Endpoint::ManifestHead { name, .. }
        | Endpoint::TagList { name, .. }
        | Endpoint::Referrers { name, .. } => Right::Pull(name.clone()),
        Endpoint::UploadStart { name, .. }
        | Endpoint::UploadStatus { name, .. }
        | Endpoint::UploadPatch { name, .. }
        | Endpoint::UploadPut { name, .. }
        | Endpoint::UploadCancel { name, .. }
        | Endpoint::ManifestPut { name, .. } => Right::Push(name.clone()),
        Endpoint::BlobDelete { name, .. } | Endpoint::ManifestDelete { name, .. } => {
            Right::Delete(name.clone())
        }
    }
}

/// The tags that an operation names: conditions of rules may be about them.
pub fn tags_of(endpoint: &Endpoint) -> Vec<Tag> {
    let of_reference = |reference: &Reference| match reference {
        Reference::Tag(tag) => vec![tag.clone()],
        Reference::Digest(_) => Vec::new(),
    };
    match endpoint {
        Endpoint::ManifestGet { reference, .. }
        | Endpoint::ManifestHead { reference, .. }
        | Endpoint::ManifestDelete { reference, .. } => of_reference(reference),
        Endpoint::ManifestPut { reference, tags, .. } => {
            let mut all = of_reference(reference);
            all.extend(tags.iter().cloned());
            all
        }
        Endpoint::Ping
        | Endpoint::Catalog { .. }
        | Endpoint::BlobGet { .. }
        | Endpoint::BlobHead { .. }
        | Endpoint::BlobDelete { .. }
        | Endpoint::UploadStart { .. }
        | Endpoint::UploadStatus { .. }
        | Endpoint::UploadPatch { .. }
        | Endpoint::UploadPut { .. }
        | Endpoint::UploadCancel { .. }
        | Endpoint::TagList { .. }
        | Endpoint::Referrers { .. } => Vec::new(),
    }
}

/// Who asks, as the request shows it.
#[derive(Clone, Debug, Default)]
pub struct Asker {
    /// The request's headers.
    pub headers: HeaderMap,
    /// The name by which the client reached the registry: `Host`, `:authority`, or what a trusted
    /// proxy says.
    pub host: Option<String>,
    /// The client: the other end of the connection, or whom a trusted proxy there names.
    pub peer: Option<SocketAddr>,
    /// Whether the client reached it by https.
    pub secure: bool,
    /// The client's certificate, if the connection has one that was verified.
    pub certificate: Option<Arc<ClientCertificate>>,
    /// The tags that the request names.
    pub tags: Vec<Tag>,
}

/// The authorization state of one request.
#[derive(Clone, Debug)]
pub struct AuthContext {
    /// Who, and what their credentials say besides.
    pub bearer: Arc<Bearer>,
    /// What the request shows.
    pub asker: Arc<Asker>,
}

/// What credentials say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bearer {
    /// Who it is.
    pub identity: Identity,
    /// What they grant by themselves.
    pub grants: OwnGrants,
    /// What they are narrowed to; `None`: whatever the policy allows.
    pub scope: Option<TokenScope>,
    /// Whether there were credentials at all.
    pub shown: bool,
    /// Tells the password that was given from others, if one was.
    pub password: Option<String>,
}

/// What credentials grant by themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum OwnGrants {
    /// Nothing.
    #[default]
    Nothing,
    /// What an access token says.
    AccessToken(Arc<AccessToken>),
    /// What the token of another token service says.
    Access(TokenScope),
}

impl Asker {
    /// Whom the address stands for.
    pub fn network(&self) -> Option<Network> {
        self.peer.map(|peer| Network::of(peer.ip()))
    }
}

impl Bearer {
    /// Somebody without limits but the policy's.
    pub fn of(identity: Identity) -> Self {
        let (grants, scope, password) = Default::default();
        Self { identity, grants, scope, shown: true, password }
    }

    /// Nobody, who shows nothing.
    pub fn nobody() -> Self {
        Self { shown: false, ..Self::of(Identity::Anonymous) }
    }
}

impl AuthContext {
    /// That of a request by an identity. Credentials go before a certificate, which is not looked
    /// at then; but a token that was issued for a certificate is good only with it.
    pub fn new(bearer: impl Into<Arc<Bearer>>, mut asker: Asker) -> Self {
        let bearer = bearer.into();
        let is_theirs = |certificate: &Arc<ClientCertificate>| {
            !bearer.shown || certificate.identity().as_ref() == Some(&bearer.identity)
        };
        asker.certificate = asker.certificate.filter(is_theirs);
        Self { bearer, asker: Arc::new(asker) }
    }
}

/// Why a request is not let in, or gets no token. The reasons are for the log, not for the client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// The credentials are not valid. Whoever knows what they were needed for says so
    /// ([`AuthError::needed_for`]).
    #[error("the credentials are not valid")]
    Invalid {
        /// Why.
        reason: String,
    },
    /// Credentials are missing or wrong; with the right ones it might be granted.
    #[error("{access}")]
    Unauthenticated {
        /// The value of `WWW-Authenticate` (RFC 9110 section 11.6.1), if it is not that of
        /// [`BASIC_CHALLENGE`].
        challenge: Option<String>,
        /// What was refused.
        access: RefusedAccess,
        /// Why.
        reason: String,
    },
    /// The identity is known and does not have the right.
    #[error("{access}")]
    Forbidden {
        /// What was refused.
        access: RefusedAccess,
        /// Why.
        reason: String,
    },
    /// The identity is known and may not even know whether there is such a repository.
    #[error("repository {name} is not known, or {access}")]
    Hidden {
        /// The repository.
        name: RepositoryName,
        /// What was refused.
        access: RefusedAccess,
        /// Why.
        reason: String,
    },
    /// Nothing of the scope of a token is granted.
    #[error("no access of the requested scope is granted")]
    ScopeNotGranted,
    /// Too many passwords are being verified.
    #[error("too many concurrent logins, try again")]
    Busy,
    /// Too many logins have failed.
    #[error("too many failed logins: try again in {} s", whole_seconds(*.wait))]
    Throttled {
        /// How long to wait.
        wait: Duration,
    },
    /// The identity cannot be found out now.
    #[error("the registry is unavailable, try again later")]
    Unavailable {
        /// Why.
        reason: String,
    },
}

impl AuthError {
    pub(crate) fn invalid(reason: impl Into<String>) -> Self {
        Self::Invalid { reason: reason.into() }
    }

    pub(crate) fn unavailable(error: &dyn std::error::Error) -> Self {
        Self::Unavailable { reason: error_chain(error) }
    }

    /// Invalid credentials for a token.
    pub fn invalid_for(reason: String, scope: &TokenScope) -> Self {
        let access = RefusedAccess::of_scope(Credentialed::Invalid, scope);
        Self::Unauthenticated { challenge: None, access, reason }
    }

    /// Says what invalid credentials were needed for. All else stays as it is.
    #[must_use]
    pub fn needed_for(self, unauthenticated: impl FnOnce(String) -> Self) -> Self {
        match self {
            Self::Invalid { reason } => unauthenticated(reason),
            other => other,
        }
    }

    /// Why, for the log.
    pub fn reason(&self) -> &str {
        match self {
            Self::Invalid { reason }
            | Self::Unauthenticated { reason, .. }
            | Self::Forbidden { reason, .. }
            | Self::Hidden { reason, .. }
            | Self::Unavailable { reason } => reason,
            Self::ScopeNotGranted => "no access of the requested scope is granted",
            Self::Busy => "too many passwords are being verified",
            Self::Throttled { .. } => "too many logins have failed",
        }
    }
}

/// A time in seconds, rounded up, at least one (RFC 9110 section 10.2.3 has whole seconds).
pub fn whole_seconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis().div_ceil(1000).max(1)).unwrap_or(u64::MAX)
}

/// A request that is not let in.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{error}")]
pub struct RefusedRequest {
    /// Why.
    pub error: AuthError,
    /// Whose it was, if that was found out.
    pub auth: Option<AuthContext>,
}

/// Grants rights, or not.
#[async_trait]
pub trait Authorizer: Debug + Send + Sync + 'static {
    /// Finds out who asks. `right` is what they ask for: a refusal says how to get it.
    async fn identify(&self, asker: Asker, right: &Right) -> Result<AuthContext, AuthError>;

    /// Says whether they have a right, and by what.
    fn grant(&self, auth: &AuthContext, right: &Right) -> Result<DecisionReason, AuthError>;

    /// The same for one tag, which the request need not name: a manifest that is deleted by digest
    /// takes its tags with it.
    fn grant_tag(
        &self,
        auth: &AuthContext,
        right: &Right,
        tag: &Tag,
    ) -> Result<DecisionReason, AuthError>;

    /// The tags among these for which somebody does not have a right. `None`: there are too many to
    /// decide, which is a refusal.
    async fn denied_tags(
        &self,
        auth: &AuthContext,
        right: &Right,
        tags: Vec<Tag>,
    ) -> Option<Vec<Tag>> {
        let is_denied = |tag: &Tag| self.grant_tag(auth, right, tag).is_err();
        Some(tags.into_iter().filter(is_denied).collect())
    }

    /// The repositories among these that somebody sees in the catalog ([`Right::See`]).
    async fn visible(&self, auth: &AuthContext, names: Vec<RepositoryName>) -> Vec<RepositoryName> {
        let sees = |name: &RepositoryName| self.grant(auth, &Right::See(name.clone())).is_ok();
        names.into_iter().filter(sees).collect()
    }

    /// Whether [`Authorizer::grant_tag`] may say of one tag what it does not say of another.
    fn depends_on_tag(&self, auth: &AuthContext, right: &Right) -> bool;

    /// A text that stands for a place in the catalog whose name the client may not see. The name
    /// itself does where nothing is secret.
    async fn catalog_cursor(&self, name: &RepositoryName) -> Result<String, AuthError> {
        Ok(name.to_string())
    }

    /// The place that such a text stands for; `None` if it stands for none (any more).
    async fn catalog_place(&self, _cursor: &str) -> Result<Option<RepositoryName>, AuthError> {
        Ok(None)
    }
}

/// Grants everything to everybody: what a registry without configured identities does.
#[derive(Clone, Copy, Debug)]
pub struct Open;

#[async_trait]
impl Authorizer for Open {
    async fn identify(&self, asker: Asker, _: &Right) -> Result<AuthContext, AuthError> {
        Ok(AuthContext::new(Bearer::nobody(), asker))
    }

    fn grant(&self, _: &AuthContext, _: &Right) -> Result<DecisionReason, AuthError> {
        Ok(DecisionReason::Open)
    }

    fn grant_tag(&self, _: &AuthContext, _: &Right, _: &Tag) -> Result<DecisionReason, AuthError> {
        Ok(DecisionReason::Open)
    }

    fn depends_on_tag(&self, _: &AuthContext, _: &Right) -> bool {
        false
    }
}

/// The only way to the registry.
#[derive(Clone, Debug)]
pub struct Gate {
    registry: Registry,
    authorizer: Arc<dyn Authorizer>,
}

impl Gate {
    /// A gate before `registry`, kept by `authorizer`.
    pub fn new(registry: Registry, authorizer: Arc<dyn Authorizer>) -> Self {
        Self { registry, authorizer }
    }

    /// Asks for the right that `endpoint` needs.
    pub async fn admit(
        &self,
        asker: Asker,
        endpoint: &Endpoint,
    ) -> Result<Authorized, RefusedRequest> {
        let right = right_of(endpoint);
        let asker = Asker { tags: tags_of(endpoint), ..asker };
        let identified = self.authorizer.identify(asker, &right).await;
        let auth = identified.map_err(|error| RefusedRequest { error, auth: None })?;
        match self.authorizer.grant(&auth, &right) {
            Ok(reason) => Ok(Authorized::new(self.clone(), auth, right, reason)),
            Err(error) => Err(RefusedRequest { error, auth: Some(auth) }),
        }
    }

    /// Asks the store whether it answers. Needs no right: health is not content.
    pub async fn ready(&self) -> Result<(), jreg_registry::Error> {
        self.registry.ready().await
    }

    /// What the registry uses of its limits; that needs no right either.
    pub fn usage(&self) -> RegistryUsage {
        self.registry.usage()
    }
}

#[cfg(test)]
mod tests;
