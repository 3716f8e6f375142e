//! Who may do what: which right an operation needs, who is asked for it, and the handle that a
//! handler gets instead of the registry.
//!
//! The promise: no handler can reach the registry without the right its operation needs. The
//! registry is private to [`Gate`]; [`Gate::admit`] asks the [`Authorizer`] and returns an
//! [`Authorized`] handle that carries the one right that was granted; every method of the handle
//! names the right it takes and refuses any other.

mod handle;

use std::fmt::Debug;
use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use http::HeaderMap;
use jreg_oci::{Endpoint, RepositoryName};
use jreg_registry::{Registry, Usage};

pub use handle::{AccessError, Authorized};

/// A right to do something.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Right {
    /// Ask whether this is a registry. Clients learn from the answer whether to log in.
    Enter,
    /// List the repositories. Those that may not be pulled from are left out.
    List,
    /// Read a repository: its blobs, manifests, tags and referrers.
    Pull(RepositoryName),
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

/// Who asks, as the request shows it.
#[derive(Clone, Debug, Default)]
pub struct Asker {
    /// The request's headers.
    pub headers: HeaderMap,
    /// The other end of the connection.
    pub peer: Option<SocketAddr>,
}

/// Who was found to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// Nobody in particular.
    Anonymous,
    /// Somebody with this name.
    Named(String),
}

/// Why a right was not granted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// Credentials are missing or wrong; with the right ones it might be granted.
    #[error("authentication required")]
    Unauthenticated {
        /// The value of `WWW-Authenticate` (RFC 9110 section 11.6.1).
        challenge: String,
    },
    /// The asker is known and does not have the right.
    #[error("requested access to the resource is denied")]
    Forbidden,
}

/// Grants rights, or not.
#[async_trait]
pub trait Authorizer: Debug + Send + Sync + 'static {
    /// Says who asks, if they have the right.
    async fn authorize(&self, asker: &Asker, right: &Right) -> Result<Identity, Denied>;
}

/// Grants everything to everybody: what a registry without configured identities does.
#[derive(Clone, Copy, Debug)]
pub struct Open;

#[async_trait]
impl Authorizer for Open {
    async fn authorize(&self, _: &Asker, _: &Right) -> Result<Identity, Denied> {
        Ok(Identity::Anonymous)
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
    pub async fn admit(&self, asker: Asker, endpoint: &Endpoint) -> Result<Authorized, Denied> {
        let right = right_of(endpoint);
        let identity = self.authorizer.authorize(&asker, &right).await?;
        Ok(Authorized::new(self.clone(), asker, identity, right))
    }

    /// Asks the store whether it answers. Needs no right: health is not content.
    pub async fn ready(&self) -> Result<(), jreg_registry::Error> {
        self.registry.ready().await
    }

    /// What the registry uses of its limits; that needs no right either.
    pub fn usage(&self) -> Usage {
        self.registry.usage()
    }
}

#[cfg(test)]
mod tests;
