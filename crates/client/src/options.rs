//! [`UpstreamOptions`]: what an operator can set about an upstream, as data.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jreg_auth::Secret;

use crate::UpstreamUrl;

/// An upstream: one registry, or several with the same content.
#[derive(Clone, Debug)]
pub struct UpstreamOptions {
    /// Tried in this order; at least one.
    pub endpoints: Vec<UpstreamEndpoint>,
    /// PEM bundle of the CAs that are trusted instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// Hosts (with the port, unless it is 443) of token services other than the upstream's own host.
    pub token_hosts: Vec<String>,
    /// Allow connections to private and loopback addresses: to the upstream, to its token service, and where it
    /// redirects to. An upstream whose URL contains such an address, or `localhost`, needs no permission.
    pub private_addresses: bool,
    /// Timeouts.
    pub timeouts: UpstreamTimeouts,
    /// Limits.
    pub limits: UpstreamLimits,
    /// Environment variables, of which credential helpers and the exchanges of clouds are given a few.
    pub environment: EnvironmentVariables,
    /// Resolves host names; the system's resolver by default.
    pub resolver: Option<Arc<dyn HostResolver>>,
    /// How its requests join the traces of those who wait for them.
    pub tracing: Option<UpstreamTracing>,
}

/// How a request joins the trace of the task that sends it.
#[derive(Clone, Copy, Debug)]
pub struct UpstreamTracing {
    /// The header `traceparent`, if there is a trace.
    pub parent: fn() -> Option<String>,
    /// Notes the head of a response, or a failure, and the time until then.
    pub note: fn(Result<(), ()>, Duration),
}

impl UpstreamOptions {
    /// With the default timeouts and limits. The credentials are for the first URL only: they are never sent to
    /// another registry that has the same content.
    pub fn new(urls: impl IntoIterator<Item = UpstreamUrl>, credentials: CredentialSource) -> Self {
        let mut credentials = Some(credentials);
        let endpoint = |url| UpstreamEndpoint {
            url,
            credentials: credentials.take().unwrap_or(CredentialSource::Anonymous),
        };
        Self {
            endpoints: urls.into_iter().map(endpoint).collect(),
            ca_file: None,
            token_hosts: Vec::new(),
            private_addresses: false,
            timeouts: UpstreamTimeouts::default(),
            limits: UpstreamLimits::default(),
            environment: EnvironmentVariables::default(),
            resolver: None,
            tracing: None,
        }
    }
}

/// One URL of an upstream, and what it is given to authenticate by.
#[derive(Clone, Debug)]
pub struct UpstreamEndpoint {
    /// The registry.
    pub url: UpstreamUrl,
    /// The credentials for this registry and its token service.
    pub credentials: CredentialSource,
}

/// Where credentials come from. They are read when they are needed, and again after they were refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum CredentialSource {
    /// None.
    #[default]
    Anonymous,
    /// User and password, or an access token as password.
    Password {
        /// The user.
        user: String,
        /// The password.
        password: SecretSource,
    },
    /// A refresh token of the registry's token service (`identitytoken` in docker's configuration).
    RefreshToken(SecretSource),
    /// docker's `config.json`: its `auths`, `credHelpers` and `credsStore`.
    DockerConfig(PathBuf),
    /// A credential helper `docker-credential-NAME`.
    Helper(HelperName),
    /// A token of Amazon ECR, by the credentials of AWS in the environment, of the web identity, the container or
    /// the instance.
    Ecr,
    /// An access token for Google Artifact Registry, by a service account's key file
    /// (`GOOGLE_APPLICATION_CREDENTIALS`) or the instance's metadata.
    Gcp,
    /// A refresh token of Azure Container Registry, by a workload identity, a client secret or the instance's
    /// metadata.
    Acr,
}

/// Why a text names no source of credentials.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCredentialSource {
    /// Another word.
    #[error("must be anonymous, ecr, gcp, acr, helper:NAME or docker-config:FILE")]
    Unknown,
    /// The name after `helper:`.
    #[error(transparent)]
    Helper(#[from] InvalidHelperName),
}

/// The sources that need no secret: `anonymous`, `ecr`, `gcp`, `acr`, `helper:NAME`, `docker-config:FILE`.
impl std::str::FromStr for CredentialSource {
    type Err = InvalidCredentialSource;

    fn from_str(text: &str) -> Result<Self, InvalidCredentialSource> {
        match text.split_once(':') {
            None => match text {
                "anonymous" => Ok(Self::Anonymous),
                "ecr" => Ok(Self::Ecr),
                "gcp" => Ok(Self::Gcp),
                "acr" => Ok(Self::Acr),
                _ => Err(InvalidCredentialSource::Unknown),
            },
            Some(("helper", name)) => Ok(Self::Helper(name.parse()?)),
            Some(("docker-config", file)) if !file.is_empty() => {
                Ok(Self::DockerConfig(file.into()))
            }
            Some(_) => Err(InvalidCredentialSource::Unknown),
        }
    }
}

/// A secret, or the file that contains it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// The secret itself.
    Value(Secret),
    /// A file; a line break at its end is not part of the secret.
    File(PathBuf),
}

/// The name of a credential helper: lowercase letters, digits and dashes, so that it names no path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HelperName(String);

/// The longest name of a credential helper.
const HELPER_NAME_CHARS_MAX: usize = 64;

/// Why a text names no credential helper.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the name of a credential helper must be 1 to {HELPER_NAME_CHARS_MAX} lowercase letters, digits and dashes"
)]
pub struct InvalidHelperName;

impl HelperName {
    /// The name without `docker-credential-`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for HelperName {
    type Err = InvalidHelperName;

    fn from_str(name: &str) -> Result<Self, InvalidHelperName> {
        let name = name.strip_prefix("docker-credential-").unwrap_or(name);
        let is_allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let is_fit =
            (1..=HELPER_NAME_CHARS_MAX).contains(&name.len()) && name.bytes().all(is_allowed);
        if is_fit { Ok(Self(name.to_owned())) } else { Err(InvalidHelperName) }
    }
}

/// How long an upstream may take. A blob has no limit of the total time, but a minimum rate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamTimeouts {
    /// To connect, TLS included.
    pub connect: Duration,
    /// From a request to the head of its response.
    pub response: Duration,
    /// Between two reads of a body.
    pub idle: Duration,
    /// For the whole body of a manifest, a page of a list or a token, all retries together.
    pub body: Duration,
    /// The waiting time over which the rate of a blob is measured ([`UpstreamLimits::blob_rate_min`]).
    pub blob_rate_window: Duration,
    /// How long an operation retries and waits for `Retry-After` and its turn, in all; retries of a body that
    /// broke off have as long each. 0 sends one request to each URL.
    pub patience: Duration,
    /// For a credential helper, and for each request of an exchange.
    pub credentials: Duration,
}

impl Default for UpstreamTimeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            response: Duration::from_secs(30),
            idle: Duration::from_secs(30),
            body: Duration::from_secs(60),
            blob_rate_window: Duration::from_secs(120),
            patience: Duration::from_secs(20),
            credentials: Duration::from_secs(10),
        }
    }
}

/// What is sent to an upstream, and accepted of it, at the most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamLimits {
    /// Maximum requests in flight, bodies included; so also of connections.
    pub connections_max: usize,
    /// Maximum requests per second to each URL; `None` for no limit.
    pub requests_per_second: Option<NonZeroU32>,
    /// Maximum bytes of a manifest.
    pub manifest_bytes_max: u64,
    /// Maximum bytes of a page of a list.
    pub list_bytes_max: u64,
    /// Maximum pages of a list of referrers; a longer list is an error, because half of it would be wrong.
    pub referrer_pages_max: usize,
    /// How often a blob that broke off is resumed before [`RESUMED_BYTES_MIN`] bytes have come.
    pub resumes_max: u32,
    /// Minimum bytes per second of a blob, resumptions included. The time in which its reader takes nothing does
    /// not count. 0 for none.
    pub blob_rate_min: u64,
    /// How long a URL is not asked for a digest after it served other bytes for it: at least
    /// [`MISMATCH_PAUSE_MIN`]. One operation does not ask it again in any case.
    pub mismatch_pause: Duration,
    /// How old a token must be for a 403 to replace it: it may have the rights of the time at which it was requested.
    pub refused_token_age_min: Duration,
}

/// The shortest [`UpstreamLimits::mismatch_pause`].
pub const MISMATCH_PAUSE_MIN: Duration = Duration::from_secs(1);

/// How many bytes of a blob must come until those resumptions count no more that there were before
/// ([`UpstreamLimits::resumes_max`]): with a byte per connection, each byte would cost a request.
pub const RESUMED_BYTES_MIN: u64 = 64 * 1024;

impl Default for UpstreamLimits {
    fn default() -> Self {
        Self {
            connections_max: 64,
            requests_per_second: None,
            manifest_bytes_max: 4 << 20,
            list_bytes_max: 8 << 20,
            referrer_pages_max: 100,
            resumes_max: 5,
            blob_rate_min: 1024,
            mismatch_pause: Duration::from_secs(30),
            refused_token_age_min: Duration::from_secs(60),
        }
    }
}

/// The environment of the process, as the caller read it. Its debug output has no values.
#[derive(Clone, Default)]
pub struct EnvironmentVariables(Arc<HashMap<String, String>>);

impl EnvironmentVariables {
    /// From names and values, such as `std::env::vars()`.
    pub fn new(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        Self(Arc::new(variables.into_iter().collect()))
    }

    /// A variable, if it is set and not empty.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }
}

impl fmt::Debug for EnvironmentVariables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EnvironmentVariables({})", self.0.len())
    }
}

/// Resolves a host name.
#[async_trait]
pub trait HostResolver: fmt::Debug + Send + Sync + 'static {
    /// The addresses of a host.
    async fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>>;
}
