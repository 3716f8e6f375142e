//! [`SinkClient`]: one request to a sink.
//!
//! The rules are those for the keys of issuers: only the configured URL, without redirects and proxies;
//! `https`, or `http` to loopback; with a timeout; of the response only its beginning is read.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jreg_auth::Secret;
use jreg_registry::SequencedEvent;
use jreg_reload::read_regular;
use jreg_storage::error_chain;
use reqwest::StatusCode;
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use tokio::task::spawn_blocking;

use crate::options::{SecretSource, SinkFormat, SinkOptions};
use crate::signature::{SIGNATURE_HEADER, signature};
use crate::{cloud_event, docker};

/// Maximum bytes of a response that are read, so that the connection can be used again.
const RESPONSE_BYTES_MAX: usize = 16 * 1024;
/// Maximum bytes of a CA bundle, and of a secret.
const FILE_BYTES_MAX: usize = 1024 * 1024;
/// Minimum length of a secret.
pub(crate) const SECRET_BYTES_MIN: usize = 16;
/// The `source` of events if the registry has no public URL.
const SOURCE: &str = "urn:jreg";

/// Why a sink cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SinkClientError {
    #[error("cannot read {}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{}: {why}", path.display())]
    Content { path: PathBuf, why: String },
    #[error("the secret of sink {sink} is too short: it must be {SECRET_BYTES_MIN} bytes or more")]
    ShortSecret { sink: String },
    #[error("cannot set up https for sink {sink}: install a CA bundle, or set its ca-file")]
    Http { sink: String, source: reqwest::Error },
}

/// Why an event was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeliveryError {
    /// The sink does not want this event: after some attempts it is a dead letter.
    #[error("status {0}")]
    Refused(u16),
    /// The sink does not work: it is sent nothing else until it does.
    #[error("status {status}")]
    Status {
        status: u16,
        /// When the sink wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// No response, or not in time.
    #[error("{0}")]
    Unreachable(String),
}

/// Sends to one sink.
#[derive(Debug)]
pub struct SinkClient {
    http: reqwest::Client,
    options: SinkOptions,
    secrets: Vec<Secret>,
    public_url: Option<String>,
}

impl SinkClient {
    /// Reads the secrets and the CAs.
    ///
    /// # Errors
    ///
    /// [`SinkClientError`].
    pub async fn open(
        options: SinkOptions,
        public_url: Option<String>,
    ) -> Result<Self, SinkClientError> {
        // Fails if a provider is already installed; then that one is used.
        rustls::crypto::ring::default_provider().install_default().ok();
        let mut secrets = Vec::new();
        for source in &options.secrets {
            let secret = read_secret(source).await?;
            if secret.reveal().len() < SECRET_BYTES_MIN {
                return Err(SinkClientError::ShortSecret { sink: options.name.to_string() });
            }
            secrets.push(secret);
        }
        let builder = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(options.timeout)
            .no_proxy();
        let builder = match &options.ca_file {
            Some(path) => builder.tls_certs_only(authorities(path).await?),
            None => builder,
        };
        let failed = |source| SinkClientError::Http { sink: options.name.to_string(), source };
        let http = builder.build().map_err(failed)?;
        Ok(Self { http, options, secrets, public_url })
    }

    pub fn options(&self) -> &SinkOptions {
        &self.options
    }

    /// Sends an event. One that the format cannot express counts as sent.
    ///
    /// # Errors
    ///
    /// [`DeliveryError`].
    pub async fn send(&self, event: SequencedEvent<'_>, now_s: u64) -> Result<(), DeliveryError> {
        let url = self.public_url.as_deref();
        let (media_type, body) = match self.options.format {
            SinkFormat::CloudEvents => {
                let body = cloud_event::encode(event, url.unwrap_or(SOURCE));
                (cloud_event::MEDIA_TYPE, body)
            }
            SinkFormat::Docker => match docker::encode(event, url) {
                Some(body) => (docker::MEDIA_TYPE, body),
                None => return Ok(()),
            },
        };
        let mut request = self
            .http
            .post(&self.options.url)
            .header(CONTENT_TYPE, media_type)
            .header(USER_AGENT, concat!("jreg/", env!("CARGO_PKG_VERSION")));
        if !self.secrets.is_empty() {
            request = request.header(SIGNATURE_HEADER, signature(&self.secrets, now_s, &body));
        }
        let unreachable =
            |error: reqwest::Error| DeliveryError::Unreachable(error_chain(&error.without_url()));
        let mut response = request.body(body).send().await.map_err(unreachable)?;
        let status = response.status();
        let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let retry_after = retry_after.and_then(|value| value.parse().ok()).map(Duration::from_secs);
        drain(&mut response).await;
        match status.is_success() {
            true => Ok(()),
            false => Err(error_of(status, retry_after)),
        }
    }
}

/// Reads the beginning of a response. What it says does not matter.
async fn drain(response: &mut reqwest::Response) {
    let mut bytes = 0;
    while let Ok(Some(chunk)) = response.chunk().await {
        bytes += chunk.len();
        if bytes > RESPONSE_BYTES_MAX {
            return;
        }
    }
}

/// What is about the event (`4xx`) makes a dead letter; what is about the sink, or passes, stops it.
fn error_of(status: StatusCode, retry_after: Option<Duration>) -> DeliveryError {
    let code = status.as_u16();
    match code {
        401 | 403 | 408 | 425 | 429 => DeliveryError::Status { status: code, retry_after },
        400..500 => DeliveryError::Refused(code),
        _ => DeliveryError::Status { status: code, retry_after },
    }
}

async fn read_secret(source: &SecretSource) -> Result<Secret, SinkClientError> {
    match source {
        SecretSource::Value(secret) => Ok(secret.clone()),
        SecretSource::File(path) => {
            let text = read(path).await?;
            Ok(Secret::new(text.trim_end_matches(['\r', '\n'])))
        }
    }
}

async fn read(path: &Path) -> Result<String, SinkClientError> {
    let file = path.to_owned();
    let reading = spawn_blocking(move || read_regular(&file, FILE_BYTES_MAX));
    let text = reading.await.map_err(io::Error::other).and_then(|read| read);
    text.map_err(|source| match source.kind() {
        io::ErrorKind::FileTooLarge => {
            let why = format!("it is larger than {FILE_BYTES_MAX} bytes");
            SinkClientError::Content { path: path.to_owned(), why }
        }
        _ => SinkClientError::File { path: path.to_owned(), source },
    })
}

async fn authorities(path: &Path) -> Result<Vec<reqwest::Certificate>, SinkClientError> {
    let text = read(path).await?;
    let wrong = |why: String| SinkClientError::Content { path: path.to_owned(), why };
    let certificates = reqwest::Certificate::from_pem_bundle(text.as_bytes())
        .map_err(|error| wrong(error_chain(&error)))?;
    match certificates.is_empty() {
        true => Err(wrong("it has no certificate".to_owned())),
        false => Ok(certificates),
    }
}
