//! Certificates by ACME: instances over one store, and a CA that validates their names.

mod failing;
mod issuing;
mod process;
mod showing;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use jreg::app::App;
use jreg::error::StartError;
use jreg_access::{JwksFetchError, JwksFetcher};
use jreg_config::Settings;
use jreg_net::acme::Acme;
use jreg_net::server::{RunningServer, ServerParts, listen, serve};
use jreg_registry::acme_order;
use jreg_storage::testing::ManualClock;
use jreg_storage::{MemoryStore, Store};
use jreg_testkit::acme::AcmeServer;
use jreg_testkit::{TlsClient, TlsStream};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const DAY: Duration = Duration::from_secs(24 * 3600);
const NAME: &str = "registry.test";

/// A CA, a store, and the options of instances.
struct AcmeScenario {
    clock: Arc<ManualClock>,
    authority: AcmeServer,
    folder: TempDir,
    store: Arc<dyn Store>,
    settings: Settings,
}

/// No issuers are configured.
#[derive(Debug)]
struct NoJwksFetcher;

#[async_trait]
impl JwksFetcher for NoJwksFetcher {
    async fn fetch(&self, _: &str) -> Result<Vec<u8>, JwksFetchError> {
        Err(JwksFetchError::Status(404))
    }
}

impl AcmeScenario {
    /// The scenario's clock starts a day ago, so that certificates issued a little later are valid
    /// already.
    async fn new() -> Self {
        Self::of(SystemTime::now() - DAY).await
    }

    /// The scenario's clock starts at the given time: clients verify certificates by the real
    /// clock.
    async fn of(start: SystemTime) -> Self {
        let clock = Arc::new(ManualClock::new(start));
        let authority = AcmeServer::start(clock.clone()).await;
        let folder = tempfile::tempdir().unwrap();
        let ca_file = folder.path().join("ca.pem");
        std::fs::write(&ca_file, authority.ca_pem()).unwrap();
        let settings = Settings {
            acme_domains: vec![NAME.to_owned()],
            acme_directory: authority.directory(),
            acme_ca_file: Some(ca_file.display().to_string()),
            ..Settings::default()
        };
        let store = Arc::new(MemoryStore::new());
        Self { clock, authority, folder, store, settings }
    }

    async fn build(&self) -> Result<App, StartError> {
        let (store, clock) = (Arc::clone(&self.store), Arc::clone(&self.clock));
        App::build_with(self.settings.clone(), store, clock, Arc::new(NoJwksFetcher)).await
    }

    /// An instance without background jobs: a test triggers each renewal check.
    async fn start(&self) -> Instance {
        let app = self.build().await.unwrap();
        let listener = listen(([127, 0, 0, 1], 0).into()).unwrap();
        let address = listener.local_addr().unwrap();
        let parts = ServerParts {
            handler: Arc::new(app.api()),
            tls: app.tls().cloned(),
            metrics: Arc::default(),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
        };
        let running = serve(listener, address, parts, jreg::options::server(&self.settings));
        Instance { address, running, acme: Arc::clone(app.acme().unwrap()) }
    }

    /// The instance that the names resolve to, with a certificate.
    async fn started(&self) -> Instance {
        let instance = self.start().await;
        self.authority.look_at(instance.address);
        instance.acme.look().await;
        assert_eq!(self.authority.issued(), 1, "{}", self.order().await);
        instance
    }

    /// The order record in the store.
    async fn order(&self) -> Value {
        let record = self.store.get(&acme_order()).await.unwrap();
        serde_json::from_slice(&record.bytes).unwrap()
    }

    fn client(&self) -> TlsClient {
        TlsClient::of(self.authority.issuer())
    }

    /// The certificate that an instance serves, if the handshake succeeds.
    async fn shown(&self, instance: &Instance) -> Option<Vec<u8>> {
        let stream = self.client().connect_to(NAME, instance.address).await.ok()?;
        Some(stream.get_ref().1.peer_certificates().unwrap()[0].to_vec())
    }

    async fn metric(&self, instance: &Instance, name: &str) -> f64 {
        let mut stream = self.client().connect_to(NAME, instance.address).await.unwrap();
        let text = get(&mut stream, "/metrics").await;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map_or(0.0, |value| value.parse().unwrap())
    }
}

struct Instance {
    address: SocketAddr,
    running: RunningServer,
    acme: Arc<Acme>,
}

async fn get(stream: &mut TlsStream, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nhost: {NAME}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = Vec::new();
    stream.read_to_end(&mut response).await.unwrap();
    String::from_utf8(response).unwrap()
}
