//! Credentials of clouds: the exchanges of ECR, Google and ACR.

use std::fs;

use jreg_client::{CredentialSource, EnvironmentVariables, UpstreamClient, UpstreamErrorKind};
use jreg_testkit::Image;
use jreg_testkit::upstream::{
    RequestKind, ScriptedUpstream, TokenService, UpstreamAuth, UpstreamRequestRecord,
};
use serde_json::json;

use super::{client_with, kind, name, reference};

/// The base64 of `AWS:ecr-password`.
const ECR_TOKEN: &str = "QVdTOmVjci1wYXNzd29yZA==";

async fn upstream(auth: UpstreamAuth) -> ScriptedUpstream {
    let upstream = ScriptedUpstream::start().await;
    upstream.add_image(super::REPOSITORY, Some("v1"), &Image::plain(1));
    upstream.set_auth(auth);
    upstream
}

fn client(
    upstream: &ScriptedUpstream,
    source: CredentialSource,
    variables: &[(&str, &str)],
) -> UpstreamClient {
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    client_with(upstream, |options| {
        options.endpoints[0].credentials = source;
        options.environment = EnvironmentVariables::new(variables);
    })
}

async fn head(client: &UpstreamClient) -> Result<(), jreg_client::UpstreamError> {
    client.head_manifest(&name(), &reference("v1")).await.map(|_| ())
}

/// The requests to the services of a cloud.
fn sent(cloud: &ScriptedUpstream) -> Vec<UpstreamRequestRecord> {
    cloud.requests().into_iter().filter(|request| request.kind == RequestKind::Other).collect()
}

async fn ecr() -> (ScriptedUpstream, ScriptedUpstream) {
    let basic = UpstreamAuth::Basic { user: "AWS".to_owned(), password: "ecr-password".to_owned() };
    let (upstream, cloud) = (upstream(basic).await, ScriptedUpstream::start().await);
    let token = json!({"authorizationData": [{"authorizationToken": ECR_TOKEN, "expiresAt": 4e9}]});
    cloud.set_document("/", 200, token.to_string());
    (upstream, cloud)
}

#[tokio::test]
async fn ecr_gives_a_token_for_the_keys_of_the_environment() {
    let (upstream, cloud) = ecr().await;
    let url = cloud.url();
    let variables = [
        ("AWS_REGION", "eu-west-1"),
        ("AWS_ACCESS_KEY_ID", "AKID"),
        ("AWS_SECRET_ACCESS_KEY", "key"),
        ("AWS_SESSION_TOKEN", "session"),
        ("AWS_ENDPOINT_URL_ECR", url.as_str()),
    ];
    let client = client(&upstream, CredentialSource::Ecr, &variables);
    head(&client).await.unwrap();
    head(&client).await.unwrap();
    let sent = sent(&cloud);
    assert_eq!(sent.len(), 1, "the token is used until it expires");
    assert_eq!((sent[0].method.as_str(), sent[0].form.as_str()), ("POST", "{}"));
    let target = "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken";
    assert_eq!(sent[0].header("x-amz-target"), Some(target));
    assert_eq!(sent[0].header("x-amz-security-token"), Some("session"));
    let signed = sent[0].authorization.as_deref().unwrap();
    assert!(signed.starts_with("AWS4-HMAC-SHA256 Credential=AKID/"), "{signed}");
    assert!(signed.contains("/eu-west-1/ecr/aws4_request, SignedHeaders=content-type;host;x-amz-date;x-amz-security-token;x-amz-target,"), "{signed}");
}

#[tokio::test]
async fn keys_of_aws_come_from_web_identity_container_or_instance() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    fs::write(&file, "web-token\n").unwrap();
    let file = file.to_str().unwrap();
    let keys =
        json!({"AccessKeyId": "AKID", "SecretAccessKey": "key", "Token": "session"}).to_string();
    let (upstream, cloud) = ecr().await;
    let sts = ScriptedUpstream::start().await;
    let document = "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>AKID</AccessKeyId><SecretAccessKey>key</SecretAccessKey><SessionToken>session</SessionToken></Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>";
    sts.set_document("/", 200, document);
    cloud.set_document("/container", 200, keys.clone());
    cloud.set_document("/latest/api/token", 200, "metadata-token");
    let roles = "/latest/meta-data/iam/security-credentials/";
    cloud.set_document(roles, 200, "my-role");
    cloud.set_document(&format!("{roles}my-role"), 200, keys);
    let (url, sts_url, container) = (cloud.url(), sts.url(), format!("{}/container", cloud.url()));
    let sources: [&[(&str, &str)]; 3] = [
        &[
            ("AWS_WEB_IDENTITY_TOKEN_FILE", file),
            ("AWS_ROLE_ARN", "arn:aws:iam::1:role/a"),
            ("AWS_ENDPOINT_URL_STS", &sts_url),
        ],
        &[
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &container),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", file),
        ],
        &[("AWS_EC2_METADATA_SERVICE_ENDPOINT", &url)],
    ];
    for source in sources {
        cloud.clear_requests();
        let common = [("AWS_REGION", "eu-west-1"), ("AWS_ENDPOINT_URL_ECR", url.as_str())];
        let variables: Vec<_> = source.iter().copied().chain(common).collect();
        head(&client(&upstream, CredentialSource::Ecr, &variables)).await.unwrap();
        let token = sent(&cloud).into_iter().find(|request| request.path == "/").unwrap();
        assert_eq!(token.header("x-amz-security-token"), Some("session"));
    }
    let form = &sent(&sts)[0].form;
    assert!(
        form.contains("WebIdentityToken=web-token") && form.contains("RoleSessionName=jreg"),
        "{form}"
    );
    let roles = sent(&cloud).into_iter().find(|request| request.path == roles).unwrap();
    assert_eq!(roles.header("x-aws-ec2-metadata-token"), Some("metadata-token"));
}

#[tokio::test]
async fn an_exchange_that_fails_is_no_refusal_and_is_not_tried_with_every_request() {
    let (upstream, cloud) = ecr().await;
    cloud.set_document("/", 400, "{\"message\": \"secret text\"}");
    let url = cloud.url();
    let variables = [
        ("AWS_REGION", "eu-west-1"),
        ("AWS_ACCESS_KEY_ID", "AKID"),
        ("AWS_SECRET_ACCESS_KEY", "key"),
        ("AWS_ENDPOINT_URL_ECR", url.as_str()),
    ];
    let client = client(&upstream, CredentialSource::Ecr, &variables);
    for _ in 0..5 {
        let error = kind(head(&client).await);
        assert!(matches!(error, UpstreamErrorKind::CredentialsUnavailable { .. }), "{error}");
        assert!(error.to_string().contains("ECR responds with status 400"), "{error}");
    }
    assert_eq!(sent(&cloud).len(), 1);
}

#[tokio::test]
async fn google_gives_an_access_token_by_metadata_and_by_key_file() {
    let service = TokenService::of_user("oauth2accesstoken", "google-token");
    let (upstream, cloud) =
        (upstream(UpstreamAuth::Bearer(service)).await, ScriptedUpstream::start().await);
    let token = json!({"access_token": "google-token", "expires_in": 3599, "token_type": "Bearer"})
        .to_string();
    let path = "/computeMetadata/v1/instance/service-accounts/default/token";
    cloud.set_document(path, 200, token.clone());
    cloud.set_document("/exchange", 200, token);
    let host = cloud.address().to_string();
    head(&client(&upstream, CredentialSource::Gcp, &[("GCE_METADATA_HOST", &host)])).await.unwrap();
    assert_eq!(sent(&cloud)[0].header("metadata-flavor"), Some("Google"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key.json");
    let key = json!({
        "type": "service_account",
        "client_email": "jreg@test.iam.gserviceaccount.com",
        "private_key": include_str!("rsa_key.pem"),
        "token_uri": format!("{}/exchange", cloud.url()),
    });
    fs::write(&file, key.to_string()).unwrap();
    let variables = [("GOOGLE_APPLICATION_CREDENTIALS", file.to_str().unwrap())];
    head(&client(&upstream, CredentialSource::Gcp, &variables)).await.unwrap();
    let form = &sent(&cloud)[1].form;
    assert!(
        form.contains("grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer"),
        "{form}"
    );
    let assertion = form.split("assertion=").nth(1).unwrap();
    assert_eq!(assertion.split('.').count(), 3);
    fs::write(&file, json!({"type": "external_account"}).to_string()).unwrap();
    let error = kind(head(&client(&upstream, CredentialSource::Gcp, &variables)).await);
    assert!(error.to_string().contains("external_account"), "{error}");
}

#[tokio::test]
async fn acr_exchanges_an_access_token_for_a_refresh_token() {
    let service =
        TokenService { refresh_token: Some("acr-refresh".to_owned()), ..TokenService::default() };
    let (upstream, cloud) =
        (upstream(UpstreamAuth::Bearer(service)).await, ScriptedUpstream::start().await);
    upstream.set_document(
        "/oauth2/exchange",
        200,
        json!({"refresh_token": "acr-refresh"}).to_string(),
    );
    let token = json!({"access_token": "entra-token"}).to_string();
    cloud.set_document("/my-tenant/oauth2/v2.0/token", 200, token.clone());
    cloud.set_document("/metadata/identity/oauth2/token", 200, token);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    fs::write(&file, "federated").unwrap();
    let url = cloud.url();
    let identity = [
        ("AZURE_TENANT_ID", "my-tenant"),
        ("AZURE_CLIENT_ID", "my-client"),
        ("AZURE_AUTHORITY_HOST", &url),
    ];
    let sources: [&[(&str, &str)]; 3] = [
        &[
            identity[0],
            identity[1],
            identity[2],
            ("AZURE_FEDERATED_TOKEN_FILE", file.to_str().unwrap()),
        ],
        &[identity[0], identity[1], identity[2], ("AZURE_CLIENT_SECRET", "client-secret")],
        &[identity[1], ("AZURE_POD_IDENTITY_AUTHORITY_HOST", &url)],
    ];
    for source in sources {
        head(&client(&upstream, CredentialSource::Acr, source)).await.unwrap();
    }
    let exchanges = sent(&upstream);
    assert!(
        exchanges[0].form.starts_with("grant_type=access_token&service=127.0.0.1%3A"),
        "{}",
        exchanges[0].form
    );
    assert!(
        exchanges[0].form.contains("access_token=entra-token&tenant=my-tenant"),
        "{}",
        exchanges[0].form
    );
    let requests = sent(&cloud);
    assert!(requests[0].form.contains("client_assertion=federated"), "{}", requests[0].form);
    assert!(requests[1].form.contains("client_secret=client-secret"), "{}", requests[1].form);
    assert!(requests[2].query.contains("client_id=my-client"), "{}", requests[2].query);
    assert_eq!(requests[2].header("metadata"), Some("true"));
}
