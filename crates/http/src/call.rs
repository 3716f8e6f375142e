//! [`ApiCall`]: an admitted request.

use std::net::SocketAddr;
use std::sync::Arc;

use http::HeaderMap;
use jreg_access::Authorized;
use jreg_net::server::ConnectionResources;
use jreg_net::server::files::FileQueue;
use jreg_oci::{MirrorRoute, NamedBy, RepositoryName};

use crate::body::ClientBody;

/// A request that was admitted.
pub(crate) struct ApiCall {
    pub(crate) access: Authorized,
    pub(crate) headers: HeaderMap,
    pub(crate) peer: Option<SocketAddr>,
    /// How the request led to a mirror, if not by its path alone.
    pub(crate) route: Option<Arc<MirrorRoute>>,
    /// Precedes the paths of `Location`: `public-url`, or the origin that the client used. Empty if
    /// that is not certain.
    pub(crate) base_url: String,
    /// Takes files for the connection, if it can send them.
    pub(crate) files: Option<Arc<FileQueue>>,
    /// The budgets of the connection, if it has any.
    pub(crate) resources: Option<Arc<ConnectionResources>>,
    pub(crate) body: ClientBody,
}

impl ApiCall {
    /// The path of a repository as the client knows it, and the `ns` that it gave.
    pub(crate) fn client_path(&self, name: &RepositoryName) -> (String, Option<&str>) {
        let Some(route) = &self.route else { return (format!("/v2/{name}"), None) };
        let own = route.client_name(name);
        match route.by {
            NamedBy::Namespace => (format!("/v2/{own}"), Some(&route.namespace)),
            NamedBy::PathPrefix => (format!("/{}/v2/{own}", route.prefix), None),
        }
    }
}
