//! [`AcmeServer`]: an authority that issues certificates as RFC 8555 says, over TLS. It checks the
//! signature, the nonce and the address of each request, looks at each name by TLS-ALPN-01 before it
//! issues, and refuses, is away or forgets where a test tells it to.

mod jws;
mod validation;

use std::collections::HashSet;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use jreg_storage::Clock;
use rcgen::CertificateSigningRequestParams;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::tls::TestCa;
use jws::{AcmeJwk, SignedRequest};

/// How long a certificate is good for.
const LIFE: Duration = Duration::from_secs(90 * 24 * 3600);

/// Whether and how orders are refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AcmeBehavior {
    /// They are fulfilled.
    #[default]
    Issue,
    /// They are refused with this reason, and this many seconds of `Retry-After`.
    Refuse(&'static str, u64),
    /// Something that is not the CA responds to every request, with 502.
    Unavailable,
    /// Certificates are for another name than the one that was asked for.
    WrongName,
}

/// The authority, which stops when it is dropped.
#[derive(Debug)]
pub struct AcmeServer {
    service: Arc<AcmeService>,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct AcmeService {
    address: SocketAddr,
    /// For its own address.
    outer: TestCa,
    /// For what it issues.
    inner: TestCa,
    clock: Arc<dyn Clock>,
    registry: watch::Sender<Option<SocketAddr>>,
    state: Mutex<CaState>,
}

#[derive(Debug, Default)]
struct CaState {
    behavior: AcmeBehavior,
    nonces: HashSet<String>,
    count: u64,
    accounts: Vec<Option<AcmeAccount>>,
    orders: Vec<AcmeOrder>,
    requests: u64,
}

#[derive(Clone, Debug)]
struct AcmeAccount {
    jwk: AcmeJwk,
    contact: Value,
}

#[derive(Debug)]
struct AcmeOrder {
    account: usize,
    names: Vec<OrderedName>,
    chain: Option<String>,
}

#[derive(Clone, Debug)]
struct OrderedName {
    name: String,
    token: String,
    /// What came of looking at it.
    looked: Option<Result<(), String>>,
}

/// A refusal: its status, and the kind and text of the problem document.
type AcmeProblem = (u16, &'static str, String);

impl AcmeServer {
    /// Starts one on a port of its own on loopback. What it issues begins when `clock` says, and is
    /// good for 90 days.
    pub async fn start(clock: Arc<dyn Clock>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (outer, inner) = (TestCa::new(), TestCa::new());
        let acceptor = outer.acceptor(&address.ip().to_string());
        let (registry, _) = watch::channel(None);
        let state = Mutex::default();
        let service = Arc::new(AcmeService { address, outer, inner, clock, registry, state });
        let accepting = tokio::spawn(accept(listener, acceptor, Arc::clone(&service)));
        Self { service, accepting }
    }

    /// The address of its directory.
    pub fn directory(&self) -> String {
        self.service.url("directory")
    }

    /// The CA of its own certificate (PEM).
    pub fn ca_pem(&self) -> &str {
        self.service.outer.pem()
    }

    /// The CA of the certificates that it issues.
    pub fn issuer(&self) -> &TestCa {
        &self.service.inner
    }

    /// Where it finds every name. Before the first call it waits.
    pub fn look_at(&self, registry: SocketAddr) {
        self.service.registry.send_replace(Some(registry));
    }

    /// Waits with looking until it is told where.
    pub fn look_away(&self) {
        self.service.registry.send_replace(None);
    }

    /// How it takes orders from now on.
    pub fn behavior(&self, behavior: AcmeBehavior) {
        self.service.state().behavior = behavior;
    }

    /// Loses all accounts.
    pub fn forget_accounts(&self) {
        self.service.state().accounts.iter_mut().for_each(|account| *account = None);
    }

    /// How many orders were begun.
    pub fn orders(&self) -> usize {
        self.service.state().orders.len()
    }

    /// How many certificates were issued.
    pub fn issued(&self) -> usize {
        self.service.state().orders.iter().filter(|order| order.chain.is_some()).count()
    }

    /// The number of requests, whatever the responses.
    pub fn requests(&self) -> u64 {
        self.service.state().requests
    }

    /// The contacts of the accounts that it has.
    pub fn contacts(&self) -> Vec<Value> {
        let state = self.service.state();
        state.accounts.iter().flatten().map(|account| account.contact.clone()).collect()
    }
}

impl Drop for AcmeServer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, service: Arc<AcmeService>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(serve(stream, acceptor.clone(), Arc::clone(&service)));
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(stream: TcpStream, acceptor: TlsAcceptor, service: Arc<AcmeService>) {
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let service = service_fn(|request| {
        let service = Arc::clone(&service);
        async move { Ok::<_, Infallible>(service.respond(request).await) }
    });
    // An error is a client that has gone.
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// A response: status, location of what is new, and body.
struct CaResponse(u16, Option<String>, AcmeBody);

enum AcmeBody {
    Json(Value),
    Chain(String),
}

impl AcmeService {
    fn state(&self) -> MutexGuard<'_, CaState> {
        self.state.lock().unwrap()
    }

    fn url(&self, path: &str) -> String {
        format!("https://{}/{path}", self.address)
    }

    fn nonce(&self) -> String {
        let mut state = self.state();
        state.count += 1;
        let nonce = format!("nonce-{}", state.count);
        state.nonces.insert(nonce.clone());
        nonce
    }

    async fn respond(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let behavior = {
            let mut state = self.state();
            state.requests += 1;
            state.behavior.clone()
        };
        if behavior == AcmeBehavior::Unavailable {
            let page = Response::builder().status(502).header("content-type", "text/html");
            return page.body(Full::from("<h1>Bad Gateway</h1>")).unwrap();
        }
        let path = head.uri.path().trim_start_matches('/').to_owned();
        let result = match (&head.method, path.as_str()) {
            (&Method::GET, "directory") => {
                Ok(CaResponse(200, None, AcmeBody::Json(self.directory())))
            }
            (&Method::HEAD, "new-nonce") => Ok(CaResponse(200, None, AcmeBody::Json(Value::Null))),
            (&Method::POST, _) => self.post(&path, &body, &behavior).await,
            _ => Err((404, "malformed", "nothing is here".to_owned())),
        };
        let mut response = Response::builder().header("replay-nonce", self.nonce());
        let CaResponse(status, location, body) = result.unwrap_or_else(|(status, kind, detail)| {
            let kind = format!("urn:ietf:params:acme:error:{kind}");
            let problem = json!({ "type": kind, "detail": detail, "status": status });
            CaResponse(status, None, AcmeBody::Json(problem))
        });
        if let (AcmeBehavior::Refuse(_, seconds), 400..) = (&behavior, status) {
            response = response.header("retry-after", *seconds);
        }
        if let Some(location) = location {
            response = response.header("location", location);
        }
        let (kind, text) = match body {
            AcmeBody::Json(value) if status >= 400 => {
                ("application/problem+json", value.to_string())
            }
            AcmeBody::Json(value) => ("application/json", value.to_string()),
            AcmeBody::Chain(text) => ("application/pem-certificate-chain", text),
        };
        let status = StatusCode::from_u16(status).unwrap();
        response.status(status).header("content-type", kind).body(Full::from(text)).unwrap()
    }

    fn directory(&self) -> Value {
        json!({
            "newNonce": self.url("new-nonce"),
            "newAccount": self.url("new-account"),
            "newOrder": self.url("new-order"),
        })
    }

    async fn post(
        &self,
        path: &str,
        body: &[u8],
        behavior: &AcmeBehavior,
    ) -> Result<CaResponse, AcmeProblem> {
        let signed = SignedRequest::read(body).ok_or((400, "malformed", "no JWS".to_owned()))?;
        if signed.url != self.url(path) {
            return Err((400, "unauthorized", "signed for another address".to_owned()));
        }
        if !self.state().nonces.remove(&signed.nonce) {
            return Err((400, "badNonce", "used, or not ours".to_owned()));
        }
        if path == "new-account" {
            return self.new_account(&signed);
        }
        let (account, jwk) = self.account(&signed)?;
        if !signed.is_by(&jwk) {
            return Err((400, "malformed", "the signature is wrong".to_owned()));
        }
        let mut parts = path.split('/');
        let kind = parts.next().unwrap_or_default();
        let mut number = || parts.next().and_then(|part| part.parse::<usize>().ok());
        match (kind, number(), number()) {
            ("account", Some(_), _) => self.update_account(account, &signed),
            ("new-order", ..) => self.new_order(account, &signed, behavior),
            (_, Some(order), _) if self.state().orders[order].account != account => {
                Err((403, "unauthorized", "another's order".to_owned()))
            }
            ("order", Some(order), _) => Ok(self.order(order)),
            ("authorization", Some(order), Some(name)) => Ok(self.authorization(order, name)),
            ("challenge", Some(order), Some(name)) => self.challenge(order, name, &jwk).await,
            ("finalize", Some(order), _) => self.finalize(order, &signed, behavior),
            ("certificate", Some(order), _) => {
                let chain = self.state().orders[order].chain.clone();
                let chain = chain.ok_or((404, "malformed", "not yet".to_owned()))?;
                Ok(CaResponse(200, None, AcmeBody::Chain(chain)))
            }
            _ => Err((404, "malformed", "nothing is here".to_owned())),
        }
    }

    fn new_account(&self, signed: &SignedRequest) -> Result<CaResponse, AcmeProblem> {
        let jwk = signed.jwk.clone().ok_or((400, "malformed", "no key".to_owned()))?;
        if !signed.is_by(&jwk) {
            return Err((400, "malformed", "the signature is wrong".to_owned()));
        }
        if signed.payload["termsOfServiceAgreed"] != json!(true) {
            return Err((403, "userActionRequired", "agree to the terms".to_owned()));
        }
        let contact = signed.payload["contact"].clone();
        let mut state = self.state();
        state.accounts.push(Some(AcmeAccount { jwk, contact }));
        let location = self.url(&format!("account/{}", state.accounts.len() - 1));
        Ok(CaResponse(201, Some(location), AcmeBody::Json(json!({ "status": "valid" }))))
    }

    fn account(&self, signed: &SignedRequest) -> Result<(usize, AcmeJwk), AcmeProblem> {
        let unknown = || (400, "accountDoesNotExist", "who is that?".to_owned());
        let kid = signed.kid.as_deref().ok_or_else(unknown)?;
        let number = kid.rsplit('/').next().and_then(|number| number.parse::<usize>().ok());
        let number = number.ok_or_else(unknown)?;
        let account = self.state().accounts.get(number).cloned().flatten().ok_or_else(unknown)?;
        Ok((number, account.jwk))
    }

    fn update_account(
        &self,
        account: usize,
        signed: &SignedRequest,
    ) -> Result<CaResponse, AcmeProblem> {
        if let Some(account) = &mut self.state().accounts[account] {
            account.contact = signed.payload["contact"].clone();
        }
        Ok(CaResponse(200, None, AcmeBody::Json(json!({ "status": "valid" }))))
    }

    fn new_order(
        &self,
        account: usize,
        signed: &SignedRequest,
        behavior: &AcmeBehavior,
    ) -> Result<CaResponse, AcmeProblem> {
        if let AcmeBehavior::Refuse(detail, _) = behavior {
            return Err((429, "rateLimited", (*detail).to_owned()));
        }
        let mut state = self.state();
        let number = state.orders.len();
        let names = signed.payload["identifiers"].as_array().unwrap().iter().map(|identifier| {
            assert_eq!(identifier["type"], "dns");
            let name = identifier["value"].as_str().unwrap().to_owned();
            let token = BASE64.encode(format!("token {number} of {name}"));
            OrderedName { name, token, looked: None }
        });
        let names = names.collect();
        state.orders.push(AcmeOrder { account, names, chain: None });
        drop(state);
        let CaResponse(_, _, body) = self.order(number);
        Ok(CaResponse(201, Some(self.url(&format!("order/{number}"))), body))
    }

    fn order(&self, number: usize) -> CaResponse {
        let state = self.state();
        let order = &state.orders[number];
        let is_failed = |name: &OrderedName| matches!(name.looked, Some(Err(_)));
        let status = if order.chain.is_some() {
            "valid"
        } else if order.names.iter().any(is_failed) {
            "invalid"
        } else if order.names.iter().all(|name| name.looked.is_some()) {
            "ready"
        } else {
            "pending"
        };
        let authorizations = (0..order.names.len())
            .map(|name| self.url(&format!("authorization/{number}/{name}")))
            .collect::<Vec<_>>();
        let body = json!({
            "status": status,
            "authorizations": authorizations,
            "finalize": self.url(&format!("finalize/{number}")),
            "certificate": self.url(&format!("certificate/{number}")),
        });
        CaResponse(200, None, AcmeBody::Json(body))
    }

    fn authorization(&self, order: usize, place: usize) -> CaResponse {
        let name = self.state().orders[order].names[place].clone();
        let other = json!({
            "type": "http-01", "status": "pending", "url": self.url("none"), "token": name.token,
        });
        let (status, challenge) = self.challenge_of(order, place);
        let body = json!({
            "identifier": { "type": "dns", "value": name.name },
            "status": status,
            "challenges": [other, challenge],
        });
        CaResponse(200, None, AcmeBody::Json(body))
    }

    fn challenge_of(&self, order: usize, place: usize) -> (&'static str, Value) {
        let name = self.state().orders[order].names[place].clone();
        let (status, error) = match &name.looked {
            None => ("pending", Value::Null),
            Some(Ok(())) => ("valid", Value::Null),
            Some(Err(detail)) => {
                let kind = "urn:ietf:params:acme:error:tls";
                ("invalid", json!({ "type": kind, "detail": detail, "status": 403 }))
            }
        };
        let challenge = json!({
            "type": "tls-alpn-01",
            "url": self.url(&format!("challenge/{order}/{place}")),
            "token": name.token,
            "status": status,
            "error": error,
        });
        (status, challenge)
    }

    /// Validates a name before it responds, so that clients need not poll.
    async fn challenge(
        &self,
        order: usize,
        place: usize,
        jwk: &AcmeJwk,
    ) -> Result<CaResponse, AcmeProblem> {
        let mut registry = self.registry.subscribe();
        let address = registry.wait_for(Option::is_some).await.unwrap().unwrap();
        let name = self.state().orders[order].names[place].clone();
        let authorization = format!("{}.{}", name.token, jwk.thumbprint());
        let looked = validation::at(address, &name.name, &authorization).await;
        self.state().orders[order].names[place].looked = Some(looked);
        // What came of it is told by the authorization, as if it had been looked at later.
        let (_, mut challenge) = self.challenge_of(order, place);
        challenge["status"] = json!("processing");
        challenge["error"] = Value::Null;
        Ok(CaResponse(200, None, AcmeBody::Json(challenge)))
    }

    fn finalize(
        &self,
        number: usize,
        signed: &SignedRequest,
        behavior: &AcmeBehavior,
    ) -> Result<CaResponse, AcmeProblem> {
        let bad = |why: &str| (400, "badCSR", why.to_owned());
        let names = {
            let state = self.state();
            let names = &state.orders[number].names;
            if !names.iter().all(|name| name.looked == Some(Ok(()))) {
                return Err((403, "orderNotReady", "not all names were looked at".to_owned()));
            }
            names.iter().map(|name| name.name.clone()).collect::<Vec<_>>()
        };
        let csr = signed.payload["csr"].as_str().and_then(|text| BASE64.decode(text).ok());
        let csr = csr.ok_or_else(|| bad("no request"))?;
        let csr = CertificateSigningRequestParams::from_der(&csr.into());
        let mut csr = csr.map_err(|error| bad(&error.to_string()))?;
        let asked = rcgen::CertificateParams::new(names).unwrap().subject_alt_names;
        if csr.params.subject_alt_names != asked {
            return Err(bad("other names than those of the order"));
        }
        if *behavior == AcmeBehavior::WrongName {
            let other = rcgen::CertificateParams::new(["other.test".to_owned()]).unwrap();
            csr.params.subject_alt_names = other.subject_alt_names;
        }
        let chain = self.inner.sign(csr, self.clock.now(), LIFE);
        self.state().orders[number].chain = Some(chain);
        Ok(self.order(number))
    }
}
