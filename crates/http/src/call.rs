//! [`ApiCall`]: an admitted request.

use std::net::SocketAddr;
use std::sync::Arc;

use http::HeaderMap;
use jreg_access::Authorized;
use jreg_net::server::ConnectionResources;
use jreg_net::server::files::FileQueue;

use crate::body::ClientBody;

/// A request that was admitted.
pub(crate) struct ApiCall {
    pub(crate) access: Authorized,
    pub(crate) headers: HeaderMap,
    pub(crate) peer: Option<SocketAddr>,
    /// Precedes the paths of `Location`: `public-url`, or the origin that the client used. Empty if
    /// that is not certain.
    pub(crate) base_url: String,
    /// Takes files for the connection, if it can send them.
    pub(crate) files: Option<Arc<FileQueue>>,
    /// The budgets of the connection, if it has any.
    pub(crate) resources: Option<Arc<ConnectionResources>>,
    pub(crate) body: ClientBody,
}
