//! [`MirrorNames`]: by which names the repositories of other registries are served here.
//!
//! A client names the other registry in one of three ways, and all lead to the same local repository:
//!
//! - `?ns=docker.io` at `/v2/library/nginx/…` (containerd, k3s);
//! - the path style, `/v2/docker.io/library/nginx/…` (podman);
//! - a path before `/v2/`, `/docker.io/v2/library/nginx/…` (docker, whose mirrors get no `ns`).
//!
//! A namespace is a key to look up here, never an address to connect to.

use crate::{InvalidName, RepositoryName};

/// One mirrored registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MirrorName {
    /// What `ns` names.
    pub namespace: String,
    /// Other values of `ns` for the same registry.
    pub aliases: Vec<String>,
    /// The local repositories are below this.
    pub prefix: RepositoryName,
    /// What is put before a name of one component, with its slash: `library/` of Docker Hub.
    pub default_repository_prefix: Option<String>,
}

/// What to do with a request that names an unknown namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnknownNamespace {
    /// Serve the local repository of this name, as if there were no `ns`.
    #[default]
    Ignore,
    /// 404 `NAME_UNKNOWN`.
    Refuse,
}

/// How a request named the registry that is mirrored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamedBy {
    /// By `ns`.
    Namespace,
    /// By the path before `/v2/`.
    PathPrefix,
}

/// How a request leads to a mirror, if not by the name of the repository alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MirrorRoute {
    /// How the registry was named.
    pub by: NamedBy,
    /// The namespace as the client spelled it, or that of the mirror.
    pub namespace: String,
    /// The local repositories of the mirror are below this.
    pub prefix: RepositoryName,
}

impl MirrorRoute {
    /// A local repository by the name that the client uses.
    pub fn client_name<'a>(&self, name: &'a RepositoryName) -> &'a str {
        below(&self.prefix, name.as_str()).unwrap_or(name.as_str())
    }

    /// The path of the token service for the names that the client uses.
    pub fn token_path(&self) -> String {
        format!("/{}/token", self.prefix)
    }
}

/// The mirrored registries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MirrorNames {
    mirrors: Vec<MirrorName>,
    unknown: UnknownNamespace,
}

/// Error of mirrors that cannot be told apart.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MirrorNamesError {
    /// Two mirrors have a namespace or an alias in common.
    #[error("two mirrors have the namespace {0:?}")]
    Namespace(String),
    /// A prefix is that of another mirror, or below it.
    #[error("the prefix {inner} is below {outer}, which is the prefix of another mirror")]
    Nested {
        /// The longer prefix.
        inner: RepositoryName,
        /// The shorter prefix.
        outer: RepositoryName,
    },
}

/// What follows a prefix and a slash.
fn below<'a>(prefix: &RepositoryName, name: &'a str) -> Option<&'a str> {
    name.strip_prefix(prefix.as_str())?.strip_prefix('/')
}

impl MirrorName {
    /// The local repository for a name of the mirrored registry.
    ///
    /// # Errors
    ///
    /// [`InvalidName`] if the name is invalid, or too long together with the prefix.
    pub fn local(&self, upstream: &str) -> Result<RepositoryName, InvalidName> {
        let default = self.default_repository_prefix.as_deref();
        let default = default.filter(|_| !upstream.contains('/')).unwrap_or_default();
        format!("{}/{default}{upstream}", self.prefix).parse()
    }

    /// The name of a local repository at the mirrored registry.
    pub fn upstream(&self, local: &RepositoryName) -> Option<RepositoryName> {
        below(&self.prefix, local.as_str())?.parse().ok()
    }

    /// Whether a client that also names the namespace has given the local name: containerd does, if the
    /// path of the mirror ends in the prefix (`override_path`). No registry has a repository whose first
    /// component is its own host.
    pub(crate) fn is_spelled_out(&self, name: &RepositoryName) -> bool {
        self.prefix.as_str().contains('.') && below(&self.prefix, name.as_str()).is_some()
    }

    /// How a client that uses the path before `/v2/` names it.
    pub fn path_route(&self) -> MirrorRoute {
        MirrorRoute {
            by: NamedBy::PathPrefix,
            namespace: self.namespace.clone(),
            prefix: self.prefix.clone(),
        }
    }

    fn is_named(&self, namespace: &str) -> bool {
        let is = |name: &str| name.eq_ignore_ascii_case(namespace);
        is(&self.namespace) || self.aliases.iter().any(|alias| is(alias))
    }
}

impl MirrorNames {
    /// # Errors
    ///
    /// [`MirrorNamesError`].
    pub fn new(
        mirrors: Vec<MirrorName>,
        unknown: UnknownNamespace,
    ) -> Result<Self, MirrorNamesError> {
        for (index, mirror) in mirrors.iter().enumerate() {
            for other in mirrors.iter().take(index) {
                let mut names = std::iter::once(&mirror.namespace).chain(&mirror.aliases);
                if let Some(name) = names.find(|name| other.is_named(name)) {
                    return Err(MirrorNamesError::Namespace(name.clone()));
                }
                for (inner, outer) in [(mirror, other), (other, mirror)] {
                    let (inner, outer) = (&inner.prefix, &outer.prefix);
                    if inner == outer || below(outer, inner.as_str()).is_some() {
                        let (inner, outer) = (inner.clone(), outer.clone());
                        return Err(MirrorNamesError::Nested { inner, outer });
                    }
                }
            }
        }
        Ok(Self { mirrors, unknown })
    }

    /// Whether nothing is mirrored.
    pub fn is_empty(&self) -> bool {
        self.mirrors.is_empty()
    }

    /// All mirrors, in the order of the settings.
    pub fn all(&self) -> &[MirrorName] {
        &self.mirrors
    }

    /// The mirror of a namespace, and its place among all.
    pub fn by_namespace(&self, namespace: &str) -> Option<(usize, &MirrorName)> {
        self.mirrors.iter().enumerate().find(|(_, mirror)| mirror.is_named(namespace))
    }

    /// The mirror that a local repository belongs to, and its place among all.
    pub fn of_repository(&self, local: &RepositoryName) -> Option<(usize, &MirrorName)> {
        let is_below = |mirror: &MirrorName| below(&mirror.prefix, local.as_str()).is_some();
        self.mirrors.iter().enumerate().find(|(_, mirror)| is_below(mirror))
    }

    /// The mirror whose prefix a path begins with, and what follows it, with its slash.
    pub fn split_path<'a>(&self, path: &'a str) -> Option<(&MirrorName, &'a str)> {
        let rest = path.strip_prefix('/')?;
        self.mirrors.iter().find_map(|mirror| {
            let after = rest.strip_prefix(mirror.prefix.as_str())?;
            let is_ours = after == "/v2" || after == "/token" || after.starts_with("/v2/");
            is_ours.then_some((mirror, after))
        })
    }

    /// The one spelling of a local name: that of a mirror with its default prefix.
    ///
    /// # Errors
    ///
    /// [`InvalidName`] if it is too long with that.
    pub fn canonical(&self, local: RepositoryName) -> Result<RepositoryName, InvalidName> {
        let Some((_, mirror)) = self.of_repository(&local) else { return Ok(local) };
        match below(&mirror.prefix, local.as_str()) {
            Some(upstream) => mirror.local(upstream),
            None => Ok(local),
        }
    }

    /// Whether a request with an unknown namespace is refused.
    pub fn refuses_unknown(&self) -> bool {
        self.unknown == UnknownNamespace::Refuse
    }

    /// Scopes as a client requests them, with the local names. `route` is how it reached the token
    /// service. What is no scope of a repository stays as it is.
    pub fn local_scopes(&self, route: Option<&MirrorName>, scopes: &str) -> String {
        let words = scopes.split(' ').map(|word| self.local_scope(route, word));
        words.collect::<Vec<_>>().join(" ")
    }

    fn local_scope(&self, route: Option<&MirrorName>, scope: &str) -> String {
        let parts = scope.strip_prefix("repository:").and_then(|rest| rest.rsplit_once(':'));
        let Some((name, actions)) = parts else { return scope.to_owned() };
        let local = match route {
            Some(mirror) => mirror.local(name).ok(),
            None => name.parse().ok().and_then(|name| self.canonical(name).ok()),
        };
        local.map_or_else(|| scope.to_owned(), |local| format!("repository:{local}:{actions}"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn hub() -> MirrorName {
        MirrorName {
            namespace: "docker.io".to_owned(),
            aliases: vec!["index.docker.io".to_owned()],
            prefix: "docker.io".parse().unwrap(),
            default_repository_prefix: Some("library/".to_owned()),
        }
    }

    fn mirror(namespace: &str, prefix: &str) -> MirrorName {
        MirrorName {
            namespace: namespace.to_owned(),
            aliases: Vec::new(),
            prefix: prefix.parse().unwrap(),
            default_repository_prefix: None,
        }
    }

    fn names() -> MirrorNames {
        let mirrors = vec![hub(), mirror("ghcr.io", "cache/ghcr")];
        MirrorNames::new(mirrors, UnknownNamespace::Ignore).unwrap()
    }

    #[test]
    fn names_go_there_and_back() {
        let names = names();
        let (_, hub) = names.by_namespace("INDEX.docker.io").unwrap();
        for (upstream, local) in [
            ("nginx", "docker.io/library/nginx"),
            ("library/nginx", "docker.io/library/nginx"),
            ("a/b/c", "docker.io/a/b/c"),
        ] {
            let local: RepositoryName = local.parse().unwrap();
            assert_eq!(hub.local(upstream).unwrap(), local);
            assert_eq!(names.canonical(local.clone()).unwrap(), local);
        }
        let spelled = "docker.io/nginx".parse().unwrap();
        assert_eq!(names.canonical(spelled).unwrap().as_str(), "docker.io/library/nginx");
        for local in ["docker.io", "library/nginx", "docker.iox/a", "cache/a", "cache/ghcr"] {
            let local: RepositoryName = local.parse().unwrap();
            assert!(names.of_repository(&local).is_none(), "{local}");
            assert_eq!(names.canonical(local.clone()).unwrap(), local);
        }
        assert!(hub.local("../x").is_err());
        assert!(hub.local("UPPER").is_err());
    }

    #[test]
    fn paths_before_v2_are_those_of_prefixes_only() {
        let names = names();
        let rest =
            |path| names.split_path(path).map(|(mirror, rest)| (mirror.prefix.as_str(), rest));
        assert_eq!(rest("/docker.io/v2/"), Some(("docker.io", "/v2/")));
        assert_eq!(rest("/cache/ghcr/v2/a/tags/list"), Some(("cache/ghcr", "/v2/a/tags/list")));
        assert_eq!(rest("/docker.io/token"), Some(("docker.io", "/token")));
        for path in
            ["/v2/", "/docker.io", "/docker.io/v2x", "/docker.io/metrics", "/quay.io/v2/", "/"]
        {
            assert_eq!(rest(path), None, "{path}");
        }
    }

    #[test]
    fn scopes_are_those_of_local_names() {
        let names = names();
        let hub = hub();
        assert_eq!(
            names.local_scopes(Some(&hub), "repository:nginx:pull registry:catalog:*"),
            "repository:docker.io/library/nginx:pull registry:catalog:*"
        );
        assert_eq!(
            names.local_scopes(None, "repository:docker.io/nginx:pull repository:nginx:pull,push"),
            "repository:docker.io/library/nginx:pull repository:nginx:pull,push"
        );
        assert_eq!(names.local_scopes(Some(&hub), "repository:A:pull"), "repository:A:pull");
    }

    #[test]
    fn mirrors_must_be_told_apart() {
        let new = |mirrors| MirrorNames::new(mirrors, UnknownNamespace::Ignore).unwrap_err();
        let same = new(vec![hub(), mirror("index.docker.io", "other")]);
        assert_eq!(same, MirrorNamesError::Namespace("index.docker.io".to_owned()));
        for (a, b) in [("x", "x"), ("x", "x/y"), ("x/y", "x")] {
            let nested = new(vec![mirror("a", a), mirror("b", b)]);
            assert!(matches!(nested, MirrorNamesError::Nested { .. }), "{a} {b}");
        }
        let mirrors = vec![mirror("a", "x"), mirror("b", "xy")];
        assert!(MirrorNames::new(mirrors, UnknownNamespace::Ignore).is_ok());
    }
}
