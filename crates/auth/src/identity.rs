//! [`Identity`]: who asks, and [`Certificate`]: with what certificate.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

/// What a token says of its holder: text, numbers and flags as text, lists of them as lists.
pub type Claims = BTreeMap<String, serde_json::Value>;

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// Nobody in particular.
    Anonymous,
    /// Somebody.
    Named(Box<Named>),
}

/// Somebody who was recognised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// The name. What is not a user of a htpasswd file carries its source before a colon
    /// (`access-token:ci`, `github:acme/app`), and no user's name has a colon: nobody can take the name of
    /// another.
    pub name: String,
    /// The groups that the source names, with the source before a colon. The groups of the policy
    /// file are not among them.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub groups: BTreeSet<String>,
    /// What the source says besides.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub claims: Claims,
    /// Where the identity comes from.
    pub source: Source,
}

impl Named {
    /// Whether the source gives such names: a user of a htpasswd file has no colon in the name and
    /// no groups, every other name and group carries its source before a colon.
    pub fn fits_source(&self) -> bool {
        let is_prefixed = |text: &str, source: &str| {
            text.strip_prefix(source).is_some_and(|rest| rest.starts_with(':'))
        };
        match &self.source {
            Source::Htpasswd => !self.name.contains(':') && self.groups.is_empty(),
            Source::AccessToken(_) => {
                is_prefixed(&self.name, "access-token") && self.groups.is_empty()
            }
            Source::Certificate => is_prefixed(&self.name, "certificate") && self.groups.is_empty(),
            Source::Issuer(issuer) => {
                is_prefixed(&self.name, issuer)
                    && self.groups.iter().all(|group| is_prefixed(group, issuer))
            }
        }
    }
}

/// Where an identity comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// A htpasswd file.
    Htpasswd,
    /// An access token with this id.
    AccessToken(String),
    /// A token of this issuer of the policy file.
    Issuer(String),
    /// A client certificate.
    Certificate,
}

impl Identity {
    /// Somebody with a name and nothing else.
    pub fn named(name: impl Into<String>, source: Source) -> Self {
        let (groups, claims) = Default::default();
        Self::Named(Box::new(Named { name: name.into(), groups, claims, source }))
    }

    /// Who it is, unless it is nobody.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Anonymous => None,
            Self::Named(named) => Some(&named.name),
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name().unwrap_or("anonymous"))
    }
}

/// A client certificate that was verified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Certificate {
    /// The common name of its subject.
    pub common_name: Option<String>,
    /// The URIs among its subject's alternative names.
    pub uris: Vec<String>,
}

impl Certificate {
    /// Who presents it: by its first URI, otherwise by its common name. `None`: it names nobody.
    pub fn identity(&self) -> Option<Identity> {
        let name = self.uris.first().or(self.common_name.as_ref())?;
        Some(Identity::named(format!("certificate:{name}"), Source::Certificate))
    }
}
