//! Audit records of requests.
//!
//! Invariant: no response begins before its record is written, and a client that disconnects loses
//! no record: each is written by a task of its own, or by the task of the operation.

use chrono::{SecondsFormat, Utc};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use jreg_access::{Right, right_of, tags_of};
use jreg_auth::{AccessTokenText, Credentials, Identity, IdentitySource};
use jreg_net::server::Response;
use jreg_oci::{Endpoint, MountSource};
use jreg_telemetry::audit::{AuditLog, AuditRecord};
use tokio_util::task::TaskTracker;

use crate::error::ApiError;
use crate::headers;
use crate::observed::{ObservedRequest, reference_and_upload};
use crate::outcome::AuditOutcome;

/// Replaces a name that is a secret.
const REDACTED: &str = "[redacted]";

/// Maximum number of tags in a record, which also has their count.
const TAGS_SHOWN_MAX: usize = 100;

/// The audit log, and the tasks that write to it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AuditSink<'a> {
    pub(crate) audit: &'a AuditLog,
    pub(crate) tasks: &'a TaskTracker,
}

/// The record of a decision in progress.
#[derive(Clone, Debug)]
pub(crate) struct PendingAuditRecord {
    audit: AuditLog,
    tasks: TaskTracker,
    entry: AuditRecord,
    /// Whether it is written even if allowed.
    changes: bool,
    /// Whether the request had credentials.
    is_shown: bool,
}

impl PendingAuditRecord {
    /// The record of an operation; `None` if the audit log is disabled.
    pub(crate) fn of(
        sink: AuditSink<'_>,
        observed: &ObservedRequest,
        endpoint: &Endpoint,
        headers: &HeaderMap,
        changes: bool,
    ) -> Option<Self> {
        let mut record = Self::new(sink, observed, headers)?;
        record.changes = changes;
        let entry = &mut record.entry;
        entry.operation = endpoint.id();
        entry.repository = endpoint.name().map(ToString::to_string);
        (entry.event, entry.action) = match endpoint {
            Endpoint::Ping => ("login", "login"),
            endpoint => action_of(&right_of(endpoint)),
        };
        (entry.reference, entry.upload) = reference_and_upload(endpoint);
        if let Endpoint::ManifestPut { tags, .. } = endpoint
            && !tags.is_empty()
        {
            entry.tags = tags_of(endpoint).iter().map(ToString::to_string).collect();
        }
        if let Endpoint::UploadStart { from: MountSource::Repository(name), .. } = endpoint {
            entry.mount_from = Some(name.to_string());
        }
        Some(record)
    }

    /// The record of a right that no endpoint of the API needs.
    pub(crate) fn of_right(
        sink: AuditSink<'_>,
        observed: &ObservedRequest,
        headers: &HeaderMap,
        right: &Right,
        operation: &'static str,
    ) -> Option<Self> {
        let mut record = Self::new(sink, observed, headers)?;
        record.entry.operation = operation;
        (record.entry.event, record.entry.action) = action_of(right);
        Some(record)
    }

    /// The record of a login in a browser, its end, or a token that is made in it: always written.
    pub(crate) fn of_page_login(
        sink: AuditSink<'_>,
        observed: &ObservedRequest,
        headers: &HeaderMap,
        operation: &'static str,
    ) -> Option<Self> {
        let mut record = Self::new(sink, observed, headers)?;
        let entry = &mut record.entry;
        (entry.event, entry.operation, entry.action) = ("login", operation, "login");
        (record.changes, record.is_shown) = (true, true);
        Some(record)
    }

    /// The same of a request that is responded to with this status, unless it is refused.
    pub(crate) fn responding(mut self, status: StatusCode) -> Self {
        self.entry.status = status.as_u16();
        self
    }

    /// The same of a request that changes something.
    pub(crate) fn changing(mut self, about: Option<&str>) -> Self {
        if let Some(about) = about {
            (self.changes, self.entry.reference) = (true, Some(about.to_owned()));
        }
        self
    }

    /// The record of a token request.
    pub(crate) fn of_token(
        sink: AuditSink<'_>,
        observed: &ObservedRequest,
        headers: &HeaderMap,
    ) -> Option<Self> {
        let mut record = Self::new(sink, observed, headers)?;
        let entry = &mut record.entry;
        (entry.event, entry.operation, entry.action) = ("login", "token", "login");
        Some(record)
    }

    fn new(sink: AuditSink<'_>, observed: &ObservedRequest, headers: &HeaderMap) -> Option<Self> {
        if !sink.audit.is_on() {
            return None;
        }
        let entry = AuditRecord {
            request_id: observed.request_id.to_string(),
            client: observed.client().shown(),
            proxy: observed.client().proxy.map(|address| address.to_string()),
            claimed: claimed(headers),
            ..AuditRecord::default()
        };
        let is_shown = headers.contains_key(header::AUTHORIZATION);
        let (audit, tasks) = (sink.audit.clone(), sink.tasks.clone());
        Some(Self { audit, tasks, entry, changes: false, is_shown })
    }

    /// Adds the user name claimed in a form.
    pub(crate) fn claimed_by(mut self, user: Option<&str>) -> Self {
        self.entry.claimed = user.and_then(shown_name).or(self.entry.claimed);
        self
    }

    /// Adds the authenticated identity.
    pub(crate) fn by(mut self, identity: &Identity) -> Self {
        self.entry.identity = Some(identity.to_string());
        let (source, credential) = match identity {
            Identity::Anonymous => ("anonymous", None),
            Identity::Named(named) => match &named.source {
                IdentitySource::Htpasswd => ("htpasswd", None),
                IdentitySource::AccessToken(id) => ("access-token", Some(id)),
                IdentitySource::Issuer(name) => ("issuer", Some(name)),
                IdentitySource::Certificate => ("certificate", None),
                IdentitySource::Operator => ("operator", None),
            },
        };
        (self.entry.source, self.entry.credential) = (Some(source), credential.cloned());
        self
    }

    /// Writes the record in a task of its own, if it is due.
    pub(crate) fn settle(
        self,
        rule: Option<String>,
        result: &Result<Response, ApiError>,
    ) -> impl Future<Output = ()> + Send + use<> {
        let tasks = self.tasks.clone();
        let settled = self.settled(rule, result);
        let task =
            settled.map(|(audit, entry)| tasks.spawn(async move { audit.record(&entry).await }));
        async move {
            if let Some(task) = task {
                // The panic hook reports a panic of the task.
                let _ = task.await;
            }
        }
    }

    /// Writes the record in this task, if it is due.
    pub(crate) fn settle_here(
        self,
        rule: Option<String>,
        result: &Result<Response, ApiError>,
    ) -> impl Future<Output = ()> + Send + use<> {
        let settled = self.settled(rule, result);
        async move {
            if let Some((audit, entry)) = settled {
                audit.record(&entry).await;
            }
        }
    }

    /// Writes the record of something that a page shows, if it is due.
    pub(crate) async fn settle_page(self, rule: Option<String>, refusal: Option<&ApiError>) {
        let tasks = self.tasks.clone();
        let status = refusal.map(|refusal| match refusal.status() {
            // Pages never challenge.
            StatusCode::UNAUTHORIZED => StatusCode::FORBIDDEN,
            status => status,
        });
        let denied = refusal.and_then(ApiError::denied);
        let Some((audit, mut entry)) = self.decided(rule, denied, refusal.is_none()) else {
            return;
        };
        entry.status = match (status, entry.status) {
            (Some(status), _) => status.as_u16(),
            (None, 0) => StatusCode::OK.as_u16(),
            (None, status) => status,
        };
        // The panic hook reports a panic of the task.
        let _ = tasks.spawn(async move { audit.record(&entry).await }).await;
    }

    fn settled(
        self,
        rule: Option<String>,
        result: &Result<Response, ApiError>,
    ) -> Option<(AuditLog, AuditRecord)> {
        let denied = result.as_ref().err().and_then(ApiError::denied);
        let (audit, mut entry) = self.decided(rule, denied, result.is_ok())?;
        entry.status = match result {
            Ok(response) => response.status().as_u16(),
            Err(error) => error.status().as_u16(),
        };
        if let Ok(response) = result {
            learn(&mut entry, response);
        }
        learn_outcome(&mut entry, outcome_of(result));
        Some((audit, entry))
    }

    /// The record with the decision, if it is due.
    fn decided(
        self,
        rule: Option<String>,
        denied: Option<&str>,
        is_ok: bool,
    ) -> Option<(AuditLog, AuditRecord)> {
        let Self { audit, tasks: _, mut entry, changes, is_shown } = self;
        let is_login = entry.event == "login";
        // A 401 that asks for a login is no denial, and an anonymous read is no login.
        let is_token = entry.operation == "token";
        let counts = match denied {
            Some(_) => !is_login || is_shown || is_token,
            // A malformed token request is no decision.
            None if is_token => is_ok,
            None => changes || (is_login && is_shown),
        };
        if !counts && !audit.takes_reads() {
            return None;
        }
        entry.time = Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true);
        entry.allowed = denied.is_none();
        entry.rule = denied.map(str::to_owned).or(rule);
        Some((audit, entry))
    }
}

/// The event and the action of a right.
fn action_of(right: &Right) -> (&'static str, &'static str) {
    match right {
        Right::Enter => ("access", "login"),
        Right::List => ("access", "list"),
        Right::Push(_) => ("access", "push"),
        Right::Delete(_) => ("access", "delete"),
        Right::Admin => ("access", "admin"),
        Right::Fetch(_) => ("access", "fetch"),
        Right::See(_) | Right::Mount(_) | Right::Pull(_) => ("access", "pull"),
    }
}

/// What an operation did beyond what its response contains.
pub(crate) fn outcome_of(result: &Result<Response, ApiError>) -> Option<&AuditOutcome> {
    match result {
        Ok(response) => response.extensions().get(),
        Err(error) => error.outcome(),
    }
}

/// Takes the operation's results from a response.
fn learn(entry: &mut AuditRecord, response: &Response) {
    let of = |name| {
        let value = response.headers().get(name);
        value.and_then(|value: &HeaderValue| value.to_str().ok()).map(str::to_owned)
    };
    if entry.upload.is_none() {
        entry.upload = of(headers::UPLOAD_ID);
    }
    if entry.operation == "manifest_put" {
        entry.digest = of(headers::DIGEST);
    }
}

fn learn_outcome(entry: &mut AuditRecord, outcome: Option<&AuditOutcome>) {
    match outcome {
        Some(AuditOutcome::Mounted(source)) => entry.mounted_from = Some(source.to_string()),
        Some(AuditOutcome::TagsChanged(tags)) => {
            entry.tag_changes_count = tags.len();
            entry.tag_changes = tags.iter().take(TAGS_SHOWN_MAX).map(Into::into).collect();
            let removed = tags.iter().filter(|tag| tag.after.is_none());
            entry.tags_removed_count = removed.clone().count();
            let shown = removed.take(TAGS_SHOWN_MAX).map(|removed| removed.tag.to_string());
            entry.tags_removed = shown.collect();
        }
        None => {}
    }
}

/// The user name claimed in a header.
fn claimed(headers: &HeaderMap) -> Option<String> {
    let header = headers.get(header::AUTHORIZATION)?;
    match Credentials::parse(header.as_bytes()).ok()? {
        Credentials::Basic { user, .. } => shown_name(&user),
        Credentials::Bearer(_) => None,
    }
}

/// A name that is safe to record: a client may have sent a token in its place.
fn shown_name(user: &str) -> Option<String> {
    if user.is_empty() {
        return None;
    }
    let is_secret = AccessTokenText::is_like(user) || user.starts_with("eyJ");
    Some(if is_secret { REDACTED } else { user }.to_owned())
}
