//! Authentication and authorization as values: credentials, tokens and policy.
//!
//! Nothing here does I/O, knows HTTP beyond the text of a few headers, or reads a clock: bytes, times
//! and keys are passed in.
//!
//! - [`Credentials`]: the value of an `Authorization` header; [`Identity`]: the authenticated client.
//! - [`Htpasswd`]: a file of users; [`AccessToken`]: a token for automation; [`Issuer`]: an external
//!   identity provider; [`Keyring`]: the signing keys of the registry's own tokens.
//! - [`BrowserSession`]: who is logged in in a browser; [`PendingLogin`] and [`OpenIdProvider`]: logins at
//!   an OpenID provider.
//! - [`ForwardedClient`]: the client's address, scheme and host from proxy headers.
//! - [`Policy`]: the rules, which a [`PolicyEvaluation`] evaluates several times for one request;
//!   [`TokenScope`] narrows a token.

#![allow(missing_docs, reason = "names of fields and variants say it")]

mod access_token;
mod browser_session;
mod condition;
mod credentials;
mod cursor;
mod evaluation;
mod expression;
mod forwarded;
mod htpasswd;
mod identity;
mod issuer;
mod jws;
mod keyring;
mod login_client;
mod network;
mod outbound;
mod pending_login;
mod policy;
mod policy_test;
mod provider;
mod random;
mod scope;
mod sealed;
mod secret;
mod tested;
mod token;

pub use access_token::{
    AccessToken, AccessTokenError, AccessTokenId, AccessTokenPermission, AccessTokenText,
    parse_permissions,
};
pub use browser_session::{
    BrowserSession, SESSION_BYTES_MAX, SessionError, SessionUse, SignedSession, is_login_token,
    milliseconds,
};
pub use condition::{CONDITION_BYTES_MAX, CONDITION_DEPTH_MAX, CONDITION_LOOPS_MAX};
pub use credentials::{CREDENTIALS_BYTES_MAX, Credentials, CredentialsError};
pub use cursor::{cursor_key_id, decrypt_cursor, encrypt_cursor};
pub use evaluation::{CONDITIONS_EVALUATED_MAX, PolicyEvaluation};
pub use forwarded::{
    ForwardedClient, ForwardedHeader, HOP_BYTES_MAX, HOPS_MAX, HOST_BYTES_MAX, is_host,
};
pub use htpasswd::{
    FILE_BYTES_MAX, HashMemory, Htpasswd, HtpasswdEntry, HtpasswdError, InvalidUser,
    PasswordComparison, USERS_MAX, hash_password, removed_user, with_user,
};
pub use identity::{ClientCertificate, Identity, IdentityClaims, IdentitySource, NamedIdentity};
pub use issuer::{
    IdTokenRequest, Issuer, IssuerAccess, IssuerSpec, IssuerTokenError, JwkSet, JwksError,
    KeySource,
};
pub use jws::{JwsError, KID_BYTES_MAX, TOKEN_BYTES_MAX, UnverifiedToken, VerifyingKey};
pub use keyring::{Keyring, KeyringError, SigningKey};
pub use login_client::{ClientSecret, LOGIN_CLIENTS_MAX, LoginClient};
pub use network::Network;
pub use outbound::{InvalidUrl, checked_url};
pub use pending_login::{PENDING_LOGIN_AGE_MAX, PendingLogin, RETURN_BYTES_MAX, is_return_path};
pub use policy::{
    CredentialGrants, DecisionReason, POLICY_BYTES_MAX, Policy, PolicyDecision, PolicyError,
    PolicyQuery, QueryTag,
};
pub use policy_test::PolicyTest;
pub use provider::{
    AuthorizationError, AuthorizationResponse, CodeRequest, OpenIdProvider, ProviderError,
    id_token_of, token_error_of,
};
pub use random::{Fingerprints, random_bytes, random_hex};
pub use scope::{AccessAction, AccessActions, SCOPE_BYTES_MAX, SCOPES_MAX, ScopeEntry, TokenScope};
pub use secret::Secret;
pub use tested::TestedClaims;
pub use token::{TokenClaims, TokenKind};
