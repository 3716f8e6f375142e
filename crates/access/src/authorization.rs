//! What [`AccessGuard`] decides: the policy, evaluated for a request, and the scope of its credentials.

use std::sync::Arc;

use async_trait::async_trait;
use http::header;
use jreg_auth::{
    AccessAction, CONDITIONS_EVALUATED_MAX, CredentialGrants, DecisionReason, Identity,
    IdentitySource, Policy, PolicyDecision, PolicyEvaluation, PolicyQuery, QueryTag, TokenScope,
};
use jreg_oci::{RepositoryName, Tag};

use super::challenge::TokenFault;
use super::guard::AccessGuard;
use super::{
    AuthContext, AuthError, Authorizer, CredentialState, Principal, PrincipalGrants, RefusedAccess,
    RequestCredentials, RequestInfo, Right,
};

/// Number of policy decisions in a listing before the task yields.
const DECISIONS_PER_TURN: usize = 8;

impl AccessGuard {
    /// The policy query for an identity.
    fn query<'a>(
        &self,
        auth: &'a AuthContext,
        action: AccessAction,
        repository: Option<&'a RepositoryName>,
        tag: QueryTag<'a>,
    ) -> PolicyQuery<'a> {
        let AuthContext { principal, request_info } = auth;
        PolicyQuery {
            identity: &principal.identity,
            certificate: request_info.certificate.as_deref(),
            action,
            repository,
            tag,
            address: request_info.peer.map(|peer| peer.ip().to_canonical()),
            now: self.clock.now(),
        }
    }

    /// The policy evaluation for a principal, including the grants of its credentials.
    fn evaluation<'a>(&self, policy: &'a Policy, auth: &'a AuthContext) -> PolicyEvaluation<'a> {
        let grants = match &auth.principal.grants {
            PrincipalGrants::Nothing => CredentialGrants::None,
            PrincipalGrants::AccessToken(access_token) => {
                CredentialGrants::AccessToken(access_token)
            }
            PrincipalGrants::Access(scope) => CredentialGrants::Access(scope),
        };
        let query = self.query(auth, AccessAction::Pull, None, QueryTag::No);
        PolicyEvaluation::new(policy, query, grants)
    }

    fn decide(
        &self,
        auth: &AuthContext,
        action: AccessAction,
        repository: Option<&RepositoryName>,
        tag: QueryTag<'_>,
    ) -> PolicyDecision {
        self.evaluation(&self.policy(), auth).decide(action, repository, tag)
    }

    /// Decides for every tag that the request names: all must be allowed.
    fn decide_all(
        &self,
        auth: &AuthContext,
        action: AccessAction,
        repository: Option<&RepositoryName>,
    ) -> PolicyDecision {
        let policy = self.policy();
        let mut evaluation = self.evaluation(&policy, auth);
        let mut last = None;
        for tag in &auth.request_info.tags {
            let decision = evaluation.decide(action, repository, QueryTag::Is(tag.as_str()));
            if !decision.allowed {
                return decision;
            }
            last = Some(decision);
        }
        last.unwrap_or_else(|| evaluation.decide(action, repository, QueryTag::No))
    }

    /// The part of `scope` that the policy allows, regardless of tags. Yields between decisions.
    pub(super) async fn narrowed(&self, auth: &AuthContext, scope: &TokenScope) -> TokenScope {
        let policy = self.policy();
        let mut evaluation = self.evaluation(&policy, auth);
        let mut narrow = TokenScope::default();
        for (action, repository) in scope.wanted() {
            if evaluation.allows(action, repository, QueryTag::Unknown) {
                narrow.grant(action, repository);
            }
            tokio::task::yield_now().await;
        }
        narrow
    }

    fn deny(&self, auth: &AuthContext, right: &Right, reason: &DecisionReason) -> AuthError {
        let reason = reason.to_string();
        let Principal { identity, shown, .. } = &*auth.principal;
        if *identity == Identity::Anonymous {
            let (fault, by) = match shown {
                true => (TokenFault::Scope, CredentialState::as_identity(identity)),
                false => (TokenFault::Missing, CredentialState::No),
            };
            return self.challenged(&auth.request_info, right, fault, by, reason);
        }
        let access = RefusedAccess::new(CredentialState::as_identity(identity), right);
        match right {
            Right::Pull(name) | Right::See(name) | Right::Mount(name) => {
                AuthError::Hidden { name: name.clone(), access, reason }
            }
            Right::Enter
            | Right::List
            | Right::Push(_)
            | Right::Delete(_)
            | Right::Fetch(_)
            | Right::Admin => AuthError::Forbidden { access, reason },
        }
    }

    /// An authentication challenge, for missing or for insufficient credentials.
    fn challenged(
        &self,
        request_info: &RequestInfo,
        right: &Right,
        fault: TokenFault,
        by: CredentialState,
        reason: String,
    ) -> AuthError {
        let access = RefusedAccess::new(by, right);
        let challenge = self.scheme.challenge(request_info, right, fault, &access.to_string());
        AuthError::Unauthenticated { challenge: Some(challenge), access, reason }
    }
}

#[async_trait]
impl Authorizer for AccessGuard {
    async fn identify(
        &self,
        request_info: RequestInfo,
        right: &Right,
    ) -> Result<AuthContext, AuthError> {
        let mut headers = request_info.headers.get_all(header::AUTHORIZATION).iter();
        let without_credentials = || {
            let identity = request_info.certificate.as_ref().and_then(|of| of.identity());
            Ok(Arc::new(identity.map_or_else(Principal::anonymous, Principal::from_identity)))
        };
        let verified = match (&request_info.credentials, headers.next(), headers.next()) {
            (RequestCredentials::Page(Some(session)), _, _) => Ok(Arc::clone(&session.principal)),
            (RequestCredentials::Page(None), _, _) | (RequestCredentials::Header, None, _) => {
                without_credentials()
            }
            (RequestCredentials::Header, Some(header), None) => {
                self.verified(header.as_bytes(), &request_info).await
            }
            (RequestCredentials::Header, Some(_), Some(_)) => {
                Err(AuthError::invalid("there are several Authorization headers"))
            }
        };
        match verified.and_then(|principal| with_certificate(principal, &request_info)) {
            Ok(principal) => Ok(AuthContext::new(principal, request_info)),
            Err(error) => Err(error.needed_for(|reason| {
                let (fault, by) = (TokenFault::Invalid, CredentialState::Invalid);
                self.challenged(&request_info, right, fault, by, reason)
            })),
        }
    }

    async fn catalog_cursor(&self, name: &RepositoryName) -> Result<String, AuthError> {
        self.cursors.encrypt(name).await
    }

    async fn open_catalog_cursor(&self, cursor: &str) -> Result<Option<RepositoryName>, AuthError> {
        self.cursors.decrypt(cursor).await
    }

    fn grant(&self, auth: &AuthContext, right: &Right) -> Result<DecisionReason, AuthError> {
        let Some((action, name)) = action_of(right) else {
            // Also with anonymous pull: a client learns only here that it can log in.
            return match auth.principal.shown {
                true => Ok(DecisionReason::Credentials("credentials were shown".to_owned())),
                false => Err(self.deny(auth, right, &DecisionReason::NoRule)),
            };
        };
        let decision = match right {
            // The tags of the request belong to another repository.
            Right::See(_) | Right::Mount(_) => self.decide(auth, action, name, QueryTag::No),
            _ => self.decide_all(auth, action, name),
        };
        self.settle(auth, right, decision)
    }

    fn grant_tag(
        &self,
        auth: &AuthContext,
        right: &Right,
        tag: &Tag,
    ) -> Result<DecisionReason, AuthError> {
        let Some((action, name)) = action_of(right) else { return self.grant(auth, right) };
        let decision = self.decide(auth, action, name, QueryTag::Is(tag.as_str()));
        self.settle(auth, right, decision)
    }

    async fn denied_tags(
        &self,
        auth: &AuthContext,
        right: &Right,
        tags: Vec<Tag>,
    ) -> Option<Vec<Tag>> {
        let (Some((action, name)), true) = (action_of(right), is_within_scope(auth, right)) else {
            return Some(tags);
        };
        let policy = self.policy();
        let mut evaluation = self.evaluation(&policy, auth);
        let mut allowed = Vec::with_capacity(tags.len());
        for (index, tag) in tags.iter().enumerate() {
            allowed.push(evaluation.allows(action, name, QueryTag::Is(tag.as_str())));
            if evaluation.evaluated() >= CONDITIONS_EVALUATED_MAX {
                return None;
            }
            if index % DECISIONS_PER_TURN == 0 {
                tokio::task::yield_now().await;
            }
        }
        Some(tags.into_iter().zip(allowed).filter_map(|(tag, may)| (!may).then_some(tag)).collect())
    }

    async fn visible(&self, auth: &AuthContext, names: Vec<RepositoryName>) -> Vec<RepositoryName> {
        // A token for the catalog shows every repository that its principal may pull.
        let scope = auth.principal.scope.as_ref();
        if scope.is_some_and(|scope| !scope.allows(AccessAction::List, None)) {
            return Vec::new();
        }
        let policy = self.policy();
        let mut evaluation = self.evaluation(&policy, auth);
        let mut visible = Vec::with_capacity(names.len());
        for (index, name) in names.iter().enumerate() {
            evaluation.renew_budget();
            visible.push(evaluation.allows(AccessAction::Pull, Some(name), QueryTag::No));
            if index % DECISIONS_PER_TURN == 0 {
                tokio::task::yield_now().await;
            }
        }
        names.into_iter().zip(visible).filter_map(|(name, seen)| seen.then_some(name)).collect()
    }

    fn depends_on_tag(&self, auth: &AuthContext, right: &Right) -> bool {
        action_of(right).is_some_and(|(action, name)| {
            self.policy().depends_on_tag(&self.query(auth, action, name, QueryTag::No))
        })
    }
}

impl AccessGuard {
    /// Combines a policy decision with the scope of the credentials.
    fn settle(
        &self,
        auth: &AuthContext,
        right: &Right,
        decision: PolicyDecision,
    ) -> Result<DecisionReason, AuthError> {
        if !decision.allowed {
            return Err(self.deny(auth, right, &decision.reason));
        }
        if is_within_scope(auth, right) {
            return Ok(decision.reason);
        }
        let by = CredentialState::Narrowed(auth.principal.identity.to_string());
        let reason = DecisionReason::TokenScope.to_string();
        Err(self.challenged(&auth.request_info, right, TokenFault::Scope, by, reason))
    }
}

/// Whether the scope of the credentials covers a right.
fn is_within_scope(auth: &AuthContext, right: &Right) -> bool {
    match (&auth.principal.scope, right) {
        (None, _) => true,
        // A token for the catalog shows every repository that its principal may pull.
        (Some(scope), Right::See(_)) => scope.allows(AccessAction::List, None),
        (Some(scope), _) => {
            action_of(right).is_some_and(|(action, name)| scope.allows(action, name))
        }
    }
}

/// The policy action of a right; `None`: [`Right::Enter`], to which no rule applies.
fn action_of(right: &Right) -> Option<(AccessAction, Option<&RepositoryName>)> {
    match right {
        Right::Enter => None,
        Right::List => Some((AccessAction::List, None)),
        Right::See(name) | Right::Pull(name) => Some((AccessAction::Pull, Some(name))),
        Right::Mount(name) => Some((AccessAction::Mount, Some(name))),
        Right::Fetch(name) => Some((AccessAction::Fetch, Some(name))),
        Right::Push(name) => Some((AccessAction::Push, Some(name))),
        Right::Delete(name) => Some((AccessAction::Delete, Some(name))),
        Right::Admin => Some((AccessAction::Admin, None)),
    }
}

/// A token issued for a client certificate is valid only on connections whose certificate has the
/// same name, whatever the policy says.
fn with_certificate(
    principal: Arc<Principal>,
    request_info: &RequestInfo,
) -> Result<Arc<Principal>, AuthError> {
    let is_certificates = matches!(&principal.identity,
        Identity::Named(named) if named.source == IdentitySource::Certificate);
    let shown = request_info.certificate.as_ref().and_then(|of| of.identity());
    if is_certificates && shown.as_ref().and_then(Identity::name) != principal.identity.name() {
        let reason = "the token was issued for a client certificate that the connection lacks";
        return Err(AuthError::invalid(reason));
    }
    Ok(principal)
}
