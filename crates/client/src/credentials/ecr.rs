//! [`load`]: a token of Amazon ECR, by `GetAuthorizationToken`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;

use super::cloud::{CloudHttp, service_url};
use super::sigv4::{SignedParts, sign};
use super::{CredentialValue, LoadError, Loaded, aws, before_expiry, parse};
use crate::{EnvironmentVariables, UpstreamUrl};

const CONTENT_TYPE: &str = "application/x-amz-json-1.1";
/// How long a token is good for, if the response does not say it.
const LIFETIME: Duration = Duration::from_secs(12 * 3600);

/// Which registry of ECR, by its host.
#[derive(Debug, PartialEq, Eq)]
struct EcrService {
    region: String,
    /// Its name in signatures.
    name: &'static str,
    target: &'static str,
    endpoint: String,
}

impl EcrService {
    /// `ACCOUNT.dkr.ecr.REGION.amazonaws.com`, `public.ecr.aws`; or what `AWS_REGION` says, behind another name.
    fn of(host: &str, environment: &EnvironmentVariables) -> Result<Self, LoadError> {
        if host == "public.ecr.aws" {
            return Ok(Self {
                region: "us-east-1".to_owned(),
                name: "ecr-public",
                target: "SpencerFrontendService.GetAuthorizationToken",
                endpoint: "https://api.ecr-public.us-east-1.amazonaws.com".to_owned(),
            });
        }
        let labels: Vec<_> = host.split('.').collect();
        let (region, is_fips, suffix) = match labels.as_slice() {
            [_, "dkr", service @ ("ecr" | "ecr-fips"), region, suffix @ ..] => {
                ((*region).to_owned(), *service == "ecr-fips", suffix.join("."))
            }
            [_, "dkr-ecr", region, "on", "aws"] => ((*region).to_owned(), false, String::new()),
            _ => {
                let region =
                    environment.get("AWS_REGION").or(environment.get("AWS_DEFAULT_REGION"));
                let region = region.ok_or("set AWS_REGION: the host is not one of ECR's")?;
                (region.to_owned(), false, String::new())
            }
        };
        let suffix = match suffix.as_str() {
            "amazonaws.com.cn" => "amazonaws.com.cn",
            "" | "amazonaws.com" => "amazonaws.com",
            _ => return Err("the host is not one of ECR's".to_owned()),
        };
        let is_region =
            region.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !is_region {
            return Err("the region must be lowercase letters, digits and dashes".to_owned());
        }
        let service = if is_fips { "ecr-fips" } else { "api.ecr" };
        Ok(Self {
            endpoint: format!("https://{service}.{region}.{suffix}"),
            region,
            name: "ecr",
            target: "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken",
        })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TokenResponse {
    authorization_data: OneOrMany,
}

/// ECR has a list, its public registry one.
#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    Many(Vec<AuthorizationData>),
    One(AuthorizationData),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AuthorizationData {
    authorization_token: String,
    expires_at: Option<f64>,
}

pub(super) async fn load(
    url: &UpstreamUrl,
    environment: &EnvironmentVariables,
    cloud: &CloudHttp,
) -> Result<Loaded, LoadError> {
    let service = EcrService::of(url.host(), environment)?;
    let keys = aws::keys(environment, &service.region, cloud).await?;
    let endpoint = environment.get("AWS_ENDPOINT_URL_ECR").unwrap_or(&service.endpoint);
    let endpoint = service_url("ECR", endpoint)?;
    let host = crate::url::host_of(&endpoint);
    let body = "{}";
    let headers =
        [("content-type", CONTENT_TYPE), ("host", &*host), ("x-amz-target", service.target)];
    let parts = SignedParts {
        method: "POST",
        path: "/",
        headers: &headers,
        body: body.as_bytes(),
        region: &service.region,
        service: service.name,
    };
    let mut request = cloud.http.post(endpoint).body(body);
    request = request.header("content-type", CONTENT_TYPE).header("x-amz-target", service.target);
    for (name, value) in sign(&keys, &parts, SystemTime::now()) {
        request = request.header(name, value);
    }
    let response: TokenResponse = parse("ECR", &cloud.send("ECR", request).await?)?;
    let data = match response.authorization_data {
        OneOrMany::One(data) => Some(data),
        OneOrMany::Many(list) => list.into_iter().next(),
    };
    loaded(&data.ok_or("ECR gives no token")?, SystemTime::now())
}

/// The token is the base64 of `AWS:PASSWORD`.
fn loaded(data: &AuthorizationData, now: SystemTime) -> Result<Loaded, LoadError> {
    let wrong = || "the token of ECR is not as documented".to_owned();
    let text = BASE64.decode(&data.authorization_token).map_err(|_| wrong())?;
    let text = String::from_utf8(text).map_err(|_| wrong())?;
    let (user, password) = text.split_once(':').ok_or_else(wrong)?;
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let left = data.expires_at.map_or(LIFETIME.as_secs_f64(), |at| at - since);
    let left = Duration::try_from_secs_f64(left).unwrap_or_default().min(LIFETIME);
    Ok(Loaded {
        value: CredentialValue::password(user, password),
        age_max: Some(before_expiry(left)),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_service_follows_from_the_host() {
        let none = EnvironmentVariables::default();
        for (host, endpoint) in [
            ("1.dkr.ecr.eu-west-1.amazonaws.com", "https://api.ecr.eu-west-1.amazonaws.com"),
            (
                "1.dkr.ecr.cn-north-1.amazonaws.com.cn",
                "https://api.ecr.cn-north-1.amazonaws.com.cn",
            ),
            ("1.dkr.ecr-fips.us-east-1.amazonaws.com", "https://ecr-fips.us-east-1.amazonaws.com"),
            ("1.dkr-ecr.eu-west-1.on.aws", "https://api.ecr.eu-west-1.amazonaws.com"),
            ("public.ecr.aws", "https://api.ecr-public.us-east-1.amazonaws.com"),
        ] {
            assert_eq!(EcrService::of(host, &none).unwrap().endpoint, endpoint, "{host}");
        }
        for host in [
            "registry.example.com",
            "1.dkr.ecr.eu-west-1.example.com",
            "1.dkr.ecr.a@b.amazonaws.com",
        ] {
            assert!(EcrService::of(host, &none).is_err(), "{host}");
        }
        let region = [("AWS_REGION".to_owned(), "eu-west-3".to_owned())];
        let service =
            EcrService::of("registry.example.com", &EnvironmentVariables::new(region)).unwrap();
        assert_eq!(service.region, "eu-west-3");
    }

    #[test]
    fn a_token_is_used_until_shortly_before_it_expires() {
        let now = UNIX_EPOCH + Duration::from_secs(1000);
        let data = AuthorizationData {
            authorization_token: BASE64.encode("AWS:p:w"),
            expires_at: Some(44_200.0),
        };
        let loaded = loaded(&data, now).unwrap();
        assert_eq!(loaded.value, CredentialValue::password("AWS", "p:w"));
        assert_eq!(loaded.age_max, Some(Duration::from_secs(43_200 - 300)));
    }
}
