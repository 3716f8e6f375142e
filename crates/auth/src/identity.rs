//! [`Identity`]: the client of a request, and [`ClientCertificate`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The claims of a token.
pub type IdentityClaims = BTreeMap<String, Value>;

/// The client of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    Anonymous,
    Named(Box<NamedIdentity>),
}

/// An authenticated client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedIdentity {
    /// The name. All but users of a htpasswd file have their source before a colon
    /// (`access-token:ci`, `github:acme/app`), and no user's name has a colon: identities cannot be
    /// impersonated across sources.
    pub name: String,
    /// The groups from the source, with the source before a colon; not the groups of the policy
    /// file.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub groups: BTreeSet<String>,
    /// The other claims of the token.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub claims: IdentityClaims,
    pub source: IdentitySource,
}

/// Bytes of an entry of a map or a set besides what it refers to: its place in a node that is half full, and the
/// least that is allocated.
const ENTRY_BYTES: usize = 144;

impl NamedIdentity {
    /// About how many bytes of memory it takes: claims take many times their length as JSON.
    pub fn memory_bytes(&self) -> usize {
        let groups = self.groups.iter().map(|group| ENTRY_BYTES + group.len());
        let claims = self.claims.iter().map(|(name, value)| entry_bytes(name, value));
        size_of::<Self>() + self.name.len() + groups.chain(claims).sum::<usize>()
    }

    /// Whether the source can issue this name and these groups: a user of a htpasswd file has no colon in the name and
    /// no groups, every other name and group has its source before a colon.
    pub fn fits_source(&self) -> bool {
        let is_prefixed = |text: &str, source: &str| {
            text.strip_prefix(source).is_some_and(|rest| rest.starts_with(':'))
        };
        match &self.source {
            IdentitySource::Htpasswd => !self.name.contains(':') && self.groups.is_empty(),
            IdentitySource::AccessToken(_) => {
                is_prefixed(&self.name, "access-token") && self.groups.is_empty()
            }
            IdentitySource::Certificate => {
                is_prefixed(&self.name, "certificate") && self.groups.is_empty()
            }
            // Never in a token.
            IdentitySource::Operator => false,
            IdentitySource::Issuer(issuer) => {
                is_prefixed(&self.name, issuer)
                    && self.groups.iter().all(|group| is_prefixed(group, issuer))
            }
        }
    }
}

/// How a client was authenticated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IdentitySource {
    Htpasswd,
    /// An access token with this id.
    AccessToken(String),
    /// A token of this issuer in the policy file.
    Issuer(String),
    Certificate,
    /// Who may use the control socket of the process.
    Operator,
}

fn entry_bytes(name: &str, value: &Value) -> usize {
    ENTRY_BYTES + name.len() + value_bytes(value)
}

/// Bytes of a value besides the value itself.
fn value_bytes(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        Value::String(text) => text.len(),
        Value::Array(items) => {
            items.capacity() * size_of::<Value>() + items.iter().map(value_bytes).sum::<usize>()
        }
        Value::Object(map) => map.iter().map(|(name, value)| entry_bytes(name, value)).sum(),
    }
}

impl Identity {
    /// A named identity without groups and claims.
    pub fn named(name: impl Into<String>, source: IdentitySource) -> Self {
        let (groups, claims) = Default::default();
        Self::Named(Box::new(NamedIdentity { name: name.into(), groups, claims, source }))
    }

    /// The name; `None` for anonymous clients.
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

/// A verified client certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The common name of the subject.
    pub common_name: Option<String>,
    /// The URIs among the subject alternative names.
    pub uris: Vec<String>,
}

impl ClientCertificate {
    /// The identity by the first URI, otherwise by the common name; `None` if it has neither.
    pub fn identity(&self) -> Option<Identity> {
        let name = self.uris.first().or(self.common_name.as_ref())?;
        Some(Identity::named(format!("certificate:{name}"), IdentitySource::Certificate))
    }
}
