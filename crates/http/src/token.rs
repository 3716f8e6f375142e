//! `/token`: credentials in, a token out. GET with Basic, and POST with a form, as docker,
//! containerd, podman, helm, oras and crane send them; and the token exchange of OAuth 2.0.

mod workload;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use http_body_util::BodyExt;
use jreg_access::limits::ClientLimits;
use jreg_access::{AccessGuard, AuthError, IssuedToken, TokenProof, TokenRequest};
use jreg_auth::{Credentials, SCOPE_BYTES_MAX, Secret, TokenScope};
use jreg_net::server::{Body, ConnectionResources, HeldMemory, Request, Response};
use jreg_oci::{ErrorCode, MirrorName, MirrorNames};
use jreg_telemetry::metrics::Metrics;
use serde_json::json;

use crate::error::{ApiError, OauthError};
use crate::headers;
use crate::memory::TokenForm;
use crate::observed::ObservedRequest;
use crate::record::{AuditSink, PendingAuditRecord};

/// Maximum size of a form: room for a token of another service, and scopes.
const FORM_BYTES_MAX: usize = 64 * 1024;
/// Maximum number of parameters. The rest is ignored.
const PARAMETERS_MAX: usize = 128;

/// Which repositories the names in scopes are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ScopeNames<'a> {
    pub(crate) mirrors: &'a MirrorNames,
    /// The mirror whose clients use this token service.
    pub(crate) route: Option<&'a MirrorName>,
}

impl ScopeNames<'_> {
    fn local(self, scope: &str) -> String {
        match self.mirrors.is_empty() {
            true => scope.to_owned(),
            false => self.mirrors.local_scopes(self.route, scope),
        }
    }
}

/// The parts of the server that issue tokens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TokenEndpoint<'a> {
    pub(crate) names: ScopeNames<'a>,
    pub(crate) guard: Option<&'a AccessGuard>,
    pub(crate) limits: &'a ClientLimits,
    pub(crate) audit: AuditSink<'a>,
    pub(crate) metrics: &'a Metrics,
    /// Maximum time to receive a form.
    pub(crate) form_time_max: Duration,
}

/// Responds to `/token`.
pub(crate) async fn respond(
    endpoint: TokenEndpoint<'_>,
    observed: &ObservedRequest,
    request: Request,
) -> Result<Response, ApiError> {
    let mut record = None;
    let result = issue(endpoint, observed, request, &mut record).await;
    if let Some(record) = record {
        record.settle(None, &result).await;
    }
    result
}

async fn issue(
    endpoint: TokenEndpoint<'_>,
    observed: &ObservedRequest,
    request: Request,
    record: &mut Option<PendingAuditRecord>,
) -> Result<Response, ApiError> {
    let guard = endpoint.guard.filter(|guard| guard.issues_tokens());
    let guard = guard.ok_or_else(ApiError::not_found)?;
    endpoint.limits.count_address(observed.network())?;
    let (parts, body) = request.into_parts();
    *record = PendingAuditRecord::of_token(endpoint.audit, observed, &parts.headers);
    // The form is counted until the response is made.
    let _held;
    let parameters = match parts.method {
        Method::POST => {
            let reading = form(endpoint.metrics, &parts, body);
            let time_max = endpoint.form_time_max;
            let (form, held) = tokio::time::timeout(time_max, reading)
                .await
                .map_err(|_| form_timed_out(time_max))??;
            _held = held;
            TokenParameters::of_form(&form, guard)?
        }
        _ => {
            let query = parts.uri.query().unwrap_or_default();
            TokenParameters::of_query(query, &parts.headers, guard)?
        }
    };
    let request_info = observed.request_info(&parts);
    let TokenParameters { proof, scopes, offline, is_workload } = parameters;
    *record = record.take().map(|record| record.claimed_by(proof.user()));
    let scoped = scopes.iter().any(|scope| !scope.trim().is_empty());
    let local: Vec<String> = scopes.iter().map(|scope| endpoint.names.local(scope)).collect();
    let scope = TokenScope::parse(local.iter().map(String::as_str));
    let token = guard.exchange(TokenRequest { proof, scope, scoped, offline, request_info }).await;
    let token = token.map_err(|error| match is_workload {
        true => workload::refused(error),
        false => error.into(),
    })?;
    observed.set_identity(token.identity.to_string(), None);
    endpoint.limits.count_identity(&token.identity, observed.network())?;
    *record = record.take().map(|record| record.by(&token.identity));
    Ok(rendered(&token, is_workload))
}

fn rendered(token: &IssuedToken, is_workload: bool) -> Response {
    let issued: DateTime<Utc> = token.issued.into();
    let access = token.access.reveal();
    let mut body = json!({
        "token": access,
        "access_token": access,
        "token_type": "Bearer",
        "expires_in": token.lifetime.as_secs(),
        "issued_at": issued.to_rfc3339_opts(SecondsFormat::Secs, true),
    });
    if let Some(refresh) = &token.refresh {
        body["refresh_token"] = refresh.reveal().into();
    }
    if is_workload {
        workload::complete(&mut body, token);
    }
    let mut response = headers::json(headers::JSON, &body);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Receives the form. Its memory is counted, because the client has not logged in yet.
async fn form(
    metrics: &Metrics,
    parts: &http::request::Parts,
    mut body: Body,
) -> Result<(String, Vec<HeldMemory>), ApiError> {
    let resources = parts.extensions.get::<Arc<ConnectionResources>>();
    let memory = resources.map(|resources| &resources.memory);
    let kind = parts.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let is_form = kind
        .and_then(|kind| kind.split(';').next())
        .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/x-www-form-urlencoded"));
    if !is_form {
        let message = "the body must be application/x-www-form-urlencoded";
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return Err(ApiError::new(status, ErrorCode::Unsupported, message));
    }
    let mut form = TokenForm::default();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| form_incomplete_or_too_large())?;
        let Ok(bytes) = frame.into_data() else { continue };
        if form.len() + bytes.len() > FORM_BYTES_MAX {
            return Err(form_incomplete_or_too_large());
        }
        form.add(metrics, memory, &bytes)?;
    }
    let (bytes, held) = form.into_parts();
    let form = String::from_utf8(bytes).map_err(|_| bad("the form must be UTF-8"))?;
    Ok((form, held))
}

fn form_timed_out(time_max: Duration) -> ApiError {
    let message = format!("the form must be received within {} s", time_max.as_secs());
    ApiError::new(StatusCode::REQUEST_TIMEOUT, ErrorCode::Unsupported, message)
}

fn form_incomplete_or_too_large() -> ApiError {
    let message = format!("the form must be complete and have at most {FORM_BYTES_MAX} bytes");
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::SizeInvalid, message)
}

/// The parameters of a token request.
#[derive(Debug)]
struct TokenParameters {
    proof: TokenProof,
    scopes: Vec<String>,
    offline: bool,
    /// Whether it is the token exchange of OAuth 2.0.
    is_workload: bool,
}

/// The parameters of a query or form.
struct FormParameters<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> FormParameters<'a> {
    fn of(text: &'a str) -> Self {
        Self(form_urlencoded::parse(text.as_bytes()).take(PARAMETERS_MAX).collect())
    }

    fn all(&self, name: &'static str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_ref())
    }

    fn get(&self, name: &'static str) -> Option<&str> {
        self.all(name).next()
    }

    fn scopes(&self) -> Vec<String> {
        let mut room = SCOPE_BYTES_MAX;
        let fits = |scope: &&str| {
            room = room.saturating_sub(scope.len());
            room > 0
        };
        self.all("scope").take_while(fits).map(str::to_owned).collect()
    }

    /// A token is for the registry that issues it, and for no other.
    fn check_service(&self, guard: &AccessGuard) -> Result<(), ApiError> {
        match self.get("service") {
            None => Ok(()),
            Some(service) if service.is_empty() || service == guard.service() => Ok(()),
            Some(_) => Err(bad(format!("the service must be {}", guard.service()))),
        }
    }
}

impl TokenParameters {
    fn of_query(query: &str, headers: &HeaderMap, guard: &AccessGuard) -> Result<Self, ApiError> {
        let parameters = FormParameters::of(query);
        parameters.check_service(guard)?;
        let mut authorization = headers.get_all(header::AUTHORIZATION).iter();
        let proof = match (authorization.next(), authorization.next()) {
            (None, _) => TokenProof::Nothing,
            (Some(header), None) => match Credentials::parse(header.as_bytes()) {
                Ok(credentials) => TokenProof::Credentials(credentials),
                Err(error) => return Err(unauthorized(error.to_string())),
            },
            (Some(_), Some(_)) => {
                return Err(unauthorized("there are several Authorization headers".to_owned()));
            }
        };
        let offline = parameters.get("offline_token") == Some("true");
        Ok(Self { proof, scopes: parameters.scopes(), offline, is_workload: false })
    }

    fn of_form(form: &str, guard: &AccessGuard) -> Result<Self, ApiError> {
        let parameters = FormParameters::of(form);
        if parameters.get("grant_type") == Some(workload::GRANT_TYPE) {
            return workload::parameters(&parameters, guard);
        }
        parameters.check_service(guard)?;
        let need = |name: &'static str| {
            let value = parameters.get(name).filter(|value| !value.is_empty());
            value.ok_or_else(|| bad(format!("the parameter {name} is missing")))
        };
        let proof = match need("grant_type")? {
            "password" => {
                let user = parameters.get("username").unwrap_or_default();
                let credentials = Credentials::basic(user, need("password")?);
                TokenProof::Credentials(
                    credentials.map_err(|error| unauthorized(error.to_string()))?,
                )
            }
            "refresh_token" => TokenProof::Refresh(Secret::new(need("refresh_token")?)),
            _ => {
                let exchange = workload::GRANT_TYPE;
                let message = format!("grant_type must be password, refresh_token or {exchange}");
                return Err(bad(message).with_oauth(OauthError::UnsupportedGrantType));
            }
        };
        let offline = parameters.get("access_type") == Some("offline");
        Ok(Self { proof, scopes: parameters.scopes(), offline, is_workload: false })
    }
}

fn bad(message: impl Into<String>) -> ApiError {
    ApiError::bad_request(ErrorCode::Unsupported, message)
}

fn unauthorized(reason: String) -> ApiError {
    AuthError::invalid_for(reason, &TokenScope::default()).into()
}
