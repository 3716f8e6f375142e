//! `jreg policy`: evaluates the policy, and shows which rule decides.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::SystemTime;

use jreg_auth::Policy;

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
    policy = policy.with_admins(&question.admins);
    let mut text = String::new();
    let mut allowed = true;
    for (action, decision) in question.test.decide(&policy, SystemTime::now()) {
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use jreg_auth::{AccessAction, PolicyTest};

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
            is_json: false,
            admins: vec!["alice".to_owned()],
            test: PolicyTest {
                identity: Some("alice".to_owned()),
                action: Some(AccessAction::Push),
                repository: "team/app".parse().ok(),
                tag: "v1".parse().ok(),
                ..PolicyTest::default()
            },
        };
        let yes = (true, "push: allowed: rule 1 (dev)\n".to_owned());
        assert_eq!(policy(&question).unwrap(), yes);
        question.test.tag = "latest".parse().ok();
        let no = (false, "push: denied: no rule allows it\n".to_owned());
        assert_eq!(policy(&question).unwrap(), no);
        question.test.identity = None;
        question.test.action = None;
        let (_, text) = policy(&question).unwrap();
        assert_eq!(text.lines().count(), AccessAction::ALL.len());
        question.file = None;
        question.test.identity = Some("anybody".to_owned());
        let (allowed, text) = policy(&question).unwrap();
        assert!(!allowed && text.contains("\nadmin: denied: no rule allows it\n"), "{text}");
        assert_eq!(text.matches("allowed").count(), AccessAction::ALL.len() - 1, "{text}");
        question.test.identity = Some("alice".to_owned());
        let (allowed, text) = policy(&question).unwrap();
        assert!(allowed && text.contains("\nadmin: allowed: admins\n"), "{text}");
    }
}
