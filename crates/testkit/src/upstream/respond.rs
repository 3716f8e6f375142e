//! The responses of a scripted upstream.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{StreamExt, unfold};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Response};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, StreamBody};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::request::{UpstreamPath, UpstreamRequestRecord};
use super::script::UpstreamFault;
use super::{UpstreamState, lock};
use crate::content::media;

/// How large the pieces are in which a body is sent that no rule is about.
const PIECE_BYTES: usize = 64 * 1024;
/// How long a stalled body stays so.
const STALL: Duration = Duration::from_secs(3600);

pub(super) type UpstreamBody = UnsyncBoxBody<Bytes, io::Error>;

/// A response before it is sent.
struct Draft {
    status: u16,
    headers: Vec<(String, String)>,
    body: Bytes,
    has_length: bool,
    piece: usize,
    pause: Duration,
    end: BodyEnd,
}

/// What follows the last byte, or comes instead of it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum BodyEnd {
    Whole,
    Reset(usize),
    Stall(usize),
}

impl Draft {
    fn new(status: u16, body: impl Into<Bytes>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.into(),
            has_length: true,
            piece: PIECE_BYTES,
            pause: Duration::ZERO,
            end: BodyEnd::Whole,
        }
    }

    fn json(status: u16, document: &Value) -> Self {
        Self::new(status, document.to_string()).with("content-type", "application/json")
    }

    fn error(status: u16, code: &str) -> Self {
        Self::json(status, &json!({"errors": [{"code": code, "message": "scripted"}]}))
    }

    fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.set(name, value);
        self
    }

    fn set(&mut self, name: &str, value: impl Into<String>) {
        self.headers.retain(|(known, _)| known != name);
        self.headers.push((name.to_owned(), value.into()));
    }
}

/// The response to a request, which is recorded.
pub(super) async fn respond(
    state: &Arc<Mutex<UpstreamState>>,
    head: Parts,
    body: Bytes,
    is_http2: bool,
) -> io::Result<Response<UpstreamBody>> {
    let form = String::from_utf8_lossy(&body).into_owned();
    let mut record = UpstreamRequestRecord::of(&head, form, is_http2);
    let (draft, delay) = {
        let mut state = lock(state);
        let fault = state.rules.iter_mut().find_map(|rule| rule.apply(&record));
        if fault == Some(UpstreamFault::NoResponse) {
            state.requests.push(record);
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let delay = match fault {
            Some(UpstreamFault::Delay(delay)) => delay,
            _ => Duration::ZERO,
        };
        let mut draft = draft(&mut state, &record, &head, fault);
        for (name, value) in &state.headers {
            draft.set(name, value.clone());
        }
        record.status = draft.status;
        state.requests.push(record);
        (draft, delay)
    };
    sleep(delay).await;
    Ok(finish(draft, head.method == Method::HEAD))
}

/// The response, changed by the fault.
fn draft(
    state: &mut UpstreamState,
    record: &UpstreamRequestRecord,
    head: &Parts,
    fault: Option<UpstreamFault>,
) -> Draft {
    let path = UpstreamPath::parse(&record.path);
    let challenge = state.auth.challenge(&state.base, &path);
    match &fault {
        Some(UpstreamFault::Status { status, headers, body }) => {
            let mut draft = Draft::new(*status, body.clone());
            draft.headers.clone_from(headers);
            return draft;
        }
        Some(UpstreamFault::Unauthorized) => return refused(401, challenge),
        _ => {}
    }
    let range = record.range.clone().filter(|_| fault != Some(UpstreamFault::NoRanges));
    let authorization = record.authorization.as_deref();
    let mut draft = match state.auth.check(&state.tokens, &state.base, &path, authorization) {
        _ if path == UpstreamPath::Other => served(state, &path, record, None),
        _ if path == UpstreamPath::Token => {
            let (query, form) = (record.query.clone(), record.form.clone());
            let auth = state.auth.clone();
            let (status, document) = auth.issue(&mut state.tokens, &query, &form, authorization);
            Draft::json(status, &document)
        }
        Err((status, challenge)) => refused(status, challenge),
        Ok(()) => match &fault {
            Some(UpstreamFault::Redirect(location)) => redirect(location, head),
            _ => served(state, &path, record, range.as_deref()),
        },
    };
    if let Some(fault) = fault {
        spoil(&mut draft, fault);
    }
    draft.with("docker-distribution-api-version", "registry/2.0")
}

fn refused(status: u16, challenge: Option<String>) -> Draft {
    let draft = Draft::error(status, if status == 401 { "UNAUTHORIZED" } else { "DENIED" });
    match challenge {
        Some(challenge) => draft.with("www-authenticate", challenge),
        None => draft,
    }
}

/// To this URL; without a path, to the same path there.
fn redirect(location: &str, head: &Parts) -> Draft {
    let has_path = location.split_once("://").is_some_and(|(_, rest)| rest.contains('/'));
    let uri = head.uri.path_and_query().map_or("", |path| path.as_str());
    let path = if has_path { "" } else { uri };
    Draft::new(307, "").with("location", format!("{location}{path}"))
}

/// What a registry responds.
fn served(
    state: &UpstreamState,
    path: &UpstreamPath,
    record: &UpstreamRequestRecord,
    range: Option<&str>,
) -> Draft {
    match path {
        UpstreamPath::Ping => Draft::json(200, &json!({})),
        UpstreamPath::Token => Draft::new(404, "page not found"),
        UpstreamPath::Other => match state.documents.get(&record.path) {
            Some((status, body)) => {
                Draft::new(*status, body.clone()).with("content-type", "application/json")
            }
            None => Draft::new(404, "page not found"),
        },
        UpstreamPath::Catalog => {
            let (names, link) = page(&state.content.repositories(), &record.query, "/v2/_catalog");
            linked(Draft::json(200, &json!({"repositories": names})), link)
        }
        UpstreamPath::Tags(repository) if state.content.has(repository) => {
            let (names, link) = page(&state.content.tags(repository), &record.query, &record.path);
            linked(Draft::json(200, &json!({"name": repository, "tags": names})), link)
        }
        UpstreamPath::Tags(_) => Draft::error(404, "NAME_UNKNOWN"),
        UpstreamPath::Manifest(repository, reference) => {
            match state.content.manifest(repository, reference) {
                None => Draft::error(404, "MANIFEST_UNKNOWN"),
                Some(manifest) => {
                    let digest = match reference.starts_with("sha512:") {
                        true => manifest.digest512(),
                        false => manifest.digest(),
                    };
                    Draft::new(200, manifest.bytes.clone())
                        .with("content-type", manifest.media_type.clone())
                        .with("docker-content-digest", digest.clone())
                        .with("etag", format!("\"{digest}\""))
                }
            }
        }
        UpstreamPath::Blob(repository, digest) => match state.content.blob(repository, digest) {
            None => Draft::error(404, "BLOB_UNKNOWN"),
            Some(blob) => part(blob, range)
                .with("content-type", "application/octet-stream")
                .with("docker-content-digest", digest.clone()),
        },
        UpstreamPath::Referrers(..) if state.has_no_referrers_api => {
            Draft::new(404, "404 page not found")
        }
        UpstreamPath::Referrers(repository, subject) => {
            let found = state.content.referrers(repository, subject);
            let (found, link) =
                referrers_page(found, &record.query, &record.path, state.referrers_page);
            let index = json!({"schemaVersion": 2, "mediaType": media::INDEX, "manifests": found});
            linked(Draft::new(200, index.to_string()).with("content-type", media::INDEX), link)
        }
    }
}

fn linked(draft: Draft, link: Option<String>) -> Draft {
    match link {
        Some(link) => draft.with("link", link),
        None => draft,
    }
}

fn parameter(query: &str, name: &str) -> Option<String> {
    form_urlencoded::parse(query.as_bytes())
        .find(|(known, _)| known == name)
        .map(|(_, value)| value.into_owned())
}

/// The names after `last`, at most `n`, and where they continue.
fn page(names: &[String], query: &str, path: &str) -> (Vec<String>, Option<String>) {
    let last = parameter(query, "last").unwrap_or_default();
    let n = parameter(query, "n").and_then(|n| n.parse().ok()).unwrap_or(usize::MAX);
    let left: Vec<_> = names.iter().filter(|name| **name > last).cloned().collect();
    let page: Vec<_> = left.iter().take(n).cloned().collect();
    let link = page.last().filter(|_| page.len() < left.len());
    let link = link.map(|last| format!("<{path}?n={n}&last={last}>; rel=\"next\""));
    (page, link)
}

fn referrers_page(
    found: Vec<Value>,
    query: &str,
    path: &str,
    entries: Option<usize>,
) -> (Vec<Value>, Option<String>) {
    let Some(entries) = entries else { return (found, None) };
    let number: usize = parameter(query, "page").and_then(|page| page.parse().ok()).unwrap_or(0);
    let has_more = found.len() > (number + 1) * entries;
    let page = found.into_iter().skip(number * entries).take(entries).collect();
    (page, has_more.then(|| format!("<{path}?page={}>; rel=\"next\"", number + 1)))
}

/// The blob, or the part that the header asks for.
fn part(blob: Bytes, range: Option<&str>) -> Draft {
    let total = blob.len();
    let Some((start, last)) = range.and_then(|range| range.strip_prefix("bytes=")?.split_once('-'))
    else {
        return Draft::new(200, blob);
    };
    let start: usize = start.parse().unwrap();
    let end = last.parse().map_or(total, |last: usize| total.min(last + 1));
    if start >= end {
        return Draft::new(416, "").with("content-range", format!("bytes */{total}"));
    }
    let content_range = format!("bytes {start}-{}/{total}", end - 1);
    Draft::new(206, blob.slice(start..end)).with("content-range", content_range)
}

fn spoil(draft: &mut Draft, fault: UpstreamFault) {
    match fault {
        UpstreamFault::ResetAfter(bytes) => draft.end = BodyEnd::Reset(bytes),
        UpstreamFault::StallAfter(bytes) => draft.end = BodyEnd::Stall(bytes),
        UpstreamFault::Slow { chunk, pause } => (draft.piece, draft.pause) = (chunk, pause),
        UpstreamFault::WrongBytes => {
            let mut bytes = draft.body.to_vec();
            if let Some(last) = bytes.last_mut() {
                *last ^= 1;
            }
            draft.body = bytes.into();
        }
        UpstreamFault::WrongStart => {
            let mut bytes = draft.body.to_vec();
            if let Some(first) = bytes.first_mut() {
                *first ^= 1;
            }
            draft.body = bytes.into();
        }
        UpstreamFault::LongBody(more) => {
            draft.body =
                draft.body.iter().copied().chain(std::iter::repeat_n(b' ', more)).collect();
        }
        UpstreamFault::ShortBody(less) => {
            let length = draft.body.len().saturating_sub(less);
            draft.body.truncate(length);
        }
        UpstreamFault::WrongDigestHeader => {
            draft.set("docker-content-digest", crate::sha256("wrong"))
        }
        UpstreamFault::NoDigestHeader => {
            draft.headers.retain(|(name, _)| name != "docker-content-digest")
        }
        UpstreamFault::NoContentLength => draft.has_length = false,
        UpstreamFault::OtherRange => {
            if let Some((_, range)) =
                draft.headers.iter_mut().find(|(name, _)| name == "content-range")
            {
                let shifted = range.split_once(' ').and_then(|(_, range)| range.split_once('-'));
                let (start, rest) = shifted.unwrap();
                *range = format!("bytes {}-{rest}", start.parse::<u64>().unwrap() + 1);
                let _ = draft.body.split_to(1);
            }
        }
        UpstreamFault::OtherTotal => {
            if let Some((_, range)) =
                draft.headers.iter_mut().find(|(name, _)| name == "content-range")
            {
                let (part, total) = range.split_once('/').unwrap();
                *range = format!("{part}/{}", total.parse::<u64>().unwrap() + 1);
            }
        }
        UpstreamFault::Header(name, value) => draft.set(&name, value),
        UpstreamFault::Status { .. }
        | UpstreamFault::Unauthorized
        | UpstreamFault::Redirect(_)
        | UpstreamFault::Delay(_)
        | UpstreamFault::NoResponse
        | UpstreamFault::NoRanges => {}
    }
}

fn finish(draft: Draft, is_head: bool) -> Response<UpstreamBody> {
    let mut response = Response::builder().status(draft.status);
    if draft.has_length && !draft.headers.iter().any(|(name, _)| name == "content-length") {
        response = response.header("content-length", draft.body.len());
    }
    for (name, value) in &draft.headers {
        response = response
            .header(name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap());
    }
    // A connection that ends before the first byte of a body may end before the head is written.
    let body = if is_head && draft.end == BodyEnd::Whole { Bytes::new() } else { draft.body };
    let body = pieces(body, draft.piece, draft.pause, draft.end);
    response.body(body).unwrap()
}

fn pieces(body: Bytes, piece: usize, pause: Duration, end: BodyEnd) -> UpstreamBody {
    let whole = body.len();
    let until = match end {
        BodyEnd::Whole => whole,
        BodyEnd::Reset(bytes) | BodyEnd::Stall(bytes) => bytes.min(whole),
    };
    let stream = unfold((0, false), move |(position, is_over)| {
        let body = body.clone();
        async move {
            if is_over {
                return None;
            }
            if position < until {
                let next = until.min(position + piece);
                if position > 0 {
                    sleep(pause).await;
                }
                return Some((Ok(Frame::data(body.slice(position..next))), (next, false)));
            }
            match end {
                BodyEnd::Whole => None,
                BodyEnd::Reset(_) => {
                    // What was written before is on its way.
                    sleep(Duration::from_millis(20)).await;
                    Some((Err(io::Error::from(io::ErrorKind::ConnectionReset)), (position, true)))
                }
                BodyEnd::Stall(_) => {
                    sleep(STALL).await;
                    None
                }
            }
        }
    });
    BodyExt::boxed_unsync(StreamBody::new(stream.boxed()))
}
