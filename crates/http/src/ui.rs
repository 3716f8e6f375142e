//! The web UI below `/ui/`: from a path to a page.
//!
//! A page reads through the same `Authorized` handles as the API: for everything that it shows, the request is
//! admitted to the endpoint of the API that has the same content. A form performs an endpoint of the API
//! (`api::perform`), with its audit record. GET changes nothing.

mod account;
mod admin;
mod attached;
mod browser;
mod chart;
mod delete;
mod forms;
mod images;
mod lists;
mod login;
mod query;
mod repositories;
mod request;
mod route;
mod service;
mod sharing;
mod tags;

use std::sync::Arc;

use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use jreg_net::server::{Body, Request, Response};
use jreg_oci::ErrorCode;
use jreg_ui::{ASSET_CACHE_CONTROL, ErrorPage, error_page, find_asset};

use self::request::{PageResult, UiRequest, anonymous_context};
pub use self::route::{UI_ROUTES, UiRouteInfo};
use self::route::{UiPage, UiRoute};
use crate::body::ClientBody;
use crate::context::ApiContext;
use crate::error::ApiError;
use crate::observed::ObservedRequest;
use crate::{headers, memory};

/// What a page may load and do. Styles and scripts are files of ours; nothing is inline.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; style-src 'self'; img-src 'self'; script-src 'self'; connect-src 'self'; \
     form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
);
/// With `no-referrer`, browsers would send `Origin: null` with forms.
const REFERRER_POLICY: HeaderValue = HeaderValue::from_static("same-origin");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
const OPENER_POLICY: http::HeaderName = http::HeaderName::from_static("cross-origin-opener-policy");
const RESOURCE_POLICY: http::HeaderName =
    http::HeaderName::from_static("cross-origin-resource-policy");
const SAME_ORIGIN: HeaderValue = HeaderValue::from_static("same-origin");

/// Whether a path is one of the UI.
pub(crate) fn is_ui(context: &ApiContext, path: &str) -> bool {
    context.options.ui && (path == "/ui" || path.starts_with("/ui/"))
}

/// Whether a client is a browser that opens a page.
pub(crate) fn wants_page(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut types = accepted.flat_map(|value| value.split(','));
    types.any(|value| {
        value.split(';').next().is_some_and(|name| name.trim().eq_ignore_ascii_case("text/html"))
    })
}

/// Responds to a request for a path of the UI. Errors are pages, too.
pub(crate) async fn respond(
    context: &Arc<ApiContext>,
    observed: &Arc<ObservedRequest>,
    request: Request,
) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let body = ClientBody::new(body, &parts.headers, &context.options, Arc::clone(observed));
    let mut response = match Box::pin(route(context, observed, &parts, body)).await {
        Ok(response) => response,
        Err(error) => render_error(context, observed, &parts, error),
    };
    add_headers(response.headers_mut());
    if response.headers().get(header::CONTENT_TYPE) != Some(&HTML) {
        return Ok(response);
    }
    let (budget, network) = (&context.response_memory, observed.network());
    memory::hold_response(budget, network, &context.metrics, response)
}

/// The redirect of a browser to the UI.
pub(crate) fn redirect_home(context: &ApiContext) -> Response {
    let mut response = see_other(&jreg_ui::link::Paths::new(&context.options.public_url).home());
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    response
}

async fn route(
    context: &Arc<ApiContext>,
    observed: &Arc<ObservedRequest>,
    parts: &Parts,
    body: ClientBody,
) -> Result<Response, ApiError> {
    let route = UiRoute::parse(parts.method.as_str(), parts.uri.path(), parts.uri.query())
        .map_err(|error| ApiError::route(&error, &parts.method))?;
    observed.set_page(route.page.id(), route.page.repository(), route.page.reference());
    if let UiPage::Asset { name } = &route.page {
        return asset(name);
    }
    context.limits.count_address(observed.network())?;
    let request = UiRequest::identify(context, observed, parts).await?;
    let is_form = parts.method == Method::POST;
    // A form is small, and may come slowly.
    let _turn = match is_form {
        true => None,
        false => Some(context.ui.page_turn().await?),
    };
    let renewal = request.renewal().filter(|_| !is_form && !route.page.is_login());
    let result = match (is_form, renewal) {
        (true, _) => Box::pin(forms::perform(&request, route, body)).await,
        (false, Some(login)) => Ok(PageResponse::SeeOther(login)),
        (false, None) => Box::pin(page(&request, route)).await,
    };
    let mut response = match result {
        Ok(result) => finish(result),
        // With the identity, unlike an error before it is known.
        Err(error) => error_response(&request.page, observed, context, error),
    };
    request.browser.add_to(response.headers_mut());
    Ok(response)
}

/// The content of a page.
async fn page(request: &UiRequest<'_>, route: UiRoute) -> PageResult {
    let UiRoute { page, query } = route;
    match page {
        UiPage::Repositories => repositories::list(request, &query).await,
        UiPage::Search => repositories::search(request, &query).await,
        UiPage::Usage => service::usage(request, &query).await,
        UiPage::Activity => service::activity(request).await,
        UiPage::Mirrors => service::mirrors(request, &query).await,
        UiPage::Login => login::page(request, &query),
        UiPage::LoginBegin { issuer } => login::begin(request, &issuer, &query).await,
        UiPage::LoginCallback { issuer } => Box::pin(login::complete(request, &issuer)).await,
        UiPage::Account => account::page(request),
        UiPage::AccessTokens => admin::list(request, &query).await,
        UiPage::PolicyTest => admin::policy(request, &query).await,
        UiPage::Repository { name } => tags::list(request, &name, &query).await,
        UiPage::Image { name, reference } => {
            Box::pin(images::show(request, &name, &reference, &query)).await
        }
        UiPage::Manifests { name } => lists::manifests(request, &name, &query).await,
        UiPage::Deleted { name } => lists::deleted(request, &name, &query).await,
        UiPage::Lifecycle { name } => Box::pin(lists::lifecycle(request, &name, &query)).await,
        UiPage::RepositoryUsage { name } => lists::usage(request, &name, &query).await,
        UiPage::History { name, tag } => lists::history(request, &name, &tag, &query).await,
        UiPage::Referrers { name, digest } => {
            lists::referrers(request, &name, &digest, &query).await
        }
        UiPage::Kept { name, digest } => {
            Box::pin(lists::kept(request, &name, &digest, &query)).await
        }
        UiPage::Blob { name, digest } => forms::download(request, name, digest).await,
        UiPage::Delete { name } => delete::question(request, &name, &query).await,
        UiPage::Asset { .. }
        | UiPage::RestoreTag { .. }
        | UiPage::RestoreManifest { .. }
        | UiPage::Logout
        | UiPage::AccessTokenRevoke => Err(ApiError::not_found()),
    }
}

fn finish(page: PageResponse) -> Response {
    match page {
        PageResponse::Html(html) => html_response(html),
        PageResponse::SeeOther(path) => see_other(&path),
        PageResponse::Other(response) => *response,
    }
}

/// What a handler of a page returns.
#[derive(Debug)]
pub(crate) enum PageResponse {
    Html(String),
    /// A redirect to a path after a form.
    SeeOther(String),
    /// A file.
    Other(Box<Response>),
}

fn html_response(html: String) -> Response {
    let mut response = Response::new(Body::from(html.into_bytes()));
    response.headers_mut().insert(header::CONTENT_TYPE, HTML);
    response
}

/// A redirect to a path of ours, which the client opens with GET.
fn see_other(path: &str) -> Response {
    let mut response = headers::empty(StatusCode::SEE_OTHER);
    let location = HeaderValue::from_str(path).unwrap_or(HeaderValue::from_static("/ui/"));
    response.headers_mut().insert(header::LOCATION, location);
    response
}

fn asset(name: &str) -> Result<Response, ApiError> {
    let asset = find_asset(name).ok_or_else(ApiError::not_found)?;
    let mut response = Response::new(Body::from(asset.bytes));
    let map = response.headers_mut();
    map.insert(header::CONTENT_TYPE, HeaderValue::from_static(asset.content_type));
    map.insert(header::CACHE_CONTROL, HeaderValue::from_static(ASSET_CACHE_CONTROL));
    Ok(response)
}

/// The page of an error before the identity is known.
fn render_error(
    context: &Arc<ApiContext>,
    observed: &ObservedRequest,
    parts: &Parts,
    error: ApiError,
) -> Response {
    error_response(&anonymous_context(context, observed, parts), observed, context, error)
}

fn error_response(
    page: &jreg_ui::PageContext,
    observed: &ObservedRequest,
    context: &ApiContext,
    error: ApiError,
) -> Response {
    let is_anonymous = page.viewer.identity.is_none();
    let reported = error.report(observed, context.options.retry_after);
    // Without credentials every repository is refused alike, whether it exists or not. UI paths never challenge.
    let (status, message) = match reported.status {
        StatusCode::UNAUTHORIZED => (StatusCode::FORBIDDEN, reported.message),
        status => (status, reported.message),
    };
    let html = error_page(
        page,
        &ErrorPage {
            status: status.as_u16(),
            message,
            offers_login: is_anonymous && matches!(status.as_u16(), 403 | 404),
            request_id: observed.request_id.to_string(),
            retry_after_s: reported.retry_after_s,
        },
    );
    let mut response = html_response(html);
    *response.status_mut() = status;
    let allow = reported.headers.into_iter().filter(|(name, _)| *name == header::ALLOW);
    response.headers_mut().extend(allow);
    if let Some(after) = reported.retry_after_s {
        response.headers_mut().insert(header::RETRY_AFTER, after.into());
    }
    response
}

fn add_headers(map: &mut HeaderMap) {
    map.entry(header::CONTENT_SECURITY_POLICY).or_insert(POLICY);
    map.entry(header::CACHE_CONTROL).or_insert(NO_STORE);
    map.insert(header::REFERRER_POLICY, REFERRER_POLICY);
    map.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    map.insert(OPENER_POLICY, SAME_ORIGIN);
    map.insert(RESOURCE_POLICY, SAME_ORIGIN);
}

/// The refusal of a form.
fn refused_form(message: &str) -> ApiError {
    ApiError::new(StatusCode::FORBIDDEN, ErrorCode::Denied, message)
}
