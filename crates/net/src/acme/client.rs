//! The HTTP of ACME: jreg's own client in the place of the library's, with limits.

use std::error::Error;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use instant_acme::{BodyWrapper, BytesResponse, HttpClient};
use jreg_reload::FileError;

use crate::tls;

/// How long one request to the authority may take.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(30);
/// The most bytes of one answer: a chain of certificates has a few KiB.
const ANSWER_BYTES_MAX: usize = 256 * 1024;

/// Why cannot reach the ACME server.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The file of those who vouch for it cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// There is nobody to trust on this machine, or the like.
    #[error("cannot set up https: install a CA bundle on this machine, or set acme-ca-file")]
    Http(#[from] reqwest::Error),
}

/// Makes a client that trusts those of a file, or of this machine.
pub(super) async fn client(ca_file: Option<PathBuf>) -> Result<reqwest::Client, ClientError> {
    // Fails if the process has chosen already; then that choice stands.
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
    let unreadable = |source| FileError::Unreadable { path: path.clone(), source };
    let bytes = tokio::fs::metadata(&path).await.map_err(unreadable)?.len();
    let wrong = |why| FileError::Wrong { path: path.clone(), why };
    if bytes > tls::FILE_BYTES_MAX as u64 {
        return Err(wrong(format!("it is larger than {} bytes", tls::FILE_BYTES_MAX)).into());
    }
    let text = tokio::fs::read_to_string(&path).await.map_err(unreadable)?;
    let all = tls::certificates(&text).map_err(wrong)?;
    let all = all.iter().map(|certificate| reqwest::Certificate::from_der(certificate));
    Ok(all.collect::<Result<_, _>>()?)
}

/// The client, as the library asks for one, and how long the authority said last to wait.
#[derive(Clone, Debug)]
pub(super) struct AcmeHttp {
    client: reqwest::Client,
    retry_after: Arc<Mutex<Option<Duration>>>,
}

impl AcmeHttp {
    pub(super) fn new(client: reqwest::Client) -> Self {
        Self { client, retry_after: Arc::default() }
    }

    /// How long to wait, if the last refusal said so; then it is forgotten.
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
        let mut answer = self.client.execute(request).await?;
        let mut response = http::Response::new(());
        *response.status_mut() = answer.status();
        *response.headers_mut() = answer.headers().clone();
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
        while let Some(chunk) = answer.chunk().await? {
            if bytes.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Err(format!("its response is larger than {ANSWER_BYTES_MAX} bytes").into());
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
