//! Who asks, and what they may do: credentials, tokens and policy as values.
//!
//! Nothing here does I/O, knows HTTP beyond the text of a few headers, or reads a clock: bytes, times
//! and keys are passed in.
//!
//! - [`Credentials`] is what a request brings; [`Identity`] is who it turned out to be.
//! - [`Htpasswd`] is a file of users, [`AccessToken`] an access token, [`Issuer`] somebody else whose
//!   tokens are believed, [`Keyring`] the keys of our own tokens.
//! - [`Said`] is what proxies say of a client: where it is, and how it came.
//! - [`Policy`] decides, and says by which rule, an [`Evaluation`] several times for one request; [`Scope`] narrows what a token is good for.

mod access_token;
mod condition;
mod credentials;
mod cursor;
mod evaluation;
mod forwarded;
mod htpasswd;
mod identity;
mod issuer;
mod jws;
mod keyring;
mod network;
mod pattern;
mod policy;
mod random;
mod scope;
mod secret;
mod token;

pub use access_token::{
    AccessToken, AccessTokenError, AccessTokenId, AccessTokenPermission, AccessTokenText,
    parse_permissions,
};
pub use condition::{CONDITION_BYTES_MAX, CONDITION_DEPTH_MAX, CONDITION_LOOPS_MAX};
pub use credentials::{CREDENTIALS_BYTES_MAX, Credentials, CredentialsError};
pub use cursor::{cursor_key_id, decrypt_cursor, encrypt_cursor};
pub use evaluation::{CONDITIONS_EVALUATED_MAX, Evaluation};
pub use forwarded::{ForwardedHeader, HOP_BYTES_MAX, HOPS_MAX, HOST_BYTES_MAX, Said, is_host};
pub use htpasswd::{
    Comparison, Entry, FILE_BYTES_MAX, HashMemory, Htpasswd, HtpasswdError, InvalidUser, USERS_MAX,
    hash_password, removed_user, with_user,
};
pub use identity::{Certificate, Claims, Identity, Named, Source};
pub use issuer::{Access, Issuer, IssuerSpec, JwkSet, JwksError, KeySource, TokenRefused};
pub use jws::{JwsError, KID_BYTES_MAX, TOKEN_BYTES_MAX, Unverified, VerifyingKey};
pub use keyring::{Keyring, KeyringError, SigningKey};
pub use network::Network;
pub use pattern::{InvalidPattern, Pattern};
pub use policy::{Decision, Grants, POLICY_BYTES_MAX, Policy, PolicyError, Query, Reason, Tagged};
pub use random::{Fingerprints, random_bytes, random_hex};
pub use scope::{Action, Actions, SCOPE_BYTES_MAX, SCOPES_MAX, Scope, ScopeEntry};
pub use secret::Secret;
pub use token::{Kind, TokenClaims};
