//! A request line that is an operation is the same operation when it is written again.
//!
//! Input: a method, a space, a path, and perhaps a question mark and a query.
#![no_main]

use jreg_oci::{Endpoint, MountSource, PageParams, Reference, RepositoryName};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|line: &str| {
    let Some((method, target)) = line.split_once(' ') else { return };
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    let Ok(endpoint) = Endpoint::parse(method, path, query) else { return };

    assert!(endpoint.info().methods.contains(&method));
    assert!(Endpoint::ALL.contains(endpoint.info()));
    if let Some(name) = endpoint.name() {
        assert_eq!(name.as_str().parse(), Ok(name.clone()));
    }
    let (path, query) = write(&endpoint);
    assert_eq!(Endpoint::parse(method, &path, Some(&query)), Ok(endpoint));
});

fn write(endpoint: &Endpoint) -> (String, String) {
    let path = |rest: String| match endpoint.name() {
        Some(name) => format!("/v2/{name}/{rest}"),
        None => format!("/v2/{rest}"),
    };
    match endpoint {
        Endpoint::Ping => (path(String::new()), String::new()),
        Endpoint::Catalog { page } => (path("_catalog".to_owned()), write_page(page)),
        Endpoint::TagList { page, .. } => (path("tags/list".to_owned()), write_page(page)),
        Endpoint::BlobGet { digest, .. }
        | Endpoint::BlobHead { digest, .. }
        | Endpoint::BlobDelete { digest, .. } => (path(format!("blobs/{digest}")), String::new()),
        Endpoint::UploadStart { digest, algorithm, mount, from, .. } => {
            let query = [
                parameter("digest", digest),
                parameter("digest-algorithm", algorithm),
                parameter("mount", mount),
                write_source(from),
            ];
            (path("blobs/uploads/".to_owned()), query.concat())
        }
        Endpoint::UploadStatus { id, .. }
        | Endpoint::UploadPatch { id, .. }
        | Endpoint::UploadCancel { id, .. } => (path(write_upload(id)), String::new()),
        Endpoint::UploadPut { id, digest, .. } => {
            (path(write_upload(id)), parameter("digest", &Some(digest)))
        }
        Endpoint::ManifestGet { reference, .. }
        | Endpoint::ManifestHead { reference, .. }
        | Endpoint::ManifestDelete { reference, .. } => {
            (path(write_manifest(reference)), String::new())
        }
        Endpoint::ManifestPut { reference, tags, .. } => {
            let tags = tags.iter().map(|tag| parameter("tag", &Some(tag)));
            (path(write_manifest(reference)), tags.collect())
        }
        Endpoint::Referrers { subject, artifact_type, page, .. } => {
            let query = parameter("artifactType", artifact_type) + &write_page(page);
            (path(format!("referrers/{subject}")), query)
        }
        Endpoint::Extensions | Endpoint::RepositoryExtensions { .. } => {
            (path("_oci/ext/discover".to_owned()), String::new())
        }
        Endpoint::OciTagHistory { tag, query, .. } => {
            let query = [
                parameter("n", &query.n),
                parameter("before", &query.before),
                parameter("since", &query.since),
                parameter("digest", &query.digest),
            ];
            (path(format!("_oci/tag-history/{tag}")), query.concat())
        }
        Endpoint::TagHistory { tag, page, .. } => {
            (path(format!("_jreg/tags/{tag}/history")), write_page(page))
        }
        Endpoint::TagRestore { tag, .. } => {
            (path(format!("_jreg/tags/{tag}/restore")), String::new())
        }
        Endpoint::Usage { page } => (path("_jreg/usage".to_owned()), write_page(page)),
        Endpoint::DeletedManifests { page, .. } => {
            (path("_jreg/deleted".to_owned()), write_page(page))
        }
        Endpoint::ManifestRestore { digest, .. } => {
            (path(format!("_jreg/deleted/{digest}/restore")), String::new())
        }
    }
}

fn write_upload(id: &str) -> String {
    format!("blobs/uploads/{}", encode(id))
}

fn write_manifest(reference: &Reference) -> String {
    format!("manifests/{reference}")
}

fn write_page(page: &PageParams) -> String {
    parameter("n", &page.n) + &parameter("last", &page.last)
}

fn write_source(from: &MountSource) -> String {
    match from {
        MountSource::Any => String::new(),
        MountSource::Repository(name) => parameter::<RepositoryName>("from", &Some(name.clone())),
        MountSource::Unknown => parameter("from", &Some("..")),
    }
}

fn parameter<T: ToString>(key: &str, value: &Option<T>) -> String {
    value
        .as_ref()
        .map_or_else(String::new, |value| format!("{key}={}&", encode(&value.to_string())))
}

fn encode(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}
