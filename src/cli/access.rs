//! Arguments of `jreg user`, `jreg token` and `jreg policy`.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use jreg_auth::{
    AccessAction, AccessTokenId, AccessTokenPermission, ClientCertificate, PolicyTest,
    parse_permissions,
};
use jreg_config::{ConfigError, Settings};
use jreg_oci::{RepositoryName, Tag};

use super::{Flags, Maintenance, ServeArgs, StoreArgs, duration};
use crate::maintenance::{AccessTokenRequest, MaintenanceCommand, SessionRequest};

/// Subcommands of `jreg user`.
#[derive(Debug, Subcommand)]
#[expect(missing_docs, reason = "the text of a flattened field would be shown as the command's")]
pub enum UserAction {
    /// Add a user, or with --force set a new password
    ///
    /// Without --password-stdin a random password is generated; standard output is that password alone. A
    /// running registry reloads the file.
    Add {
        /// User name
        name: String,
        /// Read the password from standard input (one line)
        #[arg(long)]
        password_stdin: bool,
        /// Replace the password of a user that exists
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        file: UserFile,
    },
    /// Delete a user
    Remove {
        /// User name
        name: String,
        #[command(flatten)]
        file: UserFile,
    },
    /// List the users
    List {
        #[command(flatten)]
        file: UserFile,
    },
}

/// The htpasswd file.
#[derive(Debug, Args)]
pub struct UserFile {
    /// htpasswd file [default: htpasswd of the configuration or of JREG_HTPASSWD]
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// TOML file with settings, as for serve
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

impl UserFile {
    /// Whether the output is JSON.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// The htpasswd file, if one is given, and the settings.
    ///
    /// # Errors
    ///
    /// [`ConfigError`].
    pub fn resolve(
        self,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<(Option<PathBuf>, Settings), ConfigError> {
        let settings = settings(self.config, environment)?;
        let file = self.file.or_else(|| settings.htpasswd.as_ref().map(PathBuf::from));
        Ok((file, settings))
    }
}

pub(super) fn settings(
    config: Option<PathBuf>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Settings, ConfigError> {
    let resolved = ServeArgs { config, flags: Flags(Vec::new()) }.resolve(environment)?;
    Ok(resolved.settings)
}

/// Subcommands of `jreg token`.
#[derive(Debug, Subcommand)]
#[expect(missing_docs, reason = "the text of a flattened field would be shown as the command's")]
pub enum TokenAction {
    /// Create an access token and print it; it cannot be shown again
    ///
    /// Use it as a password with any user name: docker login -u ci --password-stdin.
    Create {
        /// Name of the token: letters, digits and . _ -
        #[arg(long)]
        name: String,
        /// Allowed actions and repositories, for example pull,push:team/**; repeatable
        #[arg(long, required = true, value_name = "ACTIONS:REPOSITORIES", value_parser = permission)]
        allow: Vec<AccessTokenPermission>,
        /// Lifetime, for example 90d [default: until it is revoked]
        #[arg(long, value_name = "DURATION", value_parser = duration)]
        expires: Option<Duration>,
        #[command(flatten)]
        store: StoreArgs,
    },
    /// List the access tokens, without their secrets
    List {
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Revoke an access token, in all instances within a minute
    Revoke {
        /// Id of the token, as printed by list
        id: AccessTokenId,
        #[command(flatten)]
        store: StoreArgs,
    },
}

fn permission(text: &str) -> Result<AccessTokenPermission, String> {
    match parse_permissions(text).map_err(|error| error.to_string())?.as_slice() {
        [one] => Ok(one.clone()),
        _ => Err("it must be ACTIONS:REPOSITORIES, for example pull,push:team/**".to_owned()),
    }
}

impl TokenAction {
    /// Adds the settings of the file and the environment.
    ///
    /// # Errors
    ///
    /// [`ConfigError`].
    pub fn resolve(
        self,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Maintenance, ConfigError> {
        let (request, store) = match self {
            Self::Create { name, allow, expires, store } => {
                (AccessTokenRequest::Create { name, permissions: allow, lifetime: expires }, store)
            }
            Self::List { store } => (AccessTokenRequest::List, store),
            Self::Revoke { id, store } => (AccessTokenRequest::Revoke { id }, store),
        };
        store.resolve(MaintenanceCommand::Token(request), true, environment)
    }
}

/// Subcommands of `jreg session`.
#[derive(Debug, Subcommand)]
#[expect(missing_docs, reason = "the text of a flattened field would be shown as the command's")]
pub enum SessionAction {
    /// End all logins of an identity in browsers, and the tokens made in them, in all instances within a
    /// minute
    ///
    /// To keep a user out, also change the password, or remove the user, or let the issuer refuse the
    /// next login.
    Revoke {
        /// Identity: a user, or a name made of an issuer's claims, such as company:alice
        identity: String,
        #[command(flatten)]
        store: StoreArgs,
    },
}

impl SessionAction {
    /// Adds the settings of the file and the environment.
    ///
    /// # Errors
    ///
    /// [`ConfigError`].
    pub fn resolve(
        self,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Maintenance, ConfigError> {
        let Self::Revoke { identity, store } = self;
        let request = SessionRequest::Revoke { identity };
        store.resolve(MaintenanceCommand::Session(request), true, environment)
    }
}

/// Subcommands of `jreg policy`.
#[derive(Debug, Subcommand)]
#[expect(missing_docs, reason = "the text of a flattened field would be shown as the command's")]
pub enum PolicyAction {
    /// Test whether an action is allowed, and by which rule
    ///
    /// Exit codes: 0 allowed, 1 denied, 2 wrong command line, 3 the policy file cannot be used.
    Test {
        /// Action: pull, push, delete, list, mount or admin
        #[arg(long, value_parser = action)]
        action: AccessAction,
        #[command(flatten)]
        asked: PolicyArgs,
    },
    /// Show for every action whether it is allowed, and by which rule
    Explain {
        #[command(flatten)]
        asked: PolicyArgs,
    },
}

fn action(text: &str) -> Result<AccessAction, String> {
    let known: Vec<_> = AccessAction::ALL.into_iter().map(AccessAction::as_str).collect();
    AccessAction::named(text).ok_or_else(|| format!("it must be one of {}", known.join(", ")))
}

fn claim(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("it must be NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// The request that the policy is evaluated for.
#[derive(Debug, Args)]
pub struct PolicyArgs {
    /// Identity: a user, access-token:NAME, or a name made of an issuer's claims, such as
    /// github:acme/app [default: anonymous]
    #[arg(long = "as", value_name = "IDENTITY")]
    who: Option<String>,
    /// Group from an issuer's token, for example github:core; repeatable
    #[arg(long, value_name = "GROUP")]
    group: Vec<String>,
    /// Claim of an issuer's token; repeatable
    #[arg(long, value_name = "NAME=VALUE", value_parser = claim)]
    claim: Vec<(String, String)>,
    /// Common name of the client certificate
    #[arg(long, value_name = "NAME")]
    certificate_cn: Option<String>,
    /// URI of the client certificate; repeatable
    #[arg(long, value_name = "URI")]
    certificate_uri: Vec<String>,
    /// Repository
    #[arg(long, value_name = "NAME")]
    repository: Option<RepositoryName>,
    /// Tag
    #[arg(long)]
    tag: Option<Tag>,
    /// Client address
    #[arg(long, value_name = "IP")]
    address: Option<IpAddr>,
    /// Policy file [default: policy of the configuration or of JREG_POLICY]
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// TOML file with settings, as for serve
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

/// A policy evaluation request.
#[derive(Clone, Debug)]
pub struct PolicyQuestion {
    /// The policy file; `None`: the default policy.
    pub file: Option<PathBuf>,
    /// Whether anonymous clients may pull.
    pub anonymous_pull: bool,
    /// Identities that may administer the registry.
    pub admins: Vec<String>,
    pub test: PolicyTest,
    /// Whether the output is JSON.
    pub is_json: bool,
}

impl PolicyAction {
    /// Adds the settings of the file and the environment.
    ///
    /// # Errors
    ///
    /// [`ConfigError`].
    pub fn resolve(
        self,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<PolicyQuestion, ConfigError> {
        let (action, asked) = match self {
            Self::Test { action, asked } => (Some(action), asked),
            Self::Explain { asked } => (None, asked),
        };
        let settings = settings(asked.config, environment)?;
        let has_certificate = asked.certificate_cn.is_some() || !asked.certificate_uri.is_empty();
        let certificate = has_certificate.then_some(ClientCertificate {
            common_name: asked.certificate_cn,
            uris: asked.certificate_uri,
        });
        Ok(PolicyQuestion {
            file: asked.file.or(settings.policy.map(PathBuf::from)),
            anonymous_pull: settings.anonymous_pull,
            is_json: asked.json,
            admins: settings.admins,
            test: PolicyTest {
                identity: asked.who,
                groups: asked.group,
                claims: asked.claim,
                certificate,
                action,
                repository: asked.repository,
                tag: asked.tag,
                address: asked.address,
            },
        })
    }
}
