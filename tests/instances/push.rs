//! How a client pushes a blob: in one request or in chunks, each at another instance, resuming
//! after any failure.

use std::sync::Arc;

use bytes::Bytes;
use jreg_testkit::{Request, Response};

use crate::instances::fixtures::REPOSITORIES;
use crate::instances::history::Effect;
use crate::instances::ledger::{Claim, Register, THERE};
use crate::instances::worker::{Reply, Worker, one_of};

/// More requests than any upload needs under faults.
const STEPS_MAX: u32 = 200;

/// An upload as its client knows it.
struct Upload {
    location: String,
    digest: String,
    bytes: Bytes,
    /// Acknowledged bytes, and bytes sent.
    acknowledged: usize,
    sent: usize,
    /// Whether a request had no response: the offset may be anything up to `sent`.
    in_doubt: bool,
    register: Register,
}

/// Outcome of a request to an upload.
enum Step {
    On,
    Done,
    /// The upload does not exist any more, for a known reason: the client starts again.
    Gone,
}

impl Worker {
    /// Pushes a blob in any of the ways of clients.
    pub(crate) async fn push_blob(&mut self, repository: usize, blob: usize) {
        match self.rng.below(5) {
            0 => self.push_at_once(repository, blob).await,
            1 => {
                let mounted = self.mount(repository, blob).await;
                if let Some(location) = mounted {
                    self.upload(repository, blob, Some(location)).await;
                }
            }
            _ => self.upload(repository, blob, None).await,
        }
    }

    async fn push_at_once(&mut self, repository: usize, blob: usize) {
        let fixtures = Arc::clone(&self.shared.fixtures);
        let pushed = &fixtures.blobs[blob];
        let target =
            format!("/v2/{}/blobs/uploads/?digest={}", REPOSITORIES[repository], pushed.digest);
        let push = Request::new("POST", target);
        let push = match self.rng.chance(1, 4) {
            true => push.chunked([pushed.bytes.clone()]),
            false => push.body(pushed.bytes.clone()),
        };
        let held = vec![Claim::of(Register::Blob(repository, blob), Effect::Write(THERE))];
        one_of(&self.insist(push, |_| held.clone()).await, &[201]);
    }

    /// Mounts a blob from the other repository; if that does not have it, the response is an
    /// upload.
    pub(crate) async fn mount(&mut self, repository: usize, blob: usize) -> Option<String> {
        let fixtures = Arc::clone(&self.shared.fixtures);
        let source = 1 - repository;
        let target = format!(
            "/v2/{}/blobs/uploads/?mount={}&from={}",
            REPOSITORIES[repository], fixtures.blobs[blob].digest, REPOSITORIES[source]
        );
        let (here, there) = (Register::Blob(repository, blob), Register::Blob(source, blob));
        let claims = |response: Option<&Response>| match response.map(|response| response.status) {
            Some(202) => [here, there].map(|at| Claim::of(at, Effect::Read(None))).to_vec(),
            _ => vec![Claim::of(here, Effect::Write(THERE))],
        };
        let response = self.insist(Request::new("POST", target).body(""), claims).await;
        one_of(&response, &[201, 202]);
        (response.status == 202).then(|| response.header("Location").unwrap().to_owned())
    }

    async fn upload(&mut self, repository: usize, blob: usize, mut location: Option<String>) {
        let fixtures = Arc::clone(&self.shared.fixtures);
        let pushed = &fixtures.blobs[blob];
        for _ in 0..STEPS_MAX {
            let mut upload = Upload {
                location: match location.take() {
                    Some(location) => location,
                    None => self.begin(repository).await,
                },
                digest: pushed.digest.to_string(),
                bytes: pushed.bytes.clone(),
                acknowledged: 0,
                sent: 0,
                in_doubt: false,
                register: Register::Blob(repository, blob),
            };
            if self.drive(&mut upload).await {
                return;
            }
        }
        panic!("an upload was begun {STEPS_MAX} times in vain");
    }

    async fn begin(&mut self, repository: usize) -> String {
        let target = format!("/v2/{}/blobs/uploads/", REPOSITORIES[repository]);
        let begun = self.insist(Request::new("POST", target).body(""), |_| Vec::new()).await;
        one_of(&begun, &[202]);
        begun.header("Location").unwrap().to_owned()
    }

    /// Resumes an upload and finishes it. `false`: it does not exist any more.
    async fn drive(&mut self, upload: &mut Upload) -> bool {
        for _ in 0..STEPS_MAX {
            let left = upload.bytes.len() - upload.acknowledged;
            let step = match left {
                0 => self.close(upload, Bytes::new()).await,
                // The finishing request may have the last bytes, or all.
                _ if self.rng.chance(1, 5) => {
                    let rest = upload.bytes.slice(upload.acknowledged..);
                    self.close(upload, rest).await
                }
                left => self.patch(upload, left).await,
            };
            match step {
                Step::On => {}
                Step::Done => return true,
                Step::Gone => {
                    assert!(upload.in_doubt, "{} is gone without a reason", upload.location);
                    return false;
                }
            }
        }
        panic!("{} never ends", upload.location);
    }

    async fn patch(&mut self, upload: &mut Upload, left: usize) -> Step {
        // Not one byte: `Range: 0-0` does not distinguish it from none.
        let most = if self.rng.chance(1, 2) { left } else { left.div_ceil(2) };
        let len = left.min(2 + self.below(most));
        let len = if left - len == 1 { left } else { len };
        let (start, end) = (upload.acknowledged, upload.acknowledged + len);
        upload.sent = upload.sent.max(end);
        // Always with Content-Range: a chunk without it, whose response was lost, may be appended
        // after its retry.
        let patch = Request::new("PATCH", &*upload.location)
            .header("Content-Range", format!("{start}-{}", end - 1));
        let chunk = upload.bytes.slice(start..end);
        let patch = if self.rng.chance(1, 2) { patch.chunked([chunk]) } else { patch.body(chunk) };
        match self.attempt(&patch).await {
            Reply::Response(response) if response.status == 202 => {
                assert_eq!(stands(&response, end), end, "{response}");
                upload.acknowledged = end;
                Step::On
            }
            Reply::Response(response) => self.look_why(upload, &response).await,
            Reply::Failed | Reply::NoResponse => self.look(upload).await,
        }
    }

    async fn close(&mut self, upload: &mut Upload, last: Bytes) -> Step {
        upload.sent = upload.sent.max(upload.acknowledged + last.len());
        let mut close =
            Request::new("PUT", format!("{}?digest={}", upload.location, upload.digest));
        if !last.is_empty() {
            let (start, end) = (upload.acknowledged, upload.acknowledged + last.len());
            close = close.header("Content-Range", format!("{start}-{}", end - 1));
        }
        let held = vec![Claim::of(upload.register, Effect::Write(THERE))];
        let claims = |response: Option<&Response>| match response {
            Some(response) if response.status != 201 => Vec::new(),
            _ => held.clone(),
        };
        match self.note(&close.body(last), claims).await {
            Some(response) if response.status == 201 => Step::Done,
            Some(response) => self.look_why(upload, &response).await,
            // A retry: it may have taken effect.
            None => {
                upload.in_doubt = true;
                self.pause().await;
                Step::On
            }
        }
    }

    async fn look_why(&mut self, upload: &mut Upload, response: &Response) -> Step {
        match response.status {
            404 => Step::Gone,
            416 => {
                assert!(upload.in_doubt, "{} stands elsewhere: {response}", upload.location);
                self.look(upload).await
            }
            _ => panic!("{}: {response}", upload.location),
        }
    }

    /// Reads the offset of an upload.
    async fn look(&mut self, upload: &mut Upload) -> Step {
        upload.in_doubt = true;
        self.pause().await;
        let status = self.insist(Request::new("GET", &*upload.location), |_| Vec::new()).await;
        one_of(&status, &[204, 404]);
        if status.status == 404 {
            return Step::Gone;
        }
        let stands = stands(&status, upload.acknowledged);
        assert!(
            (upload.acknowledged..=upload.sent).contains(&stands),
            "{} stands at {stands}; {} were acknowledged of {} sent",
            upload.location,
            upload.acknowledged,
            upload.sent
        );
        upload.acknowledged = stands;
        Step::On
    }
}

/// The offset by `Range`, which distinguishes none from one byte only by context.
fn stands(response: &Response, known: usize) -> usize {
    match response.header("Range").unwrap() {
        "0-0" => known.min(1),
        range => range.strip_prefix("0-").unwrap().parse::<usize>().unwrap() + 1,
    }
}
