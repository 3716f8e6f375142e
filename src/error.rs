//! [`StartError`]: why a registry cannot be started, to serve or for a command.

use std::io;

use jreg_access::AccessGuardError;
use jreg_net::acme::AcmeError;
use jreg_net::tls::TlsError;
use jreg_telemetry::audit::AuditError;

use crate::bucket::BucketError;
use crate::folder::ForeignFolder;

/// Why the registry cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The bucket cannot be used.
    #[error(transparent)]
    Bucket(#[from] BucketError),
    /// The folder cannot be used.
    #[error(transparent)]
    Folder(#[from] jreg_storage::FsOpenError),
    /// The folder is another program's.
    #[error(transparent)]
    Foreign(#[from] ForeignFolder),
    /// The store cannot be used as a registry.
    #[error(transparent)]
    Registry(#[from] jreg_registry::OpenError),
    /// Clients cannot be asked who they are.
    #[error(transparent)]
    AccessGuard(#[from] AccessGuardError),
    /// TLS cannot be spoken.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// No certificate can be asked for.
    #[error(transparent)]
    Acme(#[from] AcmeError),
    /// Decisions cannot be written down.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// Everybody could reach it, and nobody would be asked who they are.
    #[error(
        "{address} is reachable from other machines and authentication is off: set htpasswd or policy (docs/authentication.md), listen on 127.0.0.1, or accept that with --insecure-open"
    )]
    Insecure {
        /// Where it would listen.
        address: std::net::SocketAddr,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The operating system refused what every server needs.
    #[error("cannot start")]
    System(#[from] io::Error),
}
