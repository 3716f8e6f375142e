//! [`StartError`]: why a registry cannot be opened.

use std::io;

use jreg_access::AccessGuardError;
use jreg_events::SinkClientError;
use jreg_mirror::MirrorSetupError;
use jreg_net::acme::AcmeError;
use jreg_net::tls::TlsError;
use jreg_telemetry::audit::AuditError;

use crate::bucket::BucketError;
use crate::folder::ForeignFolder;

/// Why a registry cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Bucket(#[from] BucketError),
    #[error(transparent)]
    Folder(#[from] jreg_storage::FsOpenError),
    /// The folder contains another program's files.
    #[error(transparent)]
    Foreign(#[from] ForeignFolder),
    #[error(transparent)]
    Registry(#[from] jreg_registry::OpenError),
    /// Authentication cannot be set up.
    #[error(transparent)]
    AccessGuard(#[from] AccessGuardError),
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// ACME cannot be set up.
    #[error(transparent)]
    Acme(#[from] AcmeError),
    /// A sink of events cannot be set up.
    #[error(transparent)]
    Sink(#[from] SinkClientError),
    /// The mirrors cannot be set up.
    #[error(transparent)]
    Mirror(#[from] MirrorSetupError),
    #[error("cannot read which repositories are below the prefixes of mirrors")]
    LocalRepositories(#[source] jreg_registry::Error),
    /// What the credentials of a mirror can read would be shown to everyone.
    #[error(
        "anonymous clients may pull from the mirror of {namespace}, which has credentials: everyone could read what these can; require authentication below its prefix, or set `public = true` in its [[mirror]] table"
    )]
    Exposed { namespace: String },
    /// The lifecycle file is invalid.
    #[error(transparent)]
    Lifecycle(#[from] jreg_reload::FileError),
    /// The audit log cannot be opened.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// A non-loopback address without authentication.
    #[error(
        "{address} is reachable from other machines and authentication is off: set htpasswd or policy (docs/authentication.md), listen on 127.0.0.1, or accept that with --insecure-open"
    )]
    Insecure {
        /// The configured address.
        address: std::net::SocketAddr,
    },
    #[error("cannot listen on {address}")]
    Listen { address: std::net::SocketAddr, source: io::Error },
    /// A system call failed.
    #[error("cannot start")]
    System(#[from] io::Error),
}
