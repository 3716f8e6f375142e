//! [`CredentialServer`]: where temporary keys come from. One server for the three protocols: the
//! agent of a container, the metadata service of an instance, and the token service that takes
//! web identities, which only answers over TLS.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use s3s::dto::{Timestamp, TimestampFormat};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::tls::TestCa;

/// What a container shows its agent, and a pod the token service: the content of its token file.
pub const IDENTITY_TOKEN: &str = "identity.of.the.pod";

/// The role that a pod asks for.
pub const ROLE_ARN: &str = "arn:aws:iam::111122223333:role/jreg";

/// The token of a session of IAM Identity Center.
pub const SSO_TOKEN: &str = "sso-token";

const METADATA_TOKEN: &str = "metadata-token";
const METADATA_KEYS: &str = "/latest/meta-data/iam/security-credentials/";
const METADATA_ROLE: &str = "jreg-role";

/// The keys that are given out, each time with another session token: `session-1`, `session-2`
/// and so on.
#[derive(Clone, Debug)]
pub struct TemporaryKeys {
    pub access_key: String,
    /// The secret that goes with it.
    pub secret_key: String,
    /// How long they say that they are good for.
    pub lifetime: Duration,
}

/// A running server of temporary keys. Stops when it is dropped.
#[derive(Debug)]
pub struct CredentialServer {
    address: SocketAddr,
    issuer: Arc<TemporaryKeyIssuer>,
    certificate: Option<String>,
    accepting: JoinHandle<()>,
}

impl CredentialServer {
    /// Starts one without TLS: a container's agent and a metadata service.
    pub async fn start(keys: TemporaryKeys) -> Self {
        Self::listen(keys, None).await
    }

    /// Starts one with TLS, for 127.0.0.1: a token service.
    pub async fn start_with_tls(keys: TemporaryKeys) -> Self {
        Self::listen(keys, Some(TestCa::new())).await
    }

    async fn listen(keys: TemporaryKeys, authority: Option<TestCa>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.expect("a port of loopback is free");
        let address = listener.local_addr().expect("it listens");
        let issuer = Arc::new(TemporaryKeyIssuer::new(keys));
        let certificate = authority.as_ref().map(|authority| authority.pem().to_owned());
        let tls = authority.map(|authority| authority.acceptor("127.0.0.1"));
        let accepting = tokio::spawn(accept(listener, tls, Arc::clone(&issuer)));
        Self { address, issuer, certificate, accepting }
    }

    /// Its address as a URL, without a slash at the end.
    pub fn endpoint(&self) -> String {
        let scheme = if self.certificate.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// The URL that a container's agent is asked at.
    pub fn container_url(&self) -> String {
        format!("{}/v1/credentials", self.endpoint())
    }

    /// The certificate of its CA, in PEM.
    pub fn certificate(&self) -> Option<&str> {
        self.certificate.as_deref()
    }

    /// From now on gives out nothing: every request is answered with 500.
    pub fn fail(&self) {
        self.issuer.fails.store(true, Ordering::SeqCst);
    }

    /// How often it was asked since then.
    pub fn failures(&self) -> u64 {
        self.issuer.failures.load(Ordering::SeqCst)
    }

    /// How often keys were given out.
    pub fn issued(&self) -> u64 {
        self.issuer.issued.load(Ordering::SeqCst)
    }
}

impl Drop for CredentialServer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, issuer: Arc<TemporaryKeyIssuer>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(serve(stream, tls.clone(), Arc::clone(&issuer)));
    }
}

async fn serve(stream: TcpStream, tls: Option<TlsAcceptor>, issuer: Arc<TemporaryKeyIssuer>) {
    match tls {
        None => serve_on(stream, issuer).await,
        Some(tls) => {
            // A client that does not trust the certificate has disconnected.
            if let Ok(stream) = tls.accept(stream).await {
                serve_on(stream, issuer).await;
            }
        }
    }
}

async fn serve_on(stream: impl AsyncRead + AsyncWrite + Unpin, issuer: Arc<TemporaryKeyIssuer>) {
    let respond = |request: Request<Incoming>| {
        let response = issuer.respond(&request.into_parts().0);
        async move { Ok::<_, Infallible>(response) }
    };
    // An error is the client going away.
    hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service_fn(respond))
        .await
        .ok();
}

#[derive(Debug)]
struct TemporaryKeyIssuer {
    keys: TemporaryKeys,
    issued: AtomicU64,
    fails: AtomicBool,
    failures: AtomicU64,
}

impl TemporaryKeyIssuer {
    fn new(keys: TemporaryKeys) -> Self {
        let (issued, failures) = Default::default();
        Self { keys, issued, fails: AtomicBool::new(false), failures }
    }

    fn respond(&self, request: &Parts) -> Response<Full<Bytes>> {
        let (status, body) = if self.fails.load(Ordering::SeqCst) {
            self.failures.fetch_add(1, Ordering::SeqCst);
            (StatusCode::INTERNAL_SERVER_ERROR, String::new())
        } else {
            match self.respond_if_allowed(request) {
                Some(body) => (StatusCode::OK, body),
                None => (StatusCode::FORBIDDEN, String::new()),
            }
        };
        let mut response = Response::new(Full::from(body));
        *response.status_mut() = status;
        response
    }

    fn respond_if_allowed(&self, request: &Parts) -> Option<String> {
        let shows =
            |name: &str, value: &str| request.headers.get(name).is_some_and(|shown| shown == value);
        let metadata = shows("x-aws-ec2-metadata-token", METADATA_TOKEN);
        match (&request.method, request.uri.path()) {
            (&Method::POST, "/") => {
                let signature = request.headers.get("authorization");
                let signature = signature.and_then(|value| value.to_str().ok());
                let scope = "/us-east-1/sts/aws4_request";
                let is_signed = signature.is_some_and(|value| value.contains(scope));
                self.assume_role(request.uri.query()?, is_signed)
            }
            (&Method::GET, "/federation/credentials")
                if shows("x-amz-sso_bearer_token", SSO_TOKEN)
                    && request.uri.query() == Some("account_id=111122223333&role_name=jreg") =>
            {
                Some(self.issue_sso())
            }
            (&Method::GET, "/v1/credentials") if shows("authorization", IDENTITY_TOKEN) => {
                Some(self.issue_json())
            }
            (&Method::PUT, "/latest/api/token") => {
                request.headers.get("x-aws-ec2-metadata-token-ttl-seconds")?;
                Some(METADATA_TOKEN.to_owned())
            }
            (&Method::GET, METADATA_KEYS) if metadata => Some(METADATA_ROLE.to_owned()),
            (&Method::GET, path) if metadata => {
                (path.strip_prefix(METADATA_KEYS)? == METADATA_ROLE).then(|| self.issue_json())
            }
            _ => None,
        }
    }

    /// AssumeRole and AssumeRoleWithWebIdentity of the token service.
    fn assume_role(&self, query: &str, is_signed: bool) -> Option<String> {
        let asked: Vec<(String, String)> =
            form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        let has = |name: &str, value: &str| asked.iter().any(|(n, v)| n == name && v == value);
        let is_web = has("Action", "AssumeRoleWithWebIdentity");
        let shows_who = if is_web { has("WebIdentityToken", IDENTITY_TOKEN) } else { is_signed };
        let allowed =
            has("RoleArn", ROLE_ARN) && (is_web || has("Action", "AssumeRole")) && shows_who;
        let action = if is_web { "AssumeRoleWithWebIdentity" } else { "AssumeRole" };
        let TemporaryKeys { access_key, secret_key, .. } = &self.keys;
        allowed.then(|| {
            let (token, expiration) = self.issue();
            format!(
                "<{action}Response><{action}Result><Credentials>\
                 <AccessKeyId>{access_key}</AccessKeyId>\
                 <SecretAccessKey>{secret_key}</SecretAccessKey>\
                 <SessionToken>{token}</SessionToken><Expiration>{expiration}</Expiration>\
                 </Credentials></{action}Result></{action}Response>"
            )
        })
    }

    fn issue_json(&self) -> String {
        let TemporaryKeys { access_key, secret_key, .. } = &self.keys;
        let (token, expiration) = self.issue();
        json!({
            "AccessKeyId": access_key,
            "SecretAccessKey": secret_key,
            "Token": token,
            "Expiration": expiration,
        })
        .to_string()
    }

    /// GetRoleCredentials of IAM Identity Center.
    fn issue_sso(&self) -> String {
        let TemporaryKeys { access_key, secret_key, lifetime } = &self.keys;
        let (token, _) = self.issue();
        let ends = SystemTime::now() + *lifetime;
        let ends = ends.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        json!({ "roleCredentials": {
            "accessKeyId": access_key,
            "secretAccessKey": secret_key,
            "sessionToken": token,
            "expiration": u64::try_from(ends.as_millis()).unwrap_or_default(),
        } })
        .to_string()
    }

    /// A new session token, and until when it is good.
    fn issue(&self) -> (String, String) {
        let number = self.issued.fetch_add(1, Ordering::SeqCst) + 1;
        let mut expiration = Vec::new();
        Timestamp::from(SystemTime::now() + self.keys.lifetime)
            .format(TimestampFormat::DateTime, &mut expiration)
            .expect("a moment after 1970 has a date");
        let expiration = String::from_utf8(expiration).expect("a date is ASCII");
        (format!("session-{number}"), expiration)
    }
}
