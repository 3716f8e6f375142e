//! [`LayoutSource`]: OCI image layouts (image-spec, "Image Layout"): one, or a folder of many as zot and
//! olareg keep them, one for each repository.
//!
//! zot deduplicates: in a bucket, all but one of the equal blobs are empty objects. An empty one that should
//! not be empty is looked for under the same digest in the other layouts.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use jreg_oci::{Algorithm, Digest, MediaType, RepositoryName, Tag};
use serde::Deserialize;
use tokio::sync::OnceCell;

use crate::source::unsupported;
use crate::tree::read_whole;
use crate::{
    ArchiveError, FoundManifest, ImageName, ImageSource, MANIFEST_BYTES_MAX, Result, SourceBlob,
    SourceContent, SourceImage, SourceIndex, SourceManifest, SourceTree,
};

/// The largest `index.json`, in bytes: one of zot lists every manifest of a repository.
const INDEX_BYTES_MAX: u64 = 256 * 1024 * 1024;
const REF_NAME: &str = "org.opencontainers.image.ref.name";
const IMAGE_NAME: &str = "io.containerd.image.name";
/// What a layout has in its folder.
const MARK: &str = "oci-layout";

#[derive(Debug, Deserialize)]
struct LayoutIndex {
    #[serde(default)]
    manifests: Option<Vec<LayoutEntry>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct LayoutEntry {
    digest: String,
    #[serde(default)]
    media_type: Option<MediaType>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

/// One OCI image layout, or a folder of them.
#[derive(Debug)]
pub struct LayoutSource {
    tree: Box<dyn SourceTree>,
    /// Whether each layout is a repository, and has its name by its folder.
    is_storage: bool,
    /// The layouts by their folders (`""`, or with a `/` at the end).
    layouts: OnceCell<Vec<String>>,
    /// Where blobs lie that are empty objects elsewhere.
    twins: OnceCell<BTreeMap<Digest, String>>,
}

impl LayoutSource {
    /// A layout whose mark is in the root of a tree.
    pub fn single(tree: Box<dyn SourceTree>) -> Self {
        let layouts = OnceCell::from(vec![String::new()]);
        Self { tree, is_storage: false, layouts, twins: OnceCell::new() }
    }

    /// The storage of zot or olareg.
    pub fn storage(tree: Box<dyn SourceTree>) -> Self {
        let (layouts, twins) = (OnceCell::new(), OnceCell::new());
        Self { tree, is_storage: true, layouts, twins }
    }

    /// The folders that have a layout.
    async fn layouts(&self) -> Result<&[String]> {
        self.layouts.get_or_try_init(|| find_layouts(&*self.tree)).await.map(Vec::as_slice)
    }

    fn folder(&self, repository: Option<&RepositoryName>) -> String {
        match repository.filter(|_| self.is_storage) {
            Some(name) => format!("{name}/"),
            None => String::new(),
        }
    }

    async fn index_of(&self, folder: &str, index: &mut SourceIndex) -> Result<()> {
        let path = format!("{folder}index.json");
        let repository = match self.is_storage {
            false => None,
            true => match folder.trim_end_matches('/').parse::<RepositoryName>() {
                Ok(name) => Some(name),
                Err(error) => {
                    index.skip(folder, error.to_string());
                    return Ok(());
                }
            },
        };
        let Some(bytes) = read_whole(&*self.tree, &path, INDEX_BYTES_MAX).await? else {
            index.skip(folder, "it has no index.json");
            return Ok(());
        };
        let read: LayoutIndex =
            serde_json::from_slice(&bytes).map_err(|error| ArchiveError::document(&path, error))?;
        let mut images = LayoutImages::default();
        for entry in read.manifests.unwrap_or_default() {
            images.add(entry, repository.as_ref(), index);
        }
        index.images.extend(images.into_list());
        Ok(())
    }

    /// Opens what is under a digest, wherever its bytes are.
    async fn open_digest(&self, folder: &str, digest: &Digest) -> Result<Option<SourceContent>> {
        let content = self.tree.open(&blob_path(folder, digest)).await?;
        let is_empty = content.as_ref().is_some_and(|content| content.size_bytes == 0);
        if !self.is_storage || !is_empty || *digest == Digest::of(digest.algorithm(), b"") {
            return Ok(content);
        }
        let twins = self.twins.get_or_try_init(|| self.find_twins()).await?;
        match twins.get(digest) {
            Some(path) => self.tree.open(path).await,
            None => Ok(None),
        }
    }

    /// A path with bytes for each digest.
    async fn find_twins(&self) -> Result<BTreeMap<Digest, String>> {
        let mut twins = BTreeMap::new();
        for folder in self.layouts().await? {
            for algorithm in Algorithm::ALL {
                let below = format!("{folder}blobs/{algorithm}/");
                for hex in self.tree.names(&below).await? {
                    let Ok(digest) = format!("{algorithm}:{hex}").parse::<Digest>() else {
                        continue;
                    };
                    let path = format!("{below}{hex}");
                    if twins.contains_key(&digest) {
                        continue;
                    }
                    if self.tree.size(&path).await?.is_some_and(|size| size > 0) {
                        twins.insert(digest, path);
                    }
                }
            }
        }
        Ok(twins)
    }
}

fn blob_path(folder: &str, digest: &Digest) -> String {
    format!("{folder}blobs/{}/{}", digest.algorithm(), digest.hex())
}

/// The folders with a layout below a tree's root. One in another counts, too: `a` and `a/b` may both be
/// repositories.
async fn find_layouts(tree: &dyn SourceTree) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut folders = vec![String::new()];
    while let Some(folder) = folders.pop() {
        let names = tree.names(&folder).await?;
        let is_layout = names.iter().any(|name| name == MARK);
        for name in names {
            let is_content = is_layout && name == "blobs/";
            // No repository has such a name; zot keeps caches and databases in such folders.
            if name.ends_with('/') && !is_content && !name.starts_with(['_', '.']) {
                folders.push(format!("{folder}{name}"));
            }
        }
        if is_layout {
            found.push(folder);
        }
    }
    found.sort();
    Ok(found)
}

/// The entries of an index, of which several may be tags of one manifest.
#[derive(Default)]
struct LayoutImages {
    images: BTreeMap<(Option<RepositoryName>, Digest), LayoutTags>,
}

/// The media type of a manifest, and its tags.
type LayoutTags = (Option<MediaType>, BTreeSet<Tag>);

impl LayoutImages {
    fn add(&mut self, entry: LayoutEntry, of: Option<&RepositoryName>, index: &mut SourceIndex) {
        let digest: Digest = match entry.digest.parse() {
            Ok(digest) => digest,
            Err(error) => return index.skip(entry.digest, format!("{error}")),
        };
        let annotations = entry.annotations.unwrap_or_default();
        let (repository, tag) = match name_of(&annotations, of) {
            Ok(named) => named,
            Err(reason) => return index.skip(digest.to_string(), reason),
        };
        let image = self.images.entry((repository, digest)).or_default();
        image.0 = image.0.take().or(entry.media_type);
        image.1.extend(tag);
    }

    /// Those with tags first. Images without a name are of the one repository that the others name, if it is one:
    /// signatures and the like are listed by their digests alone.
    fn into_list(self) -> Vec<SourceImage> {
        let named: BTreeSet<_> =
            self.images.keys().filter_map(|(repository, _)| repository.clone()).collect();
        let only = named.first().filter(|_| named.len() == 1).cloned();
        let mut list: Vec<SourceImage> = self
            .images
            .into_iter()
            .map(|((repository, digest), (media_type, tags))| SourceImage {
                repository: repository.or_else(|| only.clone()),
                digest,
                media_type,
                tags: tags.into_iter().collect(),
            })
            .collect();
        list.sort_by_key(|image| (image.repository.clone(), image.tags.is_empty()));
        list
    }
}

/// The repository and tag that annotations name.
fn name_of(
    annotations: &BTreeMap<String, String>,
    of: Option<&RepositoryName>,
) -> Result<(Option<RepositoryName>, Option<Tag>), String> {
    let text = |error: crate::InvalidImageName| error.to_string();
    let reference = annotations.get(REF_NAME);
    if let Some(name) = of {
        let tag = reference.map(|tag| tag.parse()).transpose();
        return Ok((Some(name.clone()), tag.map_err(|error| format!("{error}"))?));
    }
    if let Some(name) = annotations.get(IMAGE_NAME) {
        let ImageName { repository, tag } = name.parse().map_err(text)?;
        return Ok((Some(repository), tag));
    }
    match reference {
        None => Ok((None, None)),
        Some(tag) if tag.parse::<Tag>().is_ok() => Ok((None, tag.parse().ok())),
        Some(name) => {
            let ImageName { repository, tag } = name.parse().map_err(text)?;
            Ok((Some(repository), tag))
        }
    }
}

/// The first repository that an `index.json` names.
pub(crate) fn first_repository(bytes: &[u8]) -> Option<RepositoryName> {
    let index: LayoutIndex = serde_json::from_slice(bytes).ok()?;
    let entries = index.manifests.unwrap_or_default();
    entries.into_iter().find_map(|entry| name_of(&entry.annotations?, None).ok()?.0)
}

#[async_trait]
impl ImageSource for LayoutSource {
    async fn index(&self) -> Result<SourceIndex> {
        let mut index = SourceIndex::default();
        for folder in self.layouts().await? {
            self.index_of(folder, &mut index).await?;
        }
        Ok(index)
    }

    async fn manifest(
        &self,
        repository: Option<&RepositoryName>,
        digest: &Digest,
    ) -> Result<FoundManifest> {
        let folder = self.folder(repository);
        let path = blob_path(&folder, digest);
        match self.tree.size(&path).await? {
            None => return Ok(FoundManifest::Absent),
            Some(size) if size > MANIFEST_BYTES_MAX => return Ok(FoundManifest::Absent),
            Some(_) => {}
        }
        let Some(content) = self.open_digest(&folder, digest).await? else {
            return Ok(FoundManifest::Absent);
        };
        if content.size_bytes > MANIFEST_BYTES_MAX {
            return Ok(FoundManifest::Absent);
        }
        let bytes = crate::tree::collect(content, &path).await?;
        Ok(match unsupported(None, &bytes) {
            Some(reason) => FoundManifest::Skipped(reason),
            None => FoundManifest::Found(SourceManifest { media_type: None, bytes }),
        })
    }

    async fn blob(
        &self,
        repository: Option<&RepositoryName>,
        digest: &Digest,
    ) -> Result<Option<SourceBlob>> {
        let content = self.open_digest(&self.folder(repository), digest).await?;
        Ok(content.map(SourceContent::into_blob))
    }
}
