//! Pages for administrators: access tokens, and the test of the policy. Each needs
//! [`Right::Admin`](jreg_access::Right::Admin).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::StatusCode;
use jreg_access::{AccessTokenStoreError, Administration, Authorized, Right};
use jreg_auth::{AccessAction, AccessToken, AccessTokenId, PolicyTest, parse_permissions};
use jreg_storage::error_chain;
use jreg_ui::{
    AccessTokenRow, AccessTokensPage, PolicyTestPage, access_tokens_page, admin_off_page,
    policy_test_page,
};

use super::PageResponse;
use super::query::UiQuery;
use super::request::{AdminOperation, PageResult, UiRequest};
use crate::error::ApiError;

/// Access tokens on a page.
const TOKENS_MAX: usize = 50;
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Longest lifetime of an access token, in days.
const LIFETIME_D_MAX: u32 = 3650;

/// The administrator of a request, and what it may do.
struct Admin<'a> {
    access: Authorized,
    request: &'a UiRequest<'a>,
}

impl<'a> Admin<'a> {
    /// Admits a request, with its audit record. `None`: authentication is off.
    async fn of(
        request: &'a UiRequest<'a>,
        operation: AdminOperation<'_>,
    ) -> Result<Option<Self>, ApiError> {
        if request.context.guard.is_none() {
            return Ok(None);
        }
        let access = request.admit_to(Right::Admin, operation).await?;
        Ok(Some(Self { access, request }))
    }

    fn administration(&self) -> Result<Administration<'_>, ApiError> {
        let guard = self.request.context.guard.as_ref().ok_or_else(ApiError::not_found)?;
        Ok(guard.administration(&self.access)?)
    }
}

fn off(request: &UiRequest<'_>) -> PageResponse {
    PageResponse::Html(admin_off_page(&request.page))
}

/// Lists access tokens.
pub(crate) async fn list(request: &UiRequest<'_>, query: &UiQuery) -> PageResult {
    let Some(admin) = Admin::of(request, AdminOperation::page("ui_access_tokens")).await? else {
        return Ok(off(request));
    };
    let view = tokens(&admin, query.nonempty("after")).await?;
    Ok(PageResponse::Html(access_tokens_page(&request.page, &view)))
}

async fn tokens(admin: &Admin<'_>, after: Option<&str>) -> Result<AccessTokensPage, ApiError> {
    let after = after.and_then(|id| id.parse::<AccessTokenId>().ok());
    let found = admin.administration()?.access_tokens(after.as_ref(), TOKENS_MAX).await;
    let (found, more) = found.map_err(unavailable)?;
    let next = found.last().map(|(id, _)| id.to_string()).filter(|_| more);
    let rows = found.iter().map(|(id, token)| row(id, token, admin.request.page.now)).collect();
    Ok(AccessTokensPage { rows, is_first: after.is_none(), next, ..AccessTokensPage::default() })
}

fn row(id: &AccessTokenId, token: &AccessToken, now: SystemTime) -> AccessTokenRow {
    let moment = |seconds: u64| UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
    let expires = token.expires.and_then(moment);
    AccessTokenRow {
        id: id.to_string(),
        name: token.name.clone(),
        allow: token.allowed(),
        created: moment(token.created),
        expires,
        is_revoked: token.revoked.is_some(),
        is_expired: expires.is_some_and(|at| at <= now),
    }
}

fn unavailable(error: AccessTokenStoreError) -> ApiError {
    let reason = error_chain(&error);
    ApiError::from(jreg_access::AuthError::Unavailable { reason })
}

/// Creates an access token.
pub(crate) async fn create(request: &UiRequest<'_>, form: &UiQuery) -> PageResult {
    let (name, allow) = (form.get("name"), form.get("allow"));
    let operation =
        AdminOperation { about: Some(name), ..AdminOperation::page("ui_access_token_create") };
    let Some(admin) = Admin::of(request, operation).await? else {
        return Ok(off(request));
    };
    let days = form.get("days").parse::<u32>().unwrap_or(1).min(LIFETIME_D_MAX);
    let lifetime = (days > 0).then(|| DAY * days);
    let created = match parse_permissions(allow).map_err(AccessTokenStoreError::from) {
        Ok(permissions) => {
            admin.administration()?.create_access_token(name, permissions, lifetime).await
        }
        Err(error) => Err(error),
    };
    let view = match created {
        Ok((text, _, token)) => {
            AccessTokensPage { created: Some((token.name, text)), ..tokens(&admin, None).await? }
        }
        Err(AccessTokenStoreError::Invalid(error)) => AccessTokensPage {
            error: Some(error.to_string()),
            name: name.to_owned(),
            allow: allow.to_owned(),
            ..tokens(&admin, None).await?
        },
        Err(error) => return Err(unavailable(error)),
    };
    Ok(PageResponse::Html(access_tokens_page(&request.page, &view)))
}

/// Revokes an access token.
pub(crate) async fn revoke(request: &UiRequest<'_>, form: &UiQuery) -> PageResult {
    let id = form.get("id").parse::<AccessTokenId>().map_err(|_| ApiError::not_found())?;
    let about = id.to_string();
    let operation = AdminOperation {
        id: "ui_access_token_revoke",
        about: Some(&about),
        status: StatusCode::SEE_OTHER,
    };
    let Some(admin) = Admin::of(request, operation).await? else {
        return Ok(off(request));
    };
    match admin.administration()?.revoke_access_token(&id).await {
        Ok(_) => Ok(PageResponse::SeeOther(request.page.paths.service("admin"))),
        Err(AccessTokenStoreError::Unknown(_)) => Err(ApiError::not_found()),
        Err(error) => Err(unavailable(error)),
    }
}

/// Tests the policy with a made-up request.
pub(crate) async fn policy(request: &UiRequest<'_>, query: &UiQuery) -> PageResult {
    let Some(admin) = Admin::of(request, AdminOperation::page("ui_policy_test")).await? else {
        return Ok(off(request));
    };
    let text = |name: &str| query.get(name).trim().to_owned();
    let mut view = PolicyTestPage {
        identity: text("identity"),
        groups: text("groups"),
        claims: text("claims"),
        action: text("action"),
        repository: text("repository"),
        tag: text("tag"),
        address: text("address"),
        ..PolicyTestPage::default()
    };
    if query.nonempty("test").is_some() {
        match question(&view) {
            Ok(test) => {
                let decisions = admin.administration()?.test_policy(&test).into_iter();
                view.decisions = decisions
                    .map(|(action, of)| (action.to_string(), of.allowed, of.reason.to_string()))
                    .collect();
            }
            Err(error) => view.error = Some(error),
        }
    }
    Ok(PageResponse::Html(policy_test_page(&request.page, &view)))
}

fn question(view: &PolicyTestPage) -> Result<PolicyTest, String> {
    fn parsed<T: std::str::FromStr>(text: &str, what: &str) -> Result<Option<T>, String> {
        if text.is_empty() {
            return Ok(None);
        }
        text.parse().map(Some).map_err(|_| format!("{text:?} is no {what}"))
    }
    let claim = |text: &str| {
        let (name, value) = text.split_once('=').ok_or(format!("{text:?} must be NAME=VALUE"))?;
        Ok((name.to_owned(), value.to_owned()))
    };
    let action = match view.action.as_str() {
        "" => None,
        name => Some(AccessAction::named(name).ok_or(format!("{name:?} is no action"))?),
    };
    Ok(PolicyTest {
        identity: Some(view.identity.clone()).filter(|name| !name.is_empty()),
        groups: view.groups.split_whitespace().map(str::to_owned).collect(),
        claims: view.claims.split_whitespace().map(claim).collect::<Result<_, String>>()?,
        certificate: None,
        action,
        repository: parsed(&view.repository, "repository")?,
        tag: parsed(&view.tag, "tag")?,
        address: parsed(&view.address, "address")?,
    })
}
