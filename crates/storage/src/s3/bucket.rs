//! [`BucketClient`]: one signed request to a bucket and its response.
//!
//! Credentials, signatures and the HTTP client are those of `object_store`. The requests are our
//! own, because its calls hide what is needed here: the store's clock (the `Date` of a response),
//! whether a failed write may have happened, the conditions of a DELETE, the entity tag under
//! which a read is resumed.

use std::error::Error;
use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use jreg_profile::WorkName;
use jreg_reload::read_regular;
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, AwsAuthorizer};
use object_store::client::{Certificate, HttpClient, HttpRequest, HttpResponseBody};
use object_store::{ClientOptions, RetryConfig};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use sha2::{Digest, Sha256};
use tokio::time::timeout;

use super::continuation::Continuations;
use super::credentials::CachedS3Credentials;
use super::drift::ClockWatch;
use super::failure::{FailureClass, S3Failure};
use super::http_client::{POOL_IDLE, USER_AGENT, http_client};
use super::profile::ProfileCredentials;
use super::profile_file::ProfilePlace;
use super::retry::RetryBudget;
use super::sources::{CredentialSources, ProfileOfSources};
use super::{Encryption, S3Credentials, S3OpenError, S3Options};
use crate::{ETag, Key, SendWindow};

/// What a response may hold besides an object: a page of a listing, an error.
pub(super) const RESPONSE_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// The slowest transfer that is waited for, in bytes a second.
const TRANSFER_RATE_MIN: u64 = 128 * 1024;

/// The region of AWS that has none in its name, and what most other stores call theirs.
const DEFAULT_REGION: &str = "us-east-1";

/// What of an error's text is read.
const ERROR_BYTES_MAX: u64 = 64 * 1024;

/// A body of so many bytes or fewer is hashed where it is signed: handing it over would take longer.
const HASHED_INLINE_BYTES_MAX: usize = 64 * 1024;

/// What profiles call the hashing of a body.
const HASH: WorkName = WorkName("hash for a signature", "");

/// The ids of the trace that a request belongs to.
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// RFC 3986 unreserved characters stay, as the signature wants it.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
pub(super) const PATH: &AsciiSet = &QUERY.remove(b'/');

/// A bucket and the means to speak to it.
pub(super) struct BucketClient {
    pub(super) options: S3Options,
    /// What presigns.
    pub(super) signer: AmazonS3,
    keys: CachedS3Credentials,
    client: HttpClient,
    region: String,
    address: String,
    headers: HeaderMap,
    /// Whether the store wants entity tags in conditions without their quotes (Ceph RGW 16).
    bare_tags: AtomicBool,
    /// Whether the store does not take many deletes in one request.
    pub(super) deletes_singly: AtomicBool,
    pub(super) continuations: Continuations,
    pub(super) clock: ClockWatch,
}

impl fmt::Debug for BucketClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BucketClient").field("url", &self.options.url).finish_non_exhaustive()
    }
}

/// A request, before it is signed.
#[derive(Clone, Debug)]
pub(super) struct S3Request {
    pub(super) method: Method,
    /// The key in the bucket, prefix included; `None` is the bucket itself.
    pub(super) key: Option<String>,
    pub(super) query: Vec<(&'static str, String)>,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// The SHA-256 of a large body, once it was signed: a retry sends the same.
    body_hash: OnceLock<[u8; 32]>,
}

impl S3Request {
    pub(super) fn header(mut self, name: HeaderName, value: &str) -> Self {
        let value = HeaderValue::from_str(value).expect("tags, ranges and settings were checked");
        self.headers.insert(name, value);
        self
    }

    pub(super) fn query(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }

    pub(super) fn body(mut self, body: Bytes) -> Self {
        self.body = body;
        self
    }

    fn address(&self, bucket: &str) -> String {
        let path = self.key.as_deref().unwrap_or_default();
        let mut address = format!("{bucket}/{}", utf8_percent_encode(path, PATH));
        for (n, (name, value)) in self.query.iter().enumerate() {
            address.push(if n == 0 { '?' } else { '&' });
            address.push_str(&format!("{name}={}", utf8_percent_encode(value, QUERY)));
        }
        address
    }
}

/// A response whose body is still to come.
pub(super) struct S3Response {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: HttpResponseBody,
}

/// A response with its body.
#[derive(Debug)]
pub(super) struct BufferedResponse {
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl BucketClient {
    pub(super) fn open(options: S3Options) -> Result<Self, S3OpenError> {
        let part_bytes = options.part_bytes;
        if !(super::PART_BYTES_MIN..=super::PART_BYTES_MAX).contains(&part_bytes) {
            return Err(S3OpenError::PartBytes { part_bytes });
        }
        // Fails if the process has chosen already; then that choice stands.
        rustls::crypto::ring::default_provider().install_default().ok();
        let headers = headers(&options.headers)?;
        let cas = cas(&options)?;
        let client = http_client(&options, &cas)?;
        let (client, client_options) = (HttpClient::new(client), client_options(&options, &cas)?);
        let (keys, profile) = keys(&options.credentials)?;
        let region = options.url.region.clone();
        let region = region.or_else(|| keys.get_config_value(&AmazonS3ConfigKey::Region));
        let region = region.unwrap_or_else(|| DEFAULT_REGION.to_owned());
        let address = options.url.bucket_address(&region);
        if let Err(error) = reqwest::Url::parse(&address) {
            return Err(S3OpenError::Address { address, reason: error.to_string() });
        }
        let sources = CredentialSources::of(&keys, profile);
        let signer = signer(keys, &options, &region, &address, client_options)?;
        // Less than an attempt may take.
        let patience = options.request_timeout / 2;
        let keys = CachedS3Credentials::new(Arc::clone(signer.credentials()), patience, sources);
        let clock = ClockWatch::new(Arc::clone(&options.clock));
        Ok(Self {
            options,
            signer,
            keys,
            client,
            region,
            address,
            headers,
            bare_tags: AtomicBool::new(false),
            deletes_singly: AtomicBool::new(false),
            continuations: Continuations::default(),
            clock,
        })
    }

    pub(super) fn use_bare_tags(&self, bare: bool) {
        self.bare_tags.store(bare, Ordering::Relaxed);
    }

    /// An etag as a condition wants it.
    pub(super) fn tag(&self, etag: &ETag) -> String {
        if self.bare_tags.load(Ordering::Relaxed) {
            etag.as_str().to_owned()
        } else {
            format!("\"{}\"", etag.as_str())
        }
    }

    /// A request about an object.
    pub(super) fn object(&self, method: Method, key: &Key) -> S3Request {
        S3Request { key: Some(self.stored(key.as_str())), ..self.bucket(method) }
    }

    /// A request about the bucket.
    pub(super) fn bucket(&self, method: Method) -> S3Request {
        let headers = HeaderMap::new();
        let (query, body, body_hash) = (Vec::new(), Bytes::new(), OnceLock::new());
        S3Request { method, key: None, query, headers, body, body_hash }
    }

    /// A request that makes an object, with the headers that decide how it is kept.
    pub(super) fn creation(&self, method: Method, key: &Key) -> S3Request {
        let mut request = self.object(method, key);
        let url = &self.options.url;
        let mut set = |name, value: &str| {
            request = request.clone().header(HeaderName::from_static(name), value);
        };
        match &url.encryption {
            Encryption::Default => {}
            Encryption::S3 => set("x-amz-server-side-encryption", "AES256"),
            Encryption::Kms(key_id) => {
                set("x-amz-server-side-encryption", "aws:kms");
                if let Some(key_id) = key_id {
                    set("x-amz-server-side-encryption-aws-kms-key-id", key_id);
                }
            }
        }
        if let Some(class) = &url.storage_class
            && key.as_str().starts_with(&self.options.bulk_prefix)
        {
            set("x-amz-storage-class", class);
        }
        request
    }

    /// A key, or the start of one, as the bucket has it.
    pub(super) fn stored(&self, key: &str) -> String {
        match self.options.url.prefix.as_str() {
            "" => key.to_owned(),
            prefix => format!("{prefix}/{key}"),
        }
    }

    /// The means for a request that carries `bytes` at most.
    pub(super) fn effort(&self, bytes: u64) -> RetryBudget {
        let options = &self.options;
        if bytes <= TRANSFER_RATE_MIN {
            return RetryBudget::new(options.request_timeout, options.request_budget);
        }
        let attempt = options.request_timeout + Duration::from_secs(bytes / TRANSFER_RATE_MIN);
        RetryBudget::new(attempt, attempt + options.transfer_budget)
    }

    /// Sends a request once, and waits for the head of the response.
    async fn send(&self, request: &S3Request) -> Result<S3Response, S3Failure> {
        let mut signed = self.sign(request).await?;
        self.add_trace(signed.headers_mut());
        // Only now: what is signed after a sleep would be taken for new.
        if !request.method.is_safe() {
            self.clock.check()?;
            SendWindow::check_current()
                .map_err(|closed| S3Failure::new(FailureClass::Skewed, closed))?;
        }
        let before = self.clock.now();
        let response = self.client.execute(signed).await.map_err(S3Failure::of_http)?;
        let (parts, body) = response.into_parts();
        // What failed may be the response of a proxy, with a clock of its own.
        if !parts.status.is_server_error() {
            self.clock.note(&parts.headers, before);
        }
        Ok(S3Response { status: parts.status, headers: parts.headers, body })
    }

    /// Adds the trace that the request belongs to.
    fn add_trace(&self, headers: &mut HeaderMap) {
        if let Some(parent) = self.options.trace_parent.and_then(|parent| parent())
            && let Ok(parent) = HeaderValue::try_from(parent)
        {
            headers.insert(TRACEPARENT, parent);
        }
    }

    async fn sign(&self, request: &S3Request) -> Result<HttpRequest, S3Failure> {
        let mut signed = HttpRequest::new(request.body.clone().into());
        *signed.method_mut() = request.method.clone();
        *signed.uri_mut() =
            request.address(&self.address).parse().expect("a percent-encoded address is one");
        *signed.headers_mut() = self.headers.clone();
        signed.headers_mut().extend(request.headers.clone());
        // The client leaves it out of an empty body, and stores refuse a PUT without one.
        if matches!(request.method, Method::PUT | Method::POST) {
            signed.headers_mut().insert(header::CONTENT_LENGTH, request.body.len().into());
        }
        let body_hash = self.signed_body_hash(request).await?;
        let credential = self.keys.get().await?;
        AwsAuthorizer::new(&credential, "s3", &self.region)
            .with_sign_payload(self.options.url.sign_payload)
            .try_authorize(&mut signed, body_hash.as_ref().map(<[u8; 32]>::as_slice))
            .map_err(|error| S3Failure::new(FailureClass::Unsent, error))?;
        Ok(signed)
    }

    /// The hash of a body that is part of the signature, if it is large: it is computed once, beside the
    /// runtime's threads.
    async fn signed_body_hash(&self, request: &S3Request) -> Result<Option<[u8; 32]>, S3Failure> {
        if !self.options.url.sign_payload || request.body.len() <= HASHED_INLINE_BYTES_MAX {
            return Ok(None);
        }
        if let Some(hash) = request.body_hash.get() {
            return Ok(Some(*hash));
        }
        let body = request.body.clone();
        let hashing = jreg_profile::carry(HASH, move || Sha256::digest(&body).into());
        let hashed = tokio::task::spawn_blocking(hashing).await;
        let hash = hashed.map_err(|stopped| S3Failure::new(FailureClass::Unsent, stopped))?;
        Ok(Some(*request.body_hash.get_or_init(|| hash)))
    }

    /// Sends a request once, and waits for the head of a good response.
    pub(super) async fn open_once(
        &self,
        request: &S3Request,
        within: Duration,
    ) -> Result<S3Response, S3Failure> {
        let exchange = async {
            let response = self.send(request).await?;
            if response.status.is_success() {
                return Ok(response);
            }
            let (body, lost) = match whole(response.body, ERROR_BYTES_MAX).await {
                Ok(body) => (body, None),
                Err(lost) => (Bytes::new(), Some(lost)),
            };
            let failure = S3Failure::of_response(response.status, &response.headers, &body);
            // Other statuses say enough; of a refusal the text may have said that only the key is missing.
            match lost.filter(|lost| lost.verdict.is_passing()) {
                Some(lost) if failure.verdict == FailureClass::Refused => Err(lost),
                _ => Err(failure),
            }
        };
        timeout(within, exchange).await.unwrap_or_else(|_| Err(timed_out(within)))
    }

    /// Sends a request once, and waits for a good response of at most `bytes_max`.
    pub(super) async fn once(
        &self,
        request: &S3Request,
        within: Duration,
        bytes_max: u64,
    ) -> Result<BufferedResponse, S3Failure> {
        let exchange = async {
            let S3Response { headers, body, .. } = self.open_once(request, within).await?;
            if length(&headers).is_some_and(|length| length > bytes_max) {
                return Err(too_large(bytes_max));
            }
            Ok(BufferedResponse { headers, body: whole(body, bytes_max).await? })
        };
        timeout(within, exchange).await.unwrap_or_else(|_| Err(timed_out(within)))
    }

    /// Sends a request that may be retried without harm, until it gets a good response.
    pub(super) async fn ask(
        &self,
        request: &S3Request,
        mut effort: RetryBudget,
        bytes_max: u64,
    ) -> Result<BufferedResponse, S3Failure> {
        loop {
            let failure = match self.once(request, effort.attempt, bytes_max).await {
                Ok(whole) => return Ok(whole),
                Err(failure) => failure,
            };
            if !failure.verdict.is_passing() || !effort.again(failure.retry_after).await {
                return Err(failure);
            }
        }
    }
}

fn headers(extra: &[(String, String)]) -> Result<HeaderMap, S3OpenError> {
    let mut headers = HeaderMap::new();
    for (name, value) in extra {
        let wrong = || S3OpenError::Header { name: name.clone() };
        let key: HeaderName = name.parse().map_err(|_| wrong())?;
        if key == header::HOST || key == header::AUTHORIZATION || key == header::CONTENT_LENGTH {
            return Err(wrong());
        }
        headers.insert(key, value.parse().map_err(|_| wrong())?);
    }
    Ok(headers)
}

/// Of what finds credentials, and presigns.
fn client_options(
    options: &S3Options,
    cas: &[CertificateDer<'static>],
) -> Result<ClientOptions, S3OpenError> {
    let client = ClientOptions::new()
        .with_allow_http(!options.url.is_secure())
        .with_connect_timeout(options.connect_timeout)
        .with_pool_idle_timeout(POOL_IDLE)
        .with_user_agent(HeaderValue::from_static(USER_AGENT));
    let trusted = |client: ClientOptions, ca: &CertificateDer<'static>| {
        Ok(client.with_root_certificate(Certificate::from_der(ca)?))
    };
    cas.iter().try_fold(client, trusted)
}

/// The CAs of the settings.
fn cas(options: &S3Options) -> Result<Vec<CertificateDer<'static>>, S3OpenError> {
    let Some(path) = &options.url.ca_file else { return Ok(Vec::new()) };
    let unusable = |source| S3OpenError::Certificates { path: path.clone(), source };
    certificates(path).map_err(unusable)
}

/// Maximum bytes of the file of a CA.
const CA_BYTES_MAX: usize = 1 << 20;

/// The certificates in a file, each usable as a CA: the client would check that too, but not report
/// which file it was.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Box<dyn Error + Send + Sync>> {
    let pem = read_regular(path, CA_BYTES_MAX)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let (certificates, mut roots) = (certificates?, RootCertStore::empty());
    for certificate in &certificates {
        roots.add(certificate.clone())?;
    }
    match certificates.is_empty() {
        true => Err("there is no certificate in it".into()),
        false => Ok(certificates),
    }
}

/// The credentials, and the profile among whose files they are or might be.
fn keys(
    credentials: &S3Credentials,
) -> Result<(AmazonS3Builder, Option<ProfileOfSources>), S3OpenError> {
    match credentials {
        S3Credentials::Environment => of_environment(),
        S3Credentials::Static { key_id, secret, token } => {
            let keys =
                AmazonS3Builder::new().with_access_key_id(key_id).with_secret_access_key(secret);
            Ok((token.iter().fold(keys, AmazonS3Builder::with_token), None))
        }
    }
}

/// Keys in the environment go first, then a profile that it names, then what a platform sets, then the default
/// profile.
fn of_environment() -> Result<(AmazonS3Builder, Option<ProfileOfSources>), S3OpenError> {
    let keys = AmazonS3Builder::from_env();
    let Some(place) = ProfilePlace::of(|name| std::env::var_os(name)) else {
        return Ok((keys, None));
    };
    let sources = CredentialSources::of(&keys, None);
    let is_before = if place.is_named { sources.has_keys } else { !sources.are_unnamed };
    let shown = place.shown();
    if is_before {
        return Ok((keys, Some(ProfileOfSources { shown, is_used: false })));
    }
    let failed = |error: &dyn Error| S3OpenError::Profile { why: crate::error_chain(error) };
    let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build();
    let http = http.map_err(|error| failed(&error))?;
    let profile = ProfileCredentials::find(&place, http).map_err(|error| failed(&error))?;
    let profile_of = |is_used| Some(ProfileOfSources { shown, is_used });
    match profile {
        Some(profile) => Ok((keys.with_credentials(Arc::new(profile)), profile_of(true))),
        None => Ok((keys, profile_of(false))),
    }
}

fn signer(
    keys: AmazonS3Builder,
    options: &S3Options,
    region: &str,
    address: &str,
    client: ClientOptions,
) -> Result<AmazonS3, S3OpenError> {
    let retry = RetryConfig {
        max_retries: 3,
        retry_timeout: options.request_budget,
        ..RetryConfig::default()
    };
    let signer = keys
        .with_bucket_name(&options.url.bucket)
        .with_region(region)
        // The address has the bucket in it, whichever style that is.
        .with_virtual_hosted_style_request(true)
        .with_config(AmazonS3ConfigKey::S3Endpoint, address)
        // A credential that never comes must not hold a request for ever.
        .with_client_options(client.with_timeout(options.request_timeout))
        .with_retry(retry)
        .build()?;
    Ok(signer)
}

/// The rest of a body, if it is not too long.
pub(super) async fn whole(body: HttpResponseBody, bytes_max: u64) -> Result<Bytes, S3Failure> {
    let mut chunks = body.bytes_stream();
    let mut bytes = BytesMut::new();
    while let Some(chunk) = chunks.try_next().await.map_err(S3Failure::of_http)? {
        if (bytes.len() + chunk.len()) as u64 > bytes_max {
            return Err(too_large(bytes_max));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes.freeze())
}

fn too_large(bytes_max: u64) -> S3Failure {
    S3Failure::new(FailureClass::TooLarge, format!("the response has more than {bytes_max} bytes"))
}

pub(super) fn timed_out(within: Duration) -> S3Failure {
    S3Failure::new(FailureClass::Unsure, format!("no response within {} s", within.as_secs_f32()))
}

/// The length of a body.
pub(super) fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The store's clock at a response.
pub(super) fn date(headers: &HeaderMap) -> Result<SystemTime, S3Failure> {
    time(headers, header::DATE)
}

/// When the object of a response was written.
pub(super) fn last_modified(headers: &HeaderMap) -> Result<SystemTime, S3Failure> {
    time(headers, header::LAST_MODIFIED)
}

fn time(headers: &HeaderMap, name: HeaderName) -> Result<SystemTime, S3Failure> {
    let text = headers.get(&name).and_then(|value| value.to_str().ok());
    text.and_then(|text| chrono::DateTime::parse_from_rfc2822(text).ok())
        .map(SystemTime::from)
        .ok_or_else(|| {
            S3Failure::new(FailureClass::Unsure, format!("no valid {name} in the response"))
        })
}

/// The entity tag of a response.
pub(super) fn etag(headers: &HeaderMap) -> Result<ETag, S3Failure> {
    let value = headers.get(header::ETAG).and_then(|value| value.to_str().ok());
    let missing = || S3Failure::new(FailureClass::Unsure, "no valid ETag in the response");
    value.map(bare).filter(|etag| !etag.as_str().is_empty()).ok_or_else(missing)
}

/// An entity tag without its quotes: some stores list it without, and some proxies weaken it.
pub(super) fn bare(text: &str) -> ETag {
    let text = text.strip_prefix("W/").unwrap_or(text);
    ETag::new(text.trim_matches('"'))
}
