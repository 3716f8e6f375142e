//! [`UpstreamContent`]: the repositories of a scripted upstream.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use serde_json::Value;

use crate::content::Manifest;
use crate::{sha256, sha512};

#[derive(Debug, Default)]
pub(super) struct UpstreamContent(BTreeMap<String, UpstreamRepository>);

#[derive(Debug, Default)]
struct UpstreamRepository {
    blobs: HashMap<String, Bytes>,
    manifests: BTreeMap<String, Manifest>,
    tags: BTreeMap<String, String>,
}

impl UpstreamContent {
    fn of(&mut self, repository: &str) -> &mut UpstreamRepository {
        self.0.entry(repository.to_owned()).or_default()
    }

    /// By both of its digests; returns the one by SHA-256.
    pub(super) fn add_blob(&mut self, repository: &str, bytes: Bytes) -> String {
        let digest = sha256(&bytes);
        self.of(repository).blobs.insert(sha512(&bytes), bytes.clone());
        self.of(repository).blobs.insert(digest.clone(), bytes);
        digest
    }

    pub(super) fn add_manifest(&mut self, repository: &str, manifest: &Manifest) -> String {
        let digest = manifest.digest();
        self.of(repository).manifests.insert(digest.clone(), manifest.clone());
        digest
    }

    pub(super) fn set_tag(&mut self, repository: &str, tag: &str, digest: &str) {
        self.of(repository).tags.insert(tag.to_owned(), digest.to_owned());
    }

    pub(super) fn remove_tag(&mut self, repository: &str, tag: &str) {
        self.of(repository).tags.remove(tag);
    }

    pub(super) fn remove_manifest(&mut self, repository: &str, digest: &str) {
        let repository = self.of(repository);
        repository.manifests.remove(digest);
        repository.tags.retain(|_, found| found != digest);
    }

    pub(super) fn has(&self, repository: &str) -> bool {
        self.0.contains_key(repository)
    }

    pub(super) fn repositories(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    pub(super) fn tags(&self, repository: &str) -> Vec<String> {
        self.0.get(repository).map(|found| found.tags.keys().cloned().collect()).unwrap_or_default()
    }

    pub(super) fn blob(&self, repository: &str, digest: &str) -> Option<Bytes> {
        self.0.get(repository)?.blobs.get(digest).cloned()
    }

    /// A manifest by its tag, or by one of its digests.
    pub(super) fn manifest(&self, repository: &str, reference: &str) -> Option<Manifest> {
        let repository = self.0.get(repository)?;
        let digest = repository.tags.get(reference).map_or(reference, String::as_str);
        let found = repository.manifests.get(digest);
        let by_sha512 = || {
            repository
                .manifests
                .values()
                .find(|manifest| digest.starts_with("sha512:") && manifest.digest512() == digest)
        };
        found.or_else(by_sha512).cloned()
    }

    /// The descriptors of the manifests whose subject this is.
    pub(super) fn referrers(&self, repository: &str, subject: &str) -> Vec<Value> {
        let manifests =
            self.0.get(repository).into_iter().flat_map(|found| found.manifests.values());
        let referrer = |manifest: &Manifest| {
            let document: Value = serde_json::from_slice(&manifest.bytes).ok()?;
            if document["subject"]["digest"] != subject {
                return None;
            }
            let mut descriptor = manifest.descriptor();
            let artifact_type = match &document["artifactType"] {
                Value::Null => document["config"]["mediaType"].clone(),
                artifact_type => artifact_type.clone(),
            };
            descriptor["artifactType"] = artifact_type;
            if !document["annotations"].is_null() {
                descriptor["annotations"] = document["annotations"].clone();
            }
            Some(descriptor)
        };
        manifests.filter_map(referrer).collect()
    }
}
