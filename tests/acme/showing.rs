//! Challenge certificates are shown only to CAs; other clients get the ordinary one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use jreg_config::TlsVersion;
use jreg_testkit::{TestCa, TlsClient};

use super::{AcmeScenario, DAY, Instance, NAME, get};

/// The negotiated protocol for these ALPN offers, or the handshake error.
async fn asked(
    scenario: &AcmeScenario,
    instance: &Instance,
    protocols: &[&str],
    name: &str,
) -> String {
    let client = scenario.client().protocols(protocols);
    match client.connect_to(name, instance.address).await {
        Ok(stream) => {
            let spoken = stream.get_ref().1.alpn_protocol().unwrap_or_default();
            String::from_utf8(spoken.to_vec()).unwrap()
        }
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn a_challenge_is_shown_only_during_an_order_and_only_to_its_protocol() {
    let scenario = AcmeScenario::of(SystemTime::now() - 61 * DAY).await;
    let instance = scenario.started().await;
    let refused = "received fatal alert: NoApplicationProtocol";
    assert_eq!(asked(&scenario, &instance, &["acme-tls/1"], NAME).await, refused);
    scenario.authority.look_away();
    scenario.clock.advance(61 * DAY);
    let ordering = tokio::spawn({
        let acme = Arc::clone(&instance.acme);
        async move { acme.look().await }
    });
    while scenario.order().await["challenges"].get(NAME).is_none() {
        tokio::task::yield_now().await;
    }
    // The challenge certificate is self-signed.
    let shown = asked(&scenario, &instance, &["acme-tls/1"], NAME).await;
    assert!(shown.contains("UnsupportedCriticalExtension"), "{shown}");
    assert_eq!(asked(&scenario, &instance, &["acme-tls/1", "h2"], NAME).await, "h2");
    assert_eq!(asked(&scenario, &instance, &["h2", "acme-tls/1"], NAME).await, "h2");
    let other = asked(&scenario, &instance, &["acme-tls/1"], "other.test").await;
    assert_eq!(other, refused);
    scenario.authority.look_at(instance.address);
    ordering.await.unwrap();
    assert_eq!(scenario.authority.issued(), 2);
    assert_eq!(asked(&scenario, &instance, &["acme-tls/1"], NAME).await, refused);
}

#[tokio::test]
async fn an_authority_shows_no_certificate_though_clients_must() {
    let clients = TestCa::new();
    let mut scenario = AcmeScenario::new().await;
    let path = scenario.folder.path().join("clients.pem");
    std::fs::write(&path, clients.pem()).unwrap();
    scenario.settings.tls_client_ca = Some(path.display().to_string());
    scenario.settings.tls_client_cert_required = true;
    scenario.settings.tls_min_version = TlsVersion::Tls13;
    let instance = scenario.started().await;
    let is_let_in = async |client: TlsClient| {
        let Ok(mut stream) = client.connect_to(NAME, instance.address).await else { return false };
        let asked = tokio::spawn(async move { get(&mut stream, "/livez").await });
        asked.await.is_ok_and(|response| response.starts_with("HTTP/1.1 200 OK\r\n"))
    };
    assert!(is_let_in(scenario.client().identity(&clients.client(Some("a"), &[]))).await);
    assert!(!is_let_in(scenario.client()).await);
    let old = scenario.client().identity(&clients.client(Some("a"), &[])).only_tls12();
    assert!(!is_let_in(old).await);
}

#[tokio::test]
async fn plain_http_is_told_what_is_spoken_even_without_a_certificate() {
    let scenario = AcmeScenario::new().await;
    let instance = scenario.start().await;
    let address: SocketAddr = instance.address;
    let asked = tokio::task::spawn_blocking(move || {
        use std::io::{Read, Write};
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        response
    });
    let response = asked.await.unwrap();
    assert!(response.contains("this port speaks TLS"), "{response}");
    assert!(!format!("{:?}", Arc::clone(&instance.acme)).contains("KEY"));
}
