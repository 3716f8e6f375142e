//! `jreg user`, `jreg token` and `jreg policy`, as they are typed.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use jreg_auth::{Action, RobotId, RobotPermission, parse_permissions};
use jreg_oci::{RepositoryName, Tag};

use super::{Flags, Maintenance, ServeArgs, StoreArgs, duration};
use crate::commands::policy::PolicyQuestion;
use crate::config::{ConfigError, Settings};
use crate::maintenance::{Command as Work, TokenRequest};

/// What to do with users.
#[derive(Debug, Subcommand)]
#[expect(missing_docs, reason = "the text of a flattened field would be shown as the command's")]
pub enum UserAction {
    /// Add a user, or give one a new password
    ///
    /// Without --password-stdin a password is made and printed. The registry need not be restarted.
    Add {
        /// The user
        name: String,
        /// Take the password from standard input: one line
        #[arg(long)]
        password_stdin: bool,
        #[command(flatten)]
        file: UserFile,
    },
    /// Remove a user
    Remove {
        /// The user
        name: String,
        #[command(flatten)]
        file: UserFile,
    },
    /// Print the users
    List {
        #[command(flatten)]
        file: UserFile,
    },
}

/// Where users are.
#[derive(Debug, Args)]
pub struct UserFile {
    /// The file [default: htpasswd of the configuration or of JREG_HTPASSWD]
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// A TOML file with settings, as for serve
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl UserFile {
    /// The file, if one is named, and the settings.
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

fn settings(
    config: Option<PathBuf>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Settings, ConfigError> {
    let resolved = ServeArgs { config, flags: Flags(Vec::new()) }.resolve(environment)?;
    Ok(resolved.settings)
}

/// What to do with access tokens.
#[derive(Debug, Subcommand)]
#[expect(missing_docs, reason = "the text of a flattened field would be shown as the command's")]
pub enum TokenAction {
    /// Make an access token and print it, once
    ///
    /// It is used as a password, with any name: docker login -u ci --password-stdin.
    Create {
        /// How people call it: letters, digits and . _ -
        #[arg(long)]
        name: String,
        /// What it may do, for example pull,push:team/**; may be given several times
        #[arg(long, required = true, value_name = "ACTIONS:REPOSITORIES", value_parser = permission)]
        allow: Vec<RobotPermission>,
        /// How long it is good, such as 90d [default: until it is revoked]
        #[arg(long, value_name = "DURATION", value_parser = duration)]
        expires: Option<Duration>,
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Print all access tokens, without their secrets
    List {
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Make an access token good for nothing, in every instance within a minute
    Revoke {
        /// Its id, as list prints it
        id: RobotId,
        #[command(flatten)]
        store: StoreArgs,
    },
}

fn permission(text: &str) -> Result<RobotPermission, String> {
    match parse_permissions(text).map_err(|error| error.to_string())?.as_slice() {
        [one] => Ok(one.clone()),
        _ => Err("it must be ACTIONS:REPOSITORIES, for example pull,push:team/**".to_owned()),
    }
}

impl TokenAction {
    /// With the settings of the file and the environment.
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
                (TokenRequest::Create { name, permissions: allow, lifetime: expires }, store)
            }
            Self::List { store } => (TokenRequest::List, store),
            Self::Revoke { id, store } => (TokenRequest::Revoke { id }, store),
        };
        store.resolve(Work::Token(request), true, environment)
    }
}

/// What to ask of the rules.
#[derive(Debug, Subcommand)]
#[expect(missing_docs, reason = "the text of a flattened field would be shown as the command's")]
pub enum PolicyAction {
    /// Say whether one thing is allowed, and by which rule
    ///
    /// Exit codes: 0 allowed, 1 denied, 2 wrong command line, 3 the file cannot be used.
    Test {
        /// What they want to do: pull, push, delete, list, mount or admin
        #[arg(long, value_parser = action)]
        action: Action,
        #[command(flatten)]
        asked: Asked,
    },
    /// Say of every action whether it is allowed, and by which rule
    Explain {
        #[command(flatten)]
        asked: Asked,
    },
}

fn action(text: &str) -> Result<Action, String> {
    let known: Vec<_> = Action::ALL.into_iter().map(Action::as_str).collect();
    Action::named(text).ok_or_else(|| format!("it must be one of {}", known.join(", ")))
}

fn claim(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("it must be NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Who asks for what.
#[derive(Debug, Args)]
pub struct Asked {
    /// Who: a user, robot:NAME, or a name that an issuer's claims make, such as github:acme/app
    /// [default: nobody]
    #[arg(long = "as", value_name = "NAME")]
    who: Option<String>,
    /// A group that an issuer's token names, such as github:core; may be given several times
    #[arg(long, value_name = "GROUP")]
    group: Vec<String>,
    /// A claim of an issuer's token; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = claim)]
    claim: Vec<(String, String)>,
    /// The common name of a client certificate
    #[arg(long, value_name = "NAME")]
    certificate_cn: Option<String>,
    /// A URI of a client certificate; may be given several times
    #[arg(long, value_name = "URI")]
    certificate_uri: Vec<String>,
    /// The repository
    #[arg(long, value_name = "NAME")]
    repository: Option<RepositoryName>,
    /// The tag
    #[arg(long)]
    tag: Option<Tag>,
    /// The client's address
    #[arg(long, value_name = "IP")]
    address: Option<IpAddr>,
    /// The file of rules [default: policy of the configuration or of JREG_POLICY]
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// A TOML file with settings, as for serve
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl PolicyAction {
    /// With the settings of the file and the environment.
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
        Ok(PolicyQuestion {
            file: asked.file.or(settings.policy.map(PathBuf::from)),
            anonymous_pull: settings.anonymous_pull,
            who: asked.who,
            groups: asked.group,
            claims: asked.claim,
            common_name: asked.certificate_cn,
            uris: asked.certificate_uri,
            action,
            repository: asked.repository,
            tag: asked.tag,
            address: asked.address,
        })
    }
}
