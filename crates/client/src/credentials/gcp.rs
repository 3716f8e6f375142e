//! [`load`]: an access token of Google, which its registries take as password.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD as BASE64, URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use serde::Deserialize;
use serde_json::json;

use super::cloud::{CloudHttp, metadata_url, service_url};
use super::{CredentialValue, LoadError, Loaded, before_expiry, form, parse, read_file};
use crate::EnvironmentVariables;

/// The user that goes with an access token.
const USER: &str = "oauth2accesstoken";
const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
const TOKEN_URI: &str = "https://oauth2.googleapis.com/token";
/// Where the instance's metadata is, unless `GCE_METADATA_HOST` says otherwise.
const METADATA_HOST: &str = "metadata.google.internal";
const GRANT: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
/// How long an assertion is good for.
const ASSERTION_SECONDS: u64 = 600;

/// The key file of a service account.
#[derive(Deserialize)]
struct KeyFile {
    #[serde(rename = "type")]
    kind: String,
    client_email: Option<String>,
    private_key: Option<String>,
    token_uri: Option<String>,
}

#[derive(Deserialize)]
struct AccessTokenResponse {
    access_token: String,
    expires_in: u64,
}

pub(super) async fn load(
    environment: &EnvironmentVariables,
    cloud: &CloudHttp,
) -> Result<Loaded, LoadError> {
    let response = match environment.get("GOOGLE_APPLICATION_CREDENTIALS") {
        Some(file) => by_key_file(file, cloud).await?,
        None => by_metadata(environment, cloud).await?,
    };
    let lifetime = Duration::from_secs(response.expires_in.min(24 * 3600));
    let value = CredentialValue::password(USER, response.access_token);
    Ok(Loaded { value, age_max: Some(before_expiry(lifetime)) })
}

async fn by_metadata(
    environment: &EnvironmentVariables,
    cloud: &CloudHttp,
) -> Result<AccessTokenResponse, LoadError> {
    let host = environment.get("GCE_METADATA_HOST").unwrap_or(METADATA_HOST);
    let path = "computeMetadata/v1/instance/service-accounts/default/token";
    let url = metadata_url(&format!("http://{host}/{path}"))?;
    let service = "the metadata of the instance";
    let request = cloud.http.get(url).header("metadata-flavor", "Google");
    parse(service, &cloud.send(service, request).await?)
}

/// By an assertion that the key of the service account signs (RFC 7523).
async fn by_key_file(file: &str, cloud: &CloudHttp) -> Result<AccessTokenResponse, LoadError> {
    let text = read_file(file.as_ref()).await?;
    let key: KeyFile = serde_json::from_str(&text)
        .map_err(|_| format!("{file} is not the key file of a service account"))?;
    let kind = &key.kind;
    let (Some(email), Some(private_key), "service_account") =
        (&key.client_email, &key.private_key, kind.as_str())
    else {
        return Err(format!(
            "{file} is of the type {kind:?}; only key files of service accounts are supported"
        ));
    };
    let token_uri = key.token_uri.as_deref().unwrap_or(TOKEN_URI);
    let assertion = assertion(email, private_key, token_uri, SystemTime::now())
        .ok_or_else(|| format!("the private key in {file} is not an RSA key in PKCS 8"))?;
    let form = form([("grant_type", GRANT), ("assertion", assertion.as_str())]);
    let url = service_url("Google's token service", token_uri)?;
    let request =
        cloud.http.post(url).header("content-type", "application/x-www-form-urlencoded").body(form);
    parse("Google's token service", &cloud.send("Google's token service", request).await?)
}

fn assertion(email: &str, private_key: &str, audience: &str, now: SystemTime) -> Option<String> {
    let since = now.duration_since(UNIX_EPOCH).ok()?.as_secs();
    let claims = json!({
        "iss": email,
        "scope": SCOPE,
        "aud": audience,
        "iat": since,
        "exp": since + ASSERTION_SECONDS,
    });
    let encode = |document: serde_json::Value| URL_SAFE_NO_PAD.encode(document.to_string());
    let unsigned = format!("{}.{}", encode(json!({"alg": "RS256", "typ": "JWT"})), encode(claims));
    let body = private_key.split_once("-----BEGIN PRIVATE KEY-----")?.1;
    let body: String =
        body.split("-----END").next()?.chars().filter(|c| !c.is_whitespace()).collect();
    let key = RsaKeyPair::from_pkcs8(&BASE64.decode(body).ok()?).ok()?;
    let mut signature = vec![0; key.public().modulus_len()];
    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), unsigned.as_bytes(), &mut signature).ok()?;
    Some(format!("{unsigned}.{}", URL_SAFE_NO_PAD.encode(signature)))
}
