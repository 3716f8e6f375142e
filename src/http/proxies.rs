//! [`Proxies`]: who is believed of whom a request comes from, and how it came.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::header::FORWARDED;
use http::{HeaderMap, HeaderName, Request};
use ipnet::IpNet;
use jreg_auth::{Certificate, Said};

use super::{Peer, Secured};
use crate::config::{ForwardedHeader, Settings};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// The proxies that are trusted, and by which headers they say what they know.
#[derive(Clone, Debug)]
pub struct Proxies {
    trusted: Vec<IpNet>,
    header: ForwardedHeader,
}

/// Where a request comes from.
#[derive(Clone, Debug, Default)]
pub(super) struct Client {
    /// The client's address. Where a proxy did not say its port, that is 0.
    pub(super) address: Option<SocketAddr>,
    /// The trusted proxy that it comes through, the nearest if there are several.
    pub(super) proxy: Option<SocketAddr>,
    /// Whether the client came by https.
    pub(super) secure: bool,
    /// The host that it asked a proxy for.
    pub(super) host: Option<String>,
    /// What its certificate says. That of a trusted proxy is not its clients'.
    pub(super) certificate: Option<Arc<Certificate>>,
}

impl Client {
    /// Its address as it is written down, without a port that nobody said.
    pub(super) fn shown(&self) -> Option<String> {
        self.address.map(|address| match address.port() {
            0 => address.ip().to_string(),
            _ => address.to_string(),
        })
    }
}

impl Proxies {
    /// What the settings say of proxies.
    pub(super) fn of(settings: &Settings) -> Self {
        Self { trusted: settings.trusted_proxies.clone(), header: settings.forwarded_header }
    }

    fn trusts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.trusted.iter().any(|network| network.contains(&address))
    }

    /// Where a request comes from: the other end of its connection, or what that says if it is
    /// trusted.
    pub(super) fn client<B>(&self, request: &Request<B>) -> Client {
        let secured = request.extensions().get::<Secured>();
        let peer = request.extensions().get::<Peer>().map(|Peer(address)| *address);
        let secure = secured.is_some();
        let Some(proxy) = peer.filter(|peer| self.trusts(peer.ip())) else {
            let certificate = secured.and_then(|secured| secured.certificate.clone());
            return Client { address: peer, secure, certificate, ..Client::default() };
        };
        let Said { address, secure: said_secure, host } = self.said(request.headers());
        Client {
            address: address.or(peer),
            proxy: Some(proxy),
            secure: said_secure.unwrap_or(secure),
            host,
            certificate: None,
        }
    }

    fn said(&self, headers: &HeaderMap) -> Said {
        let lines = |name| headers.get_all(name).iter().map(http::HeaderValue::as_bytes);
        let trusts = |address| self.trusts(address);
        match self.header {
            ForwardedHeader::Forwarded => Said::by_forwarded(lines(FORWARDED), trusts),
            ForwardedHeader::XForwarded => Said::by_x_forwarded(
                lines(X_FORWARDED_FOR),
                lines(X_FORWARDED_PROTO),
                lines(X_FORWARDED_HOST),
                trusts,
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const FORWARDED_FOR: &str = "203.0.113.7";

    /// Where a request over TLS comes from that says it was passed on, in both ways.
    fn client(header: ForwardedHeader, peer: &str) -> Client {
        let trusted_proxies = ["10.0.0.0/8", "fd00::/8"].map(|network| network.parse().unwrap());
        let trusted_proxies = trusted_proxies.to_vec();
        let settings =
            Settings { trusted_proxies, forwarded_header: header, ..Settings::default() };
        let certificate =
            Certificate { common_name: Some("x".to_owned()), ..Certificate::default() };
        let request = Request::get("/v2/")
            .header("X-Forwarded-For", FORWARDED_FOR)
            .header("X-Forwarded-Proto", "http")
            .header("X-Forwarded-Host", "x.test")
            .header("Forwarded", "for=\"[2001:db8::7]:4711\";host=f.test")
            .extension(Peer(peer.parse().unwrap()))
            .extension(Secured { certificate: Some(Arc::new(certificate)) })
            .body(())
            .unwrap();
        Proxies::of(&settings).client(&request)
    }

    #[test]
    fn only_trusted_proxies_are_believed() {
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
    fn they_are_believed_by_the_headers_that_they_send_and_no_others() {
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
        let trusted_proxies = vec!["10.0.0.0/8".parse().unwrap()];
        let settings = Settings { trusted_proxies, ..Settings::default() };
        let peer: SocketAddr = "10.1.2.3:5".parse().unwrap();
        for value in ["", "unknown", "_hidden", "garbage"] {
            let request = Request::get("/v2/").header("X-Forwarded-For", value);
            let request = request.extension(Peer(peer)).body(()).unwrap();
            let client = Proxies::of(&settings).client(&request);
            assert_eq!((client.address, client.secure), (Some(peer), false), "{value:?}");
        }
    }
}
