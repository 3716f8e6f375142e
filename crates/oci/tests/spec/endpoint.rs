//! Request lines, and the operations they are or are not.

use jreg_oci::{
    Algorithm, Digest, Endpoint, MountSource, PATH_BYTES_MAX, PageParams, QUERY_BYTES_MAX,
    Reference, RepositoryName, RouteError, TAGS_PER_PUT_MAX, Tag, TagHistoryQuery,
};
use proptest::prelude::*;

use crate::digest::{SHA256, SHA512, any_digest};

fn route(line: &str) -> Result<Endpoint, RouteError> {
    let line = line.replace("{sha256}", SHA256).replace("{sha512}", SHA512);
    let (method, target) = line.split_once(' ').unwrap();
    match target.split_once('?') {
        Some((path, query)) => Endpoint::parse(method, path, Some(query)),
        None => Endpoint::parse(method, target, None),
    }
}

fn name(text: &str) -> RepositoryName {
    text.parse().unwrap()
}

fn sha256() -> Digest {
    SHA256.parse().unwrap()
}

fn tag(text: &str) -> Reference {
    Reference::Tag(text.parse().unwrap())
}

fn page(n: Option<usize>, last: Option<&str>) -> PageParams {
    PageParams { n, last: last.map(str::to_owned) }
}

fn upload_start(repository: &str) -> Endpoint {
    let (digest, algorithm, mount) = (None, None, None);
    Endpoint::UploadStart {
        name: name(repository),
        digest,
        algorithm,
        mount,
        from: MountSource::Any,
    }
}

fn mount(from: MountSource) -> Endpoint {
    let (digest, algorithm, mount) = (None, None, Some(sha256()));
    Endpoint::UploadStart { name: name("a"), digest, algorithm, mount, from }
}

#[test]
fn the_paths_of_the_specification_are_operations() {
    let everything = page(None, None);
    let id = || "0190-id".to_owned();
    let digest = sha256;
    let a = || name("a/b");
    let rows = [
        ("GET /v2/", Endpoint::Ping),
        ("HEAD /v2/", Endpoint::Ping),
        ("GET /v2", Endpoint::Ping),
        ("GET /v2/_catalog", Endpoint::Catalog { page: everything.clone() }),
        ("HEAD /v2/_catalog", Endpoint::Catalog { page: everything.clone() }),
        ("GET /v2/_catalog?n=5&last=b/c", Endpoint::Catalog { page: page(Some(5), Some("b/c")) }),
        ("GET /v2/a/b/blobs/{sha256}", Endpoint::BlobGet { name: a(), digest: digest() }),
        ("HEAD /v2/a/b/blobs/{sha256}", Endpoint::BlobHead { name: a(), digest: digest() }),
        ("DELETE /v2/a/b/blobs/{sha256}", Endpoint::BlobDelete { name: a(), digest: digest() }),
        ("POST /v2/a/b/blobs/uploads/", upload_start("a/b")),
        ("POST /v2/a/b/blobs/uploads", upload_start("a/b")),
        ("GET /v2/a/b/blobs/uploads/0190-id", Endpoint::UploadStatus { name: a(), id: id() }),
        ("HEAD /v2/a/b/blobs/uploads/0190-id", Endpoint::UploadStatus { name: a(), id: id() }),
        ("PATCH /v2/a/b/blobs/uploads/0190-id", Endpoint::UploadPatch { name: a(), id: id() }),
        ("DELETE /v2/a/b/blobs/uploads/0190-id", Endpoint::UploadCancel { name: a(), id: id() }),
        (
            "PUT /v2/a/b/blobs/uploads/0190-id?digest={sha256}",
            Endpoint::UploadPut { name: a(), id: id(), digest: digest() },
        ),
        ("GET /v2/a/b/manifests/v1", Endpoint::ManifestGet { name: a(), reference: tag("v1") }),
        ("HEAD /v2/a/b/manifests/v1", Endpoint::ManifestHead { name: a(), reference: tag("v1") }),
        (
            "DELETE /v2/a/b/manifests/{sha256}",
            Endpoint::ManifestDelete { name: a(), reference: digest().into() },
        ),
        (
            "PUT /v2/a/b/manifests/v1",
            Endpoint::ManifestPut { name: a(), reference: tag("v1"), tags: vec![] },
        ),
        ("GET /v2/a/b/tags/list", Endpoint::TagList { name: a(), page: everything.clone() }),
        ("HEAD /v2/a/b/tags/list", Endpoint::TagList { name: a(), page: everything.clone() }),
        (
            "GET /v2/a/b/referrers/{sha256}",
            Endpoint::Referrers {
                name: a(),
                subject: digest(),
                artifact_type: None,
                page: everything,
            },
        ),
    ];
    for (line, expected) in rows {
        assert_eq!(route(line), Ok(expected), "{line}");
    }
}

/// A request for the history of tag `v1` of `a/b`, as drafted for the specification.
fn oci_tag_history(query: TagHistoryQuery) -> Endpoint {
    Endpoint::OciTagHistory { name: name("a/b"), tag: "v1".parse().unwrap(), query }
}

#[test]
fn the_paths_of_extensions_are_operations() {
    let everything = page(None, None);
    let (a, v1) = (|| name("a/b"), || "v1".parse().unwrap());
    let whole = TagHistoryQuery {
        n: Some(3),
        before: Some("2026-04-03T02:01:00Z".to_owned()),
        since: Some("2026-04-01T00:00:00+02:00".to_owned()),
        digest: Some(sha256()),
    };
    let rows = [
        ("GET /v2/_oci/ext/discover", Endpoint::Extensions),
        ("HEAD /v2/a/b/_oci/ext/discover", Endpoint::RepositoryExtensions { name: a() }),
        ("GET /v2/a/b/_oci/tag-history/v1", oci_tag_history(TagHistoryQuery::default())),
        ("HEAD /v2/a/b/_oci/tag-history/v1?n=", oci_tag_history(TagHistoryQuery::default())),
        (
            "GET /v2/a/b/_oci/tag-history/v1?n=3&before=2026-04-03T02%3A01%3A00Z\
             &since=2026-04-01T00:00:00+02:00&digest={sha256}&last=x",
            oci_tag_history(whole),
        ),
        (
            "GET /v2/a/b/_jreg/tags/v1/history",
            Endpoint::TagHistory { name: a(), tag: v1(), page: everything.clone() },
        ),
        (
            "GET /v2/a/b/_jreg/tags/v1/history?n=2&last=x",
            Endpoint::TagHistory { name: a(), tag: v1(), page: page(Some(2), Some("x")) },
        ),
        ("GET /v2/_jreg/usage?n=2&last=x", Endpoint::Usage { page: page(Some(2), Some("x")) }),
        ("POST /v2/a/b/_jreg/tags/v1/restore", Endpoint::TagRestore { name: a(), tag: v1() }),
        ("GET /v2/a/b/_jreg/deleted", Endpoint::DeletedManifests { name: a(), page: everything }),
        (
            "POST /v2/a/b/_jreg/deleted/{sha256}/restore",
            Endpoint::ManifestRestore { name: a(), digest: sha256() },
        ),
    ];
    for (line, expected) in rows {
        assert_eq!(route(line), Ok(expected), "{line}");
    }
}

#[test]
fn tags_and_names_may_contain_the_words_of_extensions() {
    let rows = [
        ("GET /v2/ext/discover/_oci/ext/discover", "repository_extensions", "ext/discover"),
        ("GET /v2/a/_oci/tag-history/discover", "oci_tag_history", "a"),
        ("GET /v2/a/blobs/_oci/tag-history/list", "oci_tag_history", "a/blobs"),
        ("GET /v2/a/_jreg/tags/manifests/history", "tag_history", "a"),
        ("GET /v2/a/_jreg/tags/_jreg/history", "tag_history", "a"),
        ("POST /v2/a/_jreg/tags/blobs/restore", "tag_restore", "a"),
        ("GET /v2/tags/_jreg/deleted", "deleted_manifests", "tags"),
        ("GET /v2/a/manifests/_jreg", "manifest_get", "a"),
        ("GET /v2/a/manifests/_oci", "manifest_get", "a"),
        ("GET /v2/ext/manifests/discover", "manifest_get", "ext"),
        ("GET /v2/a/deleted/manifests/restore", "manifest_get", "a/deleted"),
        ("GET /v2/a/blobs/uploads/_oci", "upload_status", "a"),
    ];
    for (line, id, repository) in rows {
        let endpoint = route(line).unwrap();
        assert_eq!(endpoint.id(), id, "{line}");
        assert_eq!(endpoint.name().unwrap().as_str(), repository, "{line}");
    }
    for line in [
        "GET /v2/_oci/tag-history/v1",
        "GET /v2/_jreg/deleted",
        "GET /v2/_jreg/tags/v1/history",
        "GET /v2/a/_oci/ext/other",
        "GET /v2/a/_oci/tag-history/",
        "GET /v2/a/_jreg/tags/v1",
        "GET /v2/a/_jreg/deleted/{sha256}",
        "GET /v2/a/_jreg/other/v1/history",
    ] {
        assert_eq!(route(line), Err(RouteError::NotFound), "{line}");
    }
}

#[test]
fn names_may_contain_the_words_of_the_paths() {
    let rows = [
        ("GET /v2/blobs/blobs/{sha256}", "blob_get", "blobs"),
        ("GET /v2/manifests/manifests/manifests", "manifest_get", "manifests"),
        ("GET /v2/tags/list/tags/list", "tag_list", "tags/list"),
        ("GET /v2/tags/tags/list", "tag_list", "tags"),
        ("GET /v2/v2/tags/list", "tag_list", "v2"),
        ("GET /v2/referrers/referrers/{sha256}", "referrers", "referrers"),
        ("POST /v2/blobs/uploads/blobs/uploads/", "upload_start", "blobs/uploads"),
        ("POST /v2/uploads/blobs/uploads", "upload_start", "uploads"),
        ("PATCH /v2/blobs/uploads/blobs/uploads/x", "upload_patch", "blobs/uploads"),
        ("PATCH /v2/a/blobs/uploads/uploads", "upload_patch", "a"),
        ("PATCH /v2/a/blobs/uploads/blobs", "upload_patch", "a"),
        ("GET /v2/a/blobs/uploads/list", "upload_status", "a"),
        ("GET /v2/a/blobs/blobs/uploads/list", "upload_status", "a/blobs"),
        ("GET /v2/a/blobs/uploads/tags/list", "tag_list", "a/blobs/uploads"),
        ("GET /v2/a/blobs/uploads/manifests/x", "manifest_get", "a/blobs/uploads"),
        ("GET /v2/a/blobs/uploads/blobs/{sha256}", "blob_get", "a/blobs/uploads"),
        ("GET /v2/a/blobs/uploads/referrers/{sha256}", "referrers", "a/blobs/uploads"),
        ("GET /v2/a/manifests/tags/list", "tag_list", "a/manifests"),
        ("GET /v2/a/manifests/list", "manifest_get", "a"),
        ("GET /v2/a/tags/manifests/list", "manifest_get", "a/tags"),
        ("GET /v2/a/manifests/uploads", "manifest_get", "a"),
        ("GET /v2/a/referrers/manifests/blobs", "manifest_get", "a/referrers"),
    ];
    for (line, id, repository) in rows {
        let endpoint = route(line).unwrap();
        assert_eq!(endpoint.id(), id, "{line}");
        assert_eq!(endpoint.name().unwrap().as_str(), repository, "{line}");
    }
}

#[test]
fn other_paths_are_not_found() {
    let lines = [
        "GET ",
        "GET /",
        "GET /v1/",
        "GET /v2x",
        "GET /V2/",
        "GET v2/",
        "GET //v2/",
        "GET /v2//",
        "GET /v2/a",
        "GET /v2/a/",
        "GET /v2/a/b/c",
        "GET /v2/_catalog/",
        "GET /v2/a/_catalog",
        "GET /v2/tags/list",
        "GET /v2/manifests/v1",
        "GET /v2/blobs/{sha256}",
        "GET /v2/referrers/{sha256}",
        "POST /v2/blobs/uploads",
        "POST /v2/blobs/uploads/",
        "GET /v2/a/tags/list/",
        "GET /v2/a/tags",
        "GET /v2/a/tags/",
        "GET /v2/a/tags/v1",
        "GET /v2/a/manifests",
        "GET /v2/a/manifests/",
        "GET /v2/a/manifests/v1/",
        "GET /v2/a/blobs",
        "GET /v2/a/blobs/",
        "GET /v2/a/blobs/{sha256}/",
        "GET /v2/a/referrers",
        "GET /v2/a/referrers/",
        "GET /v2/a/referrers/{sha256}/",
        "PATCH /v2/a/blobs/uploads/x/",
        "PATCH /v2/a/blobs/uploads//",
        "GET /v2/token",
        "GET /metrics",
        "GET /v2/a/Tags/list",
        "GET /v2/a/uploads/",
    ];
    for line in lines {
        assert_eq!(route(line), Err(RouteError::NotFound), "{line}");
    }
}

#[test]
fn other_methods_get_the_allowed_ones() {
    let rows: &[(&str, &[&str])] = &[
        ("/v2/", &["GET", "HEAD"]),
        ("/v2/_catalog", &["GET", "HEAD"]),
        ("/v2/a/blobs/{sha256}", &["GET", "HEAD", "DELETE"]),
        ("/v2/a/blobs/uploads/", &["POST"]),
        ("/v2/a/blobs/uploads", &["POST"]),
        ("/v2/a/blobs/uploads/x", &["GET", "HEAD", "PATCH", "PUT", "DELETE"]),
        ("/v2/a/manifests/v1", &["GET", "HEAD", "PUT", "DELETE"]),
        ("/v2/a/tags/list", &["GET", "HEAD"]),
        ("/v2/a/referrers/{sha256}", &["GET", "HEAD"]),
        ("/v2/_oci/ext/discover", &["GET", "HEAD"]),
        ("/v2/a/_oci/ext/discover", &["GET", "HEAD"]),
        ("/v2/a/_oci/tag-history/v1", &["GET", "HEAD"]),
        ("/v2/a/_jreg/tags/v1/history", &["GET", "HEAD"]),
        ("/v2/a/_jreg/tags/v1/restore", &["POST"]),
        ("/v2/a/_jreg/deleted", &["GET", "HEAD"]),
        ("/v2/a/_jreg/deleted/{sha256}/restore", &["POST"]),
    ];
    for (path, allowed) in rows {
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "get", ""] {
            let result = route(&format!("{method} {path}?digest={{sha256}}"));
            if allowed.contains(&method) {
                assert!(result.is_ok(), "{method} {path}: {result:?}");
            } else {
                assert_eq!(
                    result,
                    Err(RouteError::MethodNotAllowed { allowed }),
                    "{method} {path}"
                );
            }
        }
    }
    // The method is looked at before what it would apply to.
    let error = route("POST /v2/A/manifests/?x").unwrap_err();
    assert_eq!(error, RouteError::NotFound);
    let error = route("POST /v2/A/manifests/-").unwrap_err().to_string();
    assert_eq!(error, "method not allowed: must be one of GET, HEAD, PUT, DELETE");
}

/// The name of the variant, for tables.
fn kind(error: &RouteError) -> &'static str {
    match error {
        RouteError::NotFound => "NotFound",
        RouteError::MethodNotAllowed { .. } => "MethodNotAllowed",
        RouteError::InvalidName(_) => "InvalidName",
        RouteError::InvalidDigest(_) => "InvalidDigest",
        RouteError::MissingDigest => "MissingDigest",
        RouteError::InvalidTag(_) => "InvalidTag",
        RouteError::InvalidTagOfHistory(_) => "InvalidTagOfHistory",
        RouteError::InvalidQuery { .. } => "InvalidQuery",
        RouteError::TooManyTags { .. } => "TooManyTags",
        RouteError::PathTooLong { .. } => "PathTooLong",
        RouteError::BadEncoding { .. } => "BadEncoding",
        RouteError::Mirrored { .. } => "Mirrored",
        RouteError::UnknownNamespace { .. } => "UnknownNamespace",
    }
}

#[track_caller]
fn assert_refused(rows: &[(&str, &str)]) {
    for (line, expected) in rows {
        let error = route(line).expect_err(line);
        assert_eq!(kind(&error), *expected, "{line}: {error}");
    }
}

/// The draft says that a 404 means that there are no histories at all: no tag is another error here.
#[test]
fn requests_for_histories_are_checked() {
    assert_refused(&[
        ("GET /v2/a/_oci/tag-history/-x", "InvalidTagOfHistory"),
        ("GET /v2/a/_jreg/tags/a+b/history", "InvalidTagOfHistory"),
        ("GET /v2/A/_oci/tag-history/-x", "InvalidName"),
        ("GET /v2/a/_oci/tag-history/v1?n=x", "InvalidQuery"),
        ("GET /v2/a/_oci/tag-history/v1?since=1&since=2", "InvalidQuery"),
        ("GET /v2/a/_oci/tag-history/v1?digest=x", "InvalidDigest"),
        ("POST /v2/a/_jreg/tags/-x/restore", "InvalidTag"),
        ("POST /v2/a/_jreg/deleted/sha256:x/restore", "InvalidDigest"),
    ]);
}

#[test]
fn names_digests_and_tags_are_checked() {
    assert_refused(&[
        ("GET /v2/A/tags/list", "InvalidName"),
        ("GET /v2/a//tags/list", "InvalidName"),
        ("GET /v2//tags/list", "InvalidName"),
        ("GET /v2//a/tags/list", "InvalidName"),
        ("GET /v2/./tags/list", "InvalidName"),
        ("GET /v2/../tags/list", "InvalidName"),
        ("GET /v2/a/../b/tags/list", "InvalidName"),
        ("GET /v2/../../etc/passwd/manifests/x", "InvalidName"),
        ("GET /v2/_catalog/tags/list", "InvalidName"),
        ("GET /v2/a_/manifests/v1", "InvalidName"),
        ("GET /v2/A/manifests/-", "InvalidName"),
        ("POST /v2/A/blobs/uploads/", "InvalidName"),
        ("PATCH /v2/A/blobs/uploads/x", "InvalidName"),
        ("GET /v2/é/tags/list", "InvalidName"),
        ("GET /v2/a/blobs/latest", "InvalidDigest"),
        ("GET /v2/a/blobs/sha256:baddigeststring", "InvalidDigest"),
        ("HEAD /v2/a/blobs/md5:d41d8cd98f00b204e9800998ecf8427e", "InvalidDigest"),
        ("DELETE /v2/a/blobs/..", "InvalidDigest"),
        ("GET /v2/a/manifests/sha256:x", "InvalidDigest"),
        ("GET /v2/a/manifests/a:b", "InvalidDigest"),
        ("GET /v2/a/referrers/latest", "InvalidDigest"),
        ("GET /v2/a/referrers/sha1:00", "InvalidDigest"),
        ("GET /v2/a/manifests/..", "InvalidTag"),
        ("GET /v2/a/manifests/-v1", "InvalidTag"),
        ("PUT /v2/a/manifests/v1+2", "InvalidTag"),
        ("DELETE /v2/a/manifests/v1 ", "InvalidTag"),
    ]);
}

#[test]
fn encodings_are_decoded_once_and_strictly() {
    let same = [
        "GET /v2/a/b/blobs/sha256%3A{hex}",
        "GET /v2/a/b/blobs/sha256%3a{hex}",
        "GET /v2/%61/b/%62lobs/{sha256}",
    ];
    let hex = sha256().hex();
    for line in same {
        let endpoint = route(&line.replace("{hex}", &hex));
        assert_eq!(endpoint, Ok(Endpoint::BlobGet { name: name("a/b"), digest: sha256() }));
    }
    assert_refused(&[
        ("GET /v2/a%2F..%2Fb/tags/list", "InvalidName"),
        ("GET /v2/a%2F%2Fb/tags/list", "InvalidName"),
        ("GET /v2/%2Fa/tags/list", "InvalidName"),
        ("GET /v2/a/manifests/..%2f..%2fetc", "NotFound"),
        ("GET /v2/a/blobs/sha256:%2F", "NotFound"),
        ("PATCH /v2/a/blobs/uploads/x%2Fy", "NotFound"),
        ("GET /v2/a%252Fb/tags/list", "InvalidName"),
        ("GET /v2/a%00b/tags/list", "BadEncoding"),
        ("GET /v2/a\0b/tags/list", "BadEncoding"),
        ("PATCH /v2/a/blobs/uploads/%0a", "BadEncoding"),
        ("PATCH /v2/a/blobs/uploads/%7F", "BadEncoding"),
        ("GET /v2/%c0%ae%c0%ae/tags/list", "BadEncoding"),
        ("GET /v2/a%c0%afb/tags/list", "BadEncoding"),
        ("GET /v2/a%ff/tags/list", "BadEncoding"),
        ("GET /v2/a%/tags/list", "BadEncoding"),
        ("GET /v2/a%2/tags/list", "BadEncoding"),
        ("GET /v2/a%zz/tags/list", "BadEncoding"),
        ("GET /v2/a%+1/tags/list", "BadEncoding"),
        ("GET /v2/%2e%2e/tags/list", "InvalidName"),
        ("GET /v2/a%252fb/tags/list", "InvalidName"),
        ("GET /v2/%252e%252e/tags/list", "InvalidName"),
        ("GET /v2/a%20b/tags/list", "InvalidName"),
        ("GET /v2/a/manifests/%252e", "InvalidTag"),
        ("GET /v2%2f_catalog", "NotFound"),
        ("GET /v2/_catalog?n=%zz", "BadEncoding"),
        ("GET /v2/_catalog?last=%00", "BadEncoding"),
        ("GET /v2/_catalog?last=%c3", "BadEncoding"),
        ("PUT /v2/a/manifests/v1?tag=%2", "BadEncoding"),
    ]);
    // What the path names is the same, whether its slashes are encoded or not.
    let hex = sha256().hex();
    for info in Endpoint::ALL {
        let path = info
            .template
            .replace("{name}", "a/b/c")
            .replace("{reference}", "v1")
            .replace("{tag}", "v1");
        let path = path.replace("{digest}", &format!("sha256:{hex}")).replace("{id}", "x");
        let query = if info.id == "upload_put" { "?digest={sha256}" } else { "" };
        for method in info.methods {
            let plain = route(&format!("{method} {path}{query}"));
            assert!(plain.is_ok(), "{method} {path}");
            let rest = path.strip_prefix("/v2/").unwrap();
            for encoded in [
                path.replace("a/b/c", "a%2Fb%2fc"),
                path.replace("a/b/c", "a/b%2Fc"),
                format!("/v2/{}", rest.replace('/', "%2F")),
            ] {
                assert_eq!(route(&format!("{method} {encoded}{query}")), plain, "{encoded}");
            }
        }
    }
    // An upload's id is the caller's to judge, but it is text and one segment.
    let endpoint = route("PATCH /v2/a/blobs/uploads/..%20%25").unwrap();
    assert_eq!(endpoint, Endpoint::UploadPatch { name: name("a"), id: ".. %".to_owned() });
}

#[test]
fn pages_are_read() {
    let rows = [
        ("", page(None, None)),
        ("?", page(None, None)),
        ("?n=0", page(Some(0), None)),
        ("?n=10", page(Some(10), None)),
        ("?n=007", page(Some(7), None)),
        ("?n=", page(None, None)),
        ("?n", page(None, None)),
        ("?n=1&n=1", page(Some(1), None)),
        ("?last=a%2Fb&last=a/b", page(None, Some("a/b"))),
        ("?n=99999999999999999999999999", page(Some(usize::MAX), None)),
        ("?last=v1", page(None, Some("v1"))),
        ("?last=", page(None, None)),
        ("?last", page(None, None)),
        ("?n=1&last=v1", page(Some(1), Some("v1"))),
        ("?last=v1&n=1", page(Some(1), Some("v1"))),
        ("?last=no%20such%20tag", page(None, Some("no such tag"))),
        ("?last=a+b", page(None, Some("a+b"))),
        ("?last=a=b", page(None, Some("a=b"))),
        ("?%6e=3", page(Some(3), None)),
        ("?N=3", page(None, None)),
        ("?&&n=3&", page(Some(3), None)),
        ("?ns=docker.io&n=3", page(Some(3), None)),
        ("?x=%zz&%zz=1&n=3", page(Some(3), None)),
    ];
    for (query, expected) in rows {
        let endpoint = route(&format!("GET /v2/a/tags/list{query}")).unwrap();
        assert_eq!(
            endpoint,
            Endpoint::TagList { name: name("a"), page: expected.clone() },
            "{query}"
        );
        let endpoint = route(&format!("GET /v2/_catalog{query}")).unwrap();
        assert_eq!(endpoint, Endpoint::Catalog { page: expected }, "{query}");
    }
    for bad in
        ["n=abc", "n=-1", "n=+1", "n=1.5", "n=1e3", "n=%201", "n=0x1", "n=1&n=2", "last=a&last=b"]
    {
        let error = route(&format!("GET /v2/a/tags/list?{bad}")).unwrap_err();
        assert_eq!(kind(&error), "InvalidQuery", "{bad}: {error}");
        assert!(error.to_string().starts_with("invalid query parameter"), "{error}");
    }
}

#[test]
fn an_upload_is_started_in_four_ways() {
    let digest: Digest = SHA512.parse().unwrap();
    let with_digest = Endpoint::UploadStart {
        name: name("a"),
        digest: Some(digest),
        algorithm: None,
        mount: None,
        from: MountSource::Any,
    };
    assert_eq!(route("POST /v2/a/blobs/uploads/?digest={sha512}"), Ok(with_digest));
    let with_algorithm = Endpoint::UploadStart {
        name: name("a"),
        digest: None,
        algorithm: Some(Algorithm::Sha512),
        mount: None,
        from: MountSource::Any,
    };
    assert_eq!(route("POST /v2/a/blobs/uploads/?digest-algorithm=sha512"), Ok(with_algorithm));
    for plain in [
        "",
        "?",
        "?ns=x",
        "?mount=",
        "?mount=&from=",
        "?_state=abc",
        "?digest-algorithm=",
        "?digest-algorithm",
    ] {
        assert_eq!(route(&format!("POST /v2/a/blobs/uploads/{plain}")), Ok(upload_start("a")));
    }
    let repository = |text| MountSource::Repository(name(text));
    let mounts = [
        ("mount={sha256}&from=b/c", repository("b/c")),
        ("from=b%2Fc&mount={sha256}", repository("b/c")),
        ("mount={sha256}", MountSource::Any),
        ("mount={sha256}&from=", MountSource::Any),
        ("mount={sha256}&from=B", MountSource::Unknown),
        ("mount={sha256}&from=../b", MountSource::Unknown),
        ("mount={sha256}&from=%ff", MountSource::Unknown),
        ("mount={sha256}&from=b%2", MountSource::Unknown),
        ("mount={sha256}&from=b&from=c", MountSource::Unknown),
    ];
    for (query, from) in mounts {
        assert_eq!(
            route(&format!("POST /v2/a/blobs/uploads/?{query}")),
            Ok(mount(from)),
            "{query}"
        );
    }
    assert_refused(&[
        ("POST /v2/a/blobs/uploads/?digest=", "InvalidDigest"),
        ("POST /v2/a/blobs/uploads/?digest=abc", "InvalidDigest"),
        ("POST /v2/a/blobs/uploads/?digest=md5:00", "InvalidDigest"),
        ("POST /v2/a/blobs/uploads/?digest={sha256}&digest={sha512}", "InvalidQuery"),
        ("POST /v2/a/blobs/uploads/?digest-algorithm=md5", "InvalidDigest"),
        ("POST /v2/a/blobs/uploads/?mount=abc&from=b", "InvalidDigest"),
        ("POST /v2/a/blobs/uploads/?mount=md5:00&from=b", "InvalidDigest"),
        ("POST /v2/a/blobs/uploads/?mount={sha256}&mount={sha512}", "InvalidQuery"),
    ]);
}

#[test]
fn an_upload_is_closed_with_a_digest() {
    assert_refused(&[
        ("PUT /v2/a/blobs/uploads/x", "MissingDigest"),
        ("PUT /v2/a/blobs/uploads/x?", "MissingDigest"),
        ("PUT /v2/a/blobs/uploads/x?digest", "InvalidDigest"),
        ("PUT /v2/a/blobs/uploads/x?digest=", "InvalidDigest"),
        ("PUT /v2/a/blobs/uploads/x?digest=sha256:abc", "InvalidDigest"),
        ("PUT /v2/a/blobs/uploads/x?digest=md5:00", "InvalidDigest"),
        ("PUT /v2/a/blobs/uploads/x?Digest={sha256}", "MissingDigest"),
        ("PUT /v2/a/blobs/uploads/x?digest={sha256}&digest={sha512}", "InvalidQuery"),
    ]);
    let encoded = SHA256.replace(':', "%3A");
    let endpoint = route(&format!("PUT /v2/a/blobs/uploads/x?_state=1&digest={encoded}")).unwrap();
    let id = "x".to_owned();
    assert_eq!(endpoint, Endpoint::UploadPut { name: name("a"), id, digest: sha256() });
}

#[test]
fn a_manifest_is_pushed_with_several_tags() {
    let pushed = |query: &str| match route(&format!("PUT /v2/a/manifests/{{sha256}}?{query}")) {
        Ok(Endpoint::ManifestPut { tags, .. }) => Ok(tags),
        other => Err(other.unwrap_err()),
    };
    let tags = |texts: &[&str]| -> Vec<Tag> { texts.iter().map(|t| t.parse().unwrap()).collect() };
    assert_eq!(pushed(""), Ok(vec![]));
    assert_eq!(
        pushed("tag=1.2.3&tag=1.2&tag=1&tag=latest"),
        Ok(tags(&["1.2.3", "1.2", "1", "latest"]))
    );
    assert_eq!(pushed("tag=b&tag=a&tag=b"), Ok(tags(&["b", "a"])));
    assert_eq!(pushed("tags=a&x=1"), Ok(vec![]));
    for bad in ["tag=", "tag", "tag=a/b", "tag=-", "tag=a&tag=b:c", "tag=a+b"] {
        assert_eq!(kind(&pushed(bad).unwrap_err()), "InvalidTag", "{bad}");
    }
    let many = |count: usize| {
        let parameters: Vec<_> = (0..count).map(|i| format!("tag={i:0>128}")).collect();
        parameters.join("&")
    };
    assert_eq!(pushed(&many(TAGS_PER_PUT_MAX)).unwrap().len(), TAGS_PER_PUT_MAX);
    let too_many = RouteError::TooManyTags { max: TAGS_PER_PUT_MAX };
    assert_eq!(pushed(&many(TAGS_PER_PUT_MAX + 1)), Err(too_many.clone()));
    assert_eq!(pushed(&"tag=a&".repeat(TAGS_PER_PUT_MAX + 1)), Err(too_many));
}

#[test]
fn referrers_are_filtered_and_paged() {
    let rows = [
        ("", None, page(None, None)),
        ("?artifactType=", None, page(None, None)),
        ("?artifactType=application/x%2Bjson", Some("application/x+json"), page(None, None)),
        ("?artifactType=application/x+json", Some("application/x+json"), page(None, None)),
        (
            "?artifactType=application%2Fx&n=2&last=y",
            Some("application/x"),
            page(Some(2), Some("y")),
        ),
        ("?artifacttype=application/x", None, page(None, None)),
    ];
    for (query, artifact_type, page) in rows {
        let expected = Endpoint::Referrers {
            name: name("a"),
            subject: sha256(),
            artifact_type: artifact_type.map(str::to_owned),
            page,
        };
        assert_eq!(
            route(&format!("GET /v2/a/referrers/{{sha256}}{query}")),
            Ok(expected),
            "{query}"
        );
    }
    assert_refused(&[
        ("GET /v2/a/referrers/{sha256}?artifactType=a/b&artifactType=c/d", "InvalidQuery"),
        ("GET /v2/a/referrers/{sha256}?n=x", "InvalidQuery"),
    ]);
}

#[test]
fn too_long_paths_are_not_parsed() {
    let longest_name = "a".repeat(255);
    assert!(route(&format!("GET /v2/{longest_name}/blobs/{{sha512}}")).is_ok());
    let encoded: String = format!("{longest_name}/").bytes().map(|_| "%61").collect();
    assert!(encoded.len() + 3 * SHA512.len() < PATH_BYTES_MAX);
    assert_refused(&[(&format!("GET /v2/{longest_name}a/tags/list"), "InvalidName")]);

    let too_long = |max_bytes| Err(RouteError::PathTooLong { max_bytes });
    let path = format!("/v2/{}", "a/".repeat(PATH_BYTES_MAX));
    assert_eq!(Endpoint::parse("GET", &path, None), too_long(PATH_BYTES_MAX));
    let query = "n=1&".repeat(QUERY_BYTES_MAX);
    assert_eq!(Endpoint::parse("GET", "/v2/", Some(&query)), too_long(QUERY_BYTES_MAX));
}

/// A request line for each row of [`Endpoint::ALL`].
fn request_lines() -> Vec<(&'static str, String)> {
    let line = |method: &&str, template: &str| {
        let path = template
            .replace("{name}", "a/b")
            .replace("{digest}", SHA256)
            .replace("{reference}", "v1")
            .replace("{tag}", "v1")
            .replace("{id}", "x");
        format!("{method} {path}?digest={SHA256}")
    };
    let rows = Endpoint::ALL.iter();
    rows.flat_map(|info| info.methods.iter().map(move |m| (info.id, line(m, info.template))))
        .collect()
}

/// Where an operation stands in [`Endpoint::ALL`]. Without a catch-all, so that a new one cannot
/// be forgotten here, nor there.
fn position(endpoint: &Endpoint) -> usize {
    match endpoint {
        Endpoint::Ping => 0,
        Endpoint::Catalog { .. } => 1,
        Endpoint::BlobGet { .. } => 2,
        Endpoint::BlobHead { .. } => 3,
        Endpoint::BlobDelete { .. } => 4,
        Endpoint::UploadStart { .. } => 5,
        Endpoint::UploadStatus { .. } => 6,
        Endpoint::UploadPatch { .. } => 7,
        Endpoint::UploadPut { .. } => 8,
        Endpoint::UploadCancel { .. } => 9,
        Endpoint::ManifestGet { .. } => 10,
        Endpoint::ManifestHead { .. } => 11,
        Endpoint::ManifestPut { .. } => 12,
        Endpoint::ManifestDelete { .. } => 13,
        Endpoint::TagList { .. } => 14,
        Endpoint::Referrers { .. } => 15,
        Endpoint::Extensions => 16,
        Endpoint::RepositoryExtensions { .. } => 17,
        Endpoint::OciTagHistory { .. } => 18,
        Endpoint::TagHistory { .. } => 19,
        Endpoint::TagRestore { .. } => 20,
        Endpoint::DeletedManifests { .. } => 21,
        Endpoint::ManifestRestore { .. } => 22,
        Endpoint::Usage { .. } => 23,
    }
}

#[test]
fn the_list_of_operations_is_complete_and_true() {
    let mut seen = vec![false; 24];
    for (id, line) in request_lines() {
        let endpoint = route(&line).unwrap();
        let info = Endpoint::ALL[position(&endpoint)];
        assert_eq!((endpoint.id(), info.id), (id, id), "{line}");
        assert_eq!(endpoint.template(), info.template, "{line}");
        assert_eq!(endpoint.info(), &info);
        assert_eq!(endpoint.name().is_some(), info.template.contains("{name}"), "{line}");
        seen[position(&endpoint)] = true;
    }
    assert_eq!(seen, vec![true; Endpoint::ALL.len()]);
}

/// Path segments that are likely to confuse: the words of the paths, and near names and digests.
fn any_segment() -> impl Strategy<Value = String> {
    let words = [
        "blobs",
        "uploads",
        "manifests",
        "tags",
        "list",
        "referrers",
        "_catalog",
        "_oci",
        "ext",
        "discover",
        "tag-history",
        "_jreg",
        "history",
        "restore",
        "deleted",
        "",
        "a",
        "b-c",
        "A",
        "..",
        "%2e",
        "%2F",
        "%00",
        "v1",
        SHA256,
        "sha256:x",
        "%73ha256:x",
    ];
    prop_oneof![8 => prop::sample::select(words.to_vec()).prop_map(str::to_owned), 1 => "\\PC{0,5}"]
}

fn any_query() -> impl Strategy<Value = String> {
    let keys = prop::sample::select(vec![
        "n",
        "last",
        "digest",
        "mount",
        "from",
        "tag",
        "artifactType",
        "before",
        "since",
        "digest-algorithm",
        "x",
    ]);
    let values = prop_oneof![Just(SHA256.to_owned()), "[a-z0-9%+&=-]{0,4}", "\\PC{0,4}"];
    let pair = (keys, values).prop_map(|(key, value)| format!("{key}={value}"));
    prop::collection::vec(pair, 0..4).prop_map(|pairs| pairs.join("&"))
}

proptest! {
    #[test]
    fn every_name_and_reference_is_found_again(
        name in "([a-z]{1,3}|blobs|uploads|tags|list|manifests|referrers)(/([a-z]{1,3}|blobs|uploads|tags|list|manifests|referrers)){0,4}",
        tag in "[a-zA-Z0-9_][a-zA-Z0-9._-]{0,10}|list|uploads",
        digest in any_digest(),
        id in "[a-z0-9-]{1,8}|blobs|uploads|list|manifests",
    ) {
        let name: RepositoryName = name.parse().unwrap();
        let found = |path: String| Endpoint::parse("GET", &path, None);
        let reference: Reference = tag.parse().unwrap();
        prop_assert_eq!(
            found(format!("/v2/{name}/manifests/{tag}")),
            Ok(Endpoint::ManifestGet { name: name.clone(), reference })
        );
        let expected = Endpoint::BlobGet { name: name.clone(), digest: digest.clone() };
        prop_assert_eq!(found(format!("/v2/{name}/blobs/{digest}")), Ok(expected));
        let expected = Endpoint::UploadStatus { name: name.clone(), id: id.clone() };
        prop_assert_eq!(found(format!("/v2/{name}/blobs/uploads/{id}")), Ok(expected));
        let expected = Endpoint::TagList { name: name.clone(), page: PageParams::default() };
        prop_assert_eq!(found(format!("/v2/{name}/tags/list")), Ok(expected));
        let info = found(format!("/v2/{name}/referrers/{digest}")).unwrap().id();
        prop_assert_eq!(info, "referrers");
        let start = Endpoint::parse("POST", &format!("/v2/{name}/blobs/uploads/"), None).unwrap();
        prop_assert_eq!(start, upload_start(name.as_str()));
    }

    #[test]
    fn any_request_line_is_an_operation_or_an_error(
        segments in prop::collection::vec(any_segment(), 0..7),
        query in any_query(),
        method in prop::sample::select(vec!["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "X"]),
    ) {
        let path = format!("/v2/{}", segments.join("/"));
        match Endpoint::parse(method, &path, Some(&query)) {
            Ok(endpoint) => {
                prop_assert!(endpoint.info().methods.contains(&method));
                let name = endpoint.name().map_or("a", |name| name.as_str());
                prop_assert!(name.parse::<RepositoryName>().is_ok());
            }
            Err(error) => prop_assert!(error.to_string().len() < 1000),
        }
    }

    #[test]
    fn any_text_is_an_operation_or_an_error(path in "(/v2)?\\PC*", query in "\\PC*") {
        let _ = Endpoint::parse("GET", &path, Some(&query));
    }
}
