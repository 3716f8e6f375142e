//! What the audit log is told of a request.
//!
//! The promise: no answer begins before its line is written, and a client that goes away takes no
//! line with it: each is written by a task of its own, or by the one that does what it is about.

use std::sync::Arc;

use chrono::{SecondsFormat, Utc};
use http::{HeaderMap, HeaderValue, header};
use jreg_access::{Right, right_of, tags_of};
use jreg_auth::{AccessTokenText, Credentials, Identity, IdentitySource};
use jreg_net::server::Response;
use jreg_oci::{Endpoint, MountSource, RepositoryName, Tag};
use jreg_telemetry::audit::AuditRecord;

use super::error::ApiError;
use super::exchange::ObservedRequest;
use super::{Context, headers};

/// What stands for a name that is a secret.
const REDACTED: &str = "[redacted]";

/// The most tags that a line names as removed. It says how many there were.
const TAGS_SHOWN_MAX: usize = 100;

/// What an operation found out that its response does not say, for the audit log. It is among the
/// extensions of the response, or in the error.
#[derive(Clone, Debug)]
pub(super) enum AuditOutcome {
    /// A blob was mounted from this repository.
    Mounted(RepositoryName),
    /// These tags were removed with a manifest.
    TagsRemoved(Vec<Tag>),
}

/// A decision that is being made.
#[derive(Clone, Debug)]
pub(super) struct PendingAuditRecord {
    context: Arc<Context>,
    entry: AuditRecord,
    /// Whether it is written although it was allowed.
    changes: bool,
    /// Whether anybody says who they are.
    is_shown: bool,
}

impl PendingAuditRecord {
    /// Of an operation; `None` if there is no audit log.
    pub(super) fn of(
        context: &Arc<Context>,
        exchange: &ObservedRequest,
        endpoint: &Endpoint,
        headers: &HeaderMap,
        changes: bool,
    ) -> Option<Self> {
        let mut record = Self::new(context, exchange, headers)?;
        record.changes = changes;
        let entry = &mut record.entry;
        entry.operation = endpoint.id();
        entry.repository = endpoint.name().map(ToString::to_string);
        (entry.event, entry.action) = match right_of(endpoint) {
            Right::Enter => ("login", "login"),
            Right::List => ("access", "list"),
            Right::Push(_) => ("access", "push"),
            Right::Delete(_) => ("access", "delete"),
            Right::See(_) | Right::Mount(_) | Right::Pull(_) => ("access", "pull"),
        };
        let (reference, upload) = exchange.reference_and_upload();
        (entry.reference, entry.upload) = (reference.cloned(), upload.cloned());
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

    /// Of a request for a token.
    pub(super) fn of_token(
        context: &Arc<Context>,
        exchange: &ObservedRequest,
        headers: &HeaderMap,
    ) -> Option<Self> {
        let mut record = Self::new(context, exchange, headers)?;
        let entry = &mut record.entry;
        (entry.event, entry.operation, entry.action) = ("login", "token", "login");
        Some(record)
    }

    fn new(
        context: &Arc<Context>,
        exchange: &ObservedRequest,
        headers: &HeaderMap,
    ) -> Option<Self> {
        if !context.audit.is_on() {
            return None;
        }
        let entry = AuditRecord {
            request_id: exchange.request_id.to_string(),
            client: exchange.client().shown(),
            proxy: exchange.client().proxy.map(|address| address.to_string()),
            claimed: claimed(headers),
            ..AuditRecord::default()
        };
        let is_shown = headers.contains_key(header::AUTHORIZATION);
        let context = Arc::clone(context);
        Some(Self { context, entry, changes: false, is_shown })
    }

    /// With the name that a form claims.
    pub(super) fn claimed_by(mut self, user: Option<&str>) -> Self {
        self.entry.claimed = user.and_then(shown_name).or(self.entry.claimed);
        self
    }

    /// With who it is.
    pub(super) fn by(mut self, identity: &Identity) -> Self {
        self.entry.identity = Some(identity.to_string());
        let (source, credential) = match identity {
            Identity::Anonymous => ("anonymous", None),
            Identity::Named(named) => match &named.source {
                IdentitySource::Htpasswd => ("htpasswd", None),
                IdentitySource::AccessToken(id) => ("access-token", Some(id)),
                IdentitySource::Issuer(name) => ("issuer", Some(name)),
                IdentitySource::Certificate => ("certificate", None),
            },
        };
        (self.entry.source, self.entry.credential) = (Some(source), credential.cloned());
        self
    }

    /// Writes it in a task of its own, if it is to be written.
    pub(super) fn settle(
        self,
        rule: Option<String>,
        result: &Result<Response, ApiError>,
    ) -> impl Future<Output = ()> + Send + use<> {
        let tasks = self.context.tasks.clone();
        let settled = self.settled(rule, result);
        let task = settled
            .map(|(context, entry)| tasks.spawn(async move { context.audit.record(&entry).await }));
        async move {
            if let Some(task) = task {
                // A panic of it is told by the hook for panics.
                let _ = task.await;
            }
        }
    }

    /// Writes it here, if it is to be written.
    pub(super) fn settle_here(
        self,
        rule: Option<String>,
        result: &Result<Response, ApiError>,
    ) -> impl Future<Output = ()> + Send + use<> {
        let settled = self.settled(rule, result);
        async move {
            if let Some((context, entry)) = settled {
                context.audit.record(&entry).await;
            }
        }
    }

    fn settled(
        self,
        rule: Option<String>,
        result: &Result<Response, ApiError>,
    ) -> Option<(Arc<Context>, AuditRecord)> {
        let Self { context, mut entry, changes, is_shown } = self;
        let denied = result.as_ref().err().and_then(ApiError::denied);
        let is_login = entry.event == "login";
        // Who asks how to log in was not denied anything, and who may read anyway did not log in.
        let is_token = entry.operation == "token";
        let counts = match denied {
            Some(_) => !is_login || is_shown || is_token,
            // A request for a token that could not be understood is no decision.
            None if is_token => result.is_ok(),
            None => changes || (is_login && is_shown),
        };
        if !counts && !context.audit.takes_reads() {
            return None;
        }
        entry.time = Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true);
        entry.allowed = denied.is_none();
        entry.rule = denied.map(str::to_owned).or(rule);
        entry.status = match result {
            Ok(response) => response.status().as_u16(),
            Err(error) => error.status().as_u16(),
        };
        let outcome = match result {
            Ok(response) => {
                learn(&mut entry, response);
                response.extensions().get::<AuditOutcome>()
            }
            Err(error) => error.outcome(),
        };
        learn_outcome(&mut entry, outcome);
        Some((context, entry))
    }
}

/// Takes from a response what only the operation found out.
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
        Some(AuditOutcome::TagsRemoved(tags)) => {
            let shown = tags.iter().take(TAGS_SHOWN_MAX);
            entry.tags_removed = shown.map(ToString::to_string).collect();
            entry.tags_removed_count = tags.len();
        }
        None => {}
    }
}

/// The name that a header claims.
fn claimed(headers: &HeaderMap) -> Option<String> {
    let header = headers.get(header::AUTHORIZATION)?;
    match Credentials::parse(header.as_bytes()).ok()? {
        Credentials::Basic { user, .. } => shown_name(&user),
        Credentials::Bearer(_) => None,
    }
}

/// A name as it may be written: somebody may have put a token in its place.
fn shown_name(user: &str) -> Option<String> {
    if user.is_empty() {
        return None;
    }
    let is_secret = AccessTokenText::is_like(user) || user.starts_with("eyJ");
    Some(if is_secret { REDACTED } else { user }.to_owned())
}
