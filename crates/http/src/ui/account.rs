//! The page of a person who is logged in, and tokens for `docker login`.

use std::time::Duration;

use http::StatusCode;
use jreg_access::LoginError;
use jreg_auth::Identity;
use jreg_ui::{AccountPage, account_page, link};

use super::PageResponse;
use super::login::{record, settle};
use super::query::UiQuery;
use super::request::{PageResult, UiRequest};
use crate::error::ApiError;

/// Lifetime of a token if the form does not say, in hours, and the longest.
const LIFETIME_H: u64 = 1;
const LIFETIME_H_MAX: u64 = 24;

pub(crate) fn page(request: &UiRequest<'_>) -> PageResult {
    let Some(view) = view(request) else {
        let paths = &request.page.paths;
        let login =
            link::with_query(&paths.service("login"), &[("next", &request.page.viewer.here)]);
        return Ok(PageResponse::SeeOther(login));
    };
    Ok(PageResponse::Html(account_page(&request.page, &view)))
}

/// `None`: the client is anonymous.
fn view(request: &UiRequest<'_>) -> Option<AccountPage> {
    let Identity::Named(named) = &request.auth.principal.identity else { return None };
    Some(AccountPage {
        identity: named.name.clone(),
        groups: named.groups.iter().cloned().collect(),
        logged_in: request.browser.session().map(|session| session.auth_time()),
        token: None,
    })
}

/// Makes a token.
pub(crate) async fn make_token(request: &UiRequest<'_>, form: &UiQuery) -> PageResult {
    let guard = request.context.guard.as_ref().ok_or_else(ApiError::not_found)?;
    let session = request.browser.session().ok_or_else(ApiError::session_over)?;
    let hours = form.get("hours").parse().unwrap_or(LIFETIME_H).clamp(1, LIFETIME_H_MAX);
    let record = record(request, "ui_login_token", StatusCode::OK);
    let made = guard.login_token(session, Duration::from_secs(hours * 3600)).await;
    let made = made.map_err(|error| match error {
        LoginError::Auth(error) => ApiError::from(error),
        other => ApiError::from(jreg_access::AuthError::Unavailable { reason: other.to_string() }),
    });
    settle(record, Some(session.identity()), made.as_ref().err()).await;
    let made = made?;
    let token = Some((made.token.reveal().to_owned(), made.expires));
    let view = view(request).map(|view| AccountPage { token, ..view });
    let view = view.ok_or_else(ApiError::session_over)?;
    Ok(PageResponse::Html(account_page(&request.page, &view)))
}
