//! Forms: which of them are accepted ([`FormToken`], [`check_origin`]), and how they are performed.
//!
//! A page of another origin can make a browser send a form with its cookies. So a form must come from an origin of
//! ours, and carry the token of its session, which no other origin can read; before a login that is a random cookie.

use std::sync::Arc;

use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use jreg_net::server::{Body, Response};
use jreg_oci::{Algorithm, Digest, Endpoint, ErrorCode, Reference, RepositoryName, Tag};
use jreg_ui::link::with_query;
use uuid::Uuid;

use super::query::UiQuery;
use super::request::{PageResult, UiRequest};
use super::route::{UiPage, UiRoute};
use super::{PageResponse, account, admin, login, refused_form};
use crate::api::PageOperation;
use crate::body::ClientBody;
use crate::cookies::{form_cookie_name, get_cookie};
use crate::error::ApiError;
use crate::observed::ObservedRequest;
use crate::{api, headers};

/// Maximum length of a form: the tokens of a hundred tags fit.
const FORM_BYTES_MAX: u64 = 32 * 1024;
/// Bytes of a token in hexadecimal.
const TOKEN_BYTES: usize = 32;

const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The token that a form must carry.
#[derive(Clone, Debug)]
pub(crate) struct FormToken {
    value: String,
    /// The cookie to set, if the request had none.
    cookie: Option<HeaderValue>,
}

impl FormToken {
    /// The token of a session, or of the random cookie of a browser without one. `session` is what only the
    /// browser that logged in has.
    pub(crate) fn of(headers: &HeaderMap, is_secure: bool, session: Option<&str>) -> Self {
        if let Some(session) = session {
            return Self { value: derive("session", session), cookie: None };
        }
        let name = form_cookie_name(is_secure);
        let known = get_cookie(headers, name).filter(|value| is_random(value));
        match known {
            Some(random) => Self { value: derive("cookie", random), cookie: None },
            None => {
                let random = Uuid::new_v4().simple().to_string();
                let secure = if is_secure { "; Secure" } else { "" };
                let line = format!("{name}={random}; Path=/; HttpOnly; SameSite=Strict{secure}");
                let cookie = HeaderValue::from_str(&line).ok();
                Self { value: derive("cookie", &random), cookie }
            }
        }
    }

    pub(crate) fn value(&self) -> &str {
        &self.value
    }

    pub(crate) fn cookie(&self) -> Option<HeaderValue> {
        self.cookie.clone()
    }

    /// Checks the token of a form.
    ///
    /// # Errors
    ///
    /// 403.
    pub(crate) fn check(&self, form: &UiQuery) -> Result<(), ApiError> {
        let sent = form.get("token").as_bytes();
        let differs = self.value.bytes().zip(sent).fold(0, |found, (a, b)| found | (a ^ b));
        // A new cookie is of no form.
        let is_good = self.cookie.is_none() && sent.len() == self.value.len() && differs == 0;
        match is_good {
            true => Ok(()),
            false => Err(refused_form(
                "the form is out of date: go back, reload the page, and send it again",
            )),
        }
    }
}

fn is_random(value: &str) -> bool {
    value.len() == TOKEN_BYTES && value.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn derive(kind: &str, secret: &str) -> String {
    let digest = Digest::of(Algorithm::Sha256, format!("jreg form {kind}\n{secret}").as_bytes());
    digest.hex().chars().take(TOKEN_BYTES).collect()
}

/// Checks that a form comes from a page of ours.
///
/// # Errors
///
/// 403.
pub(crate) fn check_origin(
    observed: &ObservedRequest,
    parts: &Parts,
    public_url: &str,
) -> Result<(), ApiError> {
    let text = |name: &HeaderName| {
        let mut values = parts.headers.get_all(name).iter();
        let value = values.next().and_then(|value| value.to_str().ok());
        value.filter(|_| values.next().is_none())
    };
    let is_foreign =
        parts.headers.contains_key(FETCH_SITE) && text(&FETCH_SITE) != Some("same-origin");
    let is_ours = text(&header::ORIGIN).is_some_and(|origin| match public_url {
        "" => is_of_host(origin, observed.request_info(parts).host.as_deref()),
        public_url => origin.eq_ignore_ascii_case(origin_of(public_url)),
    });
    match is_ours && !is_foreign {
        true => Ok(()),
        false => Err(refused_form("the form was sent from another address than this registry's")),
    }
}

/// Scheme and authority of an address.
fn origin_of(url: &str) -> &str {
    let start = url.find("://").map_or(0, |found| found + 3);
    let end = url.get(start..).and_then(|rest| rest.find('/')).map_or(url.len(), |at| start + at);
    url.get(..end).unwrap_or(url)
}

/// Whether an origin has the host that the client addressed, with its port.
fn is_of_host(origin: &str, host: Option<&str>) -> bool {
    let (Some((scheme, authority)), Some(host)) = (origin.split_once("://"), host) else {
        return false;
    };
    let default_port = match scheme {
        "https" => ":443",
        "http" => ":80",
        _ => return false,
    };
    let host = host.strip_suffix(default_port).unwrap_or(host);
    authority.eq_ignore_ascii_case(host)
}

/// Receives and performs a form.
pub(crate) async fn perform(
    request: &UiRequest<'_>,
    route: UiRoute,
    body: ClientBody,
) -> PageResult {
    let form = receive(request, body).await?;
    match route.page {
        UiPage::Delete { name } => delete(request, &name, &form).await,
        UiPage::Login => Box::pin(login::password(request, &form)).await,
        UiPage::Logout => login::log_out(request).await,
        UiPage::Account => account::make_token(request, &form).await,
        UiPage::AccessTokens => admin::create(request, &form).await,
        UiPage::AccessTokenRevoke => admin::revoke(request, &form).await,
        UiPage::RestoreTag { name } => restore_tag(request, &name, &form).await,
        UiPage::RestoreManifest { name } => restore_manifest(request, &name, &form).await,
        _ => Err(ApiError::not_found()),
    }
}

/// Tags that one form deletes.
pub(crate) const TAGS_DELETED_MAX: usize = 100;

/// Deletes a manifest, or tags, one after the other.
async fn delete(request: &UiRequest<'_>, name: &RepositoryName, form: &UiQuery) -> PageResult {
    let paths = &request.page.paths;
    if let Some(digest) = form.nonempty("digest") {
        let reference = Reference::Digest(parsed(digest)?);
        let endpoint = Endpoint::ManifestDelete { name: name.clone(), reference };
        operate(request, endpoint, None, None).await?;
        return Ok(done(&paths.repository(name), "manifest-deleted"));
    }
    let tags = form.all("tag").take(TAGS_DELETED_MAX).map(parsed::<Tag>);
    let tags: Vec<Tag> = tags.collect::<Result<_, _>>()?;
    if tags.is_empty() {
        return Err(bad_form("no tag was selected"));
    }
    for tag in tags {
        let reference = Reference::Tag(tag);
        let endpoint = Endpoint::ManifestDelete { name: name.clone(), reference };
        match operate(request, endpoint, None, None).await {
            Ok(_) => {}
            // Another request was first.
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done(&paths.repository(name), "tags-deleted"))
}

async fn restore_tag(request: &UiRequest<'_>, name: &RepositoryName, form: &UiQuery) -> PageResult {
    let (tag, digest): (Tag, Digest) = (parsed(form.get("tag"))?, parsed(form.get("digest"))?);
    let current = form.nonempty("current").map(parsed::<Digest>).transpose()?;
    let endpoint = Endpoint::TagRestore { name: name.clone(), tag: tag.clone() };
    let body = format!("{{\"digest\":\"{digest}\"}}");
    operate(request, endpoint, Some(body), current).await?;
    let page = request.page.paths.repository_page(name, &format!("history/{tag}"));
    Ok(done(&page, "tag-restored"))
}

async fn restore_manifest(
    request: &UiRequest<'_>,
    name: &RepositoryName,
    form: &UiQuery,
) -> PageResult {
    let digest: Digest = parsed(form.get("digest"))?;
    let with_tags = form.get("tags") == "on";
    let endpoint = Endpoint::ManifestRestore { name: name.clone(), digest: digest.clone() };
    operate(request, endpoint, Some(format!("{{\"tags\":{with_tags}}}")), None).await?;
    Ok(done(&request.page.paths.manifest(name, &digest), "manifest-restored"))
}

fn parsed<T: std::str::FromStr>(text: &str) -> Result<T, ApiError>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|error: T::Err| bad_form(error.to_string()))
}

fn bad_form(message: impl Into<String>) -> ApiError {
    ApiError::bad_request(ErrorCode::Unsupported, message)
}

/// A redirect to a page that says what was done.
fn done(path: &str, what: &str) -> PageResponse {
    PageResponse::SeeOther(with_query(path, &[("done", what)]))
}

/// Performs an endpoint of the API: `body` is JSON, `current` what a tag must still point to.
async fn operate(
    request: &UiRequest<'_>,
    endpoint: Endpoint,
    body: Option<String>,
    current: Option<Digest>,
) -> Result<Response, ApiError> {
    let mut parts = request.parts.clone();
    for name in [header::IF_MATCH, header::IF_NONE_MATCH, header::CONTENT_LENGTH, header::EXPECT] {
        parts.headers.remove(name);
    }
    parts.headers.insert(header::CONTENT_TYPE, headers::JSON);
    if let Some(current) = current {
        parts.headers.insert(header::IF_MATCH, headers::etag(&current));
    }
    let body = Body::from(body.unwrap_or_default().into_bytes());
    let (context, observed) = (request.context, request.observed);
    let body = ClientBody::new(body, &parts.headers, &context.options, Arc::clone(observed));
    let auth = request.auth.clone();
    api::perform(context, observed, PageOperation { parts, body, endpoint, auth }).await
}

/// A blob as a download: never as a page, whatever its bytes are.
pub(crate) async fn download(
    request: &UiRequest<'_>,
    name: RepositoryName,
    digest: Digest,
) -> PageResult {
    let parts = request.parts.clone();
    let (context, observed) = (request.context, request.observed);
    let body =
        ClientBody::new(Body::empty(), &parts.headers, &context.options, Arc::clone(observed));
    let (endpoint, auth) = (Endpoint::BlobGet { name, digest }, request.auth.clone());
    let operation = PageOperation { parts, body, endpoint, auth };
    let mut response = api::perform(context, observed, operation).await?;
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, headers::SANDBOX);
    response.headers_mut().remove(header::CACHE_CONTROL);
    Ok(PageResponse::Other(Box::new(response)))
}

/// Receives a form of ours.
///
/// # Errors
///
/// 403 if it is not of ours; 408, 413, 429.
pub(crate) async fn receive(
    request: &UiRequest<'_>,
    body: ClientBody,
) -> Result<UiQuery, ApiError> {
    check_origin(request.observed, request.parts, &request.context.options.public_url)?;
    let (bytes, _room) = body.collect(FORM_BYTES_MAX, &request.context.manifest_room).await?;
    let form = UiQuery::parse(&String::from_utf8_lossy(&bytes));
    request.form_token.check(&form)?;
    Ok(form)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_compared_with_host_and_port() {
        for (origin, host, is_ours) in [
            ("https://a.example", "a.example", true),
            ("https://A.example", "a.example:443", true),
            ("http://a.example:5000", "a.example:5000", true),
            ("http://a.example", "a.example:80", true),
            ("http://a.example", "a.example:443", false),
            ("https://a.example.evil.example", "a.example", false),
            ("https://evil.example", "a.example", false),
            ("https://a.example:8443", "a.example", false),
            ("null", "a.example", false),
            ("", "", false),
            ("file://", "", false),
        ] {
            assert_eq!(is_of_host(origin, Some(host)), is_ours, "{origin} {host}");
        }
        assert_eq!(origin_of("https://a.example/base"), "https://a.example");
        assert_eq!(origin_of("https://a.example"), "https://a.example");
    }

    #[test]
    fn a_token_belongs_to_its_cookie_or_session() {
        let mut headers = HeaderMap::new();
        let first = FormToken::of(&headers, false, None);
        let set = first.cookie().expect("a cookie").to_str().expect("ASCII").to_owned();
        let sent = set.split(';').next().expect("a pair");
        headers.insert(header::COOKIE, HeaderValue::from_str(sent).expect("ASCII"));
        let second = FormToken::of(&headers, false, None);
        assert_eq!((second.value(), second.cookie()), (first.value(), None));
        let form = |token: &str| UiQuery::parse(&format!("token={token}"));
        assert!(second.check(&form(first.value())).is_ok());
        for bad in ["", "x", first.value().get(1..).expect("ASCII"), &"0".repeat(TOKEN_BYTES)] {
            assert!(second.check(&form(bad)).is_err(), "{bad}");
        }
        assert!(first.check(&form(first.value())).is_err(), "its cookie was not sent");
        let session = FormToken::of(&headers, false, Some("secret"));
        assert!(session.value() != first.value() && session.cookie().is_none());
        let secure = FormToken::of(&headers, true, None);
        let line = secure.cookie().expect("another cookie").to_str().expect("ASCII").to_owned();
        assert!(line.starts_with("__Host-jreg-form=") && line.ends_with("; Secure"), "{line}");
    }
}
