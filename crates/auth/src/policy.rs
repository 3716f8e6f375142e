//! [`Policy`]: the rules of a policy file, and their decision on a request.
//!
//! - A rule applies if one of its subjects is the identity, all of its claims are the identity's,
//!   its actions name the action, one of its patterns matches the repository, and its condition
//!   holds.
//! - A deny rule takes precedence over all allow rules. Everything that no rule allows is denied.
//! - A condition that cannot be evaluated never grants access: an allow rule does not apply
//!   then, a deny rule does.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::time::SystemTime;

use jreg_oci::{InvalidRepositoryPattern, RepositoryName, RepositoryPattern};
use serde::Deserialize;

use crate::condition::PolicyCondition;
use crate::credentials::USER_BYTES_MAX;
use crate::evaluation::PolicyEvaluation;
use crate::issuer::{Issuer, IssuerSpec};
use crate::scope::AccessActions;
use crate::tested::TestedClaims;
use crate::{AccessAction, AccessToken, ClientCertificate, Identity, IdentitySource, TokenScope};

/// Maximum size of a policy file, in bytes.
pub const POLICY_BYTES_MAX: usize = 1024 * 1024;
/// Maximum rules, each of which may be evaluated for each request.
const RULES_MAX: usize = 1000;
/// Maximum issuers.
const ISSUERS_MAX: usize = 32;

/// The authorization rules.
#[derive(Debug, Default)]
pub struct Policy {
    groups: BTreeMap<String, BTreeSet<String>>,
    rules: Vec<PolicyRule>,
    issuers: Vec<Issuer>,
    /// All claims and groups that rules test.
    tested: TestedClaims,
    /// Those whose absence may allow something: of deny rules and of conditions.
    decisive: TestedClaims,
}

#[derive(Debug)]
pub(crate) struct PolicyRule {
    pub(crate) name: String,
    is_built_in: bool,
    subjects: Vec<RuleSubject>,
    claims: BTreeMap<String, String>,
    repositories: Vec<RepositoryPattern>,
    actions: AccessActions,
    pub(crate) denies: bool,
    pub(crate) condition: Option<PolicyCondition>,
}

/// The clients that a rule matches.
#[derive(Clone, Debug, PartialEq, Eq)]
enum RuleSubject {
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

/// The tag of a query, if known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueryTag<'a> {
    No,
    Is(&'a str),
    /// Not known yet: a token is requested. A condition on the tag is assumed to hold in an allow rule
    /// and not to hold in a deny rule; the request with the token is decided again.
    Unknown,
}

impl<'a> QueryTag<'a> {
    /// The tag, if there is one.
    pub fn known(self) -> Option<&'a str> {
        match self {
            Self::Is(tag) => Some(tag),
            Self::No | Self::Unknown => None,
        }
    }
}

/// The request that a policy decides.
#[derive(Clone, Copy, Debug)]
pub struct PolicyQuery<'a> {
    pub identity: &'a Identity,
    /// The verified client certificate.
    pub certificate: Option<&'a ClientCertificate>,
    pub action: AccessAction,
    /// `None` for actions without a repository.
    pub repository: Option<&'a RepositoryName>,
    pub tag: QueryTag<'a>,
    /// The client's address.
    pub address: Option<IpAddr>,
    pub now: SystemTime,
}

/// The grants of the credentials themselves, in addition to the rules.
#[derive(Clone, Copy, Debug)]
pub enum CredentialGrants<'a> {
    None,
    AccessToken(&'a AccessToken),
    /// The `access` claim of another token service.
    Access(&'a TokenScope),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyDecision {
    pub allowed: bool,
    pub reason: DecisionReason,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DecisionReason {
    Rule {
        /// From 1 in the file; `None` for a built-in rule.
        number: Option<usize>,
        name: String,
    },
    /// The condition of a deny rule cannot be evaluated.
    Condition {
        name: String,
        error: String,
    },
    /// By the grants of the credentials.
    Credentials(String),
    NoRule,
    TokenScope,
    /// Authentication is off.
    Open,
}

impl fmt::Display for DecisionReason {
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

/// Error of an invalid policy file.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    #[error("it is larger than {POLICY_BYTES_MAX} bytes")]
    TooLarge,
    /// Not TOML, or unknown keys.
    #[error("{0}")]
    Syntax(String),
    #[error("it has more than {max} {what}")]
    TooMany { what: &'static str, max: usize },
    #[error("rule {number} ({name}): {why}")]
    Rule {
        /// From 1.
        number: usize,
        name: String,
        why: String,
    },
    #[error("group {name:?}: {why}")]
    Group { name: String, why: String },
    #[error("issuer {name:?}: {why}")]
    Issuer { name: String, why: String },
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
    effect: RuleEffect,
    #[serde(default)]
    condition: Option<String>,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RuleEffect {
    #[default]
    Allow,
    Deny,
}

impl Policy {
    /// Parses a policy file.
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
            policy.note_tested(&rule);
            policy.rules.push(rule);
        }
        Ok(policy)
    }

    fn note_tested(&mut self, rule: &PolicyRule) {
        let mut tested = TestedClaims::default();
        rule.claims.keys().for_each(|claim| tested.add_claim(claim));
        for subject in &rule.subjects {
            if let RuleSubject::Group(group) = subject {
                tested.add_group(group);
            }
        }
        if rule.denies {
            self.decisive.extend(&tested);
        }
        if let Some(condition) = &rule.condition {
            tested.extend(condition.tested());
            self.decisive.extend(condition.tested());
        }
        self.tested.extend(&tested);
    }

    /// The policy without a file: every user of a htpasswd file may do everything but administer the registry.
    pub fn of_users() -> Self {
        let all = [
            AccessAction::Pull,
            AccessAction::Push,
            AccessAction::Delete,
            AccessAction::List,
            AccessAction::Mount,
        ];
        let name = "users may use all repositories (no policy file)";
        let rule = built_in(name, vec![RuleSubject::Users], &all);
        Self { rules: vec![rule], ..Self::default() }
    }

    /// Adds a rule: these identities may administer the registry.
    #[must_use]
    pub fn with_admins(mut self, names: &[String]) -> Self {
        if !names.is_empty() {
            let subjects = names.iter().cloned().map(RuleSubject::User).collect();
            self.rules.push(built_in("admins", subjects, &[AccessAction::Admin]));
        }
        self
    }

    /// Adds a rule: every client may pull, and list the repositories.
    #[must_use]
    pub fn with_anonymous_pull(mut self) -> Self {
        let actions = [AccessAction::Pull, AccessAction::List, AccessAction::Mount];
        self.rules.push(built_in("anonymous-pull", vec![RuleSubject::Everyone], &actions));
        self
    }

    pub(crate) fn rules(&self) -> &[PolicyRule] {
        &self.rules
    }

    /// The trusted issuers.
    pub fn issuers(&self) -> &[Issuer] {
        &self.issuers
    }

    /// The claims and groups that rules test: all that a browser session needs to have.
    pub fn tested_claims(&self) -> &TestedClaims {
        &self.tested
    }

    /// Changes with the claims and groups whose absence may allow something. A session that began
    /// before such a change must not be used.
    pub fn decisive_claims(&self) -> String {
        self.decisive.fingerprint()
    }

    /// Whether anonymous clients may do anything.
    pub fn has_anonymous(&self) -> bool {
        let is_open = |subject: &RuleSubject| {
            matches!(subject, RuleSubject::Everyone | RuleSubject::Anonymous)
        };
        self.rules.iter().any(|rule| !rule.denies && rule.subjects.iter().any(is_open))
    }

    /// Whether a rule may let anonymous clients pull something below a prefix, whatever its condition
    /// and the deny rules say.
    pub fn may_anonymous_pull_below(&self, prefix: &RepositoryName) -> bool {
        let is_open = |rule: &PolicyRule| {
            !rule.denies
                && rule.actions.contains(AccessAction::Pull)
                && rule.subjects.iter().any(|subject| {
                    matches!(subject, RuleSubject::Everyone | RuleSubject::Anonymous)
                })
        };
        let reaches = |pattern: &RepositoryPattern| {
            let literal = pattern.as_str().split('*').next().unwrap_or_default();
            let below = format!("{prefix}/");
            literal.starts_with(&below)
                || below.starts_with(literal) && literal.len() < pattern.as_str().len()
        };
        self.rules.iter().any(|rule| is_open(rule) && rule.repositories.iter().any(reaches))
    }

    /// Decides a request, with the grants of its credentials.
    pub fn decide(&self, query: &PolicyQuery<'_>, grants: CredentialGrants<'_>) -> PolicyDecision {
        PolicyEvaluation::new(self, *query, grants).decide(
            query.action,
            query.repository,
            query.tag,
        )
    }

    /// Whether the decision on a request may depend on its tag.
    pub fn depends_on_tag(&self, query: &PolicyQuery<'_>) -> bool {
        self.rules.iter().any(|rule| {
            rule.condition.as_ref().is_some_and(PolicyCondition::needs_tag)
                && rule.covers(query)
                && self.is_about(rule, query)
        })
    }

    /// Whether a rule matches the client.
    pub(crate) fn is_about(&self, rule: &PolicyRule, query: &PolicyQuery<'_>) -> bool {
        rule.subjects.iter().any(|subject| self.is_subject(subject, query))
            && rule.claims.iter().all(|(name, wanted)| has_claim(query.identity, name, wanted))
    }

    fn is_subject(&self, subject: &RuleSubject, query: &PolicyQuery<'_>) -> bool {
        let named = match query.identity {
            Identity::Anonymous => None,
            Identity::Named(named) => Some(&**named),
        };
        let source = named.map(|named| &named.source);
        let certificate = query.certificate;
        match subject {
            RuleSubject::Everyone => true,
            RuleSubject::Anonymous => named.is_none(),
            RuleSubject::Authenticated => named.is_some(),
            RuleSubject::Users => source == Some(&IdentitySource::Htpasswd),
            RuleSubject::User(name) => named.is_some_and(|named| named.name == *name),
            RuleSubject::AccessToken(name) => {
                matches!(source, Some(IdentitySource::AccessToken(_)))
                    && named.and_then(|named| named.name.strip_prefix("access-token:"))
                        == Some(name)
            }
            RuleSubject::Issuer(name) => {
                matches!(source, Some(IdentitySource::Issuer(issuer)) if issuer == name)
            }
            RuleSubject::Group(group) => named.is_some_and(|named| {
                named.groups.contains(group)
                    || self.groups.get(group).is_some_and(|members| members.contains(&named.name))
            }),
            RuleSubject::AnyCertificate => certificate.is_some(),
            RuleSubject::CommonName(name) => {
                certificate.is_some_and(|of| of.common_name.as_ref() == Some(name))
            }
            RuleSubject::Uri(uri) => certificate.is_some_and(|of| of.uris.contains(uri)),
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

    fn rule(&self, spec: RuleSpec, name: &str) -> Result<PolicyRule, String> {
        if spec.subjects.is_empty() {
            return Err("it has no subjects: name at least one, such as \"everyone\"".to_owned());
        }
        let subjects =
            spec.subjects.iter().map(|text| self.subject(text)).collect::<Result<_, _>>()?;
        if spec.actions.is_empty() {
            return Err("it has no actions".to_owned());
        }
        let mut actions = AccessActions::default();
        for word in &spec.actions {
            let action = AccessAction::named(word).ok_or_else(|| unknown_action(word))?;
            actions = actions.with(action);
        }
        let patterns = spec.repositories.iter().map(|text| text.parse());
        let repositories: Vec<RepositoryPattern> = patterns
            .collect::<Result<_, _>>()
            .map_err(|error: InvalidRepositoryPattern| error.to_string())?;
        if repositories.is_empty() && actions.iter().any(AccessAction::has_repository) {
            return Err("it has no repositories: name at least one, such as \"**\"".to_owned());
        }
        let condition = spec.condition.as_deref().map(PolicyCondition::compile).transpose();
        let condition = condition.map_err(|why| format!("its condition cannot be used: {why}"))?;
        let denies = matches!(spec.effect, RuleEffect::Deny);
        let name = name.to_owned();
        Ok(PolicyRule {
            name,
            is_built_in: false,
            subjects,
            claims: spec.claims,
            repositories,
            actions,
            denies,
            condition,
        })
    }

    fn subject(&self, text: &str) -> Result<RuleSubject, String> {
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
                "everyone" => Ok(RuleSubject::Everyone),
                "anonymous" => Ok(RuleSubject::Anonymous),
                "authenticated" => Ok(RuleSubject::Authenticated),
                "users" => Ok(RuleSubject::Users),
                "certificate" => Ok(RuleSubject::AnyCertificate),
                _ => Err(unknown()),
            },
            Some(("user", name)) => Ok(RuleSubject::User(rest(name)?)),
            Some(("group", name)) if name.contains(':') || self.groups.contains_key(name) => {
                Ok(RuleSubject::Group(rest(name)?))
            }
            Some(("group", name)) => Err(format!("there is no group {name:?} below [groups]")),
            Some(("access-token", name)) => Ok(RuleSubject::AccessToken(rest(name)?)),
            Some(("issuer", name)) if self.issuers.iter().any(|issuer| issuer.name() == name) => {
                Ok(RuleSubject::Issuer(rest(name)?))
            }
            Some(("issuer", name)) => Err(format!("there is no [[issuer]] with name = {name:?}")),
            Some(("certificate", of)) => match of.split_once('=') {
                Some(("cn", name)) => Ok(RuleSubject::CommonName(rest(name)?)),
                Some(("uri", uri)) => Ok(RuleSubject::Uri(rest(uri)?)),
                _ => Err(unknown()),
            },
            Some(_) => Err(unknown()),
        }
    }
}

fn unknown_action(word: &str) -> String {
    let known: Vec<_> = AccessAction::ALL.into_iter().map(AccessAction::as_str).collect();
    format!("action {word:?} is none of {}", known.join(", "))
}

fn built_in(name: &str, subjects: Vec<RuleSubject>, actions: &[AccessAction]) -> PolicyRule {
    let everywhere = "**".parse().into_iter().collect();
    PolicyRule {
        name: name.to_owned(),
        is_built_in: true,
        subjects,
        claims: BTreeMap::new(),
        repositories: everywhere,
        actions: AccessActions::of(actions),
        denies: false,
        condition: None,
    }
}

pub(crate) fn granted(
    grants: CredentialGrants<'_>,
    query: &PolicyQuery<'_>,
) -> Option<DecisionReason> {
    match grants {
        CredentialGrants::None => None,
        CredentialGrants::AccessToken(access_token) => {
            access_token.allows(query.action, query.repository).then(|| {
                DecisionReason::Credentials(format!(
                    "the scope of access token {}",
                    access_token.name
                ))
            })
        }
        CredentialGrants::Access(scope) => scope
            .allows(query.action, query.repository)
            .then(|| DecisionReason::Credentials("the token's access claim".to_owned())),
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

impl PolicyRule {
    /// Whether it covers the action and the repository. A pull includes mounting, and for
    /// authenticated identities fetching.
    pub(crate) fn covers(&self, query: &PolicyQuery<'_>) -> bool {
        let is_included = match query.action {
            AccessAction::Mount => true,
            AccessAction::Fetch => self.denies || *query.identity != Identity::Anonymous,
            _ => false,
        };
        let is_action = self.actions.contains(query.action)
            || is_included && self.actions.contains(AccessAction::Pull);
        is_action
            && match query.repository {
                Some(name) => self.repositories.iter().any(|pattern| pattern.matches(name)),
                None => true,
            }
    }

    pub(crate) fn reason(&self, index: usize) -> DecisionReason {
        let number = (!self.is_built_in).then_some(index + 1);
        DecisionReason::Rule { number, name: self.name.clone() }
    }
}

#[cfg(test)]
mod tests;
