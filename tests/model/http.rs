//! Runs operations on a server, through the checking client.

use std::collections::BTreeMap;

use bytes::Bytes;
use jreg_testkit::{Request, Response, ServerSpec, TestServer, sha256};

use crate::fixtures::Fixtures;
use crate::model::fixtures::{REPOSITORIES, TAGS, TYPES};
use crate::model::operation::{By, Driver, If, Operation, Outcome, Place};

struct Upload {
    location: String,
    blob: usize,
    offset: usize,
}

/// A server on a memory store.
pub(crate) struct Http {
    server: TestServer,
    uploads: BTreeMap<usize, Upload>,
}

impl Http {
    pub(crate) async fn new() -> Self {
        Self { server: TestServer::start(ServerSpec::default()).await, uploads: BTreeMap::new() }
    }

    async fn send(&self, request: Request) -> Response {
        self.server.client().send(request).await
    }

    async fn blob(&mut self, fixtures: &Fixtures, operation: &Operation) -> Outcome {
        use Operation::*;
        let digest = |blob: &usize| fixtures.blobs[*blob].digest.to_string();
        match operation {
            PushBlob { repository, blob } => {
                let push = Request::new(
                    "POST",
                    v2(*repository, &format!("blobs/uploads/?digest={}", digest(blob))),
                );
                outcome(&self.send(push.body(fixtures.blobs[*blob].bytes.clone())).await)
            }
            PushWrongBytes { repository, blob } => {
                let push = Request::new(
                    "POST",
                    v2(*repository, &format!("blobs/uploads/?digest={}", digest(blob))),
                );
                outcome(&self.send(push.body("not these")).await)
            }
            Mount { repository, from, blob } => {
                let query =
                    format!("blobs/uploads/?mount={}&from={}", digest(blob), REPOSITORIES[*from]);
                let response =
                    self.send(Request::new("POST", v2(*repository, &query)).body("")).await;
                if response.status == 202 { Outcome::Missed } else { outcome(&response) }
            }
            DeleteBlob { repository, blob } => outcome(
                &self
                    .send(Request::new(
                        "DELETE",
                        v2(*repository, &format!("blobs/{}", digest(blob))),
                    ))
                    .await,
            ),
            ReadBlob { repository, blob, start } => {
                let response = self
                    .send(Request::new("GET", v2(*repository, &format!("blobs/{}", digest(blob)))))
                    .await;
                match outcome(&response) {
                    Outcome::Done => {
                        Outcome::Bytes(response.body.slice((*start).min(response.body.len())..))
                    }
                    refused => refused,
                }
            }
            Begin { slot, repository, blob } => {
                let response = self
                    .send(Request::new("POST", v2(*repository, "blobs/uploads/")).body(""))
                    .await;
                let location = response.header("Location").unwrap().to_owned();
                self.uploads.insert(*slot, Upload { location, blob: *blob, offset: 0 });
                outcome(&response)
            }
            _ => unreachable!("only called for blobs"),
        }
    }

    async fn upload(&mut self, fixtures: &Fixtures, operation: &Operation) -> Outcome {
        use Operation::*;
        let (Append { slot, .. } | Finish { slot, .. } | Cancel { slot } | Status { slot }) =
            operation
        else {
            unreachable!("only called for uploads")
        };
        let upload = &self.uploads[slot];
        let blob = &fixtures.blobs[upload.blob];
        let request = match operation {
            Append { len, place, .. } => {
                let end = blob.bytes.len().min(upload.offset + len);
                append(
                    &upload.location,
                    blob.bytes.slice(upload.offset..end),
                    upload.offset,
                    *place,
                )
            }
            Finish { right, .. } => {
                let digest =
                    if *right { blob.digest.to_string() } else { sha256("something else") };
                Request::new("PUT", format!("{}?digest={digest}", upload.location))
                    .body(blob.bytes.slice(upload.offset..))
            }
            Cancel { .. } => Request::new("DELETE", &*upload.location),
            _ => Request::new("GET", &*upload.location),
        };
        let response = self.send(request).await;
        match (outcome(&response), response.header("Range")) {
            (Outcome::Done, Some(range)) => {
                let offset = offset(range);
                self.uploads.get_mut(slot).unwrap().offset = offset;
                Outcome::Offset(offset)
            }
            (outcome, _) => outcome,
        }
    }

    async fn manifest(&self, fixtures: &Fixtures, operation: &Operation) -> Outcome {
        use Operation::*;
        match operation {
            PutManifest { repository, manifest, by_tag, tags, condition } => {
                let beside: Vec<_> = tags.iter().map(|tag| format!("tag={}", TAGS[*tag])).collect();
                let target = match by_tag {
                    Some(tag) => format!("manifests/{}", TAGS[*tag]),
                    None => format!(
                        "manifests/{}?{}",
                        fixtures.manifests[*manifest].digest,
                        beside.join("&")
                    ),
                };
                let push = Request::new("PUT", v2(*repository, &target))
                    .header("Content-Type", fixtures.manifests[*manifest].media_type.as_str())
                    .body(fixtures.manifests[*manifest].bytes.clone());
                outcome(&self.send(under(fixtures, push, *condition)).await)
            }
            GetManifest { repository, by } => {
                let response =
                    self.send(Request::new("GET", v2(*repository, &path(fixtures, *by)))).await;
                match outcome(&response) {
                    Outcome::Done => Outcome::Bytes(response.body),
                    refused => refused,
                }
            }
            DeleteManifest { repository, by, condition } => {
                let delete = Request::new("DELETE", v2(*repository, &path(fixtures, *by)));
                outcome(&self.send(under(fixtures, delete, *condition)).await)
            }
            _ => unreachable!("only called for manifests"),
        }
    }

    async fn list(&self, fixtures: &Fixtures, operation: &Operation) -> Outcome {
        use Operation::*;
        let query = |limit: &usize, last: Option<&str>| match last {
            Some(last) => format!("?n={limit}&last={last}"),
            None => format!("?n={limit}"),
        };
        let (target, items) = match operation {
            Tags { repository, limit, last } => (
                v2(*repository, &format!("tags/list{}", query(limit, last.map(|tag| TAGS[tag])))),
                "tags",
            ),
            Catalog { limit, last } => (
                format!("/v2/_catalog{}", query(limit, last.map(|name| REPOSITORIES[name]))),
                "repositories",
            ),
            Referrers { repository, subject, artifact_type } => {
                let filter = artifact_type
                    .map_or(String::new(), |kind| format!("?artifactType={}", TYPES[kind]));
                (
                    v2(
                        *repository,
                        &format!("referrers/{}{filter}", fixtures.manifests[*subject].digest),
                    ),
                    "manifests",
                )
            }
            _ => unreachable!("only called for listings"),
        };
        let response = self.send(Request::new("GET", target)).await;
        let json = response.json();
        match outcome(&response) {
            Outcome::Done => Outcome::Names(names(&json[items])),
            refused => refused,
        }
    }
}

impl Driver for Http {
    async fn apply(&mut self, fixtures: &Fixtures, operation: &Operation) -> Outcome {
        use Operation::*;
        match operation {
            Append { .. } | Finish { .. } | Cancel { .. } | Status { .. } => {
                self.upload(fixtures, operation).await
            }
            PutManifest { .. } | GetManifest { .. } | DeleteManifest { .. } => {
                self.manifest(fixtures, operation).await
            }
            Tags { .. } | Catalog { .. } | Referrers { .. } => self.list(fixtures, operation).await,
            Restart => Outcome::Done,
            _ => self.blob(fixtures, operation).await,
        }
    }
}

fn v2(repository: usize, rest: &str) -> String {
    format!("/v2/{}/{rest}", REPOSITORIES[repository])
}

fn path(fixtures: &Fixtures, by: By) -> String {
    match by {
        By::Tag(tag) => format!("manifests/{}", TAGS[tag]),
        By::Digest(manifest) => format!("manifests/{}", fixtures.manifests[manifest].digest),
    }
}

fn under(fixtures: &Fixtures, request: Request, condition: If) -> Request {
    match condition {
        If::Always => request,
        If::Absent => request.header("If-None-Match", "*"),
        If::Present => request.header("If-Match", "*"),
        If::Is(manifest) => {
            request.header("If-Match", format!("\"{}\"", fixtures.manifests[manifest].digest))
        }
    }
}

fn append(location: &str, bytes: Bytes, offset: usize, place: Place) -> Request {
    let chunk = Request::new("PATCH", location);
    let start = match place {
        Place::Unsaid => return chunk.chunked([bytes]),
        Place::Right if bytes.is_empty() => return chunk.body(bytes),
        Place::Right => offset,
        Place::Wrong => offset + 1,
    };
    let bytes = if bytes.is_empty() { Bytes::from_static(b"x") } else { bytes };
    chunk.header("Content-Range", format!("{start}-{}", start + bytes.len() - 1)).body(bytes)
}

/// The offset in `Range`. `0-0` is an empty upload, since no operation sends one byte.
fn offset(range: &str) -> usize {
    match range {
        "0-0" => 0,
        range => range.strip_prefix("0-").unwrap().parse::<usize>().unwrap() + 1,
    }
}

/// Sorted where the order is free: all names but those of referrers come in byte order already.
fn names(items: &serde_json::Value) -> Vec<String> {
    let name =
        |item: &serde_json::Value| item["digest"].as_str().or(item.as_str()).unwrap().to_owned();
    let mut names: Vec<_> = items.as_array().unwrap().iter().map(name).collect();
    if items[0].is_object() {
        names.sort();
    }
    names
}

fn outcome(response: &Response) -> Outcome {
    match response.status {
        200..=299 => Outcome::Done,
        412 => Outcome::refused("412"),
        416 => Outcome::refused("OUT_OF_ORDER"),
        _ => Outcome::Refused(response.error_code().unwrap_or_else(|| response.status.to_string())),
    }
}
