//! The emulator as a value: listens on a port of its own, and stops when it is dropped.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use s3s::service::S3ServiceBuilder;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::condition::IfMatchForm;
use super::front::RequestFront;
use super::guard::AccessCheck;
use super::journal::{Journal, RecordedRequest};
use super::listing::Listings;
use super::multipart::S3PartRules;
use super::object::{S3Object, StoredObject};
use super::rule::{FaultRule, FaultRules, InjectedRule};
use super::state::{
    ConditionalDelete, Conditions, EmulatorBehavior, EmulatorState, Replacement, SharedState,
    SwapOfNothing,
};
use super::{S3Client, S3Clock};

/// The longest that requests are waited for. Reached only by a test that fails.
const IDLE_WAIT_MAX: Duration = Duration::from_secs(60);

/// What an emulator should be like. The default is as AWS is, empty, on any free port of
/// loopback.
#[derive(Clone, Debug)]
pub struct S3Spec {
    /// Where it listens.
    pub listen: SocketAddr,
    /// The name of its one bucket.
    pub bucket: String,
    /// The access key that it knows.
    pub access_key: String,
    /// The secret that goes with it.
    pub secret_key: String,
    /// How much longer every request takes.
    pub latency: Duration,
    /// Maximum bytes of one response in a second, as a connection to a real bucket has.
    pub response_bytes_per_second: Option<u64>,
    /// How it keeps the conditions of writes.
    pub conditions: Conditions,
    /// How it keeps the condition of a delete.
    pub conditional_delete: ConditionalDelete,
    /// What becomes of a write on `If-Match` where there is no object.
    pub swap_of_nothing: SwapOfNothing,
    /// How it reads `If-Match`, on writes and deletes.
    pub if_match: IfMatchForm,
    /// How it replaces an object by one that is put.
    pub replacement: Replacement,
    /// How it answers listings.
    pub listings: Listings,
    /// What it asks of the parts of an upload.
    pub parts: S3PartRules,
    /// Whether completing again what was just completed, with the same parts, is answered with
    /// 200 as on AWS, and not with 404 `NoSuchUpload`.
    pub complete_again: bool,
    /// Keeps no bytes of what is put in one request of more than this, and gives zeros instead:
    /// for benchmarks that store more than there is memory. Its size and its etag are kept.
    pub forget_above_bytes: Option<u64>,
}

impl Default for S3Spec {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            bucket: "jreg".to_owned(),
            access_key: "emulator".to_owned(),
            secret_key: "emulator-secret".to_owned(),
            latency: Duration::ZERO,
            response_bytes_per_second: None,
            conditions: Conditions::default(),
            conditional_delete: ConditionalDelete::default(),
            swap_of_nothing: SwapOfNothing::default(),
            if_match: IfMatchForm::default(),
            replacement: Replacement::default(),
            listings: Listings::default(),
            parts: S3PartRules::default(),
            complete_again: true,
            forget_above_bytes: None,
        }
    }
}

impl S3Spec {
    /// The defaults with something changed.
    pub fn with(change: impl FnOnce(&mut Self)) -> Self {
        let mut spec = Self::default();
        change(&mut spec);
        spec
    }
}

/// An upload that is neither complete nor aborted, as a test sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3OpenUpload {
    /// The key it is for.
    pub key: String,
    pub id: String,
    /// The sizes of its parts in bytes, by number.
    pub parts: Vec<(i32, u64)>,
}

/// A running emulator.
#[derive(Debug)]
pub struct S3Server {
    address: SocketAddr,
    spec: S3Spec,
    state: Arc<EmulatorState>,
    front: Arc<RequestFront>,
    stop: watch::Sender<()>,
    accepting: JoinHandle<()>,
}

impl S3Server {
    /// Starts one; panics if it cannot listen.
    pub async fn start(spec: S3Spec) -> Self {
        let address = spec.listen;
        Self::try_start(spec).await.unwrap_or_else(|error| panic!("listen on {address}: {error}"))
    }

    /// Starts one.
    ///
    /// # Errors
    ///
    /// If it cannot listen where it should.
    pub async fn try_start(spec: S3Spec) -> io::Result<Self> {
        let listener = TcpListener::bind(spec.listen).await?;
        let address = listener.local_addr()?;
        let state = Arc::new(EmulatorState::new(behavior(&spec), S3Clock::new()));
        let (stop, stopping) = watch::channel(());
        let front = Arc::new(front(&spec, &state, stopping.clone()));
        let accepting = tokio::spawn(accept(listener, Arc::clone(&front), stopping));
        Ok(Self { address, spec, state, front, stop, accepting })
    }

    /// Stops it: every connection is closed, and what waits at a gate never happens.
    pub async fn stop(self) {
        let Self { stop, accepting, .. } = self;
        drop(stop);
        accepting.await.expect("the emulator does not panic");
    }

    /// Its address as a URL, without a slash at the end.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The name of its bucket.
    pub fn bucket(&self) -> &str {
        &self.spec.bucket
    }

    /// The access key that it knows.
    pub fn access_key(&self) -> &str {
        &self.spec.access_key
    }

    /// The secret that goes with it.
    pub fn secret_key(&self) -> &str {
        &self.spec.secret_key
    }

    /// A client of it, with its keys.
    pub fn client(&self) -> S3Client {
        S3Client::new(self)
    }

    /// What jreg takes as its storage to keep everything here; the keys go with it in the
    /// environment or the configuration.
    pub fn storage_url(&self) -> String {
        format!("s3://{}/?endpoint={}&path_style=true", self.bucket(), self.endpoint())
    }

    pub fn clock(&self) -> &S3Clock {
        &self.state.clock
    }

    /// Sets how much longer every request takes from now on.
    pub fn set_latency(&self, latency: Duration) {
        self.front.latency_us.store(micros(latency), Ordering::SeqCst);
    }

    /// Puts a rule in force.
    pub fn inject(&self, rule: FaultRule) -> InjectedRule {
        self.front.rules.add(rule)
    }

    /// Ends a rule. What waits at a gate because of it continues waiting.
    pub fn remove(&self, injected: &InjectedRule) {
        self.front.rules.remove(injected);
    }

    /// Ends all rules.
    pub fn remove_all(&self) {
        self.front.rules.clear();
    }

    /// Waits until no request is being served: those whose client no longer exists, and that are
    /// still to take effect, included. Panics if that is not so within a minute.
    pub async fn idle(&self) {
        let mut serving = self.front.serving.subscribe();
        let none = serving.wait_for(|serving| *serving == 0);
        let none = tokio::time::timeout(IDLE_WAIT_MAX, none).await;
        drop(none.expect("requests do not end").expect("the server keeps the sender"));
    }

    /// The requests since the start, or since they were last taken, as they arrived; the last 100
    /// 000 at most.
    pub fn requests(&self) -> Vec<RecordedRequest> {
        self.front.journal.all()
    }

    /// Takes the requests since the start, or since they were last taken. Of one that is still
    /// being served, what comes later is not recorded.
    pub fn take_requests(&self) -> Vec<RecordedRequest> {
        self.front.journal.take()
    }

    /// All keys, in byte order.
    pub fn keys(&self) -> Vec<String> {
        self.state.bucket().objects.keys().cloned().collect()
    }

    /// What is stored under a key.
    pub fn object(&self, key: &str) -> Option<StoredObject> {
        self.state.bucket().objects.get(key).map(S3Object::shown)
    }

    /// Stores bytes under a key, behind the back of all clients.
    pub fn insert(&self, key: &str, bytes: impl Into<Bytes>) {
        let object = S3Object::plain(bytes.into().into(), HeaderMap::new(), self.state.now());
        self.state.bucket().objects.insert(key.to_owned(), object);
    }

    /// Removes what is under a key, behind the back of all clients; says whether there was
    /// anything.
    pub fn discard(&self, key: &str) -> bool {
        self.state.bucket().objects.remove(key).is_some()
    }

    /// Makes every upload, and each of its parts, older.
    pub fn age_uploads(&self, by: Duration) {
        for upload in self.state.bucket().uploads_mut() {
            upload.initiated -= by;
            upload.parts.values_mut().for_each(|part| part.modified -= by);
        }
    }

    /// The uploads that are neither complete nor aborted, by key and then by age.
    pub fn uploads(&self) -> Vec<S3OpenUpload> {
        let bucket = self.state.bucket();
        let parts = |upload: &super::multipart::S3Upload| {
            upload.parts.iter().map(|(number, part)| (*number, part.size_bytes())).collect()
        };
        bucket
            .uploads()
            .into_iter()
            .map(|(id, upload)| S3OpenUpload {
                key: upload.key.clone(),
                id: id.clone(),
                parts: parts(upload),
            })
            .collect()
    }
}

fn behavior(spec: &S3Spec) -> EmulatorBehavior {
    EmulatorBehavior {
        conditions: spec.conditions,
        conditional_delete: spec.conditional_delete,
        swap_of_nothing: spec.swap_of_nothing,
        if_match: spec.if_match,
        replacement: spec.replacement,
        listings: spec.listings,
        parts: spec.parts,
        complete_again: spec.complete_again,
        forget_above_bytes: spec.forget_above_bytes,
    }
}

fn front(spec: &S3Spec, state: &Arc<EmulatorState>, stopping: watch::Receiver<()>) -> RequestFront {
    let guard = AccessCheck {
        bucket: spec.bucket.clone(),
        access_key: spec.access_key.clone(),
        secret_key: spec.secret_key.clone(),
        clock: state.clock.clone(),
    };
    let mut builder = S3ServiceBuilder::new(SharedState(Arc::clone(state)));
    builder.set_auth(guard.clone());
    builder.set_access(guard);
    RequestFront {
        service: builder.build(),
        clock: state.clock.clone(),
        journal: Arc::new(Journal::default()),
        rules: FaultRules::default(),
        latency_us: AtomicU64::new(micros(spec.latency)),
        response_bytes_per_second: spec.response_bytes_per_second,
        serving: watch::Sender::new(0),
        stopping,
    }
}

fn micros(latency: Duration) -> u64 {
    u64::try_from(latency.as_micros()).unwrap_or(u64::MAX)
}

async fn accept(
    listener: TcpListener,
    front: Arc<RequestFront>,
    mut stopping: watch::Receiver<()>,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            _ = stopping.changed() => break,
            Some(_) = connections.join_next() => {}
            // Refused ones, such as for want of descriptors, are the client's to notice.
            Ok((stream, _)) = listener.accept() => {
                connections.spawn(serve(stream, Arc::clone(&front)));
            }
        }
    }
    connections.shutdown().await;
}

async fn serve(stream: TcpStream, front: Arc<RequestFront>) {
    stream.set_nodelay(true).ok();
    let service = service_fn(move |request| Arc::clone(&front).serve(request));
    // An error is the client going away, or a connection that was to be cut.
    hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await
        .ok();
}
