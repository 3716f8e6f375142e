//! [`Policy`]: the rules of one file, and what they say of a request.
//!
//! - A rule applies if one of its subjects is the identity, all of its claims are the identity's,
//!   its actions name the action, one of its patterns matches the repository, and its condition
//!   holds.
//! - One that denies wins over any that allow. What no rule allows is denied.
//! - A condition that cannot be evaluated never lets anybody in: a rule that allows does not apply
//!   then, a rule that denies does.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::time::SystemTime;

use jreg_oci::RepositoryName;
use serde::Deserialize;

use crate::condition::Condition;
use crate::credentials::USER_BYTES_MAX;
use crate::evaluation::Evaluation;
use crate::issuer::{Issuer, IssuerSpec};
use crate::scope::Actions;
use crate::{AccessToken, Action, Certificate, Identity, InvalidPattern, Pattern, Scope, Source};

/// The largest policy file, in bytes.
pub const POLICY_BYTES_MAX: usize = 1024 * 1024;
/// The most rules, each of which may be looked at for each request.
const RULES_MAX: usize = 1000;
/// The most issuers.
const ISSUERS_MAX: usize = 32;

/// Who may do what.
#[derive(Debug, Default)]
pub struct Policy {
    groups: BTreeMap<String, BTreeSet<String>>,
    rules: Vec<Rule>,
    issuers: Vec<Issuer>,
}

#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) name: String,
    subjects: Vec<Subject>,
    claims: BTreeMap<String, String>,
    repositories: Vec<Pattern>,
    actions: Actions,
    pub(crate) denies: bool,
    pub(crate) condition: Option<Condition>,
}

/// Whom a rule is about.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Subject {
    Everyone,
    Anonymous,
    Authenticated,
    Users,
    User(String),
    Group(String),
    AccessToken(String),
    Issuer(String),
    AnyCertificate,
    CommonName(String),
    Uri(String),
}

/// Whether a tag is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tagged<'a> {
    /// The request names none.
    No,
    /// The request names this one.
    Is(&'a str),
    /// Not yet: a token is asked for. A condition on the tag is taken to hold in a rule that
    /// allows and not to hold in one that denies; the request with the token is decided again.
    Unknown,
}

impl<'a> Tagged<'a> {
    /// The tag, if there is one.
    pub fn known(self) -> Option<&'a str> {
        match self {
            Self::Is(tag) => Some(tag),
            Self::No | Self::Unknown => None,
        }
    }
}

/// What is asked of a policy.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    /// Who asks.
    pub identity: &'a Identity,
    /// The client certificate, if one was verified.
    pub certificate: Option<&'a Certificate>,
    /// What they want to do.
    pub action: Action,
    /// With which repository; `None` for what concerns none.
    pub repository: Option<&'a RepositoryName>,
    /// The tag that is pushed, pulled or deleted.
    pub tag: Tagged<'a>,
    /// Where the client is.
    pub address: Option<IpAddr>,
    /// When.
    pub now: SystemTime,
}

/// What the credentials themselves grant, beside the rules.
#[derive(Clone, Copy, Debug)]
pub enum Grants<'a> {
    /// Nothing.
    None,
    /// What an access token says.
    AccessToken(&'a AccessToken),
    /// What the token of another token service says.
    Access(&'a Scope),
}

/// What a policy says, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether it is allowed.
    pub allowed: bool,
    /// Why.
    pub reason: Reason,
}

/// Why something is allowed or denied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// This rule says so.
    Rule {
        /// Its place in the file, from 1; `None` for one that no file holds.
        number: Option<usize>,
        /// Its name.
        name: String,
    },
    /// A rule that denies has a condition that cannot be evaluated.
    Condition {
        /// The rule's name.
        name: String,
        /// What is wrong.
        error: String,
    },
    /// The credentials themselves say so.
    Credentials(String),
    /// No rule allows it.
    NoRule,
    /// The token was not issued for it.
    TokenScope,
    /// Nobody is asked who they are.
    Open,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule { number: Some(number), name } => write!(f, "rule {number} ({name})"),
            Self::Rule { number: None, name } => write!(f, "{name}"),
            Self::Condition { name, error } => {
                write!(f, "rule {name} denies, whose condition cannot be evaluated: {error}")
            }
            Self::Credentials(what) => f.write_str(what),
            Self::NoRule => f.write_str("no rule allows it"),
            Self::TokenScope => f.write_str("the token is not for it"),
            Self::Open => f.write_str("everything is open"),
        }
    }
}

/// Why a policy cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The file is too large.
    #[error("it is larger than {POLICY_BYTES_MAX} bytes")]
    TooLarge,
    /// It is not TOML, or has keys that do not belong there.
    #[error("{0}")]
    Syntax(String),
    /// There are too many of something.
    #[error("it has more than {max} {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many are allowed.
        max: usize,
    },
    /// A rule is wrong.
    #[error("rule {number} ({name}): {why}")]
    Rule {
        /// Which, from 1.
        number: usize,
        /// Its name.
        name: String,
        /// What is wrong and what is allowed.
        why: String,
    },
    /// A group is wrong.
    #[error("group {name:?}: {why}")]
    Group {
        /// Which.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// An issuer is wrong.
    #[error("issuer {name:?}: {why}")]
    Issuer {
        /// Which.
        name: String,
        /// What is wrong.
        why: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileSpec {
    #[serde(default)]
    groups: BTreeMap<String, BTreeSet<String>>,
    #[serde(default, rename = "rule")]
    rules: Vec<RuleSpec>,
    #[serde(default, rename = "issuer")]
    issuers: Vec<IssuerSpec>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleSpec {
    #[serde(default)]
    name: Option<String>,
    subjects: Vec<String>,
    #[serde(default)]
    claims: BTreeMap<String, String>,
    #[serde(default)]
    repositories: Vec<String>,
    actions: Vec<String>,
    #[serde(default)]
    effect: Effect,
    #[serde(default)]
    condition: Option<String>,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Effect {
    #[default]
    Allow,
    Deny,
}

impl Policy {
    /// Reads a policy file.
    ///
    /// # Errors
    ///
    /// [`PolicyError`].
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        if text.len() > POLICY_BYTES_MAX {
            return Err(PolicyError::TooLarge);
        }
        let spec: FileSpec =
            toml::from_str(text).map_err(|error| PolicyError::Syntax(error.to_string()))?;
        if spec.rules.len() > RULES_MAX {
            return Err(PolicyError::TooMany { what: "rules", max: RULES_MAX });
        }
        if spec.issuers.len() > ISSUERS_MAX {
            return Err(PolicyError::TooMany { what: "issuers", max: ISSUERS_MAX });
        }
        let mut policy = Self { groups: spec.groups, ..Self::default() };
        policy.check_groups()?;
        for issuer in spec.issuers {
            let name = issuer.name.clone();
            let wrong = |why| PolicyError::Issuer { name: name.clone(), why };
            if policy.issuers.iter().any(|other| other.name() == name) {
                return Err(wrong("there are two of this name".to_owned()));
            }
            policy.issuers.push(Issuer::new(issuer).map_err(wrong)?);
        }
        for (number, rule) in (1..).zip(spec.rules) {
            let name = rule.name.clone().unwrap_or_else(|| "without a name".to_owned());
            let rule = policy.rule(rule, &name);
            let rule = rule.map_err(|why| PolicyError::Rule { number, name, why })?;
            policy.rules.push(rule);
        }
        Ok(policy)
    }

    /// What holds where no file is given: every user of a htpasswd file may do everything.
    pub fn of_users() -> Self {
        let all = [
            Action::Pull,
            Action::Push,
            Action::Delete,
            Action::List,
            Action::Mount,
            Action::Admin,
        ];
        let rule = built_in("users may do everything (no policy file)", Subject::Users, &all);
        Self { rules: vec![rule], ..Self::default() }
    }

    /// The same with one more rule: everyone may pull, and list what they may pull.
    #[must_use]
    pub fn with_anonymous_pull(mut self) -> Self {
        let actions = [Action::Pull, Action::List, Action::Mount];
        self.rules.push(built_in("anonymous-pull", Subject::Everyone, &actions));
        self
    }

    pub(crate) fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Those whose tokens are believed.
    pub fn issuers(&self) -> &[Issuer] {
        &self.issuers
    }

    /// Whether somebody without credentials may do anything at all.
    pub fn has_anonymous(&self) -> bool {
        let is_open = |subject: &Subject| matches!(subject, Subject::Everyone | Subject::Anonymous);
        self.rules.iter().any(|rule| !rule.denies && rule.subjects.iter().any(is_open))
    }

    /// What the rules say of a request, with what its credentials grant.
    pub fn decide(&self, query: &Query<'_>, grants: Grants<'_>) -> Decision {
        Evaluation::new(self, *query, grants).decide(query.action, query.repository, query.tag)
    }

    /// Whether what the rules say of a request may depend on its tag.
    pub fn depends_on_tag(&self, query: &Query<'_>) -> bool {
        self.rules.iter().any(|rule| {
            rule.condition.as_ref().is_some_and(Condition::needs_tag)
                && rule.covers(query)
                && self.is_about(rule, query)
        })
    }

    /// Whether a rule is about who asks.
    pub(crate) fn is_about(&self, rule: &Rule, query: &Query<'_>) -> bool {
        rule.subjects.iter().any(|subject| self.is_subject(subject, query))
            && rule.claims.iter().all(|(name, wanted)| has_claim(query.identity, name, wanted))
    }

    fn is_subject(&self, subject: &Subject, query: &Query<'_>) -> bool {
        let named = match query.identity {
            Identity::Anonymous => None,
            Identity::Named(named) => Some(&**named),
        };
        let source = named.map(|named| &named.source);
        let certificate = query.certificate;
        match subject {
            Subject::Everyone => true,
            Subject::Anonymous => named.is_none(),
            Subject::Authenticated => named.is_some(),
            Subject::Users => source == Some(&Source::Htpasswd),
            Subject::User(name) => named.is_some_and(|named| named.name == *name),
            Subject::AccessToken(name) => {
                matches!(source, Some(Source::AccessToken(_)))
                    && named.and_then(|named| named.name.strip_prefix("access-token:"))
                        == Some(name)
            }
            Subject::Issuer(name) => {
                matches!(source, Some(Source::Issuer(issuer)) if issuer == name)
            }
            Subject::Group(group) => named.is_some_and(|named| {
                named.groups.contains(group)
                    || self.groups.get(group).is_some_and(|members| members.contains(&named.name))
            }),
            Subject::AnyCertificate => certificate.is_some(),
            Subject::CommonName(name) => {
                certificate.is_some_and(|of| of.common_name.as_ref() == Some(name))
            }
            Subject::Uri(uri) => certificate.is_some_and(|of| of.uris.contains(uri)),
        }
    }

    fn check_groups(&self) -> Result<(), PolicyError> {
        for (name, members) in &self.groups {
            let wrong = |why: &str| PolicyError::Group { name: name.clone(), why: why.to_owned() };
            if name.is_empty() || name.contains(':') {
                return Err(wrong("its name must not be empty nor have a colon"));
            }
            if members.iter().any(|member| member.is_empty() || member.len() > 2 * USER_BYTES_MAX) {
                return Err(wrong("its members must be names"));
            }
        }
        Ok(())
    }

    fn rule(&self, spec: RuleSpec, name: &str) -> Result<Rule, String> {
        if spec.subjects.is_empty() {
            return Err("it has no subjects: name at least one, such as \"everyone\"".to_owned());
        }
        let subjects =
            spec.subjects.iter().map(|text| self.subject(text)).collect::<Result<_, _>>()?;
        if spec.actions.is_empty() {
            return Err("it has no actions".to_owned());
        }
        let mut actions = Actions::default();
        for word in &spec.actions {
            let action = Action::named(word).ok_or_else(|| unknown_action(word))?;
            actions = actions.with(action);
        }
        let patterns = spec.repositories.iter().map(|text| text.parse());
        let repositories: Vec<Pattern> = patterns
            .collect::<Result<_, _>>()
            .map_err(|error: InvalidPattern| error.to_string())?;
        if repositories.is_empty() && actions.iter().any(Action::has_repository) {
            return Err("it has no repositories: name at least one, such as \"**\"".to_owned());
        }
        let condition = spec.condition.as_deref().map(Condition::compile).transpose();
        let condition = condition.map_err(|why| format!("its condition cannot be used: {why}"))?;
        let denies = matches!(spec.effect, Effect::Deny);
        let name = name.to_owned();
        Ok(Rule { name, subjects, claims: spec.claims, repositories, actions, denies, condition })
    }

    fn subject(&self, text: &str) -> Result<Subject, String> {
        let unknown = || {
            format!(
                "subject {text:?} is none of everyone, anonymous, authenticated, users, \
                 user:NAME, group:NAME, access-token:NAME, issuer:NAME, certificate, \
                 certificate:cn=NAME, certificate:uri=URI"
            )
        };
        let rest = |rest: &str| if rest.is_empty() { Err(unknown()) } else { Ok(rest.to_owned()) };
        match text.split_once(':') {
            None => match text {
                "everyone" => Ok(Subject::Everyone),
                "anonymous" => Ok(Subject::Anonymous),
                "authenticated" => Ok(Subject::Authenticated),
                "users" => Ok(Subject::Users),
                "certificate" => Ok(Subject::AnyCertificate),
                _ => Err(unknown()),
            },
            Some(("user", name)) => Ok(Subject::User(rest(name)?)),
            Some(("group", name)) if name.contains(':') || self.groups.contains_key(name) => {
                Ok(Subject::Group(rest(name)?))
            }
            Some(("group", name)) => Err(format!("there is no group {name:?} below [groups]")),
            Some(("access-token", name)) => Ok(Subject::AccessToken(rest(name)?)),
            Some(("issuer", name)) if self.issuers.iter().any(|issuer| issuer.name() == name) => {
                Ok(Subject::Issuer(rest(name)?))
            }
            Some(("issuer", name)) => Err(format!("there is no [[issuer]] with name = {name:?}")),
            Some(("certificate", of)) => match of.split_once('=') {
                Some(("cn", name)) => Ok(Subject::CommonName(rest(name)?)),
                Some(("uri", uri)) => Ok(Subject::Uri(rest(uri)?)),
                _ => Err(unknown()),
            },
            Some(_) => Err(unknown()),
        }
    }
}

fn unknown_action(word: &str) -> String {
    let known: Vec<_> = Action::ALL.into_iter().map(Action::as_str).collect();
    format!("action {word:?} is none of {}", known.join(", "))
}

fn built_in(name: &str, subject: Subject, actions: &[Action]) -> Rule {
    let everywhere = "**".parse().into_iter().collect();
    Rule {
        name: name.to_owned(),
        subjects: vec![subject],
        claims: BTreeMap::new(),
        repositories: everywhere,
        actions: Actions::of(actions),
        denies: false,
        condition: None,
    }
}

pub(crate) fn granted(grants: Grants<'_>, query: &Query<'_>) -> Option<Reason> {
    match grants {
        Grants::None => None,
        Grants::AccessToken(access_token) => {
            access_token.allows(query.action, query.repository).then(|| {
                Reason::Credentials(format!("the scope of access token {}", access_token.name))
            })
        }
        Grants::Access(scope) => scope
            .allows(query.action, query.repository)
            .then(|| Reason::Credentials("the token's access claim".to_owned())),
    }
}

fn has_claim(identity: &Identity, name: &str, wanted: &str) -> bool {
    let Identity::Named(named) = identity else { return false };
    match named.claims.get(name) {
        Some(serde_json::Value::String(text)) => text == wanted,
        Some(serde_json::Value::Bool(flag)) => flag.to_string() == wanted,
        Some(serde_json::Value::Number(number)) => number.to_string() == wanted,
        Some(serde_json::Value::Array(items)) => {
            items.iter().any(|item| item.as_str() == Some(wanted))
        }
        Some(_) | None => false,
    }
}

impl Rule {
    /// Whether it is about the action and the repository. Allowing a pull allows mounting, and
    /// denying a pull denies it.
    pub(crate) fn covers(&self, query: &Query<'_>) -> bool {
        let is_action = self.actions.contains(query.action)
            || (query.action == Action::Mount && self.actions.contains(Action::Pull));
        is_action
            && match query.repository {
                Some(name) => self.repositories.iter().any(|pattern| pattern.matches(name)),
                None => true,
            }
    }

    pub(crate) fn reason(&self, index: usize) -> Reason {
        let is_built_in = self.name == "anonymous-pull" || self.name.ends_with("(no policy file)");
        let number = (!is_built_in).then_some(index + 1);
        Reason::Rule { number, name: self.name.clone() }
    }
}

#[cfg(test)]
mod tests;
