//! `jreg session`: ends the logins of an identity in browsers.

use jreg_access::{SessionStore, SessionStoreError};
use serde::{Deserialize, Serialize};

use super::token::day;

/// An operation on sessions of browsers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum SessionRequest {
    Revoke { identity: String },
}

/// Result of an operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionReport {
    pub identity: String,
    /// Logins until this time are over, in milliseconds of the Unix epoch.
    pub not_before: u64,
}

/// Performs the operation.
pub(super) async fn run(
    sessions: &SessionStore,
    request: SessionRequest,
) -> Result<SessionReport, SessionStoreError> {
    let SessionRequest::Revoke { identity } = request;
    let not_before = sessions.end(&identity, 0).await?;
    Ok(SessionReport { identity, not_before })
}

/// The result as text.
pub(super) fn plain(report: &SessionReport) -> String {
    let SessionReport { identity, not_before } = report;
    format!("logins of {identity} until {} are over in a minute\n", day(not_before / 1000))
}
