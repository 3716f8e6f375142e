//! A client: random operations, each request at a random instance and retried elsewhere on failure,
//! with all responses recorded in the ledger.

use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jreg_testkit::{Client, Request, Response, Rng};
use tokio::task::JoinHandle;

use crate::fixtures::Fixtures;
use crate::instances::cluster::BucketFaults;
use crate::instances::fixtures::{REPOSITORIES, TAGS, is_large};
use crate::instances::history::{Effect, Span};
use crate::instances::ledger::{Claim, Ledger, Register, THERE};

/// More attempts than any request needs under faults.
const ATTEMPTS_MAX: u32 = 60;
/// One in this many write responses is not awaited.
const IMPATIENCE: u64 = 30;
/// The same for chunks, so that uploads often have two concurrent requests.
const IMPATIENCE_CHUNK: u64 = 8;

/// One in this many operations applies a delayed write: rarely, so that much happens before.
const RELEASE: u64 = 30;
/// Maximum number of reads of an observer.
const READS_MAX: u32 = 1000;

/// State shared by all clients.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) fixtures: Arc<Fixtures>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) faults: Arc<BucketFaults>,
    /// One of each instance.
    pub(crate) clients: Vec<Client>,
    /// Whether reads must be current. Otherwise they may be stale, and only the bytes are checked.
    pub(crate) strict: bool,
}

/// Outcome of a request.
pub(crate) enum Reply {
    Response(Response),
    /// A response that says only that it failed.
    Failed,
    /// No response was received: it may still take effect.
    NoResponse,
}

/// A client.
pub(crate) struct Worker {
    pub(crate) shared: Shared,
    pub(crate) rng: Rng,
    /// Requests without a response.
    abandoned: Vec<JoinHandle<()>>,
    acknowledged: u64,
}

impl Worker {
    pub(crate) fn new(shared: Shared, seed: u64) -> Self {
        Self { shared, rng: Rng::new(seed), abandoned: Vec::new(), acknowledged: 0 }
    }

    /// Runs a number of operations and returns how many were acknowledged; calls `half_way` in the
    /// middle.
    pub(crate) async fn run(
        mut self,
        operations: u64,
        half_way: impl FnOnce(&BucketFaults),
    ) -> u64 {
        for _ in 0..operations / 2 {
            self.operation().await;
        }
        half_way(&self.shared.faults);
        for _ in operations / 2..operations {
            self.operation().await;
        }
        for abandoned in self.abandoned {
            abandoned.await.unwrap();
        }
        self.acknowledged
    }

    async fn operation(&mut self) {
        if self.rng.chance(1, RELEASE) {
            self.shared.faults.release_one();
        }
        let repository = self.below(REPOSITORIES.len());
        let manifest = self.below(self.shared.fixtures.manifests.len());
        let tag = self.below(TAGS.len());
        let blob = self.any_blob();
        match self.rng.below(20) {
            0..=3 => self.push_image(repository, manifest, tag).await,
            4..=6 => drop(self.put_manifest(repository, manifest, Some(tag)).await),
            7 => drop(self.put_manifest(repository, manifest, None).await),
            8..=10 => self.push_blob(repository, blob).await,
            11 => drop(self.mount(repository, blob).await),
            12 => self.delete_blob(repository, blob).await,
            13..=14 => self.delete_tag(repository, tag).await,
            15 => self.delete_manifest(repository, manifest).await,
            16 => drop(self.read_manifest(repository, manifest).await),
            17..=18 => drop(self.read_blob(repository, blob).await),
            _ => drop(self.read_referrers(repository, 0).await),
        }
    }

    /// Reads tags until stopped: short-lived states must be seen, too.
    pub(crate) async fn watch(mut self, stopped: Arc<AtomicBool>) {
        for _ in 0..READS_MAX {
            if stopped.load(Ordering::SeqCst) {
                return;
            }
            let (repository, tag) = (self.below(REPOSITORIES.len()), self.below(TAGS.len()));
            self.read_tag(repository, tag).await;
            self.pause().await;
        }
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.rng.below(end as u64)).unwrap()
    }

    /// Mostly a small one.
    fn any_blob(&mut self) -> usize {
        let blob = self.below(self.shared.fixtures.blobs.len());
        if is_large(blob) && self.rng.chance(2, 3) { 0 } else { blob }
    }

    /// Sends a request to any instance, once.
    pub(crate) async fn attempt(&mut self, request: &Request) -> Reply {
        let client = self.rng.pick(&self.shared.clients).clone();
        let request = request.clone();
        let impatience = if request.method == "PATCH" { IMPATIENCE_CHUNK } else { IMPATIENCE };
        if request.method != "GET" && self.rng.chance(1, impatience) {
            let sending = async move { drop(client.try_send(request).await) };
            self.abandoned.push(tokio::spawn(sending));
            return Reply::NoResponse;
        }
        match client.try_send(request).await {
            Ok(response) if response.status >= 500 || response.status == 429 => Reply::Failed,
            Ok(response) => {
                self.acknowledged += 1;
                Reply::Response(response)
            }
            Err(_) => Reply::NoResponse,
        }
    }

    /// Sends a request with retries until there is a response. `claims` says what a response means,
    /// or what may have been done without one.
    pub(crate) async fn insist(
        &mut self,
        request: Request,
        claims: impl Fn(Option<&Response>) -> Vec<Claim>,
    ) -> Response {
        for _ in 0..ATTEMPTS_MAX {
            if let Some(response) = self.note(&request, &claims).await {
                return response;
            }
            self.pause().await;
        }
        panic!("{ATTEMPTS_MAX} attempts failed: {request}");
    }

    /// Sends a request once, and records the outcome.
    pub(crate) async fn note(
        &mut self,
        request: &Request,
        claims: impl Fn(Option<&Response>) -> Vec<Claim>,
    ) -> Option<Response> {
        let ledger = Arc::clone(&self.shared.ledger);
        let what = format!("{} {}", request.method, request.target);
        let begun = ledger.tick();
        match self.attempt(request).await {
            Reply::Response(response) => {
                let what = format!("{what} = {}", response.status);
                ledger.responded(begun, claims(Some(&response)), &what);
                return Some(response);
            }
            Reply::Failed => {
                let span = Span::Failed { begun, ended: ledger.tick() };
                ledger.unsure(span, claims(None), &what);
            }
            Reply::NoResponse => {
                ledger.unsure(Span::NoResponse { begun }, claims(None), &what);
            }
        }
        None
    }

    /// A pause before the next attempt, to outlast a burst of faults.
    pub(crate) async fn pause(&mut self) {
        tokio::time::sleep(Duration::from_millis(self.rng.below(10))).await;
    }

    async fn push_image(&mut self, repository: usize, manifest: usize, tag: usize) {
        for blob in self.shared.fixtures.manifests[manifest].needs.clone() {
            if self.rng.chance(1, 2) && self.holds_blob(repository, blob).await {
                continue;
            }
            self.push_blob(repository, blob).await;
        }
        let response = self.put_manifest(repository, manifest, Some(tag)).await;
        for blob in self.missing(&response) {
            self.push_blob(repository, blob).await;
        }
        if response.status != 201 {
            self.put_manifest(repository, manifest, Some(tag)).await;
        }
    }

    async fn put_manifest(
        &mut self,
        repository: usize,
        manifest: usize,
        tag: Option<usize>,
    ) -> Response {
        let fixtures = Arc::clone(&self.shared.fixtures);
        let pushed = &fixtures.manifests[manifest];
        let reference = tag.map_or_else(|| pushed.digest.to_string(), |tag| TAGS[tag].to_owned());
        let put = Request::new("PUT", manifest_at(repository, reference))
            .header("Content-Type", pushed.media_type.as_str())
            .body(pushed.bytes.clone());
        let written = || {
            let at = Claim::of(Register::Manifest(repository, manifest), Effect::Write(THERE));
            let tag =
                tag.map(|tag| Claim::of(Register::Tag(repository, tag), Effect::Write(manifest)));
            let referrer = pushed
                .subject()
                .map(|_| Claim::of(Register::Referrer(repository, manifest), Effect::Write(THERE)));
            [Some(at), tag, referrer].into_iter().flatten().collect::<Vec<_>>()
        };
        let blob = |blob, value| Claim::of(Register::Blob(repository, blob), Effect::Read(value));
        let response = self
            .insist(put, |response| match response {
                None => written(),
                Some(response) if response.status == 201 => {
                    let held = pushed.needs.iter().map(|need| blob(*need, Some(THERE)));
                    written().into_iter().chain(held).collect()
                }
                Some(response) => {
                    let missing = missing(&fixtures, response);
                    assert!(!missing.is_empty(), "nothing is missing: {response}");
                    // A push that starts over may be refused after it had written the manifest, and a delete
                    // may have removed that.
                    let perhaps = Effect::Write(THERE);
                    let perhaps = [
                        Some(Claim::perhaps(Register::Manifest(repository, manifest), perhaps)),
                        pushed.subject().map(|_| {
                            Claim::perhaps(Register::Referrer(repository, manifest), perhaps)
                        }),
                    ];
                    let absent = missing.into_iter().map(|need| blob(need, None));
                    perhaps.into_iter().flatten().chain(absent).collect()
                }
            })
            .await;
        one_of(&response, &[201, 400]);
        response
    }

    fn missing(&self, response: &Response) -> Vec<usize> {
        missing(&self.shared.fixtures, response)
    }

    async fn delete_blob(&mut self, repository: usize, blob: usize) {
        let fixtures = Arc::clone(&self.shared.fixtures);
        let delete = Request::new("DELETE", blob_at(repository, &fixtures.blobs[blob].digest));
        self.remove(delete, Register::Blob(repository, blob)).await;
    }

    async fn delete_tag(&mut self, repository: usize, tag: usize) {
        let delete = Request::new("DELETE", manifest_at(repository, TAGS[tag]));
        self.remove(delete, Register::Tag(repository, tag)).await;
    }

    async fn remove(&mut self, delete: Request, register: Register) {
        let claims = |response: Option<&Response>| match response.map(|response| response.status) {
            Some(404) => vec![Claim::of(register, Effect::Read(None))],
            _ => vec![Claim::of(register, Effect::Remove)],
        };
        one_of(&self.insist(delete, claims).await, &[202, 404]);
    }

    async fn delete_manifest(&mut self, repository: usize, manifest: usize) {
        let fixtures = Arc::clone(&self.shared.fixtures);
        let digest = &fixtures.manifests[manifest].digest;
        let has_subject = fixtures.manifests[manifest].subject().is_some();
        let delete = Request::new("DELETE", manifest_at(repository, digest));
        let own = Register::Manifest(repository, manifest);
        let led_here = || {
            let tags = (0..TAGS.len()).map(|tag| (Register::Tag(repository, tag), manifest));
            let entry = has_subject.then_some((Register::Referrer(repository, manifest), THERE));
            tags.chain(entry)
        };
        let gone = |(register, value)| Claim::of(register, Effect::RemoveFrom(value));
        // Another client may have deleted it after this request had deleted its tag.
        let perhaps = |(register, value)| Claim::perhaps(register, Effect::RemoveFrom(value));
        let claims = |response: Option<&Response>| match response.map(|response| response.status) {
            Some(404) => {
                let absent = Claim::of(own, Effect::Read(None));
                led_here().map(perhaps).chain([absent]).collect()
            }
            _ => led_here().map(gone).chain([Claim::of(own, Effect::Remove)]).collect(),
        };
        one_of(&self.insist(delete, claims).await, &[202, 404]);
    }

    /// Reads at a path. `claims` belong to a response with content.
    async fn read(
        &mut self,
        read: Request,
        absent: Register,
        claims: impl Fn(&Response) -> Vec<Claim>,
    ) -> Response {
        let strict = self.shared.strict;
        let response = self
            .insist(read, |response| match response {
                None => Vec::new(),
                Some(response) if response.status == 404 => {
                    vec![Claim::of(absent, Effect::Read(None))]
                }
                Some(response) => {
                    let claims = claims(response);
                    if strict { claims } else { Vec::new() }
                }
            })
            .await;
        one_of(&response, &[200, 404]);
        response
    }

    /// Where a tag points to.
    pub(crate) async fn read_tag(&mut self, repository: usize, tag: usize) -> Option<usize> {
        let fixtures = Arc::clone(&self.shared.fixtures);
        let register = Register::Tag(repository, tag);
        let served = |response: &Response| {
            let served = fixtures.manifest_of(&response.body);
            served.unwrap_or_else(|| panic!("no client pushed this: {response}"))
        };
        let get = Request::new("GET", manifest_at(repository, TAGS[tag]));
        let response = self
            .read(get, register, |response| {
                let manifest = served(response);
                let there = Register::Manifest(repository, manifest);
                vec![
                    Claim::of(register, Effect::Read(Some(manifest))),
                    Claim::of(there, Effect::Read(Some(THERE))),
                ]
            })
            .await;
        (response.status == 200).then(|| served(&response))
    }

    /// Whether a manifest exists.
    pub(crate) async fn read_manifest(&mut self, repository: usize, manifest: usize) -> bool {
        let fixtures = Arc::clone(&self.shared.fixtures);
        let register = Register::Manifest(repository, manifest);
        let get =
            Request::new("GET", manifest_at(repository, &fixtures.manifests[manifest].digest));
        let response = self
            .read(get, register, |response| {
                assert_eq!(response.body, fixtures.manifests[manifest].bytes);
                vec![Claim::of(register, Effect::Read(Some(THERE)))]
            })
            .await;
        response.status == 200
    }

    /// Whether a blob exists, with the right bytes.
    pub(crate) async fn read_blob(&mut self, repository: usize, blob: usize) -> bool {
        let fixtures = Arc::clone(&self.shared.fixtures);
        let register = Register::Blob(repository, blob);
        let get = Request::new("GET", blob_at(repository, &fixtures.blobs[blob].digest));
        let response = self
            .read(get, register, |response| {
                assert!(response.body == fixtures.blobs[blob].bytes, "other bytes of blob {blob}");
                vec![Claim::of(register, Effect::Read(Some(THERE)))]
            })
            .await;
        response.status == 200
    }

    async fn holds_blob(&mut self, repository: usize, blob: usize) -> bool {
        let fixtures = Arc::clone(&self.shared.fixtures);
        let register = Register::Blob(repository, blob);
        let head = Request::new("HEAD", blob_at(repository, &fixtures.blobs[blob].digest));
        let there = |_: &Response| vec![Claim::of(register, Effect::Read(Some(THERE)))];
        self.read(head, register, there).await.status == 200
    }

    /// The referrers listed for a subject.
    pub(crate) async fn read_referrers(&mut self, repository: usize, subject: usize) -> Vec<usize> {
        let fixtures = Arc::clone(&self.shared.fixtures);
        let digest = &fixtures.manifests[subject].digest;
        let get =
            Request::new("GET", format!("/v2/{}/referrers/{digest}", REPOSITORIES[repository]));
        let listed = |response: &Response| {
            let listed = response.json()["manifests"].as_array().cloned().unwrap();
            let referrers = fixtures.referrers(subject);
            let is_listed = |manifest: usize| {
                let digest = fixtures.manifests[manifest].digest.to_string();
                listed.iter().any(|entry| entry["digest"] == digest)
            };
            referrers
                .into_iter()
                .map(|manifest| (manifest, is_listed(manifest)))
                .collect::<Vec<_>>()
        };
        let claim = |(manifest, is_listed): (usize, bool)| {
            let value = is_listed.then_some(THERE);
            Claim::of(Register::Referrer(repository, manifest), Effect::Read(value))
        };
        let response = self
            .insist(get, |response| {
                response.map_or_else(Vec::new, |response| {
                    listed(response).into_iter().map(claim).collect()
                })
            })
            .await;
        one_of(&response, &[200]);
        let there = listed(&response).into_iter().filter(|(_, is_listed)| *is_listed);
        there.map(|(manifest, _)| manifest).collect()
    }
}

/// The blobs that a refused manifest lacks.
fn missing(fixtures: &Fixtures, response: &Response) -> Vec<usize> {
    let response = response.json();
    let missing = response.pointer("/errors/0/detail/missing").and_then(|list| list.as_array());
    let blob = |digest: &serde_json::Value| fixtures.blob_of(&digest.as_str()?.parse().ok()?);
    missing.into_iter().flatten().filter_map(blob).collect()
}

pub(crate) fn manifest_at(repository: usize, reference: impl Display) -> String {
    format!("/v2/{}/manifests/{reference}", REPOSITORIES[repository])
}

pub(crate) fn blob_at(repository: usize, digest: impl Display) -> String {
    format!("/v2/{}/blobs/{digest}", REPOSITORIES[repository])
}

#[track_caller]
pub(crate) fn one_of(response: &Response, statuses: &[u16]) {
    assert!(statuses.contains(&response.status), "{response}");
}
