//! [`CredentialProvider`]: the credentials of one URL, from where the settings say.
//!
//! They are loaded when they are needed, by one request for all that wait, and kept as long as their source says.

mod acr;
mod aws;
mod cloud;
mod docker_config;
mod ecr;
mod gcp;
mod helper;
mod sigv4;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use form_urlencoded::Serializer;
use jreg_auth::Secret;
use jreg_reload::read_regular;
use serde::de::DeserializeOwned;
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tracing::Instrument;

use crate::transport::Transport;
use crate::{
    CredentialSource, EnvironmentVariables, SecretSource, UpstreamEndpoint, UpstreamErrorKind,
    UpstreamOptions, UpstreamUrl,
};
use cloud::CloudHttp;

/// Maximum bytes of a file with a secret, or of docker's configuration.
const FILE_BYTES_MAX: usize = 1 << 20;
/// Maximum age of the content of a credentials file before it is reloaded.
const FILE_AGE_MAX: Duration = Duration::from_secs(10);
/// How long what a credential helper printed is used.
const HELPER_AGE_MAX: Duration = Duration::from_secs(300);
/// How long no other attempt is made after credentials could not be loaded, or new ones of a service or a helper are
/// refused as those before them were.
const LOAD_PAUSE: Duration = Duration::from_secs(5);
/// Maximum duration of loading credentials, which may take several requests.
const LOAD_TIME_MAX: Duration = Duration::from_secs(60);

/// What authenticates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CredentialValue {
    Anonymous,
    Password {
        user: String,
        password: Secret,
    },
    /// A refresh token of the registry's token service.
    RefreshToken(Secret),
}

impl CredentialValue {
    pub(crate) fn password(user: &str, password: impl Into<String>) -> Self {
        Self::Password { user: user.to_owned(), password: Secret::new(password) }
    }
}

/// A credential, which has another generation than those that were different before.
#[derive(Debug)]
pub(crate) struct Credential {
    pub(crate) value: CredentialValue,
    pub(crate) generation: u64,
}

/// A value, and how long it may be used; `None` for as long as it is not refused.
#[derive(Debug)]
struct Loaded {
    value: CredentialValue,
    age_max: Option<Duration>,
}

/// What loading credentials fails with: a text for the operator, without a secret.
type LoadError = String;

/// The credentials of one URL.
#[derive(Debug)]
pub(crate) struct CredentialProvider {
    source: CredentialSource,
    url: UpstreamUrl,
    transport: Arc<Transport>,
    environment: EnvironmentVariables,
    timeout: Duration,
    state: tokio::sync::Mutex<ProviderState>,
}

#[derive(Debug, Default)]
struct ProviderState {
    current: Option<Arc<Credential>>,
    /// Until when the current one is used; `None` for always.
    until: Option<Instant>,
    is_refused: bool,
    /// When they were loaded because those before them were refused.
    renewed: Option<Instant>,
    failed: Option<(Instant, UpstreamErrorKind)>,
}

impl ProviderState {
    fn usable(&self) -> Option<Arc<Credential>> {
        let is_young = self.until.is_none_or(|until| Instant::now() < until);
        self.current.clone().filter(|_| is_young && !self.is_refused)
    }
}

impl CredentialProvider {
    pub(crate) fn new(
        options: &UpstreamOptions,
        endpoint: &UpstreamEndpoint,
        transport: Arc<Transport>,
    ) -> Self {
        Self {
            source: endpoint.credentials.clone(),
            url: endpoint.url.clone(),
            transport,
            environment: options.environment.clone(),
            timeout: options.timeouts.credentials,
            state: tokio::sync::Mutex::default(),
        }
    }

    pub(crate) fn is_anonymous(&self) -> bool {
        self.source == CredentialSource::Anonymous
    }

    /// The credentials, loaded if there are none that may be used: in a task of its own, so that a client that goes
    /// away does not begin it anew.
    pub(crate) async fn current(self: &Arc<Self>) -> Result<Arc<Credential>, UpstreamErrorKind> {
        if let Ok(state) = self.state.try_lock()
            && let Some(current) = state.usable()
        {
            return Ok(current);
        }
        let provider = Arc::clone(self);
        let loading = async move { provider.load_current().await };
        match tokio::spawn(loading.in_current_span()).await {
            Ok(current) => current,
            Err(_) => Err(UpstreamErrorKind::no_credentials("loading them was stopped")),
        }
    }

    async fn load_current(&self) -> Result<Arc<Credential>, UpstreamErrorKind> {
        let mut state = self.state.lock().await;
        if let Some(current) = state.usable() {
            return Ok(current);
        }
        let now = Instant::now();
        if let Some((_, error)) = state.failed.as_ref().filter(|(at, _)| now < *at + LOAD_PAUSE) {
            return Err(error.clone());
        }
        let loading = tokio::time::timeout(LOAD_TIME_MAX, self.load());
        let stopped = |_| Err(format!("it took more than {} s", LOAD_TIME_MAX.as_secs()));
        match loading.await.unwrap_or_else(stopped) {
            Ok(Loaded { value, age_max }) => {
                let known = state.current.take().filter(|known| known.value == value);
                let current = known.unwrap_or_else(|| {
                    let generation = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    Arc::new(Credential { value, generation })
                });
                let now = Instant::now();
                let until = age_max.map(|age_max| now + age_max.max(LOAD_PAUSE));
                let current_again = Arc::clone(&current);
                let renewed = if state.is_refused { Some(now) } else { state.renewed };
                let current = Some(current);
                *state = ProviderState { current, until, renewed, ..ProviderState::default() };
                Ok(current_again)
            }
            Err(why) => {
                let error = UpstreamErrorKind::no_credentials(why);
                state.failed = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    /// The credentials of this generation were refused: they are loaded again, but not for each request.
    pub(crate) async fn invalidate(&self, generation: u64) {
        let mut state = self.state.lock().await;
        let is_new = state.renewed.is_some_and(|renewed| renewed.elapsed() < LOAD_PAUSE);
        let is_paused = is_new && self.is_costly();
        if !is_paused
            && state.current.as_ref().is_some_and(|current| current.generation == generation)
        {
            state.is_refused = true;
        }
    }

    /// Whether loading starts a program or sends requests.
    fn is_costly(&self) -> bool {
        use CredentialSource::{Acr, Ecr, Gcp, Helper};
        matches!(self.source, Helper(_) | Ecr | Gcp | Acr)
    }

    async fn load(&self) -> Result<Loaded, LoadError> {
        let kept = |value, age_max| Ok(Loaded { value, age_max: Some(age_max) });
        match &self.source {
            CredentialSource::Anonymous => {
                Ok(Loaded { value: CredentialValue::Anonymous, age_max: None })
            }
            CredentialSource::Password { user, password } => {
                let value = CredentialValue::password(user, read_secret(password).await?.reveal());
                kept(value, FILE_AGE_MAX)
            }
            CredentialSource::RefreshToken(token) => {
                kept(CredentialValue::RefreshToken(read_secret(token).await?), FILE_AGE_MAX)
            }
            CredentialSource::DockerConfig(path) => self.docker_config(path).await,
            CredentialSource::Helper(name) => {
                let server = docker_config::server_url(self.url.host());
                match helper::run(name, &server, &self.environment, self.timeout).await? {
                    Some(value) => kept(value, HELPER_AGE_MAX),
                    None => {
                        Err(format!("docker-credential-{} has none for {server}", name.as_str()))
                    }
                }
            }
            CredentialSource::Ecr => {
                let cloud = CloudHttp::new(self.timeout)?;
                ecr::load(&self.url, &self.environment, &cloud).await
            }
            CredentialSource::Gcp => {
                gcp::load(&self.environment, &CloudHttp::new(self.timeout)?).await
            }
            CredentialSource::Acr => {
                let cloud = CloudHttp::new(self.timeout)?;
                acr::load(&self.url, &self.environment, &cloud, &self.transport).await
            }
        }
    }

    async fn docker_config(&self, path: &Path) -> Result<Loaded, LoadError> {
        let config = docker_config::DockerConfig::parse(&read_file(path).await?)
            .map_err(|why| format!("{}: {why}", path.display()))?;
        let host = self.url.host();
        if let Some(name) = config.helper(host) {
            let name = name.parse().map_err(|error| format!("{}: {error}", path.display()))?;
            let server = docker_config::server_url(host);
            if let Some(value) =
                helper::run(&name, &server, &self.environment, self.timeout).await?
            {
                return Ok(Loaded { value, age_max: Some(HELPER_AGE_MAX) });
            }
        }
        let value = config.credential(host).map_err(|why| format!("{}: {why}", path.display()))?;
        Ok(Loaded { value, age_max: Some(FILE_AGE_MAX) })
    }
}

/// Generations differ through all of the process: clients share nothing by them.
static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);

async fn read_secret(source: &SecretSource) -> Result<Secret, LoadError> {
    match source {
        SecretSource::Value(secret) => Ok(secret.clone()),
        SecretSource::File(path) => {
            let text = read_file(path).await?;
            Ok(Secret::new(text.trim_end_matches(['\r', '\n'])))
        }
    }
}

/// The text of a file.
async fn read_file(path: &Path) -> Result<String, LoadError> {
    let file = path.to_owned();
    let reading = spawn_blocking(move || read_regular(&file, FILE_BYTES_MAX));
    let text = reading.await.map_err(io::Error::other).and_then(|read| read);
    text.map_err(|error| match error.kind() {
        io::ErrorKind::FileTooLarge => {
            format!("{} is larger than {FILE_BYTES_MAX} bytes", path.display())
        }
        _ => format!("cannot read {}: {error}", path.display()),
    })
}

/// A document of a cloud's service. What is wrong with it is not repeated: it may contain a secret.
fn parse<T: DeserializeOwned>(service: &str, body: &[u8]) -> Result<T, LoadError> {
    serde_json::from_slice(body)
        .map_err(|_| format!("the response of {service} is not as documented"))
}

/// The body of a form.
fn form<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    Serializer::new(String::new()).extend_pairs(pairs).finish()
}

/// How long something is used that is good for so long.
fn before_expiry(lifetime: Duration) -> Duration {
    lifetime - Duration::from_secs(300).min(lifetime / 5)
}
