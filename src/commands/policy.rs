//! `jreg policy`: evaluates the policy, and shows which rule decides.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::SystemTime;

use jreg_auth::{
    AccessAction, ClientCertificate, CredentialGrants, Identity, IdentitySource, NamedIdentity,
    Policy, PolicyQuery, QueryTag,
};

use serde_json::json;

use super::user::{UserFileError, read, wrong};
use super::{fail, print};
use crate::cli::{PolicyAction, PolicyQuestion};

pub fn run(action: PolicyAction) -> ExitCode {
    let tests = matches!(action, PolicyAction::Test { .. });
    let question = match action.resolve(std::env::vars_os()) {
        Ok(question) => question,
        Err(error) => return fail(2, &error),
    };
    match policy(&question) {
        Ok((allowed, text)) if allowed || !tests => print(&text, ExitCode::SUCCESS),
        Ok((_, text)) => print(&text, ExitCode::from(1)),
        Err(error) => fail(3, &error),
    }
}

/// Evaluates a policy; returns the text to print, and whether the action is allowed.
///
/// # Errors
///
/// [`UserFileError`].
pub fn policy(question: &PolicyQuestion) -> Result<(bool, String), UserFileError> {
    let mut policy = match &question.file {
        Some(path) => {
            Policy::parse(&read(path)?).map_err(|error| wrong(path, error.to_string()))?
        }
        None => Policy::of_users(),
    };
    if question.anonymous_pull {
        policy = policy.with_anonymous_pull();
    }
    let identity = identity(question);
    let certificate = (question.common_name.is_some() || !question.uris.is_empty()).then(|| {
        ClientCertificate { common_name: question.common_name.clone(), uris: question.uris.clone() }
    });
    let actions: Vec<AccessAction> = match question.action {
        Some(action) => vec![action],
        None => AccessAction::ALL.into(),
    };
    let mut text = String::new();
    let mut allowed = true;
    for action in actions {
        let query = PolicyQuery {
            identity: &identity,
            certificate: certificate.as_ref(),
            action,
            repository: question.repository.as_ref().filter(|_| action.has_repository()),
            tag: question.tag.as_ref().map_or(QueryTag::No, |tag| QueryTag::Is(tag.as_str())),
            address: question.address,
            now: SystemTime::now(),
        };
        let decision = policy.decide(&query, CredentialGrants::None);
        allowed &= decision.allowed;
        let word = if decision.allowed { "allowed" } else { "denied" };
        // Writing to a string cannot fail.
        let _ = match question.is_json {
            true => {
                let (allowed, reason) = (decision.allowed, decision.reason.to_string());
                let line =
                    json!({ "action": action.as_str(), "allowed": allowed, "reason": reason });
                writeln!(text, "{line}")
            }
            false => writeln!(text, "{action}: {word}: {}", decision.reason),
        };
    }
    Ok((allowed, text))
}

/// A name has its source as a prefix: `access-token:ci`, `github:acme/app`; a user has none.
fn identity(question: &PolicyQuestion) -> Identity {
    let Some(name) = &question.who else { return Identity::Anonymous };
    let source = match name.split_once(':') {
        None => IdentitySource::Htpasswd,
        Some(("access-token", id)) => IdentitySource::AccessToken(id.to_owned()),
        Some(("certificate", _)) => IdentitySource::Certificate,
        Some((issuer, _)) => IdentitySource::Issuer(issuer.to_owned()),
    };
    let claims = question.claims.iter();
    let claims = claims.map(|(name, value)| (name.clone(), value.as_str().into())).collect();
    let groups = question.groups.iter().cloned().collect();
    Identity::Named(Box::new(NamedIdentity { name: name.clone(), groups, claims, source }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_policy_says_what_and_why() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("policy.toml");
        std::fs::write(
            &file,
            "[groups]\ndev = ['alice']\n[[rule]]\nname = 'dev'\nsubjects = ['group:dev']\n\
             repositories = ['team/**']\nactions = ['push']\ncondition = \"tag != 'latest'\"\n",
        )
        .unwrap();
        let mut question = PolicyQuestion {
            file: Some(file),
            anonymous_pull: false,
            who: Some("alice".to_owned()),
            groups: Vec::new(),
            claims: Vec::new(),
            common_name: None,
            uris: Vec::new(),
            action: Some(AccessAction::Push),
            repository: "team/app".parse().ok(),
            tag: "v1".parse().ok(),
            address: None,
            is_json: false,
        };
        let yes = (true, "push: allowed: rule 1 (dev)\n".to_owned());
        assert_eq!(policy(&question).unwrap(), yes);
        question.tag = "latest".parse().ok();
        let no = (false, "push: denied: no rule allows it\n".to_owned());
        assert_eq!(policy(&question).unwrap(), no);
        question.who = None;
        question.action = None;
        let (_, text) = policy(&question).unwrap();
        assert_eq!(text.lines().count(), AccessAction::ALL.len());
        question.file = None;
        question.who = Some("anybody".to_owned());
        assert!(policy(&question).unwrap().0);
    }
}
