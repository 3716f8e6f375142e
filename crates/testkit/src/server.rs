//! The whole server as a value: listens on a port of its own on loopback, and stops when it is
//! dropped.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use jreg::app::App;
use jreg_access::{AllowAll, Authorizer};
use jreg_config::Settings;
use jreg_net::server::{RunningServer, ServerEnding};
use jreg_storage::{Clock, FsOptions, FsStore, ListRequest, MemoryStore, Store, SystemClock};
use tempfile::TempDir;
use tokio::net::TcpListener;

use crate::Client;
use crate::s3::{S3Server, S3Spec};

/// Which store a server keeps its content in.
#[derive(Clone, Debug, Default)]
pub enum StoreKind {
    #[default]
    Memory,
    /// In a temporary folder.
    Folder,
    /// In a bucket of a server of its own.
    Bucket,
    /// In a store of the caller's.
    Given(Arc<dyn Store>),
}

/// What a server should be like.
#[derive(Clone, Debug)]
pub struct ServerSpec {
    /// Its settings; where it listens and keeps its content is not taken from there.
    pub settings: Settings,
    pub store: StoreKind,
    /// Who may do what on it.
    pub authorizer: Arc<dyn Authorizer>,
    /// By which clock it runs; that of the machine unless given.
    pub clock: Option<Arc<dyn Clock>>,
}

impl Default for ServerSpec {
    /// In memory, with the default settings, open to anonymous clients.
    fn default() -> Self {
        Self {
            settings: Settings::default(),
            store: StoreKind::default(),
            authorizer: Arc::new(AllowAll),
            clock: None,
        }
    }
}

impl ServerSpec {
    /// The defaults with some settings changed.
    pub fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let mut spec = Self::default();
        change(&mut spec.settings);
        spec
    }

    /// Takes another process to say who may do what.
    #[must_use]
    pub fn authorizer(mut self, authorizer: impl Authorizer) -> Self {
        self.authorizer = Arc::new(authorizer);
        self
    }

    /// In memory, by another clock, which is that of the store, too.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.store = StoreKind::Given(Arc::new(MemoryStore::with_clock(Arc::clone(&clock))));
        self.clock = Some(clock);
        self
    }

    /// Takes another store.
    #[must_use]
    pub fn store(mut self, store: StoreKind) -> Self {
        self.store = store;
        self
    }
}

/// A running server.
#[derive(Debug)]
pub struct TestServer {
    address: SocketAddr,
    running: RunningServer,
    spec: ServerSpec,
    store: Arc<dyn Store>,
    home: ServerHome,
}

/// Where a server's content is, if it must be kept.
#[derive(Debug)]
enum ServerHome {
    Elsewhere,
    Folder(TempDir),
    Bucket(Box<S3Server>),
}

impl TestServer {
    /// Starts a server.
    pub async fn start(spec: ServerSpec) -> Self {
        let home = match spec.store {
            StoreKind::Memory | StoreKind::Given(_) => ServerHome::Elsewhere,
            StoreKind::Folder => ServerHome::Folder(TempDir::new().unwrap()),
            StoreKind::Bucket => {
                ServerHome::Bucket(Box::new(S3Server::start(S3Spec::default()).await))
            }
        };
        Self::start_in(spec, home).await
    }

    /// A client of it.
    pub fn client(&self) -> Client {
        Client::new(self.address)
    }

    /// Stops it in good order: what runs is finished first. Panics if something had to be cut
    /// off.
    pub async fn stop(self) {
        let ending = self.running.shutdown().await;
        assert_eq!(ending, ServerEnding::Whole, "a request or a connection would not end");
    }

    /// Stops it, and starts another on the same folder or bucket.
    pub async fn restart(self) -> Self {
        let Self { running, spec, store, home, .. } = self;
        assert_eq!(running.shutdown().await, ServerEnding::Whole);
        drop(store);
        Self::start_in(spec, home).await
    }

    /// Everything that exists: the store's keys, or the names of all files around the folder.
    pub async fn entries(&self) -> Vec<String> {
        match &self.home {
            ServerHome::Folder(folder) => files(folder.path()),
            ServerHome::Bucket(server) => server.keys(),
            ServerHome::Elsewhere => keys(&*self.store).await,
        }
    }

    async fn start_in(spec: ServerSpec, home: ServerHome) -> Self {
        let clock = spec.clock.clone().unwrap_or_else(|| Arc::new(SystemClock::new()));
        let store: Arc<dyn Store> = match (&spec.store, &home) {
            (StoreKind::Given(store), _) => Arc::clone(store),
            (_, ServerHome::Folder(folder)) => open(&folder.path().join("root"), &clock),
            (_, ServerHome::Bucket(server)) => server.store(),
            (_, ServerHome::Elsewhere) => Arc::new(MemoryStore::new()),
        };
        let app = App::build_guarded(
            spec.settings.clone(),
            Arc::clone(&store),
            clock,
            Arc::clone(&spec.authorizer),
        )
        .await
        .unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let running = app.serve(listener).unwrap();
        Self { address: running.local_addr(), running, spec, store, home }
    }
}

fn open(root: &Path, clock: &Arc<dyn Clock>) -> Arc<dyn Store> {
    let options = FsOptions { clock: Arc::clone(clock), ..FsOptions::default() };
    Arc::new(FsStore::open(root, options).unwrap())
}

fn files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        }
        found.push(path.display().to_string());
    }
    found.sort();
    found
}

async fn keys(store: &dyn Store) -> Vec<String> {
    let mut request = ListRequest::below("");
    let mut keys = Vec::new();
    loop {
        let page = store.list(&request).await.unwrap();
        keys.extend(page.entries.into_iter().map(|entry| entry.key.to_string()));
        match page.next {
            Some(next) => request.start_after = Some(next),
            None => return keys,
        }
    }
}
