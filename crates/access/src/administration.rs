//! [`Administration`]: what [`Right::Admin`](super::Right::Admin) is for.

use std::time::Duration;

use jreg_registry::{Event, EventAction, EventDetail, Registry};
use jreg_storage::error_chain;
use serde_json::json;

use jreg_auth::{
    AccessAction, AccessToken, AccessTokenId, AccessTokenPermission, PolicyDecision, PolicyTest,
};

use super::access_tokens::AccessTokenStoreError;
use super::guard::AccessGuard;
use super::{AccessError, Authorized};

/// Access tokens and the policy, for administrators.
#[derive(Clone, Copy, Debug)]
pub struct Administration<'a> {
    guard: &'a AccessGuard,
    registry: &'a Registry,
}

impl AccessGuard {
    /// Requires [`Right::Admin`](super::Right::Admin).
    ///
    /// # Errors
    ///
    /// [`AccessError::Denied`].
    pub fn administration<'a>(
        &'a self,
        access: &'a Authorized,
    ) -> Result<Administration<'a>, AccessError> {
        let registry = access.administered_registry()?;
        Ok(Administration { guard: self, registry })
    }
}

type Result<T, E = AccessTokenStoreError> = std::result::Result<T, E>;

impl Administration<'_> {
    /// A page of the access tokens, in the order of their ids, and whether there are more.
    ///
    /// # Errors
    ///
    /// [`AccessTokenStoreError`].
    pub async fn access_tokens(
        &self,
        after: Option<&AccessTokenId>,
        limit: usize,
    ) -> Result<(Vec<(AccessTokenId, AccessToken)>, bool)> {
        self.guard.access_tokens.list_page(after, limit).await
    }

    /// Creates an access token. Its text is returned once and stored nowhere.
    ///
    /// # Errors
    ///
    /// [`AccessTokenStoreError`].
    pub async fn create_access_token(
        &self,
        name: &str,
        permissions: Vec<AccessTokenPermission>,
        lifetime: Option<Duration>,
    ) -> Result<(String, AccessTokenId, AccessToken)> {
        let created = self.guard.access_tokens.create(name, permissions, lifetime).await?;
        self.record(EventAction::TokenCreate, &created.1, &created.2).await;
        Ok(created)
    }

    /// Revokes an access token, in all instances within a minute.
    ///
    /// # Errors
    ///
    /// [`AccessTokenStoreError`].
    pub async fn revoke_access_token(&self, id: &AccessTokenId) -> Result<AccessToken> {
        let revoked = self.guard.access_tokens.revoke(id).await?;
        self.guard.note_revocation();
        self.record(EventAction::TokenRevoke, id, &revoked).await;
        Ok(revoked)
    }

    /// Queues the event of a change, as the command does. Its loss is logged.
    async fn record(&self, action: EventAction, id: &AccessTokenId, token: &AccessToken) {
        let detail = EventDetail::from_iter([
            ("id".to_owned(), json!(id)),
            ("name".to_owned(), json!(token.name)),
            ("allow".to_owned(), json!(token.allowed())),
            ("created".to_owned(), json!(token.created)),
            ("expires".to_owned(), json!(token.expires)),
            ("revoked".to_owned(), json!(token.revoked)),
        ]);
        let event = Event::of_fact(action, self.guard.clock.now(), detail);
        if let Err(error) = self.registry.record_event(&event).await {
            let action = action.name();
            tracing::warn!(action, error = error_chain(&error), "an event was lost");
        }
    }

    /// What the policy decides about a made-up request.
    pub fn test_policy(&self, test: &PolicyTest) -> Vec<(AccessAction, PolicyDecision)> {
        test.decide(&self.guard.policy(), self.guard.clock.now())
    }
}
