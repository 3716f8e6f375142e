//! Whose requests count as pulls (docs/lifecycle.md).

use http::{HeaderMap, header};
use jreg_auth::Identity;

/// Whose pulls do not count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PullExceptions {
    /// Names of identities, as the audit log has them.
    pub identities: Vec<String>,
    /// User-Agent prefixes.
    pub agents: Vec<String>,
}

impl PullExceptions {
    /// Whether pulls by this request do not count.
    pub(crate) fn excepts(&self, identity: &Identity, request: &HeaderMap) -> bool {
        let is_excepted = |name: &String| name.as_str() == identity.name().unwrap_or("anonymous");
        let agent = request.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok());
        let begins = |agent: &str| self.agents.iter().any(|start| agent.starts_with(start));
        self.identities.iter().any(is_excepted) || agent.is_some_and(begins)
    }
}
