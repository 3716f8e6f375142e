//! [`keys`]: the keys of AWS by which a token of ECR is requested.
//!
//! In this order: variables, the web identity (EKS), the container (ECS, EKS Pod Identity), the instance.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use jreg_auth::Secret;
use reqwest::Url;
use serde::Deserialize;

use super::cloud::{CloudHttp, metadata_url, service_url};
use super::sigv4::AwsKeys;
use super::{LoadError, form, parse, read_file};
use crate::EnvironmentVariables;

/// Where the instance's metadata is, unless `AWS_EC2_METADATA_SERVICE_ENDPOINT` says otherwise.
const METADATA: &str = "http://169.254.169.254";
/// Where a relative URI of a container's credentials is.
const CONTAINER: &str = "http://169.254.170.2";
/// Where ECS and EKS have them.
const CONTAINER_ADDRESSES: [IpAddr; 3] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 2)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 23)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23)),
];
/// How long the token of the instance's metadata is good for.
const METADATA_TOKEN_SECONDS: &str = "300";

/// Keys as the container and the instance have them.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct KeysDocument {
    access_key_id: String,
    secret_access_key: SecretText,
    token: SecretText,
}

/// A secret in a document.
#[derive(Deserialize)]
#[serde(transparent)]
struct SecretText(String);

impl From<KeysDocument> for AwsKeys {
    fn from(document: KeysDocument) -> Self {
        Self {
            id: document.access_key_id,
            secret: Secret::new(document.secret_access_key.0),
            session_token: Some(Secret::new(document.token.0)),
        }
    }
}

pub(super) async fn keys(
    environment: &EnvironmentVariables,
    region: &str,
    cloud: &CloudHttp,
) -> Result<AwsKeys, LoadError> {
    let get = |name| environment.get(name);
    if let (Some(id), Some(secret)) = (get("AWS_ACCESS_KEY_ID"), get("AWS_SECRET_ACCESS_KEY")) {
        let session_token = get("AWS_SESSION_TOKEN").map(Secret::new);
        return Ok(AwsKeys { id: id.to_owned(), secret: Secret::new(secret), session_token });
    }
    if let (Some(file), Some(role)) = (get("AWS_WEB_IDENTITY_TOKEN_FILE"), get("AWS_ROLE_ARN")) {
        return web_identity(environment, region, cloud, file, role).await;
    }
    let relative =
        get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI").map(|path| format!("{CONTAINER}{path}"));
    if let Some(url) =
        relative.or_else(|| get("AWS_CONTAINER_CREDENTIALS_FULL_URI").map(str::to_owned))
    {
        return container(environment, cloud, &url).await;
    }
    instance(environment, cloud).await
}

async fn web_identity(
    environment: &EnvironmentVariables,
    region: &str,
    cloud: &CloudHttp,
    file: &str,
    role: &str,
) -> Result<AwsKeys, LoadError> {
    let token = read_file(file.as_ref()).await?;
    let suffix = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
    let default = format!("https://sts.{region}.{suffix}");
    let url = environment.get("AWS_ENDPOINT_URL_STS").unwrap_or(&default);
    let form = form([
        ("Action", "AssumeRoleWithWebIdentity"),
        ("Version", "2011-06-15"),
        ("RoleArn", role),
        ("RoleSessionName", environment.get("AWS_ROLE_SESSION_NAME").unwrap_or("jreg")),
        ("WebIdentityToken", token.trim()),
    ]);
    let request = cloud.http.post(service_url("STS", url)?).body(form);
    let request = request.header("content-type", "application/x-www-form-urlencoded");
    let body = cloud.send("STS", request).await?;
    let text = String::from_utf8_lossy(&body);
    let element = |name: &str| {
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        Some(rest.split_once('<')?.0.to_owned())
    };
    match (element("AccessKeyId"), element("SecretAccessKey"), element("SessionToken")) {
        (Some(id), Some(secret), Some(token)) => {
            Ok(AwsKeys { id, secret: Secret::new(secret), session_token: Some(Secret::new(token)) })
        }
        _ => Err("the response of STS is not as documented".to_owned()),
    }
}

async fn container(
    environment: &EnvironmentVariables,
    cloud: &CloudHttp,
    url: &str,
) -> Result<AwsKeys, LoadError> {
    let mut request = cloud.http.get(container_url(url)?);
    let token = match environment.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE") {
        Some(file) => Some(read_file(file.as_ref()).await?.trim().to_owned()),
        None => environment.get("AWS_CONTAINER_AUTHORIZATION_TOKEN").map(str::to_owned),
    };
    if let Some(token) = token {
        request = request.header("authorization", token);
    }
    let service = "the credentials of the container";
    let body = cloud.send(service, request).await?;
    parse::<KeysDocument>(service, &body).map(AwsKeys::from)
}

/// The URL of a container's credentials. Over plain HTTP they, and the token for them, stay on the machine.
fn container_url(text: &str) -> Result<Url, LoadError> {
    let url = metadata_url(text)?;
    let host = url.host_str().unwrap_or_default();
    let is_local = match host.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(address) => address.is_loopback() || CONTAINER_ADDRESSES.contains(&address),
        Err(_) => host == "localhost",
    };
    match url.scheme() == "https" || is_local {
        true => Ok(url),
        false => {
            Err("the URL of the container's credentials must be https or of this machine"
                .to_owned())
        }
    }
}

/// By version 2 of the instance's metadata service.
async fn instance(
    environment: &EnvironmentVariables,
    cloud: &CloudHttp,
) -> Result<AwsKeys, LoadError> {
    let service = "the metadata of the instance";
    let base = environment.get("AWS_EC2_METADATA_SERVICE_ENDPOINT").unwrap_or(METADATA);
    let base = base.trim_end_matches('/');
    let token = metadata_url(&format!("{base}/latest/api/token"))?;
    let token = cloud
        .http
        .put(token)
        .header("x-aws-ec2-metadata-token-ttl-seconds", METADATA_TOKEN_SECONDS);
    let token = String::from_utf8_lossy(&cloud.send(service, token).await?).trim().to_owned();
    let get = |path: &str| {
        let url =
            metadata_url(&format!("{base}/latest/meta-data/iam/security-credentials/{path}"))?;
        Ok::<_, LoadError>(cloud.http.get(url).header("x-aws-ec2-metadata-token", &token))
    };
    let roles = cloud.send(service, get("")?).await?;
    let role = String::from_utf8_lossy(&roles).lines().next().unwrap_or_default().trim().to_owned();
    if role.is_empty() || role.contains('/') {
        return Err("the instance has no role".to_owned());
    }
    let body = cloud.send(service, get(&role)?).await?;
    parse::<KeysDocument>(service, &body).map(AwsKeys::from)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn plain_http_stays_on_the_machine() {
        for url in [
            "http://169.254.170.2/v2/credentials/x",
            "http://169.254.170.23/v1/credentials",
            "http://[fd00:ec2::23]/v1/credentials",
            "http://localhost:5000/x",
            "http://127.0.0.1/x",
            "https://credentials.example.com/x",
        ] {
            assert!(container_url(url).is_ok(), "{url}");
        }
        for url in
            ["http://example.com/x", "http://169.254.169.254/x", "http://[fd00::1]/x", "ftp://a/x"]
        {
            assert!(container_url(url).is_err(), "{url}");
        }
    }
}
