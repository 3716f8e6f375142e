//! TLS: protocols, certificate files, and client certificates.

mod identity;
mod listener;
mod process;
mod reload;

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use jreg::app::App;
use jreg::error::StartError;
use jreg_config::Settings;
use jreg_net::server::RunningServer;
use jreg_net::tls::Tls;
use jreg_storage::{FsOptions, FsStore};
use jreg_testkit::{CertificateAndKey, TestCa, TlsClient, TlsStream};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// A folder with TLS files, for a server on loopback.
struct TlsScenario {
    authority: TestCa,
    folder: TempDir,
    settings: Settings,
}

impl TlsScenario {
    fn new() -> Self {
        let (authority, folder) = (TestCa::new(), tempfile::tempdir().unwrap());
        let path = |name: &str| Some(folder.path().join(name).display().to_string());
        let (tls_cert, tls_key) = (path("cert.pem"), path("key.pem"));
        let settings = Settings { tls_cert, tls_key, ..Settings::default() };
        let scenario = Self { authority, folder, settings };
        scenario.install(&scenario.authority.server("127.0.0.1"));
        scenario
    }

    fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let mut scenario = Self::new();
        change(&mut scenario.settings);
        scenario
    }

    /// A scenario with `clients` as the CA bundle of client certificates.
    fn asking(clients: &TestCa) -> Self {
        let mut scenario = Self::new();
        scenario.write("clients.pem", clients.pem());
        scenario.settings.tls_client_ca = Some(scenario.path("clients.pem").display().to_string());
        scenario
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn install(&self, issued: &CertificateAndKey) {
        self.write("cert.pem", &issued.certificate);
        self.write("key.pem", &issued.key);
    }

    async fn build(&self) -> Result<App, StartError> {
        let store = FsStore::open(self.path("storage"), FsOptions::default()).unwrap();
        App::build(self.settings.clone(), Arc::new(store)).await
    }

    async fn serve(&self) -> Server {
        let app = self.build().await.unwrap();
        let tls = Arc::clone(app.tls().unwrap());
        let listener = jreg_net::server::listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let running = app.serve(listener).unwrap();
        Server { address: running.local_addr(), running, tls }
    }

    fn client(&self) -> TlsClient {
        TlsClient::of(&self.authority)
    }

    /// The response to a GET on a new connection.
    async fn get(&self, server: &Server, path: &str) -> String {
        let stream = self.client().connect(server.address).await.unwrap();
        exchange(stream, &request("GET", path, "")).await
    }

    /// The value of a metric.
    async fn metric(&self, server: &Server, name: &str) -> f64 {
        let text = self.get(server, "/metrics").await;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map_or(0.0, |value| value.parse().unwrap())
    }
}

struct Server {
    address: SocketAddr,
    running: RunningServer,
    tls: Arc<Tls>,
}

fn request(method: &str, path: &str, headers: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nhost: registry.test\r\nconnection: close\r\n{headers}\r\n")
}

/// Sends a request, and reads until the connection closes.
async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    read_all(&mut stream).await
}

async fn read_all(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut response = Vec::new();
    stream.read_to_end(&mut response).await.unwrap();
    String::from_utf8_lossy(&response).into_owned()
}

/// Whether a server accepts a client; with TLS 1.3 that shows only after the handshake.
async fn is_taken(client: &TlsClient, address: SocketAddr) -> bool {
    let Ok(mut stream): std::io::Result<TlsStream> = client.connect(address).await else {
        return false;
    };
    let mut response = Vec::new();
    let sent = stream.write_all(request("GET", "/livez", "").as_bytes()).await;
    let read = stream.read_to_end(&mut response).await;
    let is_taken = sent.is_ok() && read.is_ok() && response.starts_with(b"HTTP/1.1 200 OK\r\n");
    assert!(is_taken || response.is_empty(), "taken and refused");
    is_taken
}
