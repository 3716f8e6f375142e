//! [`UiRequest`]: an authenticated request for a page.

use std::sync::Arc;
use std::time::SystemTime;

use http::StatusCode;
use http::request::Parts;
use jreg_access::{
    AuthContext, Authorized, RefusedRequest, RequestCredentials, RequestInfo, Right,
    VerifiedSession,
};
use jreg_auth::Identity;
use jreg_oci::Endpoint;
use jreg_ui::link::{Paths, with_query};
use jreg_ui::{Notice, NoticeKind, PageContext, Viewer};

use super::browser::BrowserState;
use super::forms::FormToken;
use super::query::UiQuery;
use super::{PageResponse, login};
use crate::context::ApiContext;
use crate::error::ApiError;
use crate::observed::ObservedRequest;
use crate::record::PendingAuditRecord;

pub(crate) type PageResult = Result<PageResponse, ApiError>;

/// What an administrator does, for its audit record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AdminOperation<'a> {
    pub(crate) id: &'static str,
    /// What the request changes.
    pub(crate) about: Option<&'a str>,
    /// Of the response.
    pub(crate) status: StatusCode,
}

impl AdminOperation<'_> {
    /// A page that changes nothing.
    pub(crate) fn page(id: &'static str) -> Self {
        Self { id, about: None, status: StatusCode::OK }
    }
}

/// An authenticated request for a page.
pub(crate) struct UiRequest<'a> {
    pub(crate) context: &'a Arc<ApiContext>,
    pub(crate) observed: &'a Arc<ObservedRequest>,
    pub(crate) parts: &'a Parts,
    pub(crate) auth: AuthContext,
    pub(crate) page: PageContext,
    pub(crate) form_token: FormToken,
    pub(crate) browser: BrowserState,
}

impl<'a> UiRequest<'a> {
    /// Authenticates a request.
    ///
    /// # Errors
    ///
    /// 429; 503 if the session cannot be verified now.
    pub(crate) async fn identify(
        context: &'a Arc<ApiContext>,
        observed: &'a Arc<ObservedRequest>,
        parts: &'a Parts,
    ) -> Result<Self, ApiError> {
        let browser = BrowserState::read(context, observed, parts).await?;
        // The header Authorization is for the API: a page is for whom its browser has logged in.
        let credentials = RequestCredentials::Page(browser.session().cloned());
        let info = RequestInfo { credentials, ..observed.request_info(parts) };
        let auth = context.gate.identify(info).await;
        let auth = auth.map_err(|refused| ApiError::from(refused.error))?;
        let identity = &auth.principal.identity;
        context.limits.count_identity(identity, observed.network())?;
        observed.set_identity(identity.to_string(), None);
        let session = browser.session().map(VerifiedSession::id);
        let form_token = FormToken::of(&parts.headers, observed.client().secure, session);
        form_token.cookie().into_iter().for_each(|cookie| browser.push(cookie));
        let mut page = anonymous_context(context, observed, parts);
        page.viewer.identity = match identity {
            Identity::Anonymous => None,
            Identity::Named(_) => Some(identity.to_string()),
        };
        let is_admin = context.gate.admit_right(&auth, Right::Admin).is_ok();
        page.viewer.is_admin = is_admin || context.guard.is_none();
        page.viewer.can_log_in = login::can_log_in(context.guard.as_ref());
        page.notice = notice_of(parts.uri.query().unwrap_or_default());
        page.viewer.form_token = form_token.value().to_owned();
        Ok(Self { context, observed, parts, auth, page, form_token, browser })
    }

    /// Where the issuer of the session authenticates the identity again, if that is due.
    pub(crate) fn renewal(&self) -> Option<String> {
        let issuer = self.browser.stale()?;
        let choices = self.context.guard.as_ref()?.login_choices();
        let choice = choices.into_iter().find(|choice| choice.issuer == issuer)?;
        Some(with_query(&choice.url, &[("next", &self.page.viewer.here)]))
    }

    /// Grants a right that no endpoint of the API needs, with its audit record.
    ///
    /// # Errors
    ///
    /// The refusal.
    pub(crate) async fn admit_to(
        &self,
        right: Right,
        operation: AdminOperation<'_>,
    ) -> Result<Authorized, ApiError> {
        let AdminOperation { id, about, status } = operation;
        let (sink, headers) = (self.context.audit_sink(), &self.parts.headers);
        let record = PendingAuditRecord::of_right(sink, self.observed, headers, &right, id);
        let record = record.map(|record| {
            record.by(&self.auth.principal.identity).changing(about).responding(status)
        });
        self.settled(record, self.context.gate.admit_right(&self.auth, right)).await
    }

    /// Admits the request to an endpoint of the API, with its audit record.
    ///
    /// # Errors
    ///
    /// The refusal.
    pub(crate) async fn admit(&self, endpoint: &Endpoint) -> Result<Authorized, ApiError> {
        let sink = self.context.audit_sink();
        let headers = &self.parts.headers;
        let record = PendingAuditRecord::of(sink, self.observed, endpoint, headers, false);
        let record = record.map(|record| record.by(&self.auth.principal.identity));
        self.settled(record, self.context.gate.admit_identified(&self.auth, endpoint)).await
    }

    async fn settled(
        &self,
        record: Option<PendingAuditRecord>,
        admitted: Result<Authorized, RefusedRequest>,
    ) -> Result<Authorized, ApiError> {
        let (rule, result) = match admitted {
            Ok(access) => (Some(access.reason().to_string()), Ok(access)),
            Err(refused) => (None, Err(ApiError::from(refused.error))),
        };
        if let Some(record) = record {
            record.settle_page(rule, result.as_ref().err()).await;
        }
        result
    }

    /// The same for a part of a page that is left out if it is refused: without an audit record.
    pub(crate) fn try_admit(&self, endpoint: &Endpoint) -> Option<Authorized> {
        self.context.gate.admit_identified(&self.auth, endpoint).ok()
    }

    /// Whether the request would be admitted to an endpoint, for what a page offers.
    pub(crate) fn may(&self, endpoint: &Endpoint) -> bool {
        self.context.gate.admit_identified(&self.auth, endpoint).is_ok()
    }

    /// Whether a list shows what costs a store request for each row.
    pub(crate) fn shows_details(&self, query: &UiQuery) -> bool {
        !self.context.gate.is_remote() || query.nonempty("details").is_some()
    }
}

/// What the form before this page did. The text is ours: an address cannot make a page say anything else.
fn notice_of(query: &str) -> Option<Notice> {
    let query = UiQuery::parse(query);
    let text = match query.get("done") {
        "tags-deleted" => "The tags were deleted.",
        "manifest-deleted" => "The manifest was deleted, and the tags that pointed to it.",
        "tag-restored" => "The tag was restored.",
        "manifest-restored" => "The manifest was restored.",
        _ => return None,
    };
    Some(Notice { kind: NoticeKind::Done, text: text.to_owned() })
}

/// What pages share before the identity is known.
pub(crate) fn anonymous_context(
    context: &ApiContext,
    observed: &ObservedRequest,
    parts: &Parts,
) -> PageContext {
    let public_url = &context.options.public_url;
    let request_host = || {
        let host = observed.request_info(parts).host;
        host.filter(|host| is_host(host)).unwrap_or_else(|| "localhost".to_owned())
    };
    let here = parts.uri.path_and_query().map_or("/ui/", |here| here.as_str());
    PageContext {
        paths: Paths::new(public_url),
        host: match public_url.split_once("://") {
            Some((_, rest)) => rest.to_owned(),
            None => request_host(),
        },
        now: SystemTime::now(),
        viewer: Viewer { here: here.to_owned(), ..Viewer::default() },
        deletes: context.options.deletes,
        notice: None,
    }
}

/// Whether the `Host` of a client is one: commands that people copy contain it.
fn is_host(host: &str) -> bool {
    !host.is_empty()
        && host.len() <= 260
        && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte))
}
