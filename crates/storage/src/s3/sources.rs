//! [`CredentialSources`]: where credentials are searched, and what to say if there are none.

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey as Name};

/// Where the instance's metadata is, unless `AWS_METADATA_ENDPOINT` says otherwise.
const METADATA: &str = "http://169.254.169.254";

/// The first of them.
const ENVIRONMENT: &str = "environment";

/// The sources that variables configure, in the order in which they are tried.
const SOURCES: [(&str, &[(&str, Name)]); 4] = [
    (
        ENVIRONMENT,
        &[
            ("AWS_ACCESS_KEY_ID", Name::AccessKeyId),
            ("AWS_SECRET_ACCESS_KEY", Name::SecretAccessKey),
        ],
    ),
    (
        "web identity",
        &[
            ("AWS_WEB_IDENTITY_TOKEN_FILE", Name::WebIdentityTokenFile),
            ("AWS_ROLE_ARN", Name::RoleArn),
        ],
    ),
    (
        "container (ECS)",
        &[("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", Name::ContainerCredentialsRelativeUri)],
    ),
    (
        "container (EKS)",
        &[
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", Name::ContainerCredentialsFullUri),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", Name::ContainerAuthorizationTokenFile),
        ],
    ),
];

/// A profile of the AWS tools.
#[derive(Clone, Debug)]
pub(super) struct ProfileOfSources {
    /// Its name and files.
    pub(super) shown: String,
    /// Whether the credentials come from it.
    pub(super) is_used: bool,
}

/// The source that the environment names, and what is said of all of them.
#[derive(Clone, Debug)]
pub(super) struct CredentialSources {
    /// No source is configured: only the instance's metadata is left.
    pub(super) are_unnamed: bool,
    /// The environment has keys.
    pub(super) has_keys: bool,
    tried: Vec<String>,
}

impl CredentialSources {
    /// What is set, in the order in which it is taken. Values are not kept: some are secrets.
    pub(super) fn of(keys: &AmazonS3Builder, profile: Option<ProfileOfSources>) -> Self {
        let is_set = |name| keys.get_config_value(&name).is_some();
        let mut tried = vec![
            "settings (s3-access-key-id, s3-secret-access-key or s3-secret-access-key-file: not set)"
                .to_owned(),
        ];
        let (mut are_unnamed, mut has_keys) = (true, false);
        for (source, variables) in SOURCES {
            let unset = variables.iter().filter(|(_, name)| !is_set(*name));
            let unset: Vec<_> = unset.map(|(variable, _)| *variable).collect();
            are_unnamed &= !unset.is_empty();
            has_keys |= unset.is_empty() && source == ENVIRONMENT;
            tried.push(match unset.is_empty() {
                true => format!("{source} (set)"),
                false => format!("{source} ({}: not set)", unset.join(", ")),
            });
        }
        match &profile {
            Some(ProfileOfSources { shown, is_used }) => {
                are_unnamed &= !is_used;
                let credentials = if *is_used { "set" } else { "no credentials" };
                tried.push(format!("{shown}: {credentials}"));
            }
            None => tried.push("profile (HOME, AWS_CONFIG_FILE: not set)".to_owned()),
        }
        let metadata = keys.get_config_value(&Name::MetadataEndpoint);
        tried.push(format!("instance metadata ({})", metadata.as_deref().unwrap_or(METADATA)));
        Self { are_unnamed, has_keys, tried }
    }

    /// Why there are no credentials: what was tried, and how the last source failed.
    pub(super) fn no_keys(&self, why: impl std::fmt::Display) -> NoCredentials {
        NoCredentials { tried: self.tried.join(", "), why: why.to_string() }
    }
}

/// There are no credentials to sign with.
#[derive(Debug, thiserror::Error)]
#[error(
    "there are no credentials for the bucket; tried, in this order: {tried}: {why} (docs/s3.md, Credentials)"
)]
pub(super) struct NoCredentials {
    tried: String,
    why: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_a_source_is_none_and_its_other_half_is_named() {
        let keys = AmazonS3Builder::new().with_config(Name::RoleArn, "arn:secret");
        let sources = CredentialSources::of(&keys, None);
        assert!(sources.are_unnamed);
        let told = sources.no_keys("no response").to_string();
        assert!(
            told.contains("web identity (AWS_WEB_IDENTITY_TOKEN_FILE: not set), con"),
            "{told}"
        );
        assert!(told.contains("instance metadata (http://169.254.169.254): no response"), "{told}");
        assert!(!told.contains("arn:secret"), "{told}");
        let whole = keys.with_config(Name::WebIdentityTokenFile, "/token");
        let sources = CredentialSources::of(&whole, None);
        assert!(!sources.are_unnamed);
        assert!(sources.no_keys("refused").to_string().contains("web identity (set)"));
    }
}
