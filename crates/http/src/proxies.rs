//! [`Proxies`]: trusted reverse proxies, and the client address, scheme and host that they forward.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use http::header::{FORWARDED, HOST, VIA};
use http::{HeaderMap, HeaderName, Method, Request, Version};
use ipnet::IpNet;
use jreg_auth::{ClientCertificate, ForwardedClient, ForwardedHeader};
use jreg_net::server::{Peer, Secured};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Headers that proxies add. If one comes from an untrusted peer, an unknown proxy may have changed
/// `Host` or terminated TLS.
const FORWARDING: [HeaderName; 8] = [
    FORWARDED,
    VIA,
    X_FORWARDED_FOR,
    X_FORWARDED_PROTO,
    X_FORWARDED_HOST,
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-forwarded-server"),
    HeaderName::from_static("x-real-ip"),
];

/// Maximum length of an authority in a `Location`: the longest DNS name, and a port.
const AUTHORITY_BYTES_MAX: usize = 253 + 6;

/// Trusted proxies and their header format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxies {
    pub trusted: Vec<IpNet>,
    pub header: ForwardedHeader,
}

impl Default for Proxies {
    fn default() -> Self {
        Self { trusted: Vec::new(), header: ForwardedHeader::XForwarded }
    }
}

/// The origin of a request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Client {
    /// The client's address. The port is 0 if a proxy did not send it.
    pub(crate) address: Option<SocketAddr>,
    /// The nearest trusted proxy.
    pub(crate) proxy: Option<SocketAddr>,
    /// Whether the client used HTTPS.
    pub(crate) secure: bool,
    /// The host that a proxy forwarded.
    pub(crate) host: Option<String>,
    /// Scheme and authority that the client used, such as `https://registry.example.com`, if both
    /// are certain and the response may have a `Location`.
    pub(crate) origin: Option<String>,
    /// The client's certificate. That of a trusted proxy does not identify its clients.
    pub(crate) certificate: Option<Arc<ClientCertificate>>,
}

impl Client {
    /// The address, without an unknown port.
    pub(crate) fn shown(&self) -> Option<String> {
        self.address.map(|address| match address.port() {
            0 => address.ip().to_string(),
            _ => address.to_string(),
        })
    }
}

impl Proxies {
    fn trusts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.trusted.iter().any(|network| network.contains(&address))
    }

    /// The origin of a request: the peer, or the client that a trusted peer forwards for.
    pub(crate) fn client<B>(&self, request: &Request<B>) -> Client {
        let secured = request.extensions().get::<Secured>();
        let peer = request.extensions().get::<Peer>().map(|Peer(address)| *address);
        let secure = secured.is_some();
        let Some(proxy) = peer.filter(|peer| self.trusts(peer.ip())) else {
            let certificate = secured.and_then(|secured| secured.certificate.clone());
            let origin = direct_origin(request, secure);
            return Client { address: peer, secure, certificate, origin, ..Client::default() };
        };
        let ForwardedClient { address, secure: said_secure, host } = self.said(request.headers());
        let origin = said_secure
            .zip(host.as_deref())
            .and_then(|(secure, host)| is_authority(host).then(|| origin(secure, host)));
        Client {
            address: address.or(peer),
            proxy: Some(proxy),
            secure: said_secure.unwrap_or(secure),
            host,
            origin,
            certificate: None,
        }
    }

    fn said(&self, headers: &HeaderMap) -> ForwardedClient {
        let lines = |name| headers.get_all(name).iter().map(http::HeaderValue::as_bytes);
        let trusts = |address| self.trusts(address);
        match self.header {
            ForwardedHeader::Forwarded => ForwardedClient::by_forwarded(lines(FORWARDED), trusts),
            ForwardedHeader::XForwarded => ForwardedClient::by_x_forwarded(
                lines(X_FORWARDED_FOR),
                lines(X_FORWARDED_PROTO),
                lines(X_FORWARDED_HOST),
                trusts,
            ),
        }
    }
}

/// Whether the response may have a `Location`; reads of content, which are most requests, do not.
fn may_have_location<B>(request: &Request<B>) -> bool {
    let is_read = request.method() == Method::GET || request.method() == Method::HEAD;
    !is_read || request.uri().path().contains("/uploads/")
}

fn origin(secure: bool, authority: &str) -> String {
    let scheme = if secure { "https" } else { "http" };
    format!("{scheme}://{authority}")
}

/// The origin of a request without a trusted proxy. With TLS terminated here, the client used this
/// host. Without TLS, a proxy may have terminated TLS and passed the host on, so only an IP address
/// or `localhost` is certain. Proxies that use HTTP/1.0 and add no headers (nginx by default) send
/// an address of their own.
fn direct_origin<B>(request: &Request<B>, secure: bool) -> Option<String> {
    if !may_have_location(request) {
        return None;
    }
    let is_passed_on = FORWARDING.iter().any(|name| request.headers().contains_key(name));
    if is_passed_on || request.version() < Version::HTTP_11 {
        return None;
    }
    let authority = authority(request)?;
    (secure || is_address(authority)).then(|| origin(secure, authority))
}

/// The authority of the request: its target (HTTP/2) or its single `Host`. `None` if there are two,
/// or it is invalid.
fn authority<B>(request: &Request<B>) -> Option<&str> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let (host, second) = (hosts.next(), hosts.next());
    let host = host.map(|host| host.to_str().unwrap_or_default());
    let target = request.uri().authority().map(|authority| authority.as_str());
    let is_one = second.is_none() && (host.is_none() || target.is_none() || host == target);
    target.or(host).filter(|authority| is_one && is_authority(authority))
}

/// A host of a strict form and an optional port, which cannot be parsed otherwise.
fn is_authority(text: &str) -> bool {
    let (host, port) = split_port(text);
    let is_name = |host: &str| {
        let is_allowed = |b: u8| b.is_ascii_alphanumeric() || b".-_".contains(&b);
        host.bytes().all(is_allowed) && host.bytes().any(|b| b.is_ascii_alphanumeric())
    };
    let is_port = |port: &str| {
        port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0)
    };
    text.len() <= AUTHORITY_BYTES_MAX
        && (ipv6(host).is_some() || is_name(host))
        && port.is_none_or(is_port)
}

/// Whether a host is an IP address or `localhost` (RFC 6761 section 6.3).
fn is_address(authority: &str) -> bool {
    let (host, _) = split_port(authority);
    host.parse::<Ipv4Addr>().is_ok()
        || ipv6(host).is_some()
        || host.eq_ignore_ascii_case("localhost")
}

fn ipv6(host: &str) -> Option<Ipv6Addr> {
    host.strip_prefix('[')?.strip_suffix(']')?.parse().ok()
}

fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A request whose origin is tested.
    struct Row {
        peer: &'static str,
        tls: bool,
        headers: &'static [(&'static str, &'static str)],
        origin: Option<&'static str>,
    }

    fn origin_of(request: http::request::Builder, peer: &str, tls: bool) -> Option<String> {
        let trusted = vec!["10.0.0.0/8".parse().unwrap()];
        let proxies = Proxies { trusted, ..Proxies::default() };
        let mut request = request.extension(Peer(peer.parse().unwrap())).body(()).unwrap();
        if tls {
            request.extensions_mut().insert(Secured { certificate: None });
        }
        proxies.client(&request).origin
    }

    fn row(
        peer: &'static str,
        tls: bool,
        headers: &'static [(&'static str, &'static str)],
        origin: Option<&'static str>,
    ) -> Row {
        Row { peer, tls, headers, origin }
    }

    #[test]
    fn the_origin_is_told_only_where_scheme_and_host_are_certain() {
        const CLIENT: &str = "203.0.113.7:40000";
        const NEAR: &str = "127.0.0.1:40000";
        const PROXY: &str = "10.1.2.3:40000";
        let rows = [
            // TLS terminates here: the client used this host.
            row(CLIENT, true, &[("host", "r.example")], Some("https://r.example")),
            row(CLIENT, true, &[("host", "r.example:5000")], Some("https://r.example:5000")),
            row(CLIENT, true, &[("host", "192.0.2.1")], Some("https://192.0.2.1")),
            row(CLIENT, true, &[("host", "r.example"), ("via", "1.1 x")], None),
            row(CLIENT, true, &[("host", "r.example"), ("x-forwarded-for", "192.0.2.9")], None),
            row(CLIENT, true, &[], None),
            // Without TLS: an IP address or `localhost` is certain.
            row(NEAR, false, &[("host", "localhost:5000")], Some("http://localhost:5000")),
            row(NEAR, false, &[("host", "LOCALHOST")], Some("http://LOCALHOST")),
            row(NEAR, false, &[("host", "127.0.0.1:5000")], Some("http://127.0.0.1:5000")),
            row(NEAR, false, &[("host", "[::1]:5000")], Some("http://[::1]:5000")),
            row(CLIENT, false, &[("host", "192.0.2.1:80")], Some("http://192.0.2.1:80")),
            row(CLIENT, false, &[("host", "[2001:db8::1]")], Some("http://[2001:db8::1]")),
            row(CLIENT, false, &[("host", "r.example")], None),
            row(CLIENT, false, &[("host", "registry:5000")], None),
            row(CLIENT, false, &[("host", "localhost.r.example")], None),
            row(CLIENT, false, &[("host", "127.0.0.1.r.example")], None),
            // An unknown proxy.
            row(NEAR, false, &[("host", "localhost:5000"), ("x-forwarded-proto", "https")], None),
            row(NEAR, false, &[("host", "127.0.0.1"), ("x-forwarded-host", "r.example")], None),
            row(NEAR, false, &[("host", "127.0.0.1"), ("forwarded", "for=192.0.2.9")], None),
            row(NEAR, false, &[("host", "127.0.0.1"), ("x-real-ip", "192.0.2.9")], None),
            row(NEAR, false, &[("host", "127.0.0.1"), ("via", "1.1 x")], None),
            // A trusted proxy that forwards both.
            row(
                PROXY,
                false,
                &[("host", "x"), ("x-forwarded-proto", "https"), ("x-forwarded-host", "r.example")],
                Some("https://r.example"),
            ),
            row(
                PROXY,
                true,
                &[("x-forwarded-proto", "http"), ("x-forwarded-host", "r.example:81")],
                Some("http://r.example:81"),
            ),
            row(PROXY, false, &[("host", "10.0.0.1"), ("x-forwarded-proto", "https")], None),
            row(PROXY, false, &[("host", "10.0.0.1"), ("x-forwarded-host", "r.example")], None),
            row(PROXY, true, &[("host", "r.example")], None),
            row(PROXY, false, &[("host", "10.0.0.1")], None),
            row(
                PROXY,
                false,
                &[("x-forwarded-proto", "https"), ("x-forwarded-host", "a.example:b")],
                None,
            ),
        ];
        for Row { peer, tls, headers, origin } in rows {
            let request = headers
                .iter()
                .fold(Request::post("/v2/a/blobs/uploads/"), |r, (n, v)| r.header(*n, *v));
            assert_eq!(
                origin_of(request, peer, tls).as_deref(),
                origin,
                "{peer} {tls} {headers:?}"
            );
        }
    }

    #[test]
    fn what_is_no_authority_is_not_repeated() {
        let long = format!("{}.example", "a".repeat(260));
        for host in [
            "",
            ":",
            ":80",
            "a:",
            "a:0",
            "a:65536",
            "a:+1",
            "a:1:2",
            "a b",
            "a/b",
            "a?b",
            "a#b",
            "u@a",
            "a,b",
            "a\"b",
            "a<b>",
            "[::1",
            "::1",
            "[::1]x",
            "[a]",
            "[::1%25eth0]",
            "-",
            ".",
            "%61",
            "a\\b",
            "r.example/..",
            "\u{e9}",
            &long,
        ] {
            let request = Request::post("/v2/").header("Host", host);
            assert_eq!(origin_of(request, "203.0.113.7:1", true), None, "{host:?}");
        }
    }

    #[test]
    fn two_names_for_the_server_are_none() {
        let post = || Request::post("/v2/").header("Host", "a.example");
        let of = |request| origin_of(request, "203.0.113.7:1", true);
        assert_eq!(of(post().header("Host", "b.example")), None);
        assert_eq!(of(post().uri("https://b.example/v2/")), None);
        assert_eq!(of(post().uri("https://a.example/v2/")).unwrap(), "https://a.example");
        let target = Request::post("https://c.example:8443/v2/");
        assert_eq!(of(target).unwrap(), "https://c.example:8443");
        assert_eq!(of(Request::post("https://u@c.example/v2/")), None);
        assert_eq!(of(post().version(Version::HTTP_10)), None);
        let get = |path: &str| of(Request::get(path).header("Host", "a.example"));
        assert_eq!(get("/v2/a/blobs/uploads/x").unwrap(), "https://a.example");
        assert_eq!(get("/v2/a/manifests/x"), None, "the response has no Location");
    }

    const FORWARDED_FOR: &str = "203.0.113.7";

    /// A TLS request with both kinds of forwarding headers.
    fn client(header: ForwardedHeader, peer: &str) -> Client {
        let trusted = ["10.0.0.0/8", "fd00::/8"].map(|network| network.parse().unwrap());
        let proxies = Proxies { trusted: trusted.to_vec(), header };
        let certificate =
            ClientCertificate { common_name: Some("x".to_owned()), ..ClientCertificate::default() };
        let request = Request::get("/v2/")
            .header("X-Forwarded-For", FORWARDED_FOR)
            .header("X-Forwarded-Proto", "http")
            .header("X-Forwarded-Host", "x.test")
            .header("Forwarded", "for=\"[2001:db8::7]:4711\";host=f.test")
            .extension(Peer(peer.parse().unwrap()))
            .extension(Secured { certificate: Some(Arc::new(certificate)) })
            .body(())
            .unwrap();
        proxies.client(&request)
    }

    #[test]
    fn only_headers_of_trusted_proxies_are_used() {
        for header in [ForwardedHeader::XForwarded, ForwardedHeader::Forwarded] {
            for peer in ["203.0.113.1:5", "[2001:db8::1]:5", "[::ffff:203.0.113.1]:5"] {
                let client = client(header, peer);
                assert_eq!(client.address, Some(peer.parse().unwrap()));
                assert_eq!((client.proxy, client.host), (None, None));
                assert!(client.secure && client.certificate.is_some());
            }
        }
    }

    #[test]
    fn proxies_are_trusted_for_their_configured_header_only() {
        for peer in ["10.1.2.3:5", "[fd00::1]:5", "[::ffff:10.1.2.3]:5"] {
            let x = client(ForwardedHeader::XForwarded, peer);
            assert_eq!(x.address.unwrap().to_string(), "203.0.113.7:0");
            assert_eq!(x.proxy, Some(peer.parse().unwrap()));
            assert_eq!((x.host.as_deref(), x.secure), (Some("x.test"), false));
            assert_eq!(x.certificate, None, "it is the proxy's");
            let f = client(ForwardedHeader::Forwarded, peer);
            assert_eq!(f.address.unwrap().to_string(), "[2001:db8::7]:4711");
            assert_eq!((f.host.as_deref(), f.secure), (Some("f.test"), true));
        }
    }

    #[test]
    fn a_proxy_that_says_nothing_is_the_client() {
        let trusted = vec!["10.0.0.0/8".parse().unwrap()];
        let proxies = Proxies { trusted, ..Proxies::default() };
        let peer: SocketAddr = "10.1.2.3:5".parse().unwrap();
        for value in ["", "unknown", "_hidden", "garbage"] {
            let request = Request::get("/v2/").header("X-Forwarded-For", value);
            let request = request.extension(Peer(peer)).body(()).unwrap();
            let client = proxies.client(&request);
            assert_eq!((client.address, client.secure), (Some(peer), false), "{value:?}");
        }
    }
}
