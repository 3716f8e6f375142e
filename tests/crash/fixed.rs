//! Immutable tags of one worker: each is set once, whatever is pushed to it and deleted later, and whenever the process
//! is killed.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use jreg_testkit::{Client, Image, Request, Rng, sha256};

/// Rules of the process.
pub(crate) const RULES: &str =
    "[[immutable]]\nrepositories = ['crash/fixed/**']\ntags = ['v*']\n[end]\n";
pub(crate) const FIXED_TAGS: [&str; 6] = ["v1", "v2", "v3", "v4", "v5", "v6"];
/// Images, so that few pushes are of the same one.
const IMAGES: u64 = 6;

/// A repository whose tags are immutable, and what is known of them.
#[derive(Debug)]
pub(crate) struct FixedTags {
    repository: String,
    /// Possible digests of each tag, `None` for absence; one of them once a push was acknowledged.
    tags: BTreeMap<&'static str, BTreeSet<Option<String>>>,
}

impl FixedTags {
    pub(crate) fn new(number: usize) -> Self {
        Self { repository: format!("crash/fixed/w{number}"), tags: BTreeMap::new() }
    }

    pub(crate) fn repository(&self) -> &str {
        &self.repository
    }

    fn target(&self, rest: &str) -> String {
        format!("/v2/{}/{rest}", self.repository)
    }

    /// What the tag is known to point to.
    fn digest(&self, tag: &str) -> Option<&String> {
        let mut known = self.tags.get(tag)?.iter();
        known.next().filter(|_| known.next().is_none())?.as_ref()
    }

    pub(crate) async fn operation(&mut self, client: &Client, rng: &mut Rng) -> io::Result<()> {
        let tag = *rng.pick(&FIXED_TAGS);
        match rng.below(4) {
            0..=1 => self.push(client, tag, &Image::plain(100 + rng.below(IMAGES))).await,
            2 => self.delete(client, tag, tag.to_owned()).await,
            _ => match self.digest(tag).cloned() {
                Some(digest) => self.delete(client, tag, digest).await,
                None => Ok(()),
            },
        }
    }

    async fn push(&mut self, client: &Client, tag: &'static str, image: &Image) -> io::Result<()> {
        for blob in &image.blobs {
            let target = self.target(&format!("blobs/uploads/?digest={}", blob.digest()));
            let push = Request::new("POST", target).body(blob.bytes.clone());
            let pushed = client.try_send(push).await?;
            assert_eq!(pushed.status, 201, "{pushed}");
        }
        let digest = image.manifest.digest();
        let before = self.digest(tag).cloned();
        if before.is_none() {
            let may_be = self.tags.entry(tag).or_insert_with(|| [None].into());
            may_be.insert(Some(digest.clone()));
        }
        let put = Request::new("PUT", self.target(&format!("manifests/{tag}")))
            .header("Content-Type", &image.manifest.media_type)
            .body(image.manifest.bytes.clone());
        let response = client.try_send(put).await?;
        let expected = if before.is_some_and(|before| before != digest) { 409 } else { 201 };
        assert_eq!(response.status, expected, "{}:{tag}: {response}", self.repository);
        if response.status == 201 {
            self.tags.insert(tag, [Some(digest)].into());
        }
        Ok(())
    }

    /// Neither the tag nor its manifest can be deleted.
    async fn delete(&self, client: &Client, tag: &str, reference: String) -> io::Result<()> {
        let delete = Request::new("DELETE", self.target(&format!("manifests/{reference}")));
        let response = client.try_send(delete).await?;
        let expected = if self.digest(tag).is_some() { 409 } else { 404 };
        assert_eq!(response.status, expected, "{}:{tag}: {response}", self.repository);
        Ok(())
    }

    /// Checks each tag against a restarted server, and resolves what was in doubt.
    pub(crate) async fn verify(&mut self, client: &Client) {
        for tag in FIXED_TAGS {
            let response = client.get(&self.target(&format!("manifests/{tag}"))).await;
            let at = match response.status {
                200 => Some(sha256(&response.body)),
                404 => None,
                _ => panic!("{tag}: {response}"),
            };
            let allowed = self.tags.entry(tag).or_insert_with(|| [None].into());
            let name = &self.repository;
            assert!(allowed.contains(&at), "{name}:{tag} is at {at:?}, not {allowed:?}");
            *allowed = [at.clone()].into();
            if at.is_none() {
                continue;
            }
            let manifest = response.json();
            for layer in manifest["layers"].as_array().unwrap() {
                let digest = layer["digest"].as_str().unwrap();
                let blob = client.get(&self.target(&format!("blobs/{digest}"))).await;
                assert_eq!((blob.status, sha256(&blob.body).as_str()), (200, digest), "{tag}");
            }
        }
    }
}
