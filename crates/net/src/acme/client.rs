//! The HTTP client of ACME, with limits. It replaces that of the library.

use std::error::Error;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use instant_acme::{BodyWrapper, BytesResponse, HttpClient};
use jreg_reload::{FileError, read_regular_text};
use tokio::task::{JoinError, spawn_blocking};

use crate::tls;

/// Timeout of a request to the CA.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(30);
/// Maximum bytes of a response: a certificate chain has a few KiB.
const RESPONSE_BYTES_MAX: usize = 256 * 1024;

/// Why the ACME HTTP client cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The CA bundle is invalid.
    #[error(transparent)]
    File(#[from] FileError),
    /// For example, the system has no root certificates.
    #[error("cannot set up https: install a CA bundle on this machine, or set acme-ca-file")]
    Http(#[from] reqwest::Error),
}

/// Trusts the CAs of a file, or of the system.
pub(super) async fn client(ca_file: Option<PathBuf>) -> Result<reqwest::Client, ClientError> {
    // Fails if a provider is already installed; then that one is used.
    rustls::crypto::ring::default_provider().install_default().ok();
    let mut builder = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(REQUEST_TIME_MAX)
        .https_only(true)
        .no_proxy();
    if let Some(path) = ca_file {
        builder = builder.tls_certs_only(authorities(path).await?);
    }
    Ok(builder.build()?)
}

async fn authorities(path: PathBuf) -> Result<Vec<reqwest::Certificate>, ClientError> {
    let file = path.clone();
    let reading = spawn_blocking(move || read_regular_text(&file, tls::FILE_BYTES_MAX));
    let joined =
        |error: JoinError| FileError::Unreadable { path: path.clone(), source: error.into() };
    let text = reading.await.map_err(joined)??;
    let wrong = |why| FileError::Wrong { path: path.clone(), why };
    let all = tls::certificates(&text).map_err(wrong)?;
    let all = all.iter().map(|certificate| reqwest::Certificate::from_der(certificate));
    Ok(all.collect::<Result<_, _>>()?)
}

/// The client in the form of the library, with the last `Retry-After`.
#[derive(Clone, Debug)]
pub(super) struct AcmeHttp {
    client: reqwest::Client,
    retry_after: Arc<Mutex<Option<Duration>>>,
}

impl AcmeHttp {
    pub(super) fn new(client: reqwest::Client) -> Self {
        Self { client, retry_after: Arc::default() }
    }

    /// Takes the `Retry-After` of the last refusal.
    pub(super) fn take_retry_after(&self) -> Option<Duration> {
        self.retry_after.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    async fn send(
        self,
        request: http::Request<BodyWrapper<Bytes>>,
    ) -> Result<BytesResponse, HttpFault> {
        let (parts, body) = request.into_parts();
        let bytes = body.collect().await?.to_bytes();
        let request = reqwest::Request::try_from(http::Request::from_parts(parts, bytes))?;
        let mut reply = self.client.execute(request).await?;
        let mut response = http::Response::new(());
        *response.status_mut() = reply.status();
        *response.headers_mut() = reply.headers().clone();
        let (parts, ()) = response.into_parts();
        let header = |name| parts.headers.get(name).and_then(|value| value.to_str().ok());
        if parts.status.is_client_error() || parts.status.is_server_error() {
            let seconds = header(http::header::RETRY_AFTER).and_then(|text| text.parse().ok());
            *self.retry_after.lock().unwrap_or_else(PoisonError::into_inner) =
                seconds.map(Duration::from_secs);
            let is_problem = |kind: &str| kind.contains("json");
            if !header(http::header::CONTENT_TYPE).is_some_and(is_problem) {
                return Err(format!("it returned status {}", parts.status).into());
            }
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = reply.chunk().await? {
            if bytes.len() + chunk.len() > RESPONSE_BYTES_MAX {
                return Err(
                    format!("its response is larger than {RESPONSE_BYTES_MAX} bytes").into()
                );
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(BytesResponse { parts, body: Box::new(Bytes::from(bytes)) })
    }
}

type HttpFault = Box<dyn Error + Send + Sync>;
type AcmeResponse = Result<BytesResponse, instant_acme::Error>;

impl HttpClient for AcmeHttp {
    fn request(
        &self,
        request: http::Request<BodyWrapper<Bytes>>,
    ) -> std::pin::Pin<Box<dyn Future<Output = AcmeResponse> + Send>> {
        let sending = self.clone().send(request);
        Box::pin(async move { sending.await.map_err(instant_acme::Error::Other) })
    }
}
