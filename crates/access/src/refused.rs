//! [`RefusedAccess`]: the message and `detail` of a refused request.
//!
//! docker prints the message and stops at once only if it differs from the specification's default
//! text or there is a `detail`; otherwise it retries for 50 seconds. So the message names the
//! identity, the action and the repository, and `detail` has distribution's form.

use std::fmt;

use jreg_auth::{AccessAction, Identity, TokenScope};
use serde_json::{Value, json};

use super::Right;

/// Maximum number of scopes in a message.
const SCOPES_NAMED_MAX: usize = 3;

/// State of the request's credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CredentialState {
    No,
    Invalid,
    /// Valid credentials of this identity.
    As(String),
    /// A token of this identity whose scope does not cover the request.
    Narrowed(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedAccess {
    by: CredentialState,
    actions: Vec<RefusedAction>,
    /// A cause that may be shown to the client.
    cause: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct RefusedAction {
    action: AccessAction,
    /// `None`: the registry as a whole.
    repository: Option<String>,
}

impl CredentialState {
    /// Valid credentials of an identity, or none if it is anonymous.
    pub fn as_identity(identity: &Identity) -> Self {
        Self::As(identity.to_string())
    }
}

impl RefusedAccess {
    /// The refusal of one right.
    pub fn new(by: CredentialState, right: &Right) -> Self {
        let of = |action, name: Option<&jreg_oci::RepositoryName>| RefusedAction {
            action,
            repository: name.map(ToString::to_string),
        };
        let action = match right {
            Right::Enter => None,
            Right::List => Some(of(AccessAction::List, None)),
            Right::See(name) | Right::Pull(name) => Some(of(AccessAction::Pull, Some(name))),
            Right::Mount(name) => Some(of(AccessAction::Mount, Some(name))),
            Right::Fetch(name) => Some(of(AccessAction::Fetch, Some(name))),
            Right::Push(name) => Some(of(AccessAction::Push, Some(name))),
            Right::Delete(name) => Some(of(AccessAction::Delete, Some(name))),
            Right::Admin => Some(of(AccessAction::Admin, None)),
        };
        Self { by, actions: action.into_iter().collect(), cause: None }
    }

    /// The refusal of a token for a scope.
    pub fn of_scope(by: CredentialState, scope: &TokenScope) -> Self {
        let actions = scope.wanted().map(|(action, name)| RefusedAction {
            action,
            repository: name.map(ToString::to_string),
        });
        Self { by, actions: actions.collect(), cause: None }
    }

    /// Adds a cause that is shown to the client.
    #[must_use]
    pub fn because(mut self, cause: String) -> Self {
        self.cause = Some(cause);
        self
    }

    /// The `detail` of the error, in distribution's form.
    pub fn detail(&self) -> Value {
        let actions = self.actions.iter().map(|RefusedAction { action, repository }| {
            let (kind, name, action) = match repository {
                Some(name) => ("repository", name.as_str(), action.as_str()),
                None => ("registry", "catalog", "*"),
            };
            json!({ "Type": kind, "Class": "", "Name": name, "Action": action })
        });
        Value::Array(actions.collect())
    }

    fn phrase(&self) -> String {
        let named = self.actions.iter().take(SCOPES_NAMED_MAX).map(|of| match &of.repository {
            Some(name) => format!("{} {name}", verb(of.action)),
            None => verb(of.action).to_owned(),
        });
        let mut phrase = named.collect::<Vec<_>>().join(", ");
        if let Some(more) = self.actions.len().checked_sub(SCOPES_NAMED_MAX)
            && more > 0
        {
            phrase += &format!(" and {more} more");
        }
        phrase
    }
}

impl fmt::Display for RefusedAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let phrase = match self.phrase() {
            phrase if phrase.is_empty() => "use this registry".to_owned(),
            phrase => phrase,
        };
        match &self.by {
            CredentialState::No => write!(f, "authentication required to {phrase}")?,
            CredentialState::Invalid => {
                write!(f, "authentication required to {phrase}: the credentials are not valid")?;
            }
            CredentialState::As(identity) => write!(f, "{identity} may not {phrase}")?,
            CredentialState::Narrowed(identity) => {
                write!(f, "the token of {identity} was not issued to {phrase}")?;
            }
        }
        match &self.cause {
            Some(cause) => write!(f, ": {cause}"),
            None => Ok(()),
        }
    }
}

const fn verb(action: AccessAction) -> &'static str {
    match action {
        AccessAction::Pull => "pull from",
        AccessAction::Push => "push to",
        AccessAction::Delete => "delete from",
        AccessAction::List => "list the repositories",
        AccessAction::Mount => "mount from",
        AccessAction::Admin => "administer the registry",
        AccessAction::Fetch => "fetch for",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_refusal_names_identity_action_and_repository() {
        let push = Right::Push("other/app".parse().unwrap());
        let alice = || "alice".to_owned();
        for (by, right, text) in [
            (CredentialState::As(alice()), &push, "alice may not push to other/app"),
            (CredentialState::No, &push, "authentication required to push to other/app"),
            (
                CredentialState::Invalid,
                &push,
                "authentication required to push to other/app: the credentials are not valid",
            ),
            (
                CredentialState::Narrowed(alice()),
                &push,
                "the token of alice was not issued to push to other/app",
            ),
            (CredentialState::No, &Right::Enter, "authentication required to use this registry"),
            (CredentialState::As(alice()), &Right::List, "alice may not list the repositories"),
        ] {
            assert_eq!(RefusedAccess::new(by, right).to_string(), text);
        }
        let detail = RefusedAccess::new(CredentialState::No, &push).detail();
        let action = json!({
            "Type": "repository", "Class": "", "Name": "other/app", "Action": "push",
        });
        assert_eq!(detail, json!([action]));
    }

    #[test]
    fn a_refused_token_names_a_few_scopes_and_counts_the_rest() {
        let scope =
            TokenScope::parse(["repository:a:pull,push repository:b:pull repository:c:delete"]);
        let access = RefusedAccess::of_scope(CredentialState::No, &scope);
        assert_eq!(
            access.to_string(),
            "authentication required to pull from a, push to a, pull from b and 1 more"
        );
        assert_eq!(access.detail().as_array().unwrap().len(), 4);
    }
}
