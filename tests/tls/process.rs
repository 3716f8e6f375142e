//! The real binary with TLS.

use std::process::Command;

use jreg_testkit::Process;

use super::{TlsScenario, exchange, request};

const BINARY: &str = env!("CARGO_BIN_EXE_jreg");

fn flags(scenario: &TlsScenario) -> Vec<String> {
    let path = |name| scenario.path(name).display().to_string();
    vec!["--tls-cert".into(), path("cert.pem"), "--tls-key".into(), path("key.pem")]
}

#[tokio::test]
async fn it_serves_and_stops_in_good_order() {
    let scenario = TlsScenario::new();
    let flags = flags(&scenario);
    let flags: Vec<_> = flags.iter().map(String::as_str).collect();
    let process = Process::start_with(BINARY, &scenario.path("storage"), &flags);
    let address = process.client().address();
    let stream = scenario.client().connect(address).await.unwrap();
    let response = exchange(stream, &request("GET", "/v2/", "")).await;
    assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
    let _idle = scenario.client().connect(address).await.unwrap();
    assert!(process.terminate().success());
}

#[test]
fn it_does_not_start_without_what_it_needs() {
    let scenario = TlsScenario::new();
    let start = |flags: &[String]| {
        let output = Command::new(BINARY)
            .args(["serve", "--listen", "127.0.0.1:0", "--storage", "memory:"])
            .args(flags)
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, text) = start(&flags(&scenario)[..2]);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("`tls-cert` requires `tls-key`"), "{text}");
    scenario.write("key.pem", "garbage");
    let (code, text) = start(&flags(&scenario));
    assert_eq!(code, Some(1), "{text}");
    let path = scenario.path("key.pem").display().to_string();
    assert!(text.contains(&format!("cannot set up TLS: {path}: it has no private key")), "{text}");
}
