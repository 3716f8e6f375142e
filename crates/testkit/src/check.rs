//! What every response must satisfy, whatever the request was. Each rule is a function from a
//! request and its response to a complaint; [`violations`] asks them all.

use crate::client::path_of;
use crate::digest::{sha256, sha512};
use crate::{Request, Response};

/// The error codes of the specification ("Error Codes").
const SPEC_CODES: [&str; 14] = [
    "BLOB_UNKNOWN",
    "BLOB_UPLOAD_INVALID",
    "BLOB_UPLOAD_UNKNOWN",
    "DIGEST_INVALID",
    "MANIFEST_BLOB_UNKNOWN",
    "MANIFEST_INVALID",
    "MANIFEST_UNKNOWN",
    "NAME_INVALID",
    "NAME_UNKNOWN",
    "SIZE_INVALID",
    "UNAUTHORIZED",
    "DENIED",
    "UNSUPPORTED",
    "TOOMANYREQUESTS",
];

/// Headers that may appear once at most.
const SINGLE: [&str; 8] = [
    "Content-Type",
    "Content-Length",
    "Content-Range",
    "Location",
    "Docker-Content-Digest",
    "ETag",
    "X-Request-ID",
    "Docker-Distribution-Api-Version",
];

/// Words that only the inside of the server knows: keys of the store, Rust's debug text, paths.
const INSIDE: [&str; 16] = [
    "_manifests/",
    "_tags/",
    "_tagged/",
    "_referrers/",
    "links/",
    "blobs/_/",
    "uploads/0",
    "catalog/",
    "jreg.json",
    "Some(",
    "Err(",
    "ErrorKind",
    "os error",
    "panicked",
    ".rs:",
    "/tmp/",
];

type ResponseRule = fn(&Request, &Response) -> Option<String>;

const RULES: [(&str, ResponseRule); 17] = [
    ("X-Request-ID is echoed, or made", request_id),
    ("/v2/ says which API it is", api_version),
    ("single headers are single", single_headers),
    ("errors have the specification's shape", error_shape),
    ("error codes are the specification's", error_codes),
    ("errors say something, and nothing of the inside", error_words),
    ("Docker-Content-Digest is there where it must be", digest_present),
    ("Docker-Content-Digest is the requested digest", digest_of_path),
    ("Docker-Content-Digest is the body's digest", digest_of_body),
    ("HEAD says how long the content is", head_length),
    ("refusals say what to do next", next_step),
    ("Location is a path on the host that was asked, or elsewhere for a blob", location),
    ("an upload says where it goes on", upload_location),
    ("a partial response says which part it is", partial),
    ("content is served as stored", unchanged),
    ("a Content-Type has no parameters", plain_content_type),
    ("an ETag is quoted", etag),
];

/// Every rule that the response breaks, in words. Empty if all is well.
pub fn violations(request: &Request, response: &Response) -> Vec<String> {
    RULES
        .iter()
        .filter_map(|(rule, check)| Some(format!("{rule}: {}", check(request, response)?)))
        .collect()
}

fn complaint(broken: bool, what: impl Into<String>) -> Option<String> {
    broken.then(|| what.into())
}

fn is_error(response: &Response) -> bool {
    response.status >= 400
}

fn is_api(request: &Request) -> bool {
    request.path().starts_with("/v2/")
}

fn has_no_body(request: &Request, response: &Response) -> bool {
    request.method == "HEAD" || response.status < 200 || [204, 304].contains(&response.status)
}

fn request_id(request: &Request, response: &Response) -> Option<String> {
    let id = response.header("X-Request-ID").unwrap_or_default();
    match request.header_value("X-Request-ID") {
        Some(sent) => complaint(id != sent, format!("sent {sent:?}, got {id:?}")),
        None => complaint(id.is_empty(), "none"),
    }
}

fn api_version(request: &Request, response: &Response) -> Option<String> {
    let version = response.header("Docker-Distribution-Api-Version");
    complaint(is_api(request) && version != Some("registry/2.0"), format!("{version:?}"))
}

fn single_headers(_: &Request, response: &Response) -> Option<String> {
    let name = SINGLE.iter().find(|name| response.header_all(name).count() > 1)?;
    Some(format!("{name} appears more than once"))
}

fn error_shape(request: &Request, response: &Response) -> Option<String> {
    if !is_error(response) || has_no_body(request, response) {
        return None;
    }
    if response.header("Content-Type") != Some("application/json") {
        return Some(format!("Content-Type {:?}", response.header("Content-Type")));
    }
    let body = response.json();
    let Some(errors) = body["errors"].as_array() else { return Some("no errors array".into()) };
    let well_formed = |code: &str| code.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
    let sound = !errors.is_empty()
        && body.as_object().is_some_and(|object| object.len() == 1)
        && errors.iter().all(|error| {
            error["code"].as_str().is_some_and(well_formed)
                && error["message"].as_str().is_some_and(|message| !message.is_empty())
                && error.as_object().is_some_and(|fields| {
                    fields
                        .keys()
                        .all(|field| ["code", "message", "detail"].contains(&field.as_str()))
                })
        });
    complaint(!sound, "errors without code and message, or with other fields")
}

fn error_codes(request: &Request, response: &Response) -> Option<String> {
    if !(400..500).contains(&response.status) || has_no_body(request, response) {
        return None;
    }
    let code = response.error_code().unwrap_or_default();
    complaint(!SPEC_CODES.contains(&code.as_str()), format!("{code:?}"))
}

fn error_words(_: &Request, response: &Response) -> Option<String> {
    if !is_error(response) {
        return None;
    }
    let body = response.json();
    let text = String::from_utf8_lossy(&response.body);
    if let Some(word) = INSIDE.iter().find(|word| text.contains(**word)) {
        return Some(format!("the body has {word:?}"));
    }
    let message = body.pointer("/errors/0/message").and_then(|m| m.as_str()).unwrap_or_default();
    if message.ends_with('.') {
        return Some(format!("the message ends in a full stop: {message:?}"));
    }
    complaint(response.status >= 500 && message.contains('/'), format!("a path in {message:?}"))
}

/// What a path under `/v2/` names: `(kind, what follows it)`.
fn content_path(request: &Request) -> Option<(&'static str, &str)> {
    let path = request.path().strip_prefix("/v2/")?;
    let (rest, last) = path.rsplit_once('/')?;
    ["blobs", "manifests"]
        .into_iter()
        .find(|kind| rest.ends_with(&format!("/{kind}")))
        .map(|k| (k, last))
}

fn is_read(request: &Request) -> bool {
    ["GET", "HEAD"].contains(&request.method.as_str())
}

fn digest_present(request: &Request, response: &Response) -> Option<String> {
    let read = is_read(request) && content_path(request).is_some();
    let due = match response.status {
        200 | 206 => read,
        201 => true,
        _ => false,
    };
    complaint(due && response.header("Docker-Content-Digest").is_none(), "it is missing")
}

fn digest_of_path(request: &Request, response: &Response) -> Option<String> {
    let digest = response.header("Docker-Content-Digest").filter(|_| response.status < 300)?;
    let by_query = ["digest", "mount"].into_iter().find_map(|name| request.query(name));
    let by_path = content_path(request).map(|(_, last)| last);
    let asked = by_query.or(by_path).map(|asked| asked.replace("%3A", ":").replace("%3a", ":"))?;
    complaint(asked.contains(':') && asked != digest, format!("{digest}, asked for {asked}"))
}

fn digest_of_body(request: &Request, response: &Response) -> Option<String> {
    let digest = response.header("Docker-Content-Digest")?;
    if response.status != 200 || request.method != "GET" {
        return None;
    }
    let actual =
        if digest.starts_with("sha512:") { sha512(&response.body) } else { sha256(&response.body) };
    complaint(actual != digest, format!("{digest}, but the body is {actual}"))
}

fn head_length(request: &Request, response: &Response) -> Option<String> {
    let due = request.method == "HEAD" && response.status == 200 && content_path(request).is_some();
    complaint(due && response.header("Content-Length").is_none(), "no Content-Length")
}

fn next_step(request: &Request, response: &Response) -> Option<String> {
    let header = match response.status {
        401 => "WWW-Authenticate",
        405 => "Allow",
        429 | 503 => "Retry-After",
        416 if is_read(request) => "Content-Range",
        416 => "Range",
        _ => return None,
    };
    complaint(response.header(header).is_none(), format!("{} without {header}", response.status))
}

fn location(request: &Request, response: &Response) -> Option<String> {
    let location = response.header("Location")?;
    if response.status == 307 {
        let blob = request.method == "GET" && request.path().contains("/blobs/");
        return complaint(!blob || !location.starts_with("http"), location);
    }
    let path = path_of(location);
    let relative = path.starts_with('/') && !path.starts_with("//");
    let host = request.header_value("Host").filter(|_| path.len() < location.len());
    let is_other = host.is_some_and(|host| !location.contains(&format!("://{host}/")));
    complaint(!relative || location.contains('?') || is_other, location)
}

fn upload_location(request: &Request, response: &Response) -> Option<String> {
    let upload = request.path().contains("/blobs/uploads/");
    let due =
        upload && [201, 202, 204, 416].contains(&response.status) && request.method != "DELETE";
    complaint(due && response.header("Location").is_none(), "no Location")
}

fn partial(_: &Request, response: &Response) -> Option<String> {
    let multi =
        response.header("Content-Type").is_some_and(|t| t.starts_with("multipart/byteranges"));
    let single = response.header("Content-Range").is_some();
    match response.status {
        206 => complaint(
            multi == single,
            "neither, or both of, Content-Range and multipart/byteranges",
        ),
        416 => None,
        _ => complaint(single, format!("{} with Content-Range", response.status)),
    }
}

fn unchanged(request: &Request, response: &Response) -> Option<String> {
    if !is_api(request) {
        return None;
    }
    if response.header("Content-Encoding").is_some() {
        return Some("it was encoded".into());
    }
    let cacheable = response.header("Cache-Control").is_some_and(|c| c.contains("immutable"));
    complaint(is_error(response) && cacheable, "an error that may be cached for ever")
}

fn plain_content_type(request: &Request, response: &Response) -> Option<String> {
    let content_type = response.header("Content-Type")?;
    let parameters = content_type.contains(';') && !content_type.starts_with("multipart/");
    complaint(is_api(request) && parameters, content_type)
}

fn etag(_: &Request, response: &Response) -> Option<String> {
    let etag = response.header("ETag")?;
    complaint(!(etag.starts_with('"') && etag.ends_with('"') && etag.len() > 2), etag)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(status: u16, headers: &[(&str, &str)], body: &'static str) -> Response {
        let base = [("X-Request-ID", "1"), ("Docker-Distribution-Api-Version", "registry/2.0")];
        let headers =
            base.iter().chain(headers).map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        Response { status, headers, body: body.into() }
    }

    #[track_caller]
    fn broken(request: &Request, response: &Response, rule: &str) {
        let found = violations(request, response);
        assert!(found.iter().any(|violation| violation.starts_with(rule)), "{found:?}");
    }

    const JSON: (&str, &str) = ("Content-Type", "application/json");

    #[test]
    fn a_correct_response_breaks_no_rule() {
        let request = Request::new("GET", "/v2/");
        assert_eq!(violations(&request, &response(200, &[JSON], "{}")), Vec::<String>::new());
        let body = r#"{"errors":[{"code":"BLOB_UNKNOWN","message":"no such blob","detail":{}}]}"#;
        let request = Request::new("GET", "/v2/a/blobs/sha256:aa");
        assert_eq!(violations(&request, &response(404, &[JSON], body)), Vec::<String>::new());
    }

    #[test]
    fn each_rule_can_be_broken() {
        let get = Request::new("GET", "/v2/a/blobs/sha256:aa");
        let post = Request::new("POST", "/v2/a/blobs/uploads/");
        let digest = |d| ("Docker-Content-Digest", d);
        let mut unnamed = response(200, &[], "");
        unnamed.headers.clear();
        broken(&get, &unnamed, "X-Request-ID");
        broken(&get, &unnamed, "/v2/");
        broken(&get, &response(200, &[JSON, JSON], ""), "single");
        broken(&get, &response(404, &[], "nope"), "errors have");
        broken(
            &get,
            &response(404, &[JSON], r#"{"errors":[{"code":"X","message":"x"}]}"#),
            "error codes",
        );
        broken(
            &get,
            &response(500, &[JSON], r#"{"errors":[{"code":"X","message":"/a"}]}"#),
            "errors say",
        );
        broken(
            &get,
            &response(404, &[JSON], r#"{"errors":[{"code":"X","message":"Err(1)"}]}"#),
            "errors say",
        );
        broken(&get, &response(200, &[], ""), "Docker-Content-Digest is there");
        broken(
            &get,
            &response(200, &[digest("sha256:bb")], ""),
            "Docker-Content-Digest is the requested",
        );
        broken(
            &get,
            &response(200, &[digest("sha256:aa")], "x"),
            "Docker-Content-Digest is the body",
        );
        broken(&Request::new("HEAD", "/v2/a/blobs/sha256:aa"), &response(200, &[], ""), "HEAD");
        broken(&get, &response(503, &[JSON], ""), "refusals");
        broken(&post, &response(202, &[("Location", "http://h/v2/?x")], ""), "Location");
        broken(&post, &response(202, &[("Location", "ftp://h/v2/")], ""), "Location");
        let named = post.clone().header("Host", "r.example");
        broken(&named, &response(202, &[("Location", "http://h/v2/")], ""), "Location");
        broken(&post, &response(307, &[("Location", "http://h/bucket/k?sig")], ""), "Location");
        broken(&get, &response(307, &[("Location", "/v2/")], ""), "Location");
        broken(&post, &response(202, &[], ""), "an upload");
        broken(&get, &response(206, &[], ""), "a partial");
        broken(&get, &response(200, &[("Content-Encoding", "gzip")], ""), "content is served");
        broken(
            &get,
            &response(200, &[("Content-Type", "a/b; charset=utf-8")], ""),
            "a Content-Type",
        );
        broken(&get, &response(200, &[("ETag", "abc")], ""), "an ETag");
    }
}
