//! [`TestedClaims`]: the claims and groups that a policy tests. A browser session holds no others, as
//! it is a cookie.

use std::collections::BTreeSet;

use crate::NamedIdentity;
use crate::random::sha256_hex;

/// Length of a fingerprint.
const FINGERPRINT_CHARS: usize = 16;

/// Names of claims, or of groups.
#[derive(Clone, Debug, PartialEq, Eq)]
enum TestedNames {
    Named(BTreeSet<String>),
    /// Which ones is not known before a condition is evaluated.
    All,
}

/// The claims and groups that a policy, or a condition, tests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TestedClaims {
    claims: TestedNames,
    groups: TestedNames,
}

impl Default for TestedNames {
    fn default() -> Self {
        Self::Named(BTreeSet::new())
    }
}

impl TestedNames {
    fn add(&mut self, name: &str) {
        if let Self::Named(names) = self {
            names.insert(name.to_owned());
        }
    }

    fn extend(&mut self, others: &Self) {
        match others {
            Self::Named(names) => names.iter().for_each(|name| self.add(name)),
            Self::All => *self = Self::All,
        }
    }

    fn contains(&self, name: &str) -> bool {
        match self {
            Self::Named(names) => names.contains(name),
            Self::All => true,
        }
    }

    /// No name has a control character that is not escaped in JSON.
    fn text(&self) -> String {
        match self {
            Self::Named(names) => serde_json::to_string(names).unwrap_or_default(),
            Self::All => "*".to_owned(),
        }
    }
}

impl TestedClaims {
    pub(crate) fn add_claim(&mut self, name: &str) {
        self.claims.add(name);
    }

    pub(crate) fn add_group(&mut self, name: &str) {
        self.groups.add(name);
    }

    pub(crate) fn add_all_claims(&mut self) {
        self.claims = TestedNames::All;
    }

    pub(crate) fn add_all_groups(&mut self) {
        self.groups = TestedNames::All;
    }

    pub(crate) fn extend(&mut self, others: &Self) {
        self.claims.extend(&others.claims);
        self.groups.extend(&others.groups);
    }

    /// The identity with these claims and groups alone.
    pub fn narrowed(&self, mut identity: NamedIdentity) -> NamedIdentity {
        identity.claims.retain(|name, _| self.claims.contains(name));
        identity.groups.retain(|name| self.groups.contains(name));
        identity
    }

    /// Equal for equal sets.
    pub fn fingerprint(&self) -> String {
        let text = format!("{}\n{}", self.claims.text(), self.groups.text());
        sha256_hex(text.as_bytes()).chars().take(FINGERPRINT_CHARS).collect()
    }
}
