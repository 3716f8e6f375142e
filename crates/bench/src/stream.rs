//! Bytes to and from a server, with TLS or without.

use std::fmt;
use std::io::{self, IoSlice};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::ClientConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls_platform_verifier::Verifier;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::url::UrlAuthority;

/// A connection's bytes.
#[derive(Debug)]
pub(crate) enum ConnectionStream {
    Plain(TcpStream),
    BenchTlsClient(Box<TlsStream<TcpStream>>),
}

/// What speaks TLS.
#[derive(Clone)]
pub(crate) struct BenchTlsClient(TlsConnector);

impl fmt::Debug for BenchTlsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

/// Why TLS cannot be spoken.
#[derive(Debug, Error)]
pub enum TlsClientError {
    /// The file of `--ca` cannot be read, or holds no certificate.
    #[error("cannot read certificates from {file}")]
    Certificates {
        /// The file.
        file: String,
        /// Why.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// The certificates are not accepted.
    #[error("cannot use the certificates")]
    Unusable(#[from] rustls::Error),
}

/// Trusts what this machine trusts, and the authorities of a PEM file.
pub(crate) fn connector(ca: Option<&Path>) -> Result<BenchTlsClient, TlsClientError> {
    let extra = match ca {
        Some(file) => certificates(file).map_err(|source| TlsClientError::Certificates {
            file: file.display().to_string(),
            source,
        })?,
        None => Vec::new(),
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Verifier::new_with_extra_roots(extra, Arc::clone(&provider))?;
    Ok(BenchTlsClient(TlsConnector::from(Arc::new(config(provider, verifier)?))))
}

fn config(
    provider: Arc<CryptoProvider>,
    verifier: Verifier,
) -> Result<ClientConfig, TlsClientError> {
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let verified = builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
    Ok(verified.with_no_client_auth())
}

fn certificates(
    file: &Path,
) -> Result<Vec<CertificateDer<'static>>, rustls::pki_types::pem::Error> {
    let found: Vec<_> = CertificateDer::pem_file_iter(file)?.collect::<Result<_, _>>()?;
    match found.is_empty() {
        true => Err(rustls::pki_types::pem::Error::NoItemsFound),
        false => Ok(found),
    }
}

impl ConnectionStream {
    pub(crate) async fn connect(
        authority: &UrlAuthority,
        tls: Option<&BenchTlsClient>,
    ) -> io::Result<Self> {
        let stream = TcpStream::connect((authority.host.as_str(), authority.port)).await?;
        stream.set_nodelay(true)?;
        match tls {
            None if authority.tls => Err(io::Error::other("no certificates to trust were found")),
            Some(BenchTlsClient(tls)) if authority.tls => {
                let name =
                    ServerName::try_from(authority.host.clone()).map_err(io::Error::other)?;
                Ok(Self::BenchTlsClient(Box::new(tls.connect(name, stream).await?)))
            }
            _ => Ok(Self::Plain(stream)),
        }
    }
}

impl AsyncRead for ConnectionStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::BenchTlsClient(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for ConnectionStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::BenchTlsClient(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Self::BenchTlsClient(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::BenchTlsClient(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::BenchTlsClient(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
