//! [`RemoteSource`]: another registry, over its API, as a source of images.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use futures::stream::{self, StreamExt, TryStreamExt};
use jreg_archive::{
    ArchiveError, FoundManifest, ImageName, ImageSource, Result, SourceBlob, SourceImage,
    SourceIndex, SourceManifest,
};
use jreg_client::{
    BlobRequest, CredentialSource, EnvironmentVariables, PageQuery, UpstreamClient, UpstreamError,
    UpstreamErrorKind, UpstreamOptions, UpstreamUrl,
};
use jreg_oci::{Digest, Manifest, Reference, ReferenceKind, RepositoryName, Tag, attached_tags};

/// How many tags are looked up at the same time.
const LOOKUPS_AT_ONCE: usize = 8;
/// How many manifests are remembered: each is looked at several times, and some registries count that.
const REMEMBERED_MAX: usize = 512;
/// How deep the parts of an index are looked at for what is attached to them.
const DEPTH_MAX: usize = 4;
/// How many items a page of a listing should have.
const PAGE_ITEMS: u32 = 1000;
/// Maximum pages of a listing: a registry whose pages have no end would be read for ever.
const PAGES_MAX: usize = 10_000;

/// What to import from another registry: `https://HOST[/NAME[:TAG|@DIGEST]]`.
#[derive(Clone, Debug)]
pub(super) struct RemotePlace {
    url: UpstreamUrl,
    /// `None`: every repository.
    repository: Option<RepositoryName>,
    reference: Option<Reference>,
}

impl RemotePlace {
    /// Reads `https://…`, `http://…` or `docker://…`; `None`: it is neither.
    pub(super) fn parse(text: &str) -> Option<Result<Self, String>> {
        let (scheme, rest) = text.split_once("://")?;
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let url = match scheme {
            "https" | "http" => format!("{scheme}://{host}").parse(),
            "docker" => UpstreamUrl::of_registry(host),
            _ => return None,
        };
        Some(url.map_err(|error| error.to_string()).and_then(|url| Self::of_path(url, path)))
    }

    fn of_path(url: UpstreamUrl, path: &str) -> Result<Self, String> {
        let path = path.trim_end_matches('/');
        if path.is_empty() {
            return Ok(Self { url, repository: None, reference: None });
        }
        if let Some((name, digest)) = path.split_once('@') {
            let digest: Digest = digest.parse().map_err(|error| format!("{error}"))?;
            let repository = name.parse().map_err(|error| format!("{error}"))?;
            let reference = Some(Reference::Digest(digest));
            return Ok(Self { url, repository: Some(repository), reference });
        }
        // The first component is none of a host here.
        let ImageName { repository, tag } =
            format!("x.x/{path}").parse().map_err(|error| format!("{error}"))?;
        let reference = tag.map(Reference::Tag);
        Ok(Self { url, repository: Some(repository), reference })
    }
}

/// A registry as a source.
#[derive(Debug)]
pub(super) struct RemoteSource {
    client: UpstreamClient,
    place: RemotePlace,
    manifests: Mutex<HashMap<(RepositoryName, Digest), SourceManifest>>,
}

impl RemoteSource {
    /// # Errors
    ///
    /// The client cannot be set up.
    pub(super) fn new(place: RemotePlace, credentials: CredentialSource) -> io::Result<Self> {
        let mut options = UpstreamOptions::new([place.url.clone()], credentials);
        // Who names an address on the command line may reach it.
        options.private_addresses = true;
        options.environment = EnvironmentVariables::new(
            std::env::vars_os()
                .filter_map(|(n, v)| Some((n.into_string().ok()?, v.into_string().ok()?))),
        );
        let client = UpstreamClient::new(options).map_err(io::Error::other)?;
        Ok(Self { client, place, manifests: Mutex::default() })
    }

    async fn repositories(&self) -> Result<Vec<RepositoryName>> {
        if let Some(name) = &self.place.repository {
            return Ok(vec![name.clone()]);
        }
        let mut names = Vec::new();
        let mut query = PageQuery::new(Some(PAGE_ITEMS), None);
        for _ in 0..PAGES_MAX {
            let page = self.client.catalog(&query).await.map_err(failed)?;
            names.extend(page.items);
            match page.next {
                Some(next) => query = next,
                None => return Ok(names),
            }
        }
        Err(too_many_pages("the list of repositories"))
    }

    async fn tags(&self, name: &RepositoryName) -> Result<Vec<Tag>> {
        let mut tags = Vec::new();
        let mut query = PageQuery::new(Some(PAGE_ITEMS), None);
        for _ in 0..PAGES_MAX {
            let page = match self.client.tags(name, &query).await {
                Err(UpstreamError { kind: UpstreamErrorKind::NotFound, .. }) => return Ok(tags),
                page => page.map_err(failed)?,
            };
            tags.extend(page.items);
            match page.next {
                Some(next) => query = next,
                None => return Ok(tags),
            }
        }
        Err(too_many_pages("the list of tags"))
    }

    async fn look_up(
        &self,
        name: &RepositoryName,
        tags: Vec<Tag>,
        images: &mut BTreeMap<Digest, Vec<Tag>>,
    ) -> Result<()> {
        let lookups = tags.into_iter().map(|tag| async move {
            let reference = Reference::Tag(tag.clone());
            match self.client.head_manifest(name, &reference).await {
                Ok(head) => Ok(Some((tag, head.digest))),
                Err(UpstreamError { kind: UpstreamErrorKind::NotFound, .. }) => Ok(None),
                Err(error) => Err(failed(error)),
            }
        });
        // Made before the first is awaited: a borrowing closure kept across an await is not `Send`.
        let lookups: Vec<_> = lookups.collect();
        let found: Vec<_> = stream::iter(lookups).buffered(LOOKUPS_AT_ONCE).try_collect().await?;
        for (tag, digest) in found.into_iter().flatten() {
            images.entry(digest).or_default().push(tag);
        }
        Ok(())
    }

    /// Adds what cosign has attached by tags to the images that were asked for, and to their parts.
    async fn add_attached(
        &self,
        name: &RepositoryName,
        images: &mut BTreeMap<Digest, Vec<Tag>>,
    ) -> Result<()> {
        // Not every registry lists its tags; the referrers come in any case.
        let Ok(tags) = self.tags(name).await else { return Ok(()) };
        let tags: HashSet<Tag> = tags.into_iter().collect();
        let (mut seen, mut attached) = (HashSet::new(), Vec::new());
        let mut left: Vec<(Digest, usize)> = images.keys().map(|it| (it.clone(), 0)).collect();
        while let Some((digest, depth)) = left.pop() {
            if !seen.insert(digest.clone()) {
                continue;
            }
            attached.extend(attached_tags(&digest).filter(|tag| tags.contains(tag)));
            if let (true, FoundManifest::Found(found)) =
                (depth < DEPTH_MAX, self.manifest(Some(name), &digest).await?)
                && let Ok(parsed) = Manifest::parse(found.media_type.as_ref(), &found.bytes)
            {
                let children = parsed.references.into_iter();
                let children = children.filter(|part| part.kind == ReferenceKind::Child);
                left.extend(children.map(|child| (child.digest, depth + 1)));
            }
        }
        self.look_up(name, attached, images).await
    }

    async fn index_of(&self, name: &RepositoryName, index: &mut SourceIndex) -> Result<()> {
        let mut images = BTreeMap::new();
        match &self.place.reference {
            None => self.look_up(name, self.tags(name).await?, &mut images).await?,
            Some(Reference::Digest(digest)) => {
                images.insert(digest.clone(), Vec::new());
            }
            Some(Reference::Tag(tag)) => {
                self.look_up(name, vec![tag.clone()], &mut images).await?;
                if images.is_empty() {
                    let (item, reason) =
                        (format!("{name}:{tag}"), "there is no such tag".to_owned());
                    index.skipped.push(jreg_archive::SkippedItem { item, reason });
                }
            }
        }
        if self.place.reference.is_some() {
            self.add_attached(name, &mut images).await?;
        }
        index.images.extend(images.into_iter().map(|(digest, tags)| SourceImage {
            repository: Some(name.clone()),
            digest,
            media_type: None,
            tags,
        }));
        Ok(())
    }
}

fn too_many_pages(what: &str) -> ArchiveError {
    let error = format!("{what} has more than {PAGES_MAX} pages");
    ArchiveError::Io { what: "the registry".to_owned(), source: io::Error::other(error) }
}

fn failed(error: UpstreamError) -> ArchiveError {
    ArchiveError::Io { what: "the registry".to_owned(), source: io::Error::other(error) }
}

#[async_trait]
impl ImageSource for RemoteSource {
    async fn index(&self) -> Result<SourceIndex> {
        let mut index = SourceIndex::default();
        for name in self.repositories().await? {
            self.index_of(&name, &mut index).await?;
        }
        Ok(index)
    }

    async fn manifest(
        &self,
        repository: Option<&RepositoryName>,
        digest: &Digest,
    ) -> Result<FoundManifest> {
        let Some(name) = repository else { return Ok(FoundManifest::Absent) };
        let key = (name.clone(), digest.clone());
        let known =
            self.manifests.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        if let Some(known) = known {
            return Ok(FoundManifest::Found(known));
        }
        let reference = Reference::Digest(digest.clone());
        let manifest = match self.client.get_manifest(name, &reference).await {
            Ok(manifest) => manifest,
            Err(UpstreamError { kind: UpstreamErrorKind::NotFound, .. }) => {
                return Ok(FoundManifest::Absent);
            }
            Err(error) => return Err(failed(error)),
        };
        let (media_type, bytes) = (Some(manifest.media_type), manifest.bytes);
        let found = SourceManifest { media_type, bytes };
        let mut manifests = self.manifests.lock().unwrap_or_else(PoisonError::into_inner);
        if manifests.len() >= REMEMBERED_MAX {
            manifests.clear();
        }
        manifests.insert(key, found.clone());
        Ok(FoundManifest::Found(found))
    }

    async fn blob(
        &self,
        repository: Option<&RepositoryName>,
        digest: &Digest,
    ) -> Result<Option<SourceBlob>> {
        let Some(name) = repository else { return Ok(None) };
        let blob = match self.client.open_blob(name, &BlobRequest::new(digest.clone())).await {
            Ok(blob) => blob,
            Err(UpstreamError { kind: UpstreamErrorKind::NotFound, .. }) => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let absent = || io::Error::other("the registry does not say how long the blob is");
        let size_bytes = blob.size().ok_or_else(absent);
        let size_bytes = size_bytes
            .map_err(|source| ArchiveError::Io { what: format!("blob {digest}"), source })?;
        let stream = blob.into_stream().map_err(io::Error::other).boxed();
        Ok(Some(SourceBlob { size_bytes, place: None, stream }))
    }

    async fn referrers(
        &self,
        repository: Option<&RepositoryName>,
        digest: &Digest,
    ) -> Result<Vec<Digest>> {
        let Some(name) = repository else { return Ok(Vec::new()) };
        match self.client.referrers(name, digest, None).await {
            Ok(found) => Ok(found.descriptors.into_iter().map(|it| it.digest).collect()),
            Err(UpstreamError { kind: UpstreamErrorKind::NotFound, .. }) => Ok(Vec::new()),
            Err(error) => Err(failed(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn places_of_registries_are_read() {
        let of = |text: &str| RemotePlace::parse(text).map(|place| place.unwrap());
        let place = of("https://registry.test:5000/team.x/app:v1").unwrap();
        assert_eq!(place.url.host(), "registry.test:5000");
        assert_eq!(place.repository.unwrap().as_str(), "team.x/app");
        assert_eq!(place.reference.unwrap().to_string(), "v1");
        let place = of("docker://docker.io/library/alpine").unwrap();
        assert_eq!(place.repository.unwrap().as_str(), "library/alpine");
        assert!(place.reference.is_none() && !place.url.is_plain());
        assert!(of("http://127.0.0.1:5000").unwrap().repository.is_none());
        let digest = format!("sha256:{}", "a".repeat(64));
        let place = of(&format!("https://a.test/app@{digest}")).unwrap();
        assert_eq!(place.reference.unwrap().to_string(), digest);
        for other in ["/a/b", "a.tar", "s3://bucket", "-"] {
            assert!(RemotePlace::parse(other).is_none(), "{other}");
        }
        for wrong in ["https://a.test/App", "https://me:pw@a.test/app", "https://a.test/app@x"] {
            assert!(RemotePlace::parse(wrong).unwrap().is_err(), "{wrong}");
        }
    }
}
