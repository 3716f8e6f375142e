//! A browser: cookies, forms and redirects, and what every page must satisfy.

use std::collections::BTreeMap;

use http::Request;
use jreg_net::server::{Body, Peer, Secured};

use super::guarded::{ReceivedResponse, Registry, send};

pub(crate) const ORIGIN: &str = "https://registry.example";

#[derive(Clone)]
pub(crate) struct Browser<'r> {
    registry: &'r Registry,
    /// The instance that its requests reach.
    pub(crate) instance: usize,
    /// The origin in its address bar.
    pub(crate) origin: String,
    pub(crate) peer: &'static str,
    pub(crate) cookies: BTreeMap<String, String>,
    /// The token of the forms on the last page.
    pub(crate) token: String,
    /// Further headers of each request.
    pub(crate) headers: Vec<(&'static str, String)>,
}

impl<'r> Browser<'r> {
    pub(crate) fn new(registry: &'r Registry) -> Self {
        Self {
            registry,
            instance: 0,
            origin: ORIGIN.to_owned(),
            peer: "127.0.0.1:1",
            cookies: BTreeMap::new(),
            token: String::new(),
            headers: Vec::new(),
        }
    }

    pub(crate) fn at(mut self, instance: usize) -> Self {
        self.instance = instance;
        self
    }

    fn is_secure(&self) -> bool {
        self.origin.starts_with("https://")
    }

    pub(crate) fn registry(&self) -> &'r Registry {
        self.registry
    }

    /// The session's cookie.
    pub(crate) fn session(&self) -> Option<&String> {
        self.cookies.get("__Host-jreg")
    }

    pub(crate) async fn get(&mut self, target: &str) -> ReceivedResponse {
        let request = Request::get(target);
        self.send(request, Body::empty()).await
    }

    pub(crate) async fn head(&mut self, target: &str) -> ReceivedResponse {
        self.send(Request::head(target), Body::empty()).await
    }

    /// Sends a form with the token of the last page.
    pub(crate) async fn post(&mut self, target: &str, fields: &[(&str, &str)]) -> ReceivedResponse {
        let (token, origin) = (self.token.clone(), self.origin.clone());
        self.post_with(target, fields, &token, Some(&origin)).await
    }

    pub(crate) async fn post_with(
        &mut self,
        target: &str,
        fields: &[(&str, &str)],
        token: &str,
        origin: Option<&str>,
    ) -> ReceivedResponse {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.extend_pairs(fields).append_pair("token", token);
        let form = form.finish();
        let mut request = Request::post(target);
        request = request.header("Content-Type", "application/x-www-form-urlencoded");
        request = request.header("Content-Length", form.len());
        if let Some(origin) = origin {
            request = request.header("Origin", origin);
        }
        self.send(request, Body::from(form)).await
    }

    async fn send(&mut self, request: http::request::Builder, body: Body) -> ReceivedResponse {
        let host = self.origin.split_once("://").unwrap().1.to_owned();
        let mut request = request.header("Host", host).header("Accept", "text/html");
        request = request.extension(Peer(self.peer.parse().unwrap()));
        if self.is_secure() {
            request = request.extension(Secured { certificate: None });
        }
        let cookies = self.cookies.iter().map(|(name, value)| format!("{name}={value}"));
        let cookies = cookies.collect::<Vec<_>>().join("; ");
        if !cookies.is_empty() {
            request = request.header("Cookie", cookies);
        }
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        let response = send(&self.registry.apps[self.instance], request.body(body).unwrap()).await;
        self.take(&response);
        response
    }

    fn take(&mut self, response: &ReceivedResponse) {
        let header = |name: &str| response.headers.get(name).map(|value| value.to_str().unwrap());
        assert_eq!(header("www-authenticate"), None, "a page never challenges");
        assert_eq!(header("x-frame-options"), Some("DENY"));
        let policy = header("content-security-policy").unwrap();
        let is_download = policy.starts_with("sandbox");
        let is_closed =
            policy.contains("frame-ancestors 'none'") && policy.contains("form-action 'self'");
        assert!(is_download || is_closed, "{policy}");
        assert_eq!(header("cross-origin-resource-policy"), Some("same-origin"));
        assert_eq!(header("cache-control"), Some("no-store"));
        assert_eq!(header("referrer-policy"), Some("same-origin"));
        for line in response.headers.get_all("set-cookie") {
            let line = line.to_str().unwrap();
            let (pair, attributes) = line.split_once("; ").unwrap();
            let (name, value) = pair.split_once('=').unwrap();
            let all: Vec<_> = attributes.split("; ").collect();
            assert!(all.contains(&"HttpOnly") && all.contains(&"Path=/"), "{line}");
            assert!(all.iter().any(|of| of.starts_with("SameSite=")), "{line}");
            assert!(!all.iter().any(|of| of.starts_with("Domain")), "{line}");
            assert_eq!(name.starts_with("__Host-"), self.is_secure(), "{line}");
            assert_eq!(all.contains(&"Secure"), self.is_secure(), "{line}");
            assert!(line.len() < 4096, "browsers drop it: {}", line.len());
            match all.contains(&"Max-Age=0") {
                true => drop(self.cookies.remove(name)),
                false => drop(self.cookies.insert(name.to_owned(), value.to_owned())),
            }
        }
        let page = response.text();
        if let Some((_, rest)) = page.split_once("name=\"token\" value=\"") {
            self.token = rest.split('"').next().unwrap().to_owned();
        }
    }

    /// Logs in with a password.
    pub(crate) async fn log_in(&mut self, user: &str, password: &str) -> ReceivedResponse {
        self.get("/ui/-/login").await;
        self.post("/ui/-/login", &[("user", user), ("password", password)]).await
    }

    /// The identity that the pages show.
    pub(crate) async fn identity(&mut self) -> Option<String> {
        let page = self.get("/ui/-/account").await;
        if page.status != 200 {
            assert_eq!(page.status, 303, "{}", page.text());
            return None;
        }
        let text = page.text();
        let (_, rest) = text.split_once("Identity</dt><dd><bdi>").unwrap();
        Some(rest.split('<').next().unwrap().to_owned())
    }
}

pub(crate) fn location(response: &ReceivedResponse) -> &str {
    assert_eq!(response.status, 303, "{}", response.text());
    response.headers["location"].to_str().unwrap()
}
