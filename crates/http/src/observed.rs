//! [`ObservedRequest`]: what is known of a request, for its log line, its metrics and its audit record.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use http::request::Parts;
use http::{Method, header};
use jreg_access::limits::BytesInFlight;
use jreg_access::{ConnectionCredentials, RequestCredentials, RequestInfo};
use jreg_auth::Network;
use jreg_net::server::Request;
use jreg_oci::{Endpoint, ErrorCode, MirrorRoute, NamedBy, RepositoryName};
use jreg_telemetry::logging::shortened;
use jreg_telemetry::trace::{FinishedTrace, RequestTrace};
use tracing::Level;

use crate::proxies::{Client, Proxies};
use crate::request_id::RequestId;
use crate::routes;

/// Maximum logged bytes of a path and of a User-Agent. With HTTP/2, a client can repeat a long one in
/// two bytes.
const PATH_BYTES_MAX: usize = 1024;
const USER_AGENT_BYTES_MAX: usize = 256;

/// What is known of a request.
#[derive(Debug)]
pub(crate) struct ObservedRequest {
    pub(crate) request_id: RequestId,
    pub(crate) started: Instant,
    method: Method,
    path: String,
    client: Client,
    /// What its connection remembers of credentials.
    credentials: Option<Arc<ConnectionCredentials>>,
    user_agent: Option<String>,
    subject: OnceLock<RequestSubject>,
    route: OnceLock<Arc<MirrorRoute>>,
    code: OnceLock<ErrorCode>,
    identity: OnceLock<(String, Option<String>)>,
    denied: OnceLock<String>,
    limited: OnceLock<String>,
    received_bytes: AtomicU64,
    /// Counts the response's bytes among the client's bytes in flight.
    moving: OnceLock<BytesInFlight>,
    trace: Option<Arc<RequestTrace>>,
}

/// What a request refers to.
#[derive(Debug, Default)]
struct RequestSubject {
    endpoint: &'static str,
    repository: Option<String>,
    reference: Option<String>,
    upload: Option<String>,
}

impl ObservedRequest {
    pub(crate) fn new(
        request: &Request,
        proxies: &Proxies,
        credentials: Option<Arc<ConnectionCredentials>>,
    ) -> Self {
        let user_agent = request.headers().get(header::USER_AGENT);
        Self {
            request_id: RequestId::of(request.headers()),
            started: Instant::now(),
            method: request.method().clone(),
            path: shortened(request.uri().path(), PATH_BYTES_MAX),
            client: proxies.client(request),
            credentials,
            user_agent: user_agent.map(|value| {
                shortened(&String::from_utf8_lossy(value.as_bytes()), USER_AGENT_BYTES_MAX)
            }),
            subject: OnceLock::new(),
            route: OnceLock::new(),
            code: OnceLock::new(),
            identity: OnceLock::new(),
            denied: OnceLock::new(),
            limited: OnceLock::new(),
            received_bytes: AtomicU64::new(0),
            moving: OnceLock::new(),
            trace: None,
        }
    }

    /// The same with a trace.
    pub(crate) fn with_trace(self, trace: Option<Arc<RequestTrace>>) -> Self {
        Self { trace, ..self }
    }

    /// The id of its trace, if a collector gets it.
    pub(crate) fn exported_trace_id(&self) -> Option<[u8; 16]> {
        self.trace.as_ref()?.exported_id()
    }

    /// Its trace with all that is known of it, if it has one.
    pub(crate) fn finished_trace(&self, status: u16) -> Option<FinishedTrace> {
        let trace = Arc::clone(self.trace.as_ref()?);
        let mut attributes = vec![
            ("http.request.method", self.method.to_string()),
            ("url.path", self.path.clone()),
            ("jreg.request_id", self.request_id.to_string()),
        ];
        let subject = self.subject.get();
        let repository = subject.and_then(|subject| subject.repository.clone());
        let identity = self.identity.get().map(|(identity, _)| identity.clone());
        let code = self.code.get().map(|code| code.as_str().to_owned());
        for (key, value) in [
            ("jreg.repository", repository),
            ("enduser.id", identity),
            ("error.type", code),
            ("user_agent.original", self.user_agent.clone()),
            ("client.address", self.client.address.map(|address| address.ip().to_string())),
        ] {
            attributes.extend(value.map(|value| (key, value)));
        }
        let (name, duration) =
            (format!("{} {}", self.method, self.endpoint()), self.started.elapsed());
        Some(FinishedTrace { trace, name, duration, status, attributes })
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Whether it is for the registry API.
    pub(crate) fn is_api(&self) -> bool {
        let is_routed = self.route().is_some_and(|route| route.by == NamedBy::PathPrefix);
        self.path == "/v2" || self.path.starts_with("/v2/") || is_routed
    }

    /// Records how the request led to a mirror.
    pub(crate) fn set_route(&self, route: Option<&Arc<MirrorRoute>>) {
        if let Some(route) = route {
            let _ = self.route.set(Arc::clone(route));
        }
    }

    pub(crate) fn route(&self) -> Option<&Arc<MirrorRoute>> {
        self.route.get()
    }

    /// The network of its address.
    pub(crate) fn network(&self) -> Option<Network> {
        self.client.address.map(|address| Network::of(address.ip()))
    }

    /// Records the operation.
    pub(crate) fn set_endpoint(&self, endpoint: &Endpoint) {
        // Only the first description counts, and there is only one.
        let _ = self.subject.set(RequestSubject::of(endpoint));
    }

    /// Records which of the fixed paths it stands for.
    pub(crate) fn set_service(&self, endpoint: &'static str) {
        let _ = self.subject.set(RequestSubject { endpoint, ..RequestSubject::default() });
    }

    /// Records a page of the UI.
    pub(crate) fn set_page(
        &self,
        id: &'static str,
        repository: Option<&RepositoryName>,
        reference: Option<String>,
    ) {
        let _ = self.subject.set(RequestSubject {
            endpoint: id,
            repository: repository.map(ToString::to_string),
            reference,
            upload: None,
        });
    }

    /// Records the error code of the response.
    pub(crate) fn set_error_code(&self, code: ErrorCode) {
        let _ = self.code.set(code);
    }

    /// Records the identity, and what granted access.
    pub(crate) fn set_identity(&self, identity: String, reason: Option<String>) {
        let _ = self.identity.set((identity, reason));
    }

    /// Records why access was denied.
    pub(crate) fn set_denied(&self, reason: String) {
        let _ = self.denied.set(reason);
    }

    /// Records the limit that was reached.
    pub(crate) fn set_limited(&self, limit: String) {
        let _ = self.limited.set(limit);
    }

    /// Counts the bytes of the response until the request is dropped.
    pub(crate) fn set_bytes_in_flight(&self, moving: Option<BytesInFlight>) {
        if let Some(moving) = moving {
            let _ = self.moving.set(moving);
        }
    }

    /// What authentication needs to know of the request.
    pub(crate) fn request_info(&self, parts: &Parts) -> RequestInfo {
        let authority = parts.uri.authority().map(|authority| authority.as_str());
        let host = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let forwarded = self.client.host.as_deref();
        RequestInfo {
            request_id: Some(self.request_id.to_string()),
            headers: parts.headers.clone(),
            credentials: RequestCredentials::Header,
            host: forwarded.or(authority).or(host).map(str::to_owned),
            peer: self.client.address,
            secure: self.client.secure,
            certificate: self.client.certificate.clone(),
            tags: Vec::new(),
            route: self.route().cloned(),
            connection: self.credentials.clone(),
        }
    }

    /// Received bytes of the body.
    pub(crate) fn received_bytes(&self) -> u64 {
        self.received_bytes.load(Ordering::Relaxed)
    }

    /// Adds received bytes of the body.
    pub(crate) fn add_received(&self, bytes: usize) {
        self.received_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Logs the request and its response.
    pub(crate) fn log(&self, status: u16, sent_bytes: u64, whole: bool) {
        let none = RequestSubject::default();
        let subject = self.subject.get().unwrap_or(&none);
        let proxy = self.client.proxy.map(tracing::field::display);
        let who = self.identity.get();
        let context = self.trace.as_ref().map(|trace| trace.context);
        let sampled = context.filter(|context| context.is_sampled);
        macro_rules! line {
            ($level:expr) => {
                tracing::event!(
                    target: "jreg::request",
                    $level,
                    request_id = %self.request_id,
                    trace_id = sampled.map(|context| context.trace_id_text()),
                    endpoint = self.endpoint(),
                    method = %self.method,
                    path = self.path,
                    status,
                    repository = subject.repository,
                    reference = subject.reference,
                    upload = subject.upload,
                    code = self.code.get().map(|code| code.as_str()),
                    identity = who.map(|(name, _)| name.as_str()),
                    allowed_by = who.and_then(|(_, reason)| reason.as_deref()),
                    denied = self.denied.get().map(String::as_str),
                    limited = self.limited.get().map(String::as_str),
                    received_bytes = self.received_bytes(),
                    sent_bytes,
                    duration_ms = millis(self.started.elapsed()),
                    client = self.client.shown(),
                    proxy,
                    user_agent = self.user_agent,
                    aborted = (!whole).then_some(true),
                    "request"
                )
            };
        }
        // Successful probes come every few seconds.
        if routes::is_probe(&self.path) && status < 400 {
            line!(Level::DEBUG);
        } else {
            line!(Level::INFO);
        }
    }

    /// The name of the endpoint in logs and metrics.
    pub(crate) fn endpoint(&self) -> &'static str {
        match self.subject.get() {
            Some(subject) => subject.endpoint,
            None => routes::endpoint_id(&self.path).unwrap_or("unknown"),
        }
    }
}

/// The tag or digest that an operation names, and the id of the upload.
pub(crate) fn reference_and_upload(endpoint: &Endpoint) -> (Option<String>, Option<String>) {
    let RequestSubject { reference, upload, .. } = RequestSubject::of(endpoint);
    (reference, upload)
}

impl RequestSubject {
    fn of(endpoint: &Endpoint) -> Self {
        let (reference, upload) = match endpoint {
            Endpoint::Ping
            | Endpoint::Catalog { .. }
            | Endpoint::TagList { .. }
            | Endpoint::Extensions
            | Endpoint::RepositoryExtensions { .. }
            | Endpoint::DeletedManifests { .. }
            | Endpoint::Usage { .. } => (None, None),
            Endpoint::BlobGet { digest, .. }
            | Endpoint::BlobHead { digest, .. }
            | Endpoint::BlobDelete { digest, .. }
            | Endpoint::ManifestRestore { digest, .. } => (Some(digest.to_string()), None),
            Endpoint::OciTagHistory { tag, .. }
            | Endpoint::TagHistory { tag, .. }
            | Endpoint::TagRestore { tag, .. } => (Some(tag.to_string()), None),
            Endpoint::UploadStart { digest, mount, .. } => {
                (mount.as_ref().or(digest.as_ref()).map(ToString::to_string), None)
            }
            Endpoint::UploadStatus { id, .. }
            | Endpoint::UploadPatch { id, .. }
            | Endpoint::UploadCancel { id, .. } => (None, Some(id.clone())),
            Endpoint::UploadPut { id, digest, .. } => (Some(digest.to_string()), Some(id.clone())),
            Endpoint::ManifestGet { reference, .. }
            | Endpoint::ManifestHead { reference, .. }
            | Endpoint::ManifestPut { reference, .. }
            | Endpoint::ManifestDelete { reference, .. } => (Some(reference.to_string()), None),
            Endpoint::Referrers { subject, .. } => (Some(subject.to_string()), None),
        };
        let repository = endpoint.name().map(ToString::to_string);
        Self { endpoint: endpoint.id(), repository, reference, upload }
    }
}

/// A duration in milliseconds, to the microsecond.
fn millis(duration: Duration) -> f64 {
    let micros =
        u32::try_from(duration.as_micros()).map_or(duration.as_secs_f64() * 1e6, f64::from);
    micros / 1000.0
}
