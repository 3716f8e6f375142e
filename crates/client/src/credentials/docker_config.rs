//! [`DockerConfig`]: docker's `config.json`.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use jreg_auth::Secret;
use serde::Deserialize;

use super::{CredentialValue, LoadError};

/// The key by which docker stores the credentials of Docker Hub.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// The parts of docker's configuration that are about credentials.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct DockerConfig {
    auths: BTreeMap<String, DockerAuth>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct DockerAuth {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
}

impl std::fmt::Debug for DockerAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

/// What a registry is called when a credential helper is asked for it.
pub(super) fn server_url(host: &str) -> String {
    if is_hub(host) { DOCKER_HUB.to_owned() } else { host.to_owned() }
}

fn is_hub(host: &str) -> bool {
    matches!(host, "docker.io" | "index.docker.io" | "registry-1.docker.io")
}

/// The host of a key, which may be a URL.
fn key_host(key: &str) -> &str {
    let key = key.split_once("://").map_or(key, |(_, rest)| rest);
    key.split('/').next().unwrap_or_default()
}

/// Whether a key names a namespace or a repository, as podman's do: `quay.io/team`.
fn is_of_a_part(key: &str) -> bool {
    !key.contains("://") && key.trim_end_matches('/').contains('/')
}

fn is_same(key: &str, host: &str) -> bool {
    let key = key_host(key);
    key == host || (is_hub(key) && is_hub(host))
}

impl DockerConfig {
    /// What is wrong is not repeated: it may be a secret.
    pub(super) fn parse(text: &str) -> Result<Self, LoadError> {
        serde_json::from_str(text)
            .map_err(|error| format!("not docker's configuration, in line {}", error.line()))
    }

    /// The credential helper for a host.
    pub(super) fn helper(&self, host: &str) -> Option<&str> {
        let own = self.cred_helpers.iter().find(|(key, _)| is_same(key, host));
        let own = own.map(|(_, name)| name.as_str());
        own.or(Some(self.creds_store.as_str())).filter(|name| !name.is_empty())
    }

    /// The credentials for a host that are in the file itself.
    pub(super) fn credential(&self, host: &str) -> Result<CredentialValue, LoadError> {
        // The host itself comes before other names for it.
        let found = self.auths.get(&server_url(host)).filter(|auth| !auth.is_empty());
        // podman has keys for a part of a registry, too: they come last.
        let others = self.auths.iter().filter(|(key, auth)| is_same(key, host) && !auth.is_empty());
        let other = || others.min_by_key(|(key, _)| is_of_a_part(key));
        match found.or_else(|| other().map(|(_, auth)| auth)) {
            Some(auth) => auth.value(),
            None => Ok(CredentialValue::Anonymous),
        }
    }
}

impl DockerAuth {
    /// docker writes empty entries for what is in a credential store.
    fn is_empty(&self) -> bool {
        [&self.auth, &self.username, &self.identitytoken].iter().all(|text| text.is_empty())
    }

    fn value(&self) -> Result<CredentialValue, LoadError> {
        if !self.identitytoken.is_empty() {
            return Ok(CredentialValue::RefreshToken(Secret::new(self.identitytoken.as_str())));
        }
        if self.auth.is_empty() {
            return Ok(CredentialValue::password(&self.username, self.password.as_str()));
        }
        let wrong = || "an auth is not the base64 of USER:PASSWORD".to_owned();
        let text = BASE64.decode(self.auth.trim()).map_err(|_| wrong())?;
        let text = String::from_utf8(text).map_err(|_| wrong())?;
        let (user, password) = text.split_once(':').ok_or_else(wrong)?;
        // Some versions of docker added zero bytes.
        Ok(CredentialValue::password(user, password.trim_end_matches('\0')))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn config() -> DockerConfig {
        DockerConfig::parse(
            r#"{
                "auths": {
                    "https://index.docker.io/v1/": {"auth": "bWU6c2VjcmV0OjE="},
                    "ghcr.io": {"username": "me", "password": "p"},
                    "https://registry.example.com:5000/v2/": {"identitytoken": "refresh"},
                    "stored.example.com": {},
                    "wrong.example.com": {"auth": "bWU="}
                },
                "credHelpers": {"123.dkr.ecr.eu-west-1.amazonaws.com": "ecr-login"},
                "HttpHeaders": {"User-Agent": "docker"}
            }"#,
        )
        .unwrap()
    }

    #[test]
    fn credentials_are_found_by_the_names_of_a_host() {
        let config = config();
        let hub = CredentialValue::password("me", "secret:1");
        for host in ["registry-1.docker.io", "docker.io", "index.docker.io"] {
            assert_eq!(config.credential(host), Ok(hub.clone()), "{host}");
        }
        assert_eq!(config.credential("ghcr.io"), Ok(CredentialValue::password("me", "p")));
        let refresh = CredentialValue::RefreshToken(Secret::new("refresh"));
        assert_eq!(config.credential("registry.example.com:5000"), Ok(refresh));
        for host in ["registry.example.com", "stored.example.com", "xghcr.io", "quay.io"] {
            assert_eq!(config.credential(host), Ok(CredentialValue::Anonymous), "{host}");
        }
    }

    #[test]
    fn a_key_of_a_whole_registry_comes_before_those_of_its_parts() {
        let config = |keys: &[&str]| {
            let auths: Vec<String> = keys
                .iter()
                .map(|key| format!(r#""{key}": {{"username": "{key}", "password": "p"}}"#))
                .collect();
            DockerConfig::parse(&format!(r#"{{"auths": {{{}}}}}"#, auths.join(", "))).unwrap()
        };
        for (keys, expected) in [
            (&["quay.io/a", "quay.io/b", "https://quay.io/v2/"][..], "https://quay.io/v2/"),
            (&["quay.io/b", "quay.io/a"], "quay.io/a"),
        ] {
            let found = config(keys).credential("quay.io");
            assert_eq!(found, Ok(CredentialValue::password(expected, "p")));
        }
    }

    #[test]
    fn what_is_wrong_is_told_without_the_secret() {
        let error = config().credential("wrong.example.com").unwrap_err();
        assert!(!error.contains("bWU"), "{error}");
        let error = DockerConfig::parse("{\"auths\": {\"a\": {\"auth\": \"c2VjcmV0\"").unwrap_err();
        assert!(!error.contains("c2VjcmV0"), "{error}");
    }

    #[test]
    fn helpers_are_found_by_host_then_the_store_of_all() {
        let mut config = config();
        assert_eq!(config.helper("123.dkr.ecr.eu-west-1.amazonaws.com"), Some("ecr-login"));
        assert_eq!(config.helper("ghcr.io"), None);
        config.creds_store = "pass".to_owned();
        assert_eq!(config.helper("ghcr.io"), Some("pass"));
        assert_eq!(server_url("registry-1.docker.io"), "https://index.docker.io/v1/");
        assert_eq!(server_url("ghcr.io"), "ghcr.io");
    }
}
