//! `jreg token`: creates, lists and revokes access tokens.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chrono::{DateTime, SecondsFormat, Utc};
use jreg_access::{AccessTokenStore, AccessTokenStoreError};
use jreg_auth::{AccessToken, AccessTokenId, AccessTokenPermission};
use jreg_registry::{Event, EventAction, EventDetail};
use serde::{Deserialize, Serialize};

/// An operation on access tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum AccessTokenRequest {
    Create {
        name: String,
        /// The grants.
        permissions: Vec<AccessTokenPermission>,
        /// The lifetime; `None`: until it is revoked.
        lifetime: Option<Duration>,
    },
    List,
    Revoke {
        id: AccessTokenId,
    },
}

/// Result of an operation.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessTokenReport {
    /// The secret text of the new token, available only here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// The affected tokens.
    pub tokens: Vec<AccessTokenInfo>,
}

impl std::fmt::Debug for AccessTokenReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenReport").field("tokens", &self.tokens).finish_non_exhaustive()
    }
}

/// An access token, without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessTokenInfo {
    pub id: AccessTokenId,
    pub name: String,
    /// The grants: `pull,push:team/**`, separated by spaces.
    pub allow: String,
    /// Creation time, in seconds of the Unix epoch.
    pub created: u64,
    /// When it expires.
    pub expires: Option<u64>,
    /// When it was revoked.
    pub revoked: Option<u64>,
}

impl AccessTokenRequest {
    /// What the event of it says, if it changes anything.
    pub(super) fn event_action(&self) -> Option<EventAction> {
        match self {
            Self::Create { .. } => Some(EventAction::TokenCreate),
            Self::List => None,
            Self::Revoke { .. } => Some(EventAction::TokenRevoke),
        }
    }
}

impl AccessTokenReport {
    /// The event of an operation: without the secret.
    pub(super) fn event(&self, action: EventAction) -> Event {
        let token = self.tokens.first().map(serde_json::to_value);
        let detail = match token {
            Some(Ok(serde_json::Value::Object(detail))) => detail,
            _ => EventDetail::new(),
        };
        Event::of_fact(action, SystemTime::now(), detail)
    }
}

impl AccessTokenInfo {
    fn of(id: AccessTokenId, access_token: &AccessToken) -> Self {
        Self {
            id,
            name: access_token.name.clone(),
            allow: access_token.allowed(),
            created: access_token.created,
            expires: access_token.expires,
            revoked: access_token.revoked,
        }
    }

    fn state(&self, now: SystemTime) -> String {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        match (self.revoked, self.expires) {
            (Some(at), _) => format!("revoked {}", day(at)),
            (None, Some(at)) if at <= now => format!("expired {}", day(at)),
            (None, Some(at)) => format!("until {}", day(at)),
            (None, None) => "no expiry".to_owned(),
        }
    }
}

/// A time as text.
pub(super) fn day(at: u64) -> String {
    let time = i64::try_from(at).ok().and_then(|at| DateTime::from_timestamp(at, 0));
    let text = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Secs, true);
    time.map_or_else(|| "out of range".to_owned(), text)
}

/// Performs the operation.
pub(super) async fn run(
    access_tokens: &AccessTokenStore,
    request: AccessTokenRequest,
) -> Result<AccessTokenReport, AccessTokenStoreError> {
    match request {
        AccessTokenRequest::Create { name, permissions, lifetime } => {
            let (token, id, access_token) =
                access_tokens.create(&name, permissions, lifetime).await?;
            let tokens = vec![AccessTokenInfo::of(id, &access_token)];
            Ok(AccessTokenReport { token: Some(token), tokens })
        }
        AccessTokenRequest::List => {
            let listed = access_tokens.list().await?;
            let tokens = listed
                .into_iter()
                .map(|(id, access_token)| AccessTokenInfo::of(id, &access_token))
                .collect();
            Ok(AccessTokenReport { token: None, tokens })
        }
        AccessTokenRequest::Revoke { id } => {
            let access_token = access_tokens.revoke(&id).await?;
            Ok(AccessTokenReport {
                token: None,
                tokens: vec![AccessTokenInfo::of(id, &access_token)],
            })
        }
    }
}

/// The result as text: for a new token only the token, so that it can be piped.
pub(super) fn plain(report: &AccessTokenReport) -> String {
    if let Some(token) = &report.token {
        return format!("{token}\n");
    }
    let now = SystemTime::now();
    report.tokens.iter().fold(String::new(), |mut text, token| {
        let AccessTokenInfo { id, name, allow, .. } = token;
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{id}  {name}  {allow}  {}", token.state(now));
        text
    })
}
