//! [`load`]: a refresh token of Azure Container Registry, for an access token of Microsoft Entra.

use std::time::Duration;

use jreg_auth::Secret;
use serde::Deserialize;

use super::cloud::{CloudHttp, metadata_url, service_url};
use super::{CredentialValue, LoadError, Loaded, form, parse, read_file};
use crate::token::post_form;
use crate::transport::Transport;
use crate::{EnvironmentVariables, UpstreamUrl};

const AUTHORITY: &str = "https://login.microsoftonline.com";
/// What the access token is for.
const RESOURCE: &str = "https://management.azure.com/";
/// Where the instance's metadata is, unless `AZURE_POD_IDENTITY_AUTHORITY_HOST` says otherwise.
const METADATA: &str = "http://169.254.169.254";
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/// How long a refresh token is used; it is good for three hours.
const AGE_MAX: Duration = Duration::from_secs(2 * 3600);
/// Maximum bytes of the registry's response.
const RESPONSE_BYTES_MAX: u64 = 64 * 1024;

#[derive(Deserialize)]
struct AccessTokenResponse {
    access_token: String,
}

#[derive(Deserialize)]
struct RefreshTokenResponse {
    refresh_token: String,
}

pub(super) async fn load(
    url: &UpstreamUrl,
    environment: &EnvironmentVariables,
    cloud: &CloudHttp,
    transport: &Transport,
) -> Result<Loaded, LoadError> {
    let access_token = access_token(environment, cloud).await?;
    let host = url.host();
    let pairs =
        [("grant_type", "access_token"), ("service", host), ("access_token", &access_token)];
    let tenant = environment.get("AZURE_TENANT_ID").map(|tenant| ("tenant", tenant));
    let form = form(pairs.into_iter().chain(tenant));
    let request = post_form(url.join("/oauth2/exchange", None), form);
    let mut response = transport.send(request).await.map_err(|error| error.to_string())?;
    if response.status() != reqwest::StatusCode::OK {
        return Err(format!(
            "the exchange of {host} responds with status {}",
            response.status().as_u16()
        ));
    }
    let until = response.body_deadline();
    let body = response.body(RESPONSE_BYTES_MAX, until).await.map_err(|error| error.to_string())?;
    let document: RefreshTokenResponse = parse("the registry's exchange", &body)?;
    let value = CredentialValue::RefreshToken(Secret::new(document.refresh_token));
    Ok(Loaded { value, age_max: Some(AGE_MAX) })
}

/// By the workload identity, a client secret, or the identity of the instance.
async fn access_token(
    environment: &EnvironmentVariables,
    cloud: &CloudHttp,
) -> Result<String, LoadError> {
    let get = |name| environment.get(name);
    let proof = match (get("AZURE_FEDERATED_TOKEN_FILE"), get("AZURE_CLIENT_SECRET")) {
        (Some(file), _) => {
            Some(("client_assertion", read_file(file.as_ref()).await?.trim().to_owned()))
        }
        (None, Some(secret)) => Some(("client_secret", secret.to_owned())),
        (None, None) => None,
    };
    let (Some((proof_name, proof)), Some(tenant), Some(client)) =
        (proof, get("AZURE_TENANT_ID"), get("AZURE_CLIENT_ID"))
    else {
        return by_metadata(environment, cloud).await;
    };
    let authority = get("AZURE_AUTHORITY_HOST").unwrap_or(AUTHORITY).trim_end_matches('/');
    let service = "Microsoft Entra";
    let url = service_url(service, &format!("{authority}/{tenant}/oauth2/v2.0/token"))?;
    let scope = format!("{RESOURCE}.default");
    let pairs = [("grant_type", "client_credentials"), ("client_id", client), ("scope", &scope)];
    let kind =
        (proof_name == "client_assertion").then_some(("client_assertion_type", ASSERTION_TYPE));
    let form = form(pairs.into_iter().chain([(proof_name, proof.as_str())]).chain(kind));
    let request = cloud.http.post(url).header("content-type", "application/x-www-form-urlencoded");
    let body = cloud.send(service, request.body(form)).await?;
    parse::<AccessTokenResponse>(service, &body).map(|document| document.access_token)
}

async fn by_metadata(
    environment: &EnvironmentVariables,
    cloud: &CloudHttp,
) -> Result<String, LoadError> {
    let base = environment.get("AZURE_POD_IDENTITY_AUTHORITY_HOST").unwrap_or(METADATA);
    let mut url =
        metadata_url(&format!("{}/metadata/identity/oauth2/token", base.trim_end_matches('/')))?;
    url.query_pairs_mut()
        .append_pair("api-version", "2018-02-01")
        .append_pair("resource", RESOURCE);
    if let Some(client) = environment.get("AZURE_CLIENT_ID") {
        url.query_pairs_mut().append_pair("client_id", client);
    }
    let service = "the metadata of the instance";
    let body = cloud.send(service, cloud.http.get(url).header("metadata", "true")).await?;
    parse::<AccessTokenResponse>(service, &body).map(|document| document.access_token)
}
