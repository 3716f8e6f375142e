//! Authentication, authorization and client limits.
//!
//! Invariant: no handler can reach the registry without the right that its operation requires. The
//! registry is private to [`RegistryGate`]. [`RegistryGate::admit`] asks the [`Authorizer`] and
//! returns an [`Authorized`] handle that carries the granted right; every method of the handle
//! requires one right and refuses any other.
//!
//! [`AccessGuard`] is the authorizer of a registry with configured identities; [`AllowAll`] grants
//! everything, and [`OperatorAccess`] does so over the control socket.

#![allow(missing_docs, reason = "a comment that repeats a name is noise")]

mod access_tokens;
mod administration;
mod authorization;
mod browser;
mod challenge;
mod credential_cache;
mod credential_kind;
mod cursor;
mod guard;
mod handle;
mod issuer_keys;
pub mod limits;
mod login_throttle;
mod mirrored;
mod operator;
mod password_hasher;
mod refused;
mod session_store;
mod signing_keys;
mod tokens;

use std::fmt::Debug;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::HeaderMap;
use jreg_auth::{AccessToken, ClientCertificate, DecisionReason, Identity, Network, TokenScope};
use jreg_mirror::Mirrors;
use jreg_oci::{Endpoint, MirrorRoute, Reference, RepositoryName, Tag};
use jreg_registry::{PoolUsage, Registry, RegistryUsage};
use jreg_storage::error_chain;

pub use access_tokens::{AccessTokenStore, AccessTokenStoreError};
pub use administration::Administration;
pub use browser::{
    LOGIN_TOKEN_LIFETIME_MAX, LoginChoice, LoginError, LoginRedirect, LoginToken, NewSession,
    PASSWORD_SESSION_MAX, PROVIDER_SESSION_MAX, SESSION_LIFETIME, SESSION_RENEWED_AFTER,
    SessionCookie, SessionState, VerifiedSession, pending_login_id,
};
pub use challenge::BASIC as BASIC_CHALLENGE;
pub use credential_cache::{ConnectionCredentials, TRUST_MAX};
pub use guard::{AccessGuard, AccessGuardError, AccessGuardOptions, RELOAD_INTERVAL};
pub use handle::{
    AccessError, Authorized, CATALOG_NAMES_EXAMINED_MAX, RepositorySearch,
    SEARCH_NAMES_EXAMINED_MAX, USAGE_REPOSITORIES_MAX,
};
pub use issuer_keys::{
    HttpJwksFetcher, JWKS_AGE_MAX, JWKS_OUTAGE_MAX, JWKS_RETRY_MIN, JwksFetchError, JwksFetcher,
    TOKEN_RESPONSE_BYTES_MAX,
};
pub use mirrored::MirroredHandle;
pub use operator::OperatorAccess;
pub use refused::{CredentialState, RefusedAccess};
pub use session_store::{SessionStore, SessionStoreError};
pub use tokens::{IssuedToken, TokenProof, TokenRequest};

/// A right to perform an operation.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Right {
    /// Call `GET /v2/`. Clients learn from the response whether to log in.
    Enter,
    /// List the repositories that the identity may pull.
    List,
    /// See a repository in the catalog.
    See(RepositoryName),
    /// Read blobs, manifests, tags and referrers of a repository.
    Pull(RepositoryName),
    /// Mount blobs of a repository into another.
    Mount(RepositoryName),
    /// Write to a repository.
    Push(RepositoryName),
    /// Delete from a repository.
    Delete(RepositoryName),
    /// Have a mirror make requests to the registry that it mirrors, for this repository.
    Fetch(RepositoryName),
    /// Administer the registry: list, create and revoke access tokens, test the policy.
    Admin,
}

/// The right that an operation requires.
pub fn right_of(endpoint: &Endpoint) -> Right {
    match endpoint {
        Endpoint::Ping | Endpoint::Extensions => Right::Enter,
        Endpoint::Catalog { .. } | Endpoint::Usage { .. } => Right::List,
        Endpoint::BlobGet { name, .. }
        | Endpoint::BlobHead { name, .. }
        | Endpoint::ManifestGet { name, .. }
        | Endpoint::ManifestHead { name, .. }
        | Endpoint::TagList { name, .. }
        | Endpoint::Referrers { name, .. }
        | Endpoint::RepositoryExtensions { name }
        | Endpoint::OciTagHistory { name, .. }
        | Endpoint::TagHistory { name, .. } => Right::Pull(name.clone()),
        Endpoint::UploadStart { name, .. }
        | Endpoint::UploadStatus { name, .. }
        | Endpoint::UploadPatch { name, .. }
        | Endpoint::UploadPut { name, .. }
        | Endpoint::UploadCancel { name, .. }
        | Endpoint::ManifestPut { name, .. }
        | Endpoint::TagRestore { name, .. }
        | Endpoint::ManifestRestore { name, .. } => Right::Push(name.clone()),
        Endpoint::BlobDelete { name, .. }
        | Endpoint::ManifestDelete { name, .. }
        | Endpoint::DeletedManifests { name, .. } => Right::Delete(name.clone()),
    }
}

/// The tags that an operation names, which policy conditions may test.
pub fn tags_of(endpoint: &Endpoint) -> Vec<Tag> {
    let of_reference = |reference: &Reference| match reference {
        Reference::Tag(tag) => vec![tag.clone()],
        Reference::Digest(_) => Vec::new(),
    };
    match endpoint {
        Endpoint::ManifestGet { reference, .. }
        | Endpoint::ManifestHead { reference, .. }
        | Endpoint::ManifestDelete { reference, .. } => of_reference(reference),
        Endpoint::OciTagHistory { tag, .. }
        | Endpoint::TagHistory { tag, .. }
        | Endpoint::TagRestore { tag, .. } => vec![tag.clone()],
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
        | Endpoint::Referrers { .. }
        | Endpoint::Extensions
        | Endpoint::RepositoryExtensions { .. }
        | Endpoint::DeletedManifests { .. }
        | Endpoint::ManifestRestore { .. }
        | Endpoint::Usage { .. } => Vec::new(),
    }
}

/// The parts of a request that authentication and policy use.
#[derive(Clone, Debug, Default)]
pub struct RequestInfo {
    /// The id of the request, which the changes that it makes carry.
    pub request_id: Option<String>,
    pub headers: HeaderMap,
    /// Where the credentials are.
    pub credentials: RequestCredentials,
    /// The host that the client addressed: `Host`, `:authority`, or the header of a trusted proxy.
    pub host: Option<String>,
    /// The client's address: the peer, or the client that a trusted proxy names.
    pub peer: Option<SocketAddr>,
    /// Whether the client used HTTPS.
    pub secure: bool,
    /// The verified client certificate of the connection.
    pub certificate: Option<Arc<ClientCertificate>>,
    /// The tags that the request names.
    pub tags: Vec<Tag>,
    /// How the request led to a mirror, if not by its path alone.
    pub route: Option<Arc<MirrorRoute>>,
    /// What the connection remembers of the credentials of its requests.
    pub connection: Option<Arc<ConnectionCredentials>>,
}

/// Where the credentials of a request are.
#[derive(Clone, Debug, Default)]
pub enum RequestCredentials {
    /// In the header `Authorization`.
    #[default]
    Header,
    /// In the cookie of a page, which has been verified. `None`: it has none that is valid. The header
    /// `Authorization` is ignored.
    Page(Option<VerifiedSession>),
}

/// The authorization state of one request.
#[derive(Clone, Debug)]
pub struct AuthContext {
    pub principal: Arc<Principal>,
    pub request_info: Arc<RequestInfo>,
}

/// An authenticated caller: an identity with the properties of its credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    pub identity: Identity,
    /// Grants that the credentials carry themselves.
    pub grants: PrincipalGrants,
    /// The scope that the credentials are limited to; `None`: no limit besides the policy.
    pub scope: Option<TokenScope>,
    /// Whether the request had credentials.
    pub shown: bool,
    /// Fingerprint of the password, if one was sent.
    pub password: Option<String>,
    /// When the login in a browser took place that the credentials come from, in milliseconds of the Unix
    /// epoch.
    pub session_ms: Option<u64>,
    /// [`jreg_auth::Policy::decisive_claims`] at that time, of identities of issuers.
    pub decisive: Option<String>,
}

impl Principal {
    /// About how many bytes of memory it takes. An access token is shared with others of its token.
    pub(crate) fn memory_bytes(&self) -> usize {
        let identity = match &self.identity {
            Identity::Named(named) => named.memory_bytes(),
            Identity::Anonymous => 0,
        };
        let granted = match &self.grants {
            PrincipalGrants::Access(scope) => scope.memory_bytes(),
            PrincipalGrants::Nothing | PrincipalGrants::AccessToken(_) => 0,
        };
        let scope = self.scope.as_ref().map_or(0, jreg_auth::TokenScope::memory_bytes);
        size_of::<Self>() + identity + granted + scope
    }

    /// Whether the credentials can be revoked, or end with a logout.
    pub(crate) fn is_revocable(&self) -> bool {
        let is_access_token = match &self.identity {
            Identity::Named(named) => {
                matches!(named.source, jreg_auth::IdentitySource::AccessToken(_))
            }
            Identity::Anonymous => false,
        };
        is_access_token || self.session_ms.is_some()
    }
}

/// Grants that credentials carry themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PrincipalGrants {
    /// No grants.
    #[default]
    Nothing,
    /// The grants of an access token.
    AccessToken(Arc<AccessToken>),
    /// The scope of a token of an external token service.
    Access(TokenScope),
}

impl RequestInfo {
    /// The network that rate limits count the client's address by.
    pub fn network(&self) -> Option<Network> {
        self.peer.map(|peer| Network::of(peer.ip()))
    }
}

impl Principal {
    /// A principal that only the policy limits.
    pub fn from_identity(identity: Identity) -> Self {
        let (grants, scope, password, session_ms, decisive) = Default::default();
        Self { identity, grants, scope, shown: true, password, session_ms, decisive }
    }

    /// A request without credentials.
    pub fn anonymous() -> Self {
        Self { shown: false, ..Self::from_identity(Identity::Anonymous) }
    }
}

impl AuthContext {
    /// Credentials take precedence over a client certificate, which is then ignored; but a token
    /// issued for a certificate is valid only with it.
    pub fn new(principal: impl Into<Arc<Principal>>, mut request_info: RequestInfo) -> Self {
        let principal = principal.into();
        let is_theirs = |certificate: &Arc<ClientCertificate>| {
            !principal.shown || certificate.identity().as_ref() == Some(&principal.identity)
        };
        request_info.certificate = request_info.certificate.filter(is_theirs);
        Self { principal, request_info: Arc::new(request_info) }
    }
}

/// Why a request is refused, or gets no token. The reasons are for the log, not for the client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// The credentials are not valid. The caller adds what they were needed for
    /// ([`AuthError::needed_for`]).
    #[error("the credentials are not valid")]
    Invalid { reason: String },
    /// Credentials are missing or invalid (401).
    #[error("{access}")]
    Unauthenticated {
        /// The value of `WWW-Authenticate` (RFC 9110 section 11.6.1); `None`: [`BASIC_CHALLENGE`].
        challenge: Option<String>,
        access: RefusedAccess,
        reason: String,
    },
    /// The identity does not have the right (403).
    #[error("{access}")]
    Forbidden { access: RefusedAccess, reason: String },
    /// The identity may not even learn whether the repository exists (404).
    #[error("repository {name} is not known, or {access}")]
    Hidden { name: RepositoryName, access: RefusedAccess, reason: String },
    /// No part of the requested scope is granted.
    #[error("no access of the requested scope is granted")]
    ScopeNotGranted,
    /// Too many concurrent logins.
    #[error("too many concurrent logins, try again")]
    Busy,
    /// Too many failed logins.
    #[error("too many failed logins: try again in {} s", whole_seconds(*.wait))]
    Throttled {
        /// Time until the next attempt is allowed.
        wait: Duration,
    },
    /// The identity cannot be determined now (503).
    #[error("the registry is unavailable, try again later")]
    Unavailable { reason: String },
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
        let access = RefusedAccess::of_scope(CredentialState::Invalid, scope);
        Self::Unauthenticated { challenge: None, access, reason }
    }

    /// Adds what invalid credentials were needed for. Other errors are unchanged.
    #[must_use]
    pub fn needed_for(self, unauthenticated: impl FnOnce(String) -> Self) -> Self {
        match self {
            Self::Invalid { reason } => unauthenticated(reason),
            other => other,
        }
    }

    /// The reason, for the log.
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

/// Seconds, rounded up, at least one (RFC 9110 section 10.2.3 has whole seconds).
pub fn whole_seconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis().div_ceil(1000).max(1)).unwrap_or(u64::MAX)
}

#[derive(Clone, Debug, thiserror::Error)]
#[error("{error}")]
pub struct RefusedRequest {
    pub error: AuthError,
    /// The authorization state, if the identity was determined.
    pub auth: Option<AuthContext>,
}

/// Authenticates requests and grants rights.
#[async_trait]
pub trait Authorizer: Debug + Send + Sync + 'static {
    /// Authenticates a request. `right` is what it requires: an error says how to get it.
    async fn identify(
        &self,
        request_info: RequestInfo,
        right: &Right,
    ) -> Result<AuthContext, AuthError>;

    /// Why a right is granted, or an error.
    fn grant(&self, auth: &AuthContext, right: &Right) -> Result<DecisionReason, AuthError>;

    /// [`Authorizer::grant`] for one tag that the request need not name: a delete of a manifest by
    /// digest deletes its tags.
    fn grant_tag(
        &self,
        auth: &AuthContext,
        right: &Right,
        tag: &Tag,
    ) -> Result<DecisionReason, AuthError>;

    /// The tags for which the identity lacks a right. `None`: too many to decide, which is a
    /// refusal.
    async fn denied_tags(
        &self,
        auth: &AuthContext,
        right: &Right,
        tags: Vec<Tag>,
    ) -> Option<Vec<Tag>> {
        let is_denied = |tag: &Tag| self.grant_tag(auth, right, tag).is_err();
        Some(tags.into_iter().filter(is_denied).collect())
    }

    /// The repositories that the identity sees in the catalog ([`Right::See`]).
    async fn visible(&self, auth: &AuthContext, names: Vec<RepositoryName>) -> Vec<RepositoryName> {
        let sees = |name: &RepositoryName| self.grant(auth, &Right::See(name.clone())).is_ok();
        names.into_iter().filter(sees).collect()
    }

    /// Whether [`Authorizer::grant_tag`] may decide differently for different tags.
    fn depends_on_tag(&self, auth: &AuthContext, right: &Right) -> bool;

    /// A cursor for a catalog position whose name the client may not see. Without access control it
    /// is the name itself.
    async fn catalog_cursor(&self, name: &RepositoryName) -> Result<String, AuthError> {
        Ok(name.to_string())
    }

    /// The catalog position of a cursor; `None` if the cursor is invalid or has expired.
    async fn open_catalog_cursor(
        &self,
        _cursor: &str,
    ) -> Result<Option<RepositoryName>, AuthError> {
        Ok(None)
    }
}

/// Grants everything: a registry without configured identities.
#[derive(Clone, Copy, Debug)]
pub struct AllowAll;

#[async_trait]
impl Authorizer for AllowAll {
    async fn identify(
        &self,
        request_info: RequestInfo,
        _: &Right,
    ) -> Result<AuthContext, AuthError> {
        Ok(AuthContext::new(Principal::anonymous(), request_info))
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

/// The only access to the registry.
#[derive(Clone, Debug)]
pub struct RegistryGate {
    registry: Registry,
    authorizer: Arc<dyn Authorizer>,
    /// Mirrors of other registries, if there are any.
    mirrors: Option<Mirrors>,
}

impl RegistryGate {
    /// Protects `registry` with `authorizer`.
    pub fn new(registry: Registry, authorizer: Arc<dyn Authorizer>) -> Self {
        Self { registry, authorizer, mirrors: None }
    }

    /// The same, with mirrors of other registries.
    #[must_use]
    pub fn with_mirrors(self, mirrors: Option<Mirrors>) -> Self {
        Self { mirrors, ..self }
    }

    /// The mirrors, for their metrics.
    pub fn mirrors(&self) -> Option<&Mirrors> {
        self.mirrors.as_ref()
    }

    /// Authenticates a request and grants the right that `endpoint` requires.
    pub async fn admit(
        &self,
        request_info: RequestInfo,
        endpoint: &Endpoint,
    ) -> Result<Authorized, RefusedRequest> {
        let request_info = RequestInfo { tags: tags_of(endpoint), ..request_info };
        let right = right_of(endpoint);
        let identified = self.authorizer.identify(request_info, &right).await;
        let auth = identified.map_err(|error| RefusedRequest { error, auth: None })?;
        self.grant(auth, right)
    }

    /// Authenticates a request that may need several rights, one after the other
    /// ([`RegistryGate::admit_identified`]).
    pub async fn identify(&self, request_info: RequestInfo) -> Result<AuthContext, RefusedRequest> {
        let identified = self.authorizer.identify(request_info, &Right::Enter).await;
        identified.map_err(|error| RefusedRequest { error, auth: None })
    }

    /// Grants an authenticated request a right that no endpoint requires.
    pub fn admit_right(
        &self,
        auth: &AuthContext,
        right: Right,
    ) -> Result<Authorized, RefusedRequest> {
        self.grant(auth.clone(), right)
    }

    /// Grants an authenticated request the right that `endpoint` requires.
    pub fn admit_identified(
        &self,
        auth: &AuthContext,
        endpoint: &Endpoint,
    ) -> Result<Authorized, RefusedRequest> {
        let (principal, info) =
            (Arc::clone(&auth.principal), RequestInfo::clone(&auth.request_info));
        let auth = AuthContext::new(principal, RequestInfo { tags: tags_of(endpoint), ..info });
        self.grant(auth, right_of(endpoint))
    }

    fn grant(&self, auth: AuthContext, right: Right) -> Result<Authorized, RefusedRequest> {
        match self.authorizer.grant(&auth, &right) {
            Ok(reason) => Ok(Authorized::new(self.clone(), auth, right, reason)),
            Err(error) => Err(RefusedRequest { error, auth: Some(auth) }),
        }
    }

    /// Whether the store responds. Requires no right.
    pub async fn ready(&self) -> Result<(), jreg_registry::Error> {
        self.registry.ready().await
    }

    /// The namespace of the registry that a repository mirrors. Requires no right: it follows from the name.
    pub fn mirror_of(&self, name: &RepositoryName) -> Option<&str> {
        self.mirrors.as_ref()?.namespace_of(name)
    }

    /// Whether pulls are recorded. Requires no right.
    pub fn tracks_pulls(&self) -> bool {
        self.registry.tracks_pulls()
    }

    /// Use of the quotas. Requires no right.
    pub fn quota_usage(&self) -> Vec<PoolUsage> {
        self.registry.quota_usage()
    }

    /// Whether each store request travels. Requires no right.
    pub fn is_remote(&self) -> bool {
        self.registry.is_remote()
    }

    /// Use of the registry's limits. Requires no right.
    pub fn usage(&self) -> RegistryUsage {
        self.registry.usage()
    }
}

#[cfg(test)]
mod tests;
