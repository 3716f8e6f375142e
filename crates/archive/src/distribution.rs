//! [`DistributionSource`]: the storage of distribution (docker-registry), which Harbor uses as well.
//!
//! ```text
//! docker/registry/v2/blobs/<alg>/<aa>/<hex>/data
//! docker/registry/v2/repositories/<name>/_manifests/revisions/<alg>/<hex>/link
//! docker/registry/v2/repositories/<name>/_manifests/tags/<tag>/current/link
//! docker/registry/v2/repositories/<name>/_layers/<alg>/<hex>/link
//! ```
//!
//! A link is a file with a digest. Harbor keeps tags in its database, so they come in a list.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use jreg_oci::{Algorithm, Digest, RepositoryName, Tag};

use crate::source::unsupported;
use crate::tree::{collect, read_whole};
use crate::{
    ArchiveError, FoundManifest, ImageSource, MANIFEST_BYTES_MAX, Result, SourceBlob,
    SourceContent, SourceImage, SourceIndex, SourceManifest, SourceTree,
};

/// The most bytes of a link: a digest.
const LINK_BYTES_MAX: u64 = 1024;

/// The tags of a registry that keeps them elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TagList(BTreeMap<(RepositoryName, Tag), Digest>);

impl TagList {
    /// Reads lines of `NAME:TAG DIGEST` or `NAME,TAG,DIGEST`. Empty ones and those that begin with `#` say
    /// nothing.
    ///
    /// # Errors
    ///
    /// [`ArchiveError::Document`] names the first line that is neither.
    pub fn parse(path: &str, text: &str) -> Result<Self> {
        let mut tags = BTreeMap::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let invalid = |reason: String| {
                ArchiveError::document(path, format!("line {}: {reason}", index + 1))
            };
            let parts: Vec<&str> = line
                .split([',', ' ', '\t'])
                .map(|part| part.trim_matches('"'))
                .filter(|part| !part.is_empty())
                .collect();
            let (name, tag, digest) = match parts[..] {
                [image, digest] => {
                    let (name, tag) = image
                        .rsplit_once(':')
                        .ok_or_else(|| invalid("it must be NAME:TAG DIGEST".to_owned()))?;
                    (name, tag, digest)
                }
                [name, tag, digest] => (name, tag, digest),
                _ => return Err(invalid("it must be NAME:TAG DIGEST".to_owned())),
            };
            let name = name.parse().map_err(|error| invalid(format!("{error}")))?;
            let tag = tag.parse().map_err(|error| invalid(format!("{error}")))?;
            let digest = digest.parse().map_err(|error| invalid(format!("{error}")))?;
            tags.insert((name, tag), digest);
        }
        Ok(Self(tags))
    }
}

/// What is read of the storage of distribution beside what its tags name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DistributionOptions {
    /// Tags beside those of the storage.
    pub tags: TagList,
    /// Also the manifests that a tag pointed to before (`tags/<tag>/index`).
    pub has_old_tags: bool,
}

/// The storage of distribution, in a folder or a bucket.
#[derive(Debug)]
pub struct DistributionSource {
    tree: Box<dyn SourceTree>,
    /// What everything lies below: `docker/registry/v2/`, or what the operator named.
    root: String,
    options: DistributionOptions,
}

impl DistributionSource {
    /// The storage whose `repositories` and `blobs` lie in this folder of a tree, which is `""` or ends with `/`.
    pub fn new(
        tree: Box<dyn SourceTree>,
        root: impl Into<String>,
        options: DistributionOptions,
    ) -> Self {
        Self { tree, root: root.into(), options }
    }

    fn data(&self, digest: &Digest) -> String {
        let hex = digest.hex();
        let head = hex.get(..2).unwrap_or_default();
        format!("{}blobs/{}/{head}/{hex}/data", self.root, digest.algorithm())
    }

    fn repository(&self, name: &str) -> String {
        format!("{}repositories/{name}/", self.root)
    }

    /// The digest in a link; `None` if it is absent, empty or damaged.
    async fn link(&self, path: &str) -> Result<Option<Digest>> {
        let Some(bytes) = read_whole(&*self.tree, path, LINK_BYTES_MAX).await? else {
            return Ok(None);
        };
        Ok(std::str::from_utf8(&bytes).ok().and_then(|text| text.trim().parse().ok()))
    }

    /// The names of all folders below `repositories` that have manifests.
    async fn repositories(&self) -> Result<Vec<String>> {
        let base = format!("{}repositories/", self.root);
        let mut found = Vec::new();
        let mut folders = vec![String::new()];
        while let Some(folder) = folders.pop() {
            let names = self.tree.names(&format!("{base}{folder}")).await?;
            if names.iter().any(|name| name == "_manifests/") {
                found.push(folder.trim_end_matches('/').to_owned());
            }
            let below =
                names.into_iter().filter(|name| name.ends_with('/') && !name.starts_with('_'));
            folders.extend(below.map(|name| format!("{folder}{name}")));
        }
        found.sort();
        Ok(found)
    }

    /// The manifests that a repository links.
    async fn revisions(&self, name: &str) -> Result<BTreeSet<Digest>> {
        self.linked(&format!("{}_manifests/revisions/", self.repository(name))).await
    }

    /// The digests below a folder of links.
    async fn linked(&self, folder: &str) -> Result<BTreeSet<Digest>> {
        let mut digests = BTreeSet::new();
        for algorithm in Algorithm::ALL {
            let below = format!("{folder}{algorithm}/");
            for hex in self.tree.names(&below).await? {
                let Some(hex) = hex.strip_suffix('/') else { continue };
                let Ok(digest) = format!("{algorithm}:{hex}").parse::<Digest>() else { continue };
                // A delete leaves the folder without its link.
                if self.link(&format!("{below}{hex}/link")).await?.is_some() {
                    digests.insert(digest);
                }
            }
        }
        Ok(digests)
    }

    async fn tags(&self, name: &str, index: &mut SourceIndex) -> Result<BTreeMap<Tag, Digest>> {
        let mut tags = BTreeMap::new();
        let below = format!("{}_manifests/tags/", self.repository(name));
        for tag in self.tree.names(&below).await? {
            let Some(tag) = tag.strip_suffix('/') else { continue };
            let item = format!("{name}:{tag}");
            let parsed: Tag = match tag.parse() {
                Ok(tag) => tag,
                Err(error) => {
                    index.skip(item, format!("{error}"));
                    continue;
                }
            };
            match self.link(&format!("{below}{tag}/current/link")).await? {
                Some(digest) => {
                    tags.insert(parsed, digest);
                }
                None => index.skip(item, "the tag has no link to a manifest"),
            }
        }
        let listed = self.options.tags.0.iter().filter(|((of, _), _)| of.as_str() == name);
        tags.extend(listed.map(|((_, tag), digest)| (tag.clone(), digest.clone())));
        Ok(tags)
    }

    async fn index_of(&self, name: &str, index: &mut SourceIndex) -> Result<()> {
        let repository: RepositoryName = match name.parse() {
            Ok(name) => name,
            Err(error) => {
                index.skip(name, format!("{error}"));
                return Ok(());
            }
        };
        let mut images: BTreeMap<Digest, Vec<Tag>> = BTreeMap::new();
        for (tag, digest) in self.tags(name, index).await? {
            if self.options.has_old_tags {
                let folder = format!("{}_manifests/tags/{tag}/index/", self.repository(name));
                let mut earlier = self.linked(&folder).await?;
                earlier.remove(&digest);
                index.earlier.insert((repository.clone(), tag.clone()), earlier);
            }
            images.entry(digest).or_default().push(tag);
        }
        let tagged: Vec<_> = images.keys().cloned().collect();
        for digest in self.revisions(name).await? {
            images.entry(digest).or_default();
        }
        let of = |(digest, tags): (&Digest, &Vec<Tag>)| SourceImage {
            repository: Some(repository.clone()),
            digest: digest.clone(),
            media_type: None,
            tags: tags.clone(),
        };
        let is_tagged = |image: &(&Digest, &Vec<Tag>)| tagged.binary_search(image.0).is_ok();
        index.images.extend(images.iter().filter(is_tagged).map(of));
        index.images.extend(images.iter().filter(|image| !is_tagged(image)).map(of));
        Ok(())
    }

    /// Opens the bytes of a digest that the repository links in `kind`.
    async fn open_data(&self, digest: &Digest) -> Result<Option<SourceContent>> {
        self.tree.open(&self.data(digest)).await
    }
}

#[async_trait]
impl ImageSource for DistributionSource {
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
        let (algorithm, hex) = (digest.algorithm(), digest.hex());
        let link = format!(
            "{}_manifests/revisions/{algorithm}/{hex}/link",
            self.repository(name.as_str())
        );
        if self.link(&link).await?.is_none() {
            return Ok(FoundManifest::Absent);
        }
        let Some(content) = self.open_data(digest).await? else {
            return Ok(FoundManifest::Skipped(
                "the link is dangling: its manifest is gone".to_owned(),
            ));
        };
        if content.size_bytes > MANIFEST_BYTES_MAX {
            let reason = format!("it has {} bytes, more than any manifest", content.size_bytes);
            return Ok(FoundManifest::Skipped(reason));
        }
        let bytes = collect(content, &self.data(digest)).await?;
        Ok(match unsupported(None, &bytes) {
            Some(reason) => FoundManifest::Skipped(reason),
            None => FoundManifest::Found(SourceManifest { media_type: None, bytes }),
        })
    }

    async fn blob(
        &self,
        _: Option<&RepositoryName>,
        digest: &Digest,
    ) -> Result<Option<SourceBlob>> {
        // The operator can read all bytes of the storage, whether or not the repository links them.
        Ok(self.open_data(digest).await?.map(SourceContent::into_blob))
    }
}
