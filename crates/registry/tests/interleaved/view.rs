//! [`StoreView`]: all that lies in a store, read past the registry.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use jreg_oci::{Digest, Manifest};
use jreg_storage::{Key, ListRequest, Store};
use serde_json::Value;

/// Some content of a repository.
pub(crate) type RepositoryContent = (String, Digest);

#[derive(Debug, Default)]
pub(crate) struct StoreView {
    /// What it comes to, whatever was named at random, with the age of everything.
    pub(crate) shape: BTreeSet<String>,
    pub(crate) blobs: BTreeMap<String, Bytes>,
    /// Where the bytes lie and how many they are; nothing for one that was deleted.
    pub(crate) links: BTreeMap<RepositoryContent, Option<(String, u64)>>,
    pub(crate) manifests: BTreeMap<RepositoryContent, Manifest>,
    pub(crate) tags: BTreeMap<(String, String), Digest>,
    /// Records of deleted tags.
    pub(crate) deleted_tags: BTreeSet<(String, String)>,
    /// The manifest, and the tag that may point to it.
    pub(crate) hints: BTreeSet<(RepositoryContent, String)>,
    /// The subject, and the referrer.
    pub(crate) referrers: BTreeSet<(RepositoryContent, Digest)>,
    /// Repository, tag and inverted change; what the tag pointed to, or nothing if it was deleted.
    pub(crate) history: BTreeMap<(String, String, String), Option<Digest>>,
    /// Deleted manifests that can be restored.
    pub(crate) copies: BTreeMap<RepositoryContent, Manifest>,
    pub(crate) purged: BTreeSet<RepositoryContent>,
    pub(crate) catalog: BTreeSet<String>,
    pub(crate) uploads: Vec<String>,
    pub(crate) queue: Vec<String>,
}

impl StoreView {
    pub(crate) async fn of(store: &dyn Store) -> Self {
        let mut view = Self::default();
        let page = store.list(&ListRequest::below("")).await.unwrap();
        assert!(page.next.is_none(), "a scenario is small");
        for entry in page.entries {
            let bytes = store.get(&entry.key).await.unwrap().bytes;
            let age = page.date.duration_since(entry.last_modified).unwrap_or_default();
            view.shape.insert(shape(&entry.key, &bytes, age));
            view.add(&entry.key, bytes);
        }
        view
    }

    fn add(&mut self, key: &Key, bytes: Bytes) {
        let text = key.as_str().to_owned();
        let split = text.clone();
        let parts: Vec<_> = split.split('/').collect();
        match parts[..] {
            ["blobs", ..] => {
                self.blobs.insert(text, bytes);
            }
            ["links", algorithm, _, hex, name] => {
                let of = (name.to_owned(), digest(algorithm, hex));
                self.links.insert(of, live(&bytes));
            }
            ["repositories", name, "_manifests", algorithm, hex] => {
                let of = (name.to_owned(), digest(algorithm, hex));
                self.manifests.insert(of, manifest(&bytes));
            }
            ["repositories", name, "_tags", tag] => {
                let record = json(&bytes);
                let of = (name.to_owned(), tag.to_owned());
                match record["digest"].as_str() {
                    Some(target) => _ = self.tags.insert(of, target.parse().unwrap()),
                    None => _ = self.deleted_tags.insert(of),
                }
            }
            ["repositories", name, "_tagged", algorithm, hex, tag] => {
                let of = (name.to_owned(), digest(algorithm, hex));
                self.hints.insert((of, tag.to_owned()));
            }
            ["repositories", name, "_referrers", algorithm, hex, own] => {
                let (own_algorithm, own_hex) = own.split_once('-').unwrap();
                let of = (name.to_owned(), digest(algorithm, hex));
                self.referrers.insert((of, digest(own_algorithm, own_hex)));
            }
            ["history", name, tag, entry] => {
                let (change, target) = entry.split_once('-').unwrap();
                let of = (name.to_owned(), tag.to_owned(), change.to_owned());
                let target = target.split_once('-').map(|(algorithm, hex)| digest(algorithm, hex));
                self.history.insert(of, target);
            }
            ["deleted", name, algorithm, hex, "purged"] => {
                self.purged.insert((name.to_owned(), digest(algorithm, hex)));
            }
            ["deleted", name, algorithm, hex, _] => {
                let of = (name.to_owned(), digest(algorithm, hex));
                self.copies.insert(of, manifest(&bytes));
            }
            ["catalog", name] => {
                self.catalog.insert(name.to_owned());
            }
            ["uploads", ..] => self.uploads.push(text),
            ["gc", "queue", ..] => self.queue.push(text),
            ["gc", ..] | ["jreg.json"] => {}
            _ => panic!("{text} is no key of the format"),
        }
    }

    /// Whether a repository holds a blob or a manifest.
    pub(crate) fn holds(&self, of: &RepositoryContent) -> bool {
        self.manifests.contains_key(of) || matches!(self.links.get(of), Some(Some(_)))
    }
}

fn shape(key: &Key, bytes: &Bytes, age: Duration) -> String {
    let text = key.as_str();
    let age_s = age.as_secs();
    match text.split('/').next().unwrap_or_default() {
        "blobs" => format!("blobs {} {age_s}", crate::content::digest(bytes)),
        "links" => format!("{text} {} {age_s}", live(bytes).is_some()),
        "repositories" if text.contains("/_tags/") => {
            format!("{text} {} {age_s}", json(bytes)["digest"])
        }
        // Changes are named by their time.
        "history" | "deleted" => {
            let parts: Vec<_> = text.split('/').collect();
            let target = text.split_once('-').map(|(_, target)| target);
            format!(
                "{} {target:?} {age_s}",
                parts.get(..parts.len() - 1).unwrap_or_default().join("/")
            )
        }
        "uploads" => format!("uploads {} {age_s}", json_or_tail(bytes)),
        // A note of a GC run: what it is about, and not when it was made.
        "gc" => text.split('/').take(2).collect(),
        _ => format!("{text} {age_s}"),
    }
}

fn json_or_tail(session: &[u8]) -> String {
    let session: Option<Value> = serde_json::from_slice(session).ok();
    session.map_or("tail".to_owned(), |session| session["state"].to_string())
}

fn digest(algorithm: &str, hex: &str) -> Digest {
    format!("{algorithm}:{hex}").parse().unwrap()
}

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

fn live(link: &[u8]) -> Option<(String, u64)> {
    let link = json(link);
    let location = link["location"].as_str()?.to_owned();
    Some((location, link["size"].as_u64().unwrap()))
}

fn manifest(record: &Bytes) -> Manifest {
    let end = record.iter().position(|byte| *byte == b'\n').unwrap();
    let media_type = json(&record[..end])["mediaType"].as_str().unwrap().parse().unwrap();
    Manifest::parse_stored(&media_type, &record[end + 1..]).unwrap()
}
