//! [`ProfileCredentials`]: credentials of a profile of the AWS tools: keys, a program
//! (`credential_process`), a session of IAM Identity Center (SSO), or a role of another profile.
//!
//! docs/decisions/0015-aws-profiles.md says why this is not the `aws-config` crate.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use jreg_reload::read_regular;
use object_store::CredentialProvider;
use object_store::aws::{AwsAuthorizer, AwsCredential};
use object_store::client::HttpRequestBody;
use reqwest::header::{ACCEPT, HeaderName, HeaderValue};
use serde::Deserialize;
use tokio::process::Command;
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout};

use super::profile_file::{
    FILE_BYTES_MAX, ProfileFiles, ProfileKeys, ProfilePlace, UnreadableProfiles,
};
use super::xml;

/// How long before their end credentials are renewed.
const RENEWAL: Duration = Duration::from_secs(300);
/// Maximum age of the keys of a file before it is reloaded.
const KEYS_AGE_MAX: Duration = Duration::from_secs(60);
/// Maximum time of a credential process, and of a request to AWS.
const PROCESS_WAIT_MAX: Duration = Duration::from_secs(60);
const REQUEST_WAIT_MAX: Duration = Duration::from_secs(10);
/// Maximum bytes of what a process or a service responds.
const RESPONSE_BYTES_MAX: usize = 1 << 20;
/// Maximum length of a chain of roles.
const ROLES_MAX: usize = 5;
const SSO_TOKEN: HeaderName = HeaderName::from_static("x-amz-sso_bearer_token");
const STS_VERSION: &str = "2011-06-15";
const SESSION_NAME: &str = "jreg";

/// Why a profile gives no credentials.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProfileError {
    #[error(transparent)]
    Unreadable(#[from] UnreadableProfiles),
    #[error("there is no profile {0}")]
    Absent(String),
    #[error("profile {profile} lacks {key}")]
    Lacks { profile: String, key: &'static str },
    #[error("profile {0} has no credentials that jreg can use")]
    NoSource(String),
    #[error("profile {profile} has credential_source, which is not supported: use source_profile")]
    CredentialSource { profile: String },
    #[error("the roles of profile {0} form a circle, or a chain of more than {ROLES_MAX}")]
    Circle(String),
    #[error("credential_process of profile {profile} failed: {why}")]
    Process { profile: String, why: String },
    #[error(
        "profile {profile} has no valid SSO session ({}): run aws sso login --profile {profile}",
        path.display()
    )]
    NoSession { profile: String, path: PathBuf },
    #[error("{service} gives no credentials: {why}")]
    Service { service: String, why: String },
}

impl From<ProfileError> for object_store::Error {
    fn from(error: ProfileError) -> Self {
        Self::Generic { store: "S3", source: Box::new(error) }
    }
}

/// Where the credentials of a profile come from.
#[derive(Clone, Debug, PartialEq, Eq)]
enum ProfileSource {
    Keys(ProfileKeys),
    Process(String),
    Sso { account: String, role: String, region: String, cache_key: String },
    Role { arn: String, external_id: Option<String>, session: Option<String>, source: String },
}

/// Credentials with their end.
#[derive(Clone, Debug)]
struct ExpiringCredential {
    keys: Arc<AwsCredential>,
    expires: Option<SystemTime>,
}

/// The credentials of a profile, cached until shortly before their end.
#[derive(Debug)]
pub(super) struct ProfileCredentials {
    place: ProfilePlace,
    http: reqwest::Client,
    cached: Mutex<Option<(Arc<AwsCredential>, Instant)>>,
}

impl ProfileCredentials {
    /// Those of the profile that the environment names, or of the default one; `None`: there is none.
    ///
    /// # Errors
    ///
    /// The environment names a profile that is absent or has no credentials; a file cannot be read.
    pub(super) fn find(
        place: &ProfilePlace,
        http: reqwest::Client,
    ) -> Result<Option<Self>, ProfileError> {
        match source_of(&place.read()?, &place.profile) {
            Ok(_) => Ok(Some(Self { place: place.clone(), http, cached: Mutex::default() })),
            Err(ProfileError::Absent(_) | ProfileError::NoSource(_)) if !place.is_named => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn fetch(&self) -> Result<ExpiringCredential, ProfileError> {
        let place = self.place.clone();
        let reading = tokio::task::spawn_blocking(move || place.read()).await;
        let files = reading.map_err(|error| ProfileError::Process {
            profile: self.place.profile.clone(),
            why: error.to_string(),
        })??;
        // The source of each role comes first.
        let (mut roles, mut profile) = (Vec::new(), self.place.profile.clone());
        let first = loop {
            match source_of(&files, &profile)? {
                // A profile may name itself: then the keys are in it, too.
                ProfileSource::Role { source, .. } if roles.len() >= ROLES_MAX => {
                    return Err(ProfileError::Circle(source));
                }
                role @ ProfileSource::Role { .. } => {
                    let ProfileSource::Role { source, .. } = &role else { continue };
                    let next = source.clone();
                    let is_own = next == profile;
                    roles.push(role);
                    if is_own {
                        break ProfileSource::Keys(
                            files.profile(&next).cloned().unwrap_or_default(),
                        );
                    }
                    profile = next;
                }
                source => break source,
            }
        };
        let mut credential = self.of_source(&profile, first).await?;
        for role in roles.into_iter().rev() {
            credential = self.assume(&role, &credential.keys, &files).await?;
        }
        Ok(credential)
    }

    async fn of_source(
        &self,
        profile: &str,
        source: ProfileSource,
    ) -> Result<ExpiringCredential, ProfileError> {
        match source {
            ProfileSource::Keys(keys) => keys_of(profile, &keys),
            ProfileSource::Process(command) => run(profile, &command).await,
            ProfileSource::Sso { account, role, region, cache_key } => {
                self.sign_in(profile, [&account, &role, &region], &cache_key).await
            }
            ProfileSource::Role { .. } => Err(ProfileError::Circle(profile.to_owned())),
        }
    }

    /// GetRoleCredentials of IAM Identity Center, with the token that `aws sso login` has obtained.
    async fn sign_in(
        &self,
        profile: &str,
        [account, role, region]: [&str; 3],
        cache_key: &str,
    ) -> Result<ExpiringCredential, ProfileError> {
        let path = self.place.sso_cache.join(format!("{}.json", sha1(cache_key)));
        let no_session =
            || ProfileError::NoSession { profile: profile.to_owned(), path: path.clone() };
        let file = path.clone();
        let reading = spawn_blocking(move || read_regular(&file, FILE_BYTES_MAX));
        let text = reading.await.ok().and_then(Result::ok).ok_or_else(no_session)?;
        let token: SsoToken = serde_json::from_str(&text).map_err(|_| no_session())?;
        let expires = DateTime::parse_from_rfc3339(&token.expires_at).map_err(|_| no_session())?;
        if SystemTime::from(expires) <= SystemTime::now() {
            return Err(no_session());
        }
        let service = endpoint("AWS_ENDPOINT_URL_SSO", || {
            format!("https://portal.sso.{region}.amazonaws.com")
        });
        let failed = |why: String| ProfileError::Service { service: service.clone(), why };
        let query = form_urlencoded::Serializer::new(String::new())
            .append_pair("account_id", account)
            .append_pair("role_name", role)
            .finish();
        let url = format!("{service}/federation/credentials?{query}");
        let mut bearer = HeaderValue::from_str(&token.access_token).map_err(|_| no_session())?;
        bearer.set_sensitive(true);
        let request =
            self.http.get(url).header(SSO_TOKEN, bearer).header(ACCEPT, "application/json");
        let body = respond(request).await.map_err(failed)?;
        let failed = |why: String| ProfileError::Service { service: service.clone(), why };
        let issued: RoleCredentials =
            serde_json::from_slice(&body).map_err(|error| failed(error.to_string()))?;
        let issued = issued.role_credentials;
        let expires = DateTime::<Utc>::from_timestamp_millis(issued.expiration);
        Ok(ExpiringCredential {
            keys: Arc::new(AwsCredential {
                key_id: issued.access_key_id,
                secret_key: issued.secret_access_key,
                token: Some(issued.session_token),
            }),
            expires: expires.map(SystemTime::from),
        })
    }

    /// AssumeRole of STS, signed with the keys of the source.
    async fn assume(
        &self,
        role: &ProfileSource,
        keys: &AwsCredential,
        files: &ProfileFiles,
    ) -> Result<ExpiringCredential, ProfileError> {
        let ProfileSource::Role { arn, external_id, session, .. } = role else {
            return Err(ProfileError::NoSource(self.place.profile.clone()));
        };
        let region = std::env::var("AWS_REGION").ok().filter(|region| !region.is_empty());
        let own = files.profile(&self.place.profile).and_then(|keys| keys.get("region").cloned());
        let region = region.or(own).unwrap_or_else(|| "us-east-1".to_owned());
        let service =
            endpoint("AWS_ENDPOINT_URL_STS", || format!("https://sts.{region}.amazonaws.com"));
        let failed = |why: String| ProfileError::Service { service: service.clone(), why };
        let session = session.as_deref().unwrap_or(SESSION_NAME);
        let query = form_urlencoded::Serializer::new(String::new())
            .append_pair("Action", "AssumeRole")
            .append_pair("Version", STS_VERSION)
            .append_pair("RoleArn", arn)
            .append_pair("RoleSessionName", session)
            .extend_pairs(external_id.iter().map(|id| ("ExternalId", id)))
            .finish();
        let uri = format!("{}/?{query}", service.trim_end_matches('/'));
        let request = http::Request::post(uri).body(HttpRequestBody::empty());
        let mut request = request.map_err(|error| failed(error.to_string()))?;
        let authorizer = AwsAuthorizer::new(keys, "sts", &region);
        authorizer.try_authorize(&mut request, None).map_err(|error| failed(error.to_string()))?;
        let (parts, _) = request.into_parts();
        let request = self.http.post(parts.uri.to_string()).headers(parts.headers);
        let body = respond(request).await.map_err(failed)?;
        let failed = |why: String| ProfileError::Service { service: service.clone(), why };
        let assumed: AssumeRoleResponse =
            xml::read(&body).map_err(|error| failed(error.to_string()))?;
        let issued = assumed.assume_role_result.credentials;
        let expires = DateTime::parse_from_rfc3339(&issued.expiration).ok();
        Ok(ExpiringCredential {
            keys: Arc::new(AwsCredential {
                key_id: issued.access_key_id,
                secret_key: issued.secret_access_key,
                token: Some(issued.session_token),
            }),
            expires: expires.map(SystemTime::from),
        })
    }
}

#[async_trait]
impl CredentialProvider for ProfileCredentials {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let mut cached = self.cached.lock().await;
        if let Some((keys, until)) = &*cached
            && Instant::now() < *until
        {
            return Ok(Arc::clone(keys));
        }
        let fresh = self.fetch().await?;
        let left = fresh.expires.map(|at| at.duration_since(SystemTime::now()).unwrap_or_default());
        let lifetime = left.map_or(KEYS_AGE_MAX, |left| left.saturating_sub(RENEWAL));
        *cached = Some((Arc::clone(&fresh.keys), Instant::now() + lifetime));
        Ok(fresh.keys)
    }
}

/// The source of a profile, in the order of the AWS tools.
fn source_of(files: &ProfileFiles, profile: &str) -> Result<ProfileSource, ProfileError> {
    let keys = files.profile(profile).ok_or_else(|| ProfileError::Absent(profile.to_owned()))?;
    let lacks = |key| move || ProfileError::Lacks { profile: profile.to_owned(), key };
    if let Some(arn) = keys.get("role_arn") {
        if keys.contains_key("credential_source") {
            return Err(ProfileError::CredentialSource { profile: profile.to_owned() });
        }
        return Ok(ProfileSource::Role {
            arn: arn.clone(),
            external_id: keys.get("external_id").cloned(),
            session: keys.get("role_session_name").cloned(),
            source: keys.get("source_profile").cloned().ok_or_else(lacks("source_profile"))?,
        });
    }
    if let Some(account) = keys.get("sso_account_id") {
        let session = keys.get("sso_session");
        let session_keys = session.and_then(|name| files.sso_session(name)).unwrap_or(keys);
        let start_url = session_keys.get("sso_start_url");
        let region = session_keys.get("sso_region").cloned();
        return Ok(ProfileSource::Sso {
            account: account.clone(),
            role: keys.get("sso_role_name").cloned().ok_or_else(lacks("sso_role_name"))?,
            region: region.ok_or_else(lacks("sso_region"))?,
            cache_key: session.or(start_url).cloned().ok_or_else(lacks("sso_start_url"))?,
        });
    }
    if keys.contains_key("aws_access_key_id") {
        return Ok(ProfileSource::Keys(keys.clone()));
    }
    match keys.get("credential_process") {
        Some(command) => Ok(ProfileSource::Process(command.clone())),
        None => Err(ProfileError::NoSource(profile.to_owned())),
    }
}

fn keys_of(profile: &str, keys: &ProfileKeys) -> Result<ExpiringCredential, ProfileError> {
    let of = |key: &'static str| {
        let lacks = || ProfileError::Lacks { profile: profile.to_owned(), key };
        keys.get(key).cloned().ok_or_else(lacks)
    };
    let key_id = of("aws_access_key_id")?;
    let secret_key = of("aws_secret_access_key")?;
    let token = keys.get("aws_session_token").cloned();
    let keys = Arc::new(AwsCredential { key_id, secret_key, token });
    Ok(ExpiringCredential { keys, expires: None })
}

/// Runs a credential process; only its exit code and form are repeated: its output has secrets.
async fn run(profile: &str, command: &str) -> Result<ExpiringCredential, ProfileError> {
    let failed = |why: String| ProfileError::Process { profile: profile.to_owned(), why };
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", command]).stdin(Stdio::null()).stderr(Stdio::inherit()).kill_on_drop(true);
    let output = timeout(PROCESS_WAIT_MAX, shell.output()).await;
    let output = output.map_err(|_| failed("it does not end".to_owned()))?;
    let output = output.map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(output.status.to_string()));
    }
    let issued: ProcessCredentials = serde_json::from_slice(&output.stdout)
        .map_err(|_| failed("its output is not the JSON of a credential process".to_owned()))?;
    if issued.version != 1 {
        return Err(failed(format!("its output has Version {}, not 1", issued.version)));
    }
    let expires = issued.expiration.map(|at| DateTime::parse_from_rfc3339(&at)).transpose();
    let expires = expires.map_err(|_| failed("its Expiration is no time".to_owned()))?;
    let keys = AwsCredential {
        key_id: issued.access_key_id,
        secret_key: issued.secret_access_key,
        token: issued.session_token,
    };
    Ok(ExpiringCredential { keys: Arc::new(keys), expires: expires.map(SystemTime::from) })
}

/// The body of a successful response.
async fn respond(request: reqwest::RequestBuilder) -> Result<Vec<u8>, String> {
    let sent = request.timeout(REQUEST_WAIT_MAX).send().await;
    let mut response = sent.map_err(|error| crate::error_chain(&error.without_url()))?;
    let status = response.status();
    if !status.is_success() {
        return Err(format!("status {status}"));
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| error.to_string())? {
        if body.len() + chunk.len() > RESPONSE_BYTES_MAX {
            return Err("the response is too large".to_owned());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn endpoint(variable: &str, usual: impl FnOnce() -> String) -> String {
    std::env::var(variable).ok().filter(|url| !url.is_empty()).unwrap_or_else(usual)
}

/// The name of a cached token.
fn sha1(text: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SsoToken {
    access_token: String,
    expires_at: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RoleCredentials {
    role_credentials: RoleKeys,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RoleKeys {
    access_key_id: String,
    secret_access_key: String,
    session_token: String,
    /// In milliseconds of the Unix epoch.
    expiration: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ProcessCredentials {
    version: u32,
    access_key_id: String,
    secret_access_key: String,
    session_token: Option<String>,
    expiration: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct AssumeRoleResponse {
    assume_role_result: AssumeRoleResult,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct AssumeRoleResult {
    credentials: AssumedKeys,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct AssumedKeys {
    access_key_id: String,
    secret_access_key: String,
    session_token: String,
    expiration: String,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_name_of_a_cached_token_is_the_sha1_of_its_session() {
        // RFC 3174, test 1.
        assert_eq!(sha1("abc"), "a9993e364706816aba3e25717850c26c9cd0d89d");
    }

    #[tokio::test]
    async fn the_output_of_a_process_is_checked_and_not_repeated() {
        let good = r#"echo '{"Version":1,"AccessKeyId":"A","SecretAccessKey":"HUSH"}'"#;
        let credential = run("p", good).await.unwrap();
        assert_eq!((&*credential.keys.key_id, credential.expires), ("A", None));
        for (command, told) in [
            ("echo HUSH", "not the JSON"),
            ("exit 3", "exit status: 3"),
            (r#"echo '{"Version":2,"AccessKeyId":"A","SecretAccessKey":"HUSH"}'"#, "Version 2"),
            (
                r#"echo '{"Version":1,"AccessKeyId":"A","SecretAccessKey":"HUSH","Expiration":"x"}'"#,
                "no time",
            ),
        ] {
            let error = run("p", command).await.unwrap_err().to_string();
            assert!(error.contains(told) && !error.contains("HUSH"), "{error}");
        }
    }
}
