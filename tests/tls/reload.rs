//! TLS files: invalid ones prevent a start, and never replace valid ones.

use std::error::Error;
use std::fs;

use jreg_testkit::{TestCa, TlsClient, TlsStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Server, TlsScenario, is_taken};

/// The certificate that the server presents.
async fn shown(scenario: &TlsScenario, server: &Server) -> Vec<u8> {
    let stream = scenario.client().connect(server.address).await.unwrap();
    certificate_of(&stream)
}

fn certificate_of(stream: &TlsStream) -> Vec<u8> {
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

/// Changes are loaded when they are found twice.
fn reload(server: &Server) {
    server.tls.reload();
    server.tls.reload();
}

async fn reloads(scenario: &TlsScenario, server: &Server, outcome: &str) -> f64 {
    let name = format!("jreg_tls_reloads_total{{outcome=\"{outcome}\"}}");
    scenario.metric(server, &name).await
}

#[tokio::test]
async fn a_new_pair_is_taken_whole_and_open_connections_go_on() {
    let scenario = TlsScenario::new();
    let server = scenario.serve().await;
    let mut open = scenario.client().connect(server.address).await.unwrap();
    let first = certificate_of(&open);
    let new = scenario.authority.server("127.0.0.1");
    scenario.write("cert.pem", &new.certificate);
    reload(&server);
    assert_eq!(shown(&scenario, &server).await, first, "a certificate without its key");
    scenario.write("key.pem", "garbage");
    reload(&server);
    assert_eq!(shown(&scenario, &server).await, first, "a key that is none");
    fs::remove_file(scenario.path("key.pem")).unwrap();
    reload(&server);
    assert_eq!(shown(&scenario, &server).await, first, "no key");
    assert_eq!(reloads(&scenario, &server, "failed").await, 3.0);
    assert_eq!(reloads(&scenario, &server, "ok").await, 0.0);
    scenario.write("key.pem", &new.key);
    reload(&server);
    let second = shown(&scenario, &server).await;
    assert_ne!(second, first);
    assert_eq!(reloads(&scenario, &server, "ok").await, 1.0);
    reload(&server);
    assert_eq!(reloads(&scenario, &server, "ok").await, 1.0, "nothing has changed");
    open.write_all(b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    open.read_exact(&mut [0; 12]).await.unwrap();
}

#[tokio::test]
async fn the_cas_of_clients_are_reloaded() {
    let (old, new) = (TestCa::new(), TestCa::new());
    let scenario = TlsScenario::asking(&old);
    let server = scenario.serve().await;
    let client = |authority: &TestCa| scenario.client().identity(&authority.client(Some("a"), &[]));
    let (of_old, of_new) = (client(&old), client(&new));
    let taken = async |client: &TlsClient| is_taken(client, server.address).await;
    assert_eq!((taken(&of_old).await, taken(&of_new).await), (true, false));
    scenario.write("clients.pem", "garbage");
    reload(&server);
    assert_eq!((taken(&of_old).await, taken(&of_new).await), (true, false));
    scenario.write("clients.pem", new.pem());
    reload(&server);
    assert_eq!((taken(&of_old).await, taken(&of_new).await), (false, true));
}

#[tokio::test]
async fn what_is_wrong_at_the_start_is_said_with_its_file() {
    let other = TestCa::new().server("127.0.0.1");
    for (name, text, why) in [
        ("cert.pem", Some(""), "it has no certificate"),
        ("key.pem", Some("garbage"), "it has no private key"),
        ("key.pem", Some(other.key.as_str()), "it is not the key of the certificate in tls-cert"),
        ("key.pem", None, "cannot read"),
        ("clients.pem", Some("garbage"), "it has no certificate"),
    ] {
        let scenario = TlsScenario::asking(&TestCa::new());
        match text {
            Some(text) => scenario.write(name, text),
            None => fs::remove_file(scenario.path(name)).unwrap(),
        }
        let error = scenario.build().await.err().unwrap();
        let mut chain = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            chain += &format!(": {error}");
            source = error.source();
        }
        assert!(chain.starts_with("cannot set up TLS: "), "{chain}");
        assert!(chain.contains(&scenario.path(name).display().to_string()), "{chain}");
        assert!(chain.contains(why), "{chain}");
    }
}

#[tokio::test]
async fn a_metric_says_when_the_certificate_expires() {
    let scenario = TlsScenario::new();
    let server = scenario.serve().await;
    let at = scenario.metric(&server, "jreg_tls_certificate_expiry_timestamp_seconds").await;
    // The year 4096: test certificates expire then.
    assert!(at > 60e9, "{at}");
}
