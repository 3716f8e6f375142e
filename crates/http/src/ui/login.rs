//! Log in, with a password or at an OpenID provider, and log out.
//!
//! A login always begins a new session. The cookies that a browser had before it are worth nothing after it.

use std::sync::Arc;

use http::StatusCode;
use jreg_access::{AccessGuard, AuthError, LoginError, NewSession, pending_login_id};
use jreg_auth::{AuthorizationResponse, Identity, PENDING_LOGIN_AGE_MAX, is_return_path};
use jreg_oci::ErrorCode;
use jreg_ui::{LoginPage, login_page};

use super::query::UiQuery;
use super::request::{PageResult, UiRequest};
use super::{PageResponse, html_response};
use crate::cookies::{CookieName, CookieScheme};
use crate::error::ApiError;
use crate::record::PendingAuditRecord;

/// Where a login returns to if it does not say.
const HOME: &str = "/ui/";
/// Maximum number of logins in progress in one browser, each of which has a cookie.
const PENDING_MAX: usize = 5;

/// The page to log in.
pub(crate) fn page(request: &UiRequest<'_>, query: &UiQuery) -> PageResult {
    let view = view(request, return_path(query));
    Ok(PageResponse::Html(login_page(&request.page, &view)))
}

fn view(request: &UiRequest<'_>, next: &str) -> LoginPage {
    let guard = request.context.guard.as_ref();
    let choices = guard.map(|guard| guard.login_choices()).unwrap_or_default();
    let has_passwords = guard.is_some_and(|guard| guard.has_users());
    let unavailable = match guard {
        None => Some("Authentication is off: there is nothing to log in to."),
        Some(_) if request.browser.scheme().is_none() => Some(NEEDS_TLS),
        Some(_) if choices.is_empty() && !has_passwords => Some(
            "No login is set up: it needs users (htpasswd) or an OpenID provider (login.client).",
        ),
        Some(_) => None,
    };
    LoginPage {
        providers: choices.into_iter().map(|choice| (choice.label, choice.url)).collect(),
        has_passwords,
        next: next.to_owned(),
        unavailable: unavailable.map(str::to_owned),
        ..LoginPage::default()
    }
}

const NEEDS_TLS: &str = "A login needs TLS, so that no other machine can read the password or take over the \
                         session: open this page by its https:// address. On the machine itself, \
                         http://localhost works if the registry listens on a loopback address.";

/// Whether a page to log in leads anywhere.
pub(crate) fn can_log_in(guard: Option<&Arc<AccessGuard>>) -> bool {
    guard.is_some_and(|guard| guard.has_users() || !guard.login_choices().is_empty())
}

/// The path to return to: a page of ours, or the first one.
fn return_path(query: &UiQuery) -> &str {
    query.nonempty("next").filter(|path| is_return_path(path)).unwrap_or(HOME)
}

/// The guard and the cookies, if a login is possible.
fn login_parts<'r>(
    request: &UiRequest<'r>,
) -> Result<(&'r Arc<AccessGuard>, CookieScheme), ApiError> {
    let guard = request.context.guard.as_ref().ok_or_else(ApiError::not_found)?;
    let needs_tls = || ApiError::new(StatusCode::FORBIDDEN, ErrorCode::Denied, NEEDS_TLS);
    Ok((guard, request.browser.scheme().ok_or_else(needs_tls)?))
}

/// Logs in with a password.
pub(crate) async fn password(request: &UiRequest<'_>, form: &UiQuery) -> PageResult {
    let (guard, _) = login_parts(request)?;
    let (user, next) = (form.get("user"), return_path(form));
    let record = record(request, "ui_login", StatusCode::SEE_OTHER);
    let record = record.map(|record| record.claimed_by(Some(user)));
    let network = request.observed.network();
    match guard.log_in(user, form.get("password"), network).await {
        Ok(begun) => {
            settle(record, Some(&begun.identity), None).await;
            Ok(begin_session(request, &begun, next))
        }
        Err(AuthError::Invalid { reason }) => {
            request.observed.set_denied(reason.clone());
            let refused = ApiError::from(AuthError::Invalid { reason });
            settle(record, None, Some(&refused)).await;
            let error = Some("The user name or the password is wrong.".to_owned());
            let view = LoginPage { user: user.to_owned(), error, ..view(request, next) };
            let mut response = html_response(login_page(&request.page, &view));
            *response.status_mut() = StatusCode::FORBIDDEN;
            Ok(PageResponse::Other(Box::new(response)))
        }
        Err(error) => {
            let refused = ApiError::from(error);
            settle(record, None, Some(&refused)).await;
            Err(refused)
        }
    }
}

fn begin_session(request: &UiRequest<'_>, begun: &NewSession, next: &str) -> PageResponse {
    request.observed.set_identity(begun.identity.to_string(), None);
    request.browser.keep(&begun.cookie);
    request.browser.forget(CookieName::Form);
    PageResponse::SeeOther(request.page.paths.returning(next))
}

/// Begins a login at a provider.
pub(crate) async fn begin(request: &UiRequest<'_>, issuer: &str, query: &UiQuery) -> PageResult {
    let (guard, scheme) = login_parts(request)?;
    if request.browser.stale().is_some() {
        // If the provider does not work, the person goes on as anonymous.
        request.browser.forget(CookieName::Session);
    }
    let begun = guard.begin_login(issuer, return_path(query)).await.map_err(refused)?;
    let pending = scheme.pending_logins(&request.parts.headers);
    if pending.len() >= PENDING_MAX {
        pending.iter().for_each(|id| request.browser.forget(CookieName::PendingLogin(id)));
    }
    let name = CookieName::PendingLogin(&begun.id);
    request.browser.push(scheme.set(name, begun.cookie.reveal(), PENDING_LOGIN_AGE_MAX));
    Ok(PageResponse::SeeOther(begun.url))
}

/// Completes a login at a provider.
pub(crate) async fn complete(request: &UiRequest<'_>, issuer: &str) -> PageResult {
    let (guard, scheme) = login_parts(request)?;
    let query = request.parts.uri.query().unwrap_or_default();
    let parameters = form_urlencoded::parse(query.as_bytes());
    let response = AuthorizationResponse::of_parameters(parameters).map_err(LoginError::from);
    let response = response.map_err(refused)?;
    let id = response.state.as_deref().and_then(pending_login_id);
    let name = id.map(CookieName::PendingLogin);
    let pending = name.and_then(|name| scheme.get(&request.parts.headers, name));
    if let Some(name) = name {
        // Whatever becomes of it, it is over.
        request.browser.forget(name);
    }
    let record = record(request, "ui_provider_login", StatusCode::SEE_OTHER);
    let network = request.observed.network();
    match guard.complete_login(issuer, pending, &response, network).await {
        Ok((begun, return_to)) => {
            settle(record, Some(&begun.identity), None).await;
            Ok(begin_session(request, &begun, &return_to))
        }
        Err(error) => {
            let error = refused(error);
            settle(record, None, Some(&error)).await;
            Err(error)
        }
    }
}

/// The page of a login that failed. What the provider sent is in neither the page nor the log.
fn refused(error: LoginError) -> ApiError {
    let message = error.to_string();
    match error {
        LoginError::Auth(error) => error.into(),
        LoginError::Unknown => {
            ApiError::new(StatusCode::NOT_FOUND, ErrorCode::Unsupported, message)
        }
        LoginError::Provider { .. } => {
            let status = StatusCode::SERVICE_UNAVAILABLE;
            ApiError::internal(status, ErrorCode::Unavailable, message)
                .with_message("The provider does not work now. Try again later.")
        }
        LoginError::NotPending
        | LoginError::Response(_)
        | LoginError::CodeRefused(_)
        | LoginError::NoIdToken
        | LoginError::IdToken(_)
        | LoginError::Session(_) => {
            let shown = format!("The login failed: {message}.");
            ApiError::new(StatusCode::FORBIDDEN, ErrorCode::Denied, shown).with_denied(message)
        }
    }
}

/// Ends all sessions of the identity.
pub(crate) async fn log_out(request: &UiRequest<'_>) -> PageResult {
    if let (Some(guard), Some(session)) = (&request.context.guard, request.browser.session()) {
        let record = record(request, "ui_logout", StatusCode::SEE_OTHER);
        let ended = guard.log_out(session).await.map_err(ApiError::from);
        settle(record, Some(session.identity()), ended.as_ref().err()).await;
        ended?;
    }
    request.browser.forget(CookieName::Session);
    Ok(PageResponse::SeeOther(request.page.paths.home()))
}

/// The audit record of a login, a logout or a token; `status` is that of the response, unless it is refused.
pub(crate) fn record(
    request: &UiRequest<'_>,
    operation: &'static str,
    status: StatusCode,
) -> Option<PendingAuditRecord> {
    let (sink, headers) = (request.context.audit_sink(), &request.parts.headers);
    let record = PendingAuditRecord::of_page_login(sink, request.observed, headers, operation);
    record.map(|record| record.responding(status))
}

pub(crate) async fn settle(
    record: Option<PendingAuditRecord>,
    identity: Option<&Identity>,
    refusal: Option<&ApiError>,
) {
    let Some(record) = record else { return };
    let record = match identity {
        Some(identity) => record.by(identity),
        None => record,
    };
    record.settle_page(None, refusal).await;
}
