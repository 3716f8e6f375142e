//! A client that pushes, retags and deletes in a repository of its own, and records what was
//! acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use jreg_testkit::{Blob, Client, Image, Manifest, Request, Response, Rng, media, sha256};
use serde_json::json;

use crate::crash::fixed::{FIXED_TAGS, FixedTags};
use crate::crash::ledger::history;

const TAGS: [&str; 3] = ["one", "two", "three"];

/// An upload in progress.
#[derive(Debug)]
struct Upload {
    location: String,
    bytes: Bytes,
    /// Acknowledged bytes, and bytes sent.
    acknowledged: usize,
    sent: usize,
}

/// A worker and its ledger. Content of a request without a response is in doubt: it is in none of
/// the maps, or in several.
#[derive(Debug)]
pub(crate) struct Worker {
    repository: String,
    neighbour: String,
    rng: Rng,
    acknowledged: Arc<AtomicU64>,
    blobs: BTreeMap<String, Bytes>,
    /// Blobs that no manifest references and that may be deleted.
    loose: Vec<String>,
    manifests: BTreeMap<String, Bytes>,
    /// Possible targets of each tag; `None` is absence.
    tags: BTreeMap<&'static str, BTreeSet<Option<String>>>,
    /// Acknowledged changes of each tag, in order.
    changes: BTreeMap<&'static str, Vec<Option<String>>>,
    deleted_blobs: BTreeSet<String>,
    /// With their bytes.
    deleted_manifests: BTreeMap<String, Bytes>,
    upload: Option<Upload>,
    fixed: FixedTags,
}

impl Worker {
    pub(crate) fn new(number: usize, seed: u64, acknowledged: Arc<AtomicU64>) -> Self {
        Self {
            repository: format!("crash/w{number}"),
            neighbour: format!("crash/w{}", number / 2 * 2),
            rng: Rng::new(seed),
            acknowledged,
            blobs: BTreeMap::new(),
            loose: Vec::new(),
            manifests: BTreeMap::new(),
            tags: BTreeMap::new(),
            changes: BTreeMap::new(),
            deleted_blobs: BTreeSet::new(),
            deleted_manifests: BTreeMap::new(),
            upload: None,
            fixed: FixedTags::new(number),
        }
    }

    /// Works until the server stops responding.
    pub(crate) async fn run_until_killed(mut self, client: Client) -> Self {
        const OPERATIONS_MAX: u64 = 100_000;
        for _ in 0..OPERATIONS_MAX {
            if self.operation(&client).await.is_err() {
                return self;
            }
            self.acknowledged.fetch_add(1, Ordering::Relaxed);
        }
        panic!("the server was not killed");
    }

    async fn operation(&mut self, client: &Client) -> io::Result<()> {
        match self.rng.below(15) {
            0..=2 => self.push_loose(client).await,
            3..=5 => self.upload(client).await,
            6..=8 => self.push_image(client).await,
            9 => self.delete_loose(client).await,
            10 => self.delete_tag(client).await,
            11 => self.restore_manifest(client).await,
            12..=13 => self.fixed.operation(client, &mut self.rng).await,
            _ => self.delete_manifest(client).await,
        }
    }

    fn target(&self, rest: &str) -> String {
        format!("/v2/{}/{rest}", self.repository)
    }

    fn random_bytes(&mut self) -> Bytes {
        let len = if self.rng.chance(1, 12) { 5_000_000 } else { 2 + self.rng.below(60_000) };
        self.rng.bytes(usize::try_from(len).unwrap())
    }

    async fn push_loose(&mut self, client: &Client) -> io::Result<()> {
        let bytes = self.random_bytes();
        let digest = sha256(&bytes);
        self.push(client, bytes).await?;
        self.loose.push(digest);
        Ok(())
    }

    /// Pushes a blob with a known digest; mounts it if the neighbour has it.
    async fn push(&mut self, client: &Client, bytes: Bytes) -> io::Result<()> {
        let digest = sha256(&bytes);
        self.deleted_blobs.remove(&digest);
        let mount = format!("blobs/uploads/?mount={digest}&from={}", self.neighbour);
        let mounted = client.try_send(Request::new("POST", self.target(&mount)).body("")).await?;
        if mounted.status == 202 {
            let push =
                Request::new("POST", self.target(&format!("blobs/uploads/?digest={digest}")));
            done(client.try_send(push.body(bytes.clone())).await?, &[201]);
        }
        self.blobs.insert(digest, bytes);
        Ok(())
    }

    /// Uploads like docker, in one or several chunks; resumes earlier uploads.
    async fn upload(&mut self, client: &Client) -> io::Result<()> {
        if self.upload.is_none() {
            let bytes = self.random_bytes();
            let begun = client
                .try_send(Request::new("POST", self.target("blobs/uploads/")).body(""))
                .await?;
            let location = begun.header("Location").unwrap().to_owned();
            self.upload = Some(Upload { location, bytes, acknowledged: 0, sent: 0 });
        }
        let upload = self.upload.as_mut().unwrap();
        while upload.acknowledged < upload.bytes.len() {
            let left = upload.bytes.len() - upload.acknowledged;
            // Not one byte: `Range: 0-0` does not distinguish it from none.
            let len = left.min(2 + usize::try_from(self.rng.below(left as u64)).unwrap());
            let chunk = upload.bytes.slice(upload.acknowledged..upload.acknowledged + len);
            upload.sent = upload.sent.max(upload.acknowledged + len);
            let range = format!("{}-{}", upload.acknowledged, upload.acknowledged + len - 1);
            let patch = Request::new("PATCH", &*upload.location);
            let patch =
                if self.rng.chance(1, 2) { patch.header("Content-Range", range) } else { patch };
            done(client.try_send(patch.chunked([chunk])).await?, &[202]);
            upload.acknowledged += len;
        }
        let digest = sha256(&upload.bytes);
        let close = Request::new("PUT", format!("{}?digest={digest}", upload.location)).body("");
        done(client.try_send(close).await?, &[201]);
        let upload = self.upload.take().unwrap();
        self.blobs.insert(digest.clone(), upload.bytes);
        self.loose.push(digest);
        Ok(())
    }

    async fn push_image(&mut self, client: &Client) -> io::Result<()> {
        // Few seeds, so that images repeat and are shared with the neighbour.
        let image = Image::plain(self.rng.below(12));
        for blob in &image.blobs {
            self.push(client, blob.bytes.clone()).await?;
        }
        let tag = *self.rng.pick(&TAGS);
        self.put(client, &image.manifest, tag).await?;
        if self.rng.chance(1, 3) {
            let referrer = referrer_without_layers(&image);
            self.push(client, referrer.blobs[0].bytes.clone()).await?;
            self.put(client, &referrer.manifest, tag).await?;
        }
        Ok(())
    }

    async fn put(
        &mut self,
        client: &Client,
        manifest: &Manifest,
        tag: &'static str,
    ) -> io::Result<()> {
        let digest = manifest.digest();
        self.deleted_manifests.remove(&digest);
        self.tags.entry(tag).or_insert_with(|| [None].into()).insert(Some(digest.clone()));
        let put = Request::new("PUT", self.target(&format!("manifests/{tag}")))
            .header("Content-Type", &manifest.media_type)
            .body(manifest.bytes.clone());
        done(client.try_send(put).await?, &[201]);
        self.manifests.insert(digest.clone(), manifest.bytes.clone());
        self.set_tag(tag, Some(digest));
        Ok(())
    }

    /// An acknowledged request has set a tag, or deleted it.
    fn set_tag(&mut self, tag: &'static str, to: Option<String>) {
        let changes = self.changes.entry(tag).or_default();
        if changes.last().cloned().flatten() != to {
            changes.push(to.clone());
        }
        self.tags.insert(tag, [to].into());
    }

    /// Restores a manifest with its tags, from the copy that its delete has made.
    async fn restore_manifest(&mut self, client: &Client) -> io::Result<()> {
        let known: Vec<_> = self.deleted_manifests.keys().cloned().collect();
        if known.is_empty() {
            return Ok(());
        }
        let digest = self.rng.pick(&known).clone();
        let bytes = self.deleted_manifests.remove(&digest).unwrap();
        for tag in TAGS {
            let places = self.tags.entry(tag).or_insert_with(|| [None].into());
            if places.contains(&None) {
                places.insert(Some(digest.clone()));
            }
        }
        let restore = Request::new("POST", self.target(&format!("_jreg/deleted/{digest}/restore")))
            .header("Content-Type", "application/json")
            .body(r#"{"tags":true}"#);
        let response = client.try_send(restore).await?;
        // A blob that it needs may have been deleted as one that nothing references.
        done(response.clone(), &[200, 404]);
        let restored: BTreeSet<String> = match response.status {
            200 => {
                self.manifests.insert(digest.clone(), bytes);
                let tags = response.json()["tags"].as_array().cloned().unwrap_or_default();
                tags.iter().map(|set| set["tag"].as_str().unwrap().to_owned()).collect()
            }
            _ => {
                self.deleted_manifests.insert(digest.clone(), bytes);
                BTreeSet::new()
            }
        };
        for tag in TAGS {
            if restored.contains(tag) {
                self.set_tag(tag, Some(digest.clone()));
            } else {
                self.tags.get_mut(tag).unwrap().remove(&Some(digest.clone()));
            }
        }
        Ok(())
    }

    async fn delete_loose(&mut self, client: &Client) -> io::Result<()> {
        let Some(digest) = self.loose.pop() else { return Ok(()) };
        self.blobs.remove(&digest);
        let delete = Request::new("DELETE", self.target(&format!("blobs/{digest}")));
        done(client.try_send(delete).await?, &[202]);
        self.deleted_blobs.insert(digest);
        Ok(())
    }

    async fn delete_tag(&mut self, client: &Client) -> io::Result<()> {
        let tag = *self.rng.pick(&TAGS);
        self.tags.entry(tag).or_insert_with(|| [None].into()).insert(None);
        let delete = Request::new("DELETE", self.target(&format!("manifests/{tag}")));
        done(client.try_send(delete).await?, &[202, 404]);
        self.set_tag(tag, None);
        Ok(())
    }

    async fn delete_manifest(&mut self, client: &Client) -> io::Result<()> {
        let known: Vec<_> = self.manifests.keys().cloned().collect();
        if known.is_empty() {
            return Ok(());
        }
        let digest = self.rng.pick(&known).clone();
        let bytes = self.manifests.remove(&digest).unwrap();
        let at = Some(digest.clone());
        self.tags.values_mut().filter(|places| places.contains(&at)).for_each(|places| {
            places.insert(None);
        });
        let delete = Request::new("DELETE", self.target(&format!("manifests/{digest}")));
        done(client.try_send(delete).await?, &[202]);
        for tag in TAGS {
            if self.tags.get(tag).is_some_and(|places| places.contains(&at)) {
                self.set_tag(tag, None);
            }
        }
        self.deleted_manifests.insert(digest, bytes);
        Ok(())
    }

    /// Checks every acknowledgement against a restarted server, and resolves what was in doubt.
    pub(crate) async fn verify(&mut self, client: &Client) {
        for (digest, bytes) in &self.blobs {
            let response = client.get(&self.target(&format!("blobs/{digest}"))).await;
            assert!(
                response.status == 200 && response.body == bytes,
                "{}@{digest}: {response}",
                self.repository
            );
        }
        for (digest, bytes) in &self.manifests {
            let response = client.get(&self.target(&format!("manifests/{digest}"))).await;
            assert!(
                response.status == 200 && response.body == bytes,
                "{}@{digest}: {response}",
                self.repository
            );
        }
        for digest in &self.deleted_blobs {
            assert_eq!(
                client.get(&self.target(&format!("blobs/{digest}"))).await.status,
                404,
                "{digest}"
            );
        }
        for digest in self.deleted_manifests.keys() {
            assert_eq!(
                client.get(&self.target(&format!("manifests/{digest}"))).await.status,
                404,
                "{digest}"
            );
        }
        for tag in TAGS {
            self.verify_tag(client, tag).await;
            self.verify_history(client, tag).await;
        }
        self.fixed.verify(client).await;
        self.verify_upload(client).await;
    }

    /// The changes of each tag that ever was, the oldest first, by the subjects of events.
    pub(crate) async fn changes(&self, client: &Client) -> BTreeMap<String, Vec<String>> {
        let moving = TAGS.map(|tag| (self.repository.as_str(), tag));
        let fixed = FIXED_TAGS.map(|tag| (self.fixed.repository(), tag));
        let mut changes = BTreeMap::new();
        for (repository, tag) in moving.into_iter().chain(fixed) {
            let of_tag = history(client, repository, tag).await;
            if !of_tag.is_empty() {
                let ids = of_tag.into_iter().rev().map(|(id, _)| id).collect();
                changes.insert(format!("{repository}:{tag}"), ids);
            }
        }
        changes
    }

    async fn verify_tag(&mut self, client: &Client, tag: &'static str) {
        let response = client.get(&self.target(&format!("manifests/{tag}"))).await;
        let at = match response.status {
            200 => Some(sha256(&response.body)),
            404 => None,
            _ => panic!("{tag}: {response}"),
        };
        let allowed = self.tags.entry(tag).or_insert_with(|| [None].into());
        assert!(allowed.contains(&at), "{}:{tag} is at {at:?}, not {allowed:?}", self.repository);
        *allowed = [at.clone()].into();
        let Some(digest) = at else { return };
        self.manifests.insert(digest, response.body.clone());
        let manifest = response.json();
        for descriptor in manifest["layers"].as_array().unwrap().iter().chain([&manifest["config"]])
        {
            let digest = descriptor["digest"].as_str().unwrap();
            let blob = client.get(&self.target(&format!("blobs/{digest}"))).await;
            assert_eq!(
                (blob.status, sha256(&blob.body).as_str()),
                (200, digest),
                "{}:{tag}",
                self.repository
            );
        }
    }

    /// Every acknowledged change is in the history once and in order, and what was in doubt at most once more.
    async fn verify_history(&mut self, client: &Client, tag: &'static str) {
        let changes = history(client, &self.repository, tag).await;
        let is_ordered = changes.windows(2).all(|two| two[0].0 > two[1].0 && two[0].1 != two[1].1);
        assert!(is_ordered, "{}:{tag}: {changes:?}", self.repository);
        let current = self.tags[tag].iter().next().cloned().flatten();
        let latest = changes.first().and_then(|(_, digest)| digest.clone());
        assert_eq!(latest, current, "{}:{tag}: {changes:?}", self.repository);
        // Oldest first; what was in doubt is between acknowledged ones.
        let acknowledged = self.changes.entry(tag).or_default();
        let mut expected = acknowledged.iter().peekable();
        for (_, digest) in changes.iter().rev() {
            expected.next_if(|next| *next == digest);
        }
        assert_eq!(
            expected.next(),
            None,
            "{}:{tag}: {acknowledged:?} in {changes:?}",
            self.repository
        );
        *acknowledged = changes.into_iter().rev().map(|(_, digest)| digest).collect();
    }

    async fn verify_upload(&mut self, client: &Client) {
        let Some(upload) = &mut self.upload else { return };
        if upload.sent == 0 {
            return;
        }
        let status = client.get(&upload.location).await;
        // A finishing request may have taken effect without a response; an upload without
        // acknowledged bytes may be empty.
        if status.status == 404 && upload.acknowledged == upload.bytes.len() {
            self.upload = None;
            return;
        }
        assert_eq!(status.status, 204, "{status}");
        let stands = match status.header("Range").unwrap() {
            "0-0" if upload.acknowledged == 0 => 0,
            range => range.strip_prefix("0-").unwrap().parse::<usize>().unwrap() + 1,
        };
        assert!(
            (upload.acknowledged..=upload.sent).contains(&stands),
            "{} stands at {stands}, {} were acknowledged of {} sent",
            upload.location,
            upload.acknowledged,
            upload.sent
        );
        upload.acknowledged = stands;
    }
}

/// A referrer to the image with a configuration that it shares with nothing else.
fn referrer_without_layers(image: &Image) -> Image {
    let config = Blob { media_type: media::EMPTY, bytes: image.manifest.digest().into() };
    let manifest = json!({"schemaVersion": 2, "mediaType": media::MANIFEST, "artifactType": "application/x",
        "config": config.descriptor(), "layers": [], "subject": image.manifest.descriptor()});
    Image { manifest: Manifest::compact(media::MANIFEST, &manifest), blobs: vec![config] }
}

#[track_caller]
fn done(response: Response, statuses: &[u16]) {
    assert!(statuses.contains(&response.status), "{response}");
}
