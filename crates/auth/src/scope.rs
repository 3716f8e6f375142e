//! [`TokenScope`]: the permissions of a token, in the grammar of the distribution token specification
//! ("Token TokenScope Documentation").

use std::collections::BTreeMap;
use std::fmt;

use jreg_oci::RepositoryName;
use serde::{Deserialize, Serialize};

/// Maximum scopes of a token request. The rest is not granted.
pub const SCOPES_MAX: usize = 64;
/// Maximum bytes of scopes that are parsed. The rest is not granted.
pub const SCOPE_BYTES_MAX: usize = 16 * 1024;

/// An action that a policy allows or denies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AccessAction {
    /// Read blobs, manifests, tags and referrers of a repository, and mount from it.
    Pull,
    /// Write to a repository.
    Push,
    /// Delete from a repository.
    Delete,
    /// List the catalog, which shows the repositories that may be pulled.
    List,
    /// Mount blobs from a repository into another.
    Mount,
    /// Administer the registry. Reserved.
    Admin,
    /// Have a mirror make requests to the registry that it mirrors.
    Fetch,
}

impl AccessAction {
    /// Every action.
    pub const ALL: [Self; 7] =
        [Self::Pull, Self::Push, Self::Delete, Self::List, Self::Mount, Self::Admin, Self::Fetch];

    /// The name of the action.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "push",
            Self::Delete => "delete",
            Self::List => "list",
            Self::Mount => "mount",
            Self::Admin => "admin",
            Self::Fetch => "fetch",
        }
    }

    /// The action of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.as_str() == name)
    }

    /// Whether it applies to a repository.
    pub const fn has_repository(self) -> bool {
        match self {
            Self::Pull | Self::Push | Self::Delete | Self::Mount | Self::Fetch => true,
            Self::List | Self::Admin => false,
        }
    }
}

impl fmt::Display for AccessAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A set of actions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<AccessAction>", into = "Vec<AccessAction>")]
pub struct AccessActions(u8);

impl AccessActions {
    /// Every action on a repository.
    pub const REPOSITORY: Self =
        Self::of(&[AccessAction::Pull, AccessAction::Push, AccessAction::Delete]);

    /// These actions.
    pub const fn of(actions: &[AccessAction]) -> Self {
        let mut bits = 0;
        let mut rest = actions;
        while let [action, others @ ..] = rest {
            bits |= 1 << *action as u8;
            rest = others;
        }
        Self(bits)
    }

    /// Whether an action is among them.
    pub const fn contains(self, action: AccessAction) -> bool {
        self.0 & (1 << action as u8) != 0
    }

    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// These and others.
    #[must_use]
    pub const fn with(self, action: AccessAction) -> Self {
        Self(self.0 | (1 << action as u8))
    }

    /// The actions in their order.
    pub fn iter(self) -> impl Iterator<Item = AccessAction> {
        AccessAction::ALL.into_iter().filter(move |action| self.contains(*action))
    }
}

impl From<Vec<AccessAction>> for AccessActions {
    fn from(actions: Vec<AccessAction>) -> Self {
        Self::of(&actions)
    }
}

impl From<AccessActions> for Vec<AccessAction> {
    fn from(actions: AccessActions) -> Self {
        actions.iter().collect()
    }
}

impl fmt::Display for AccessActions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<_> = self.iter().map(AccessAction::as_str).collect();
        f.write_str(&words.join(","))
    }
}

/// The permissions of a token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenScope {
    repositories: BTreeMap<RepositoryName, AccessActions>,
    catalog: bool,
}

impl TokenScope {
    /// About how many bytes of memory it takes.
    pub fn memory_bytes(&self) -> usize {
        let names = self
            .repositories
            .keys()
            .map(|name| size_of::<(RepositoryName, AccessActions)>() + name.as_str().len());
        size_of::<Self>() + names.map(|bytes| 2 * bytes).sum::<usize>()
    }
}

/// One entry of the `access` claim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScopeEntry {
    /// `repository` or `registry`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The repository, or `catalog`.
    pub name: String,
    /// `pull`, `push`, `delete` or `*`.
    #[serde(default)]
    pub actions: Vec<String>,
}

impl TokenScope {
    /// Parses requested scopes, separated by spaces, in any number of texts. Unknown ones, and those
    /// beyond the limits, are ignored, so nothing is granted for them.
    ///
    /// ```
    /// # use jreg_auth::{AccessAction, TokenScope};
    /// let scope = TokenScope::parse(["repository:team/app:pull,push registry:catalog:*"]);
    /// assert!(scope.allows(AccessAction::Push, "team/app".parse().ok().as_ref()));
    /// assert!(!scope.allows(AccessAction::Delete, "team/app".parse().ok().as_ref()));
    /// assert!(scope.allows(AccessAction::List, None));
    /// ```
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Self {
        let mut scope = Self::default();
        let mut room = SCOPE_BYTES_MAX;
        let words = texts.into_iter().flat_map(|text| text.split(' '));
        for word in words.filter(|word| !word.is_empty()).take(SCOPES_MAX) {
            let Some(left) = room.checked_sub(word.len()) else { break };
            room = left;
            // Names that begin with a host may have colons; names of this registry do not.
            let mut parts = word.split(':');
            if let (Some(kind), Some(name), Some(actions), None) =
                (parts.next(), parts.next(), parts.next(), parts.next())
            {
                scope.add(kind, name, actions.split(','));
            }
        }
        scope
    }

    /// Parses an `access` claim, by the same rules.
    pub fn of_entries(entries: &[ScopeEntry]) -> Self {
        let mut scope = Self::default();
        for entry in entries.iter().take(SCOPES_MAX) {
            scope.add(&entry.kind, &entry.name, entry.actions.iter().map(String::as_str));
        }
        scope
    }

    /// The `access` claim of this scope.
    pub fn entries(&self) -> Vec<ScopeEntry> {
        let entry = |(name, actions): (&RepositoryName, &AccessActions)| ScopeEntry {
            kind: "repository".to_owned(),
            name: name.to_string(),
            actions: actions.iter().map(|action| action.as_str().to_owned()).collect(),
        };
        let catalog = self.catalog.then(|| ScopeEntry {
            kind: "registry".to_owned(),
            name: "catalog".to_owned(),
            actions: vec!["*".to_owned()],
        });
        self.repositories.iter().map(entry).chain(catalog).collect()
    }

    /// Every action in it, with the repository; `None`: the catalog.
    pub fn wanted(&self) -> impl Iterator<Item = (AccessAction, Option<&RepositoryName>)> {
        let repositories = self.repositories.iter();
        let actions = repositories
            .flat_map(|(name, actions)| actions.iter().map(move |action| (action, Some(name))));
        actions.chain(self.catalog.then_some((AccessAction::List, None)))
    }

    fn add<'a>(&mut self, kind: &str, name: &str, actions: impl Iterator<Item = &'a str>) {
        match kind {
            "repository" => {
                let Ok(name) = name.parse::<RepositoryName>() else { return };
                let actions = actions.fold(AccessActions::default(), |all, word| match word {
                    "pull" => all.with(AccessAction::Pull),
                    "push" => all.with(AccessAction::Push),
                    "delete" => all.with(AccessAction::Delete),
                    "*" => AccessActions(all.0 | AccessActions::REPOSITORY.0),
                    _ => all,
                });
                if !actions.is_empty() {
                    let all = self.repositories.entry(name).or_default();
                    *all = AccessActions(all.0 | actions.0);
                }
            }
            "registry" if name == "catalog" => {
                let mut actions = actions;
                self.catalog |= actions.any(|word| word == "*");
            }
            _ => {}
        }
    }

    /// Adds an action; one on no repository is that of the catalog.
    pub fn grant(&mut self, action: AccessAction, repository: Option<&RepositoryName>) {
        match repository {
            Some(name) => {
                let actions = self.repositories.entry(name.clone()).or_default();
                *actions = actions.with(action);
            }
            None => self.catalog |= action == AccessAction::List,
        }
    }

    /// Whether an action is in it. What may be pulled may be mounted from, and fetched.
    pub fn allows(&self, action: AccessAction, repository: Option<&RepositoryName>) -> bool {
        let actions = repository.and_then(|name| self.repositories.get(name)).copied();
        let actions = actions.unwrap_or_default();
        match action {
            AccessAction::Pull | AccessAction::Mount | AccessAction::Fetch => {
                actions.contains(AccessAction::Pull)
            }
            AccessAction::Push | AccessAction::Delete => actions.contains(action),
            AccessAction::List => self.catalog,
            AccessAction::Admin => false,
        }
    }

    /// Whether it is good for nothing.
    pub fn is_empty(&self) -> bool {
        self.repositories.is_empty() && !self.catalog
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn shown(text: &str) -> String {
        serde_json::to_string(&TokenScope::parse([text]).entries()).unwrap()
    }

    fn name(name: &str) -> RepositoryName {
        name.parse().unwrap()
    }

    #[test]
    fn scopes_of_clients_are_parsed() {
        assert_eq!(
            shown("repository:a/b:pull,push"),
            r#"[{"type":"repository","name":"a/b","actions":["pull","push"]}]"#
        );
        assert_eq!(
            shown("repository:a:pull repository:a:push  repository:b:*"),
            r#"[{"type":"repository","name":"a","actions":["pull","push"]},{"type":"repository","name":"b","actions":["pull","push","delete"]}]"#
        );
        assert_eq!(
            shown("registry:catalog:*"),
            r#"[{"type":"registry","name":"catalog","actions":["*"]}]"#
        );
    }

    #[test]
    fn unknown_scopes_grant_nothing() {
        for text in [
            "",
            " ",
            "repository",
            "repository:a",
            "repository:a:",
            "repository::pull",
            "repository:A:pull",
            "repository:a/../b:pull",
            "repository:a%2fb:pull",
            "repository:host:5000/a:pull",
            "repository:a:admin",
            "repository:a:mount",
            "repository(plugin):a:pull",
            "registry:catalog:pull",
            "registry:other:*",
            "REPOSITORY:a:pull",
        ] {
            assert!(TokenScope::parse([text]).is_empty(), "{text:?}");
        }
    }

    #[test]
    fn scopes_beyond_the_limits_are_ignored() {
        let many: Vec<String> = (0..200).map(|i| format!("repository:r{i}:pull")).collect();
        let scope = TokenScope::parse([many.join(" ").as_str()]);
        assert_eq!(scope.entries().len(), SCOPES_MAX);
        let long = format!("repository:a:{}", "pull,".repeat(SCOPE_BYTES_MAX));
        assert!(TokenScope::parse([long.as_str(), "repository:b:pull"]).is_empty());
    }

    #[test]
    fn an_access_claim_is_read_back() {
        let scope = TokenScope::parse(["repository:a/b:pull,delete registry:catalog:*"]);
        assert_eq!(TokenScope::of_entries(&scope.entries()), scope);
        assert!(scope.allows(AccessAction::Mount, Some(&name("a/b"))));
        assert!(!scope.allows(AccessAction::Push, Some(&name("a/b"))));
        assert!(!scope.allows(AccessAction::Pull, Some(&name("a"))));
        assert!(!scope.allows(AccessAction::Admin, None));
    }

    #[test]
    fn a_scope_is_built_from_granted_actions() {
        let scope =
            TokenScope::parse(["repository:a:pull,push repository:b:push registry:catalog:*"]);
        let mut same = TokenScope::default();
        scope.wanted().for_each(|(action, name)| same.grant(action, name));
        assert_eq!(same, scope);
        let mut narrow = TokenScope::default();
        let pulls = scope.wanted().filter(|(action, _)| *action == AccessAction::Pull);
        pulls.for_each(|(action, name)| narrow.grant(action, name));
        assert_eq!(narrow, TokenScope::parse(["repository:a:pull"]));
    }
}
