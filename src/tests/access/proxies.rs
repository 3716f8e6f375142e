//! Forwarded headers of trusted and untrusted proxies, in policy and challenges.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use http::Request;
use jreg_auth::ClientCertificate;
use jreg_config::ForwardedHeader;
use jreg_net::server::{Body, Peer, Secured};

use super::guarded::{ReceivedResponse, Registry, send};

/// Clients in the office network may pull, and so may the holder of the proxy's certificate.
const RULES: &str = "
[[rule]]
subjects = ['everyone']
repositories = ['**']
actions = ['pull']
condition = \"in_network(address, '192.0.2.0/24') || in_network(address, '2001:db8:2::/48')\"

[[rule]]
subjects = ['certificate:cn=proxy']
repositories = ['**']
actions = ['pull']
";

const STRANGER: &str = "203.0.113.7:4711";
const PROXY: &str = "10.0.0.1:4711";

async fn registry(header: ForwardedHeader) -> Registry {
    Registry::with(Some(RULES), |settings| {
        settings.trusted_proxies = vec!["10.0.0.0/8".parse().unwrap()];
        settings.forwarded_header = header;
    })
    .await
}

async fn pull(registry: &Registry, peer: &str, headers: &[(&str, &str)]) -> ReceivedResponse {
    let mut request = Request::get("/v2/open/app/manifests/latest").header("Host", "test");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.extension(Peer(peer.parse().unwrap()));
    send(&registry.apps[0], request.body(Body::empty()).unwrap()).await
}

#[tokio::test]
async fn rules_see_the_client_of_a_trusted_proxy() {
    let registry = registry(ForwardedHeader::XForwarded).await;
    for (peer, forwarded, expected) in [
        ("192.0.2.5:1", "", 200),
        ("192.0.2.5:1", "203.0.113.9", 200),
        (STRANGER, "", 401),
        (STRANGER, "192.0.2.5", 401),
        (STRANGER, "192.0.2.5, 10.0.0.2", 401),
        (PROXY, "", 401),
        (PROXY, "192.0.2.5", 200),
        (PROXY, "2001:db8:2::5", 200),
        (PROXY, "192.0.2.5, 10.0.0.2", 200),
        (PROXY, "203.0.113.7, 192.0.2.5", 200),
        (PROXY, "192.0.2.5, 203.0.113.7", 401),
        (PROXY, "192.0.2.5, 203.0.113.7, 10.0.0.2", 401),
        (PROXY, "192.0.2.5, unknown", 401),
        (PROXY, "192.0.2.5, _hidden, 10.0.0.2", 401),
        (PROXY, "192.0.2.5, \"", 401),
    ] {
        let response = pull(&registry, peer, &[("X-Forwarded-For", forwarded)]).await;
        assert_eq!(response.status.as_u16(), expected, "{peer} {forwarded:?}");
        // A header that the proxy does not set, and passes on unchanged.
        let other = [("X-Forwarded-For", forwarded), ("Forwarded", "for=192.0.2.5")];
        let response = pull(&registry, peer, &other).await;
        assert_eq!(response.status.as_u16(), expected, "{peer} {forwarded:?}, and Forwarded");
    }
}

#[tokio::test]
async fn rules_see_what_forwarded_says_where_that_is_sent() {
    let registry = registry(ForwardedHeader::Forwarded).await;
    for (peer, forwarded, expected) in [
        (STRANGER, "for=192.0.2.5", 401),
        (PROXY, "for=192.0.2.5", 200),
        (PROXY, "for=\"[2001:db8:2::5]:4711\"", 200),
        (PROXY, "for=192.0.2.5, for=203.0.113.7", 401),
        (PROXY, "for=192.0.2.5, for=\"203.0.113.7:1\", for=10.0.0.2", 401),
        (PROXY, "for=192.0.2.5, for=_hidden", 401),
        (PROXY, "for=192.0.2.5, for=unknown", 401),
        (PROXY, "for=\"192.0.2.5", 401),
    ] {
        let headers = [("Forwarded", forwarded), ("X-Forwarded-For", "192.0.2.5")];
        let response = pull(&registry, peer, &headers).await;
        assert_eq!(response.status.as_u16(), expected, "{peer} {forwarded:?}");
    }
}

#[tokio::test]
async fn challenges_name_what_the_client_of_a_trusted_proxy_asked_for() {
    let registry = registry(ForwardedHeader::XForwarded).await;
    let said = [("X-Forwarded-Proto", "https"), ("X-Forwarded-Host", "registry.test:8443")];
    for (peer, headers, realm) in [
        (PROXY, &said[..], "https://registry.test:8443/token"),
        (PROXY, &said[..1], "https://test/token"),
        (PROXY, &[("X-Forwarded-Host", "a\"b")], "http://test/token"),
        (PROXY, &[("X-Forwarded-Proto", "javascript")], "http://test/token"),
        (STRANGER, &said, "http://test/token"),
    ] {
        let response = pull(&registry, peer, headers).await;
        let expected = format!("Bearer realm=\"{realm}\",");
        assert!(response.challenge().starts_with(&expected), "{peer}: {}", response.challenge());
    }
}

/// The certificate identifies the proxy: a rule for it does not apply to the clients behind it.
#[tokio::test]
async fn the_certificate_of_a_trusted_proxy_is_not_its_clients() {
    let registry = registry(ForwardedHeader::XForwarded).await;
    for (peer, expected) in [(STRANGER, 200), (PROXY, 401)] {
        let common_name = Some("proxy".to_owned());
        let certificate = ClientCertificate { common_name, ..ClientCertificate::default() };
        let request = Request::get("/v2/open/app/manifests/latest").header("Host", "test");
        let request = request
            .header("X-Forwarded-For", "203.0.113.9")
            .extension(Peer(peer.parse().unwrap()))
            .extension(Secured { certificate: Some(Arc::new(certificate)) });
        let response = send(&registry.apps[0], request.body(Body::empty()).unwrap()).await;
        assert_eq!(response.status.as_u16(), expected, "{peer}");
    }
}
