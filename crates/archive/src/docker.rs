//! [`DockerArchive`]: archives of `docker save` before it wrote OCI layouts, and of tools that write the same
//! form (podman, skopeo, crane).
//!
//! They have no manifests of images but a list of configs and layers, mostly uncompressed. So each image gets
//! an OCI manifest that is made here, and its digest is not the one it had in a registry.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use bytes::Bytes;
use futures::TryStreamExt;
use jreg_oci::{Algorithm, Digest, Hasher, MediaType, RepositoryName, Tag};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::OnceCell;

use crate::tree::read_whole;
use crate::{
    ArchiveError, FoundManifest, ImageName, ImageSource, MANIFEST_BYTES_MAX, Result, SourceBlob,
    SourceContent, SourceImage, SourceIndex, SourceManifest, SourceTree,
};

/// The list of images in an archive.
pub(crate) const LIST: &str = "manifest.json";
const LIST_BYTES_MAX: u64 = 64 * 1024 * 1024;
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// The most layers of an image.
const LAYERS_MAX: usize = 1024;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ListedImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

/// What an archive has, once its layers are hashed.
#[derive(Debug, Default)]
struct DockerContent {
    index: SourceIndex,
    manifests: BTreeMap<Digest, Bytes>,
    /// The member of each blob.
    blobs: BTreeMap<Digest, String>,
}

/// A blob as a manifest names it.
struct HashedMember {
    digest: Digest,
    size_bytes: u64,
    /// How its bytes are compressed, as the end of a media type.
    compression: &'static str,
}

/// An archive of `docker save`.
#[derive(Debug)]
pub struct DockerArchive {
    tree: Box<dyn SourceTree>,
    content: OnceCell<DockerContent>,
}

impl DockerArchive {
    pub fn new(tree: Box<dyn SourceTree>) -> Self {
        Self { tree, content: OnceCell::new() }
    }

    async fn content(&self) -> Result<&DockerContent> {
        self.content.get_or_try_init(|| self.read()).await
    }

    async fn read(&self) -> Result<DockerContent> {
        let list = read_whole(&*self.tree, LIST, LIST_BYTES_MAX).await?;
        let list = list.ok_or_else(|| ArchiveError::document(LIST, "it is absent"))?;
        let list: Vec<ListedImage> =
            serde_json::from_slice(&list).map_err(|error| ArchiveError::document(LIST, error))?;
        let mut content = DockerContent::default();
        let mut hashed = BTreeMap::new();
        let mut images: BTreeMap<(Option<RepositoryName>, Digest), BTreeSet<Tag>> = BTreeMap::new();
        for listed in list {
            let manifest = self.manifest_of(&listed, &mut content, &mut hashed).await?;
            let digest = Digest::of(Algorithm::Sha256, &manifest);
            content.manifests.insert(digest.clone(), manifest);
            let names = listed.repo_tags.unwrap_or_default();
            if names.is_empty() {
                images.entry((None, digest.clone())).or_default();
            }
            for name in names {
                match name.parse::<ImageName>() {
                    Ok(ImageName { repository, tag }) => {
                        images.entry((Some(repository), digest.clone())).or_default().extend(tag);
                    }
                    Err(error) => content.index.skip(name, error.to_string()),
                }
            }
        }
        content.index.images = images.into_iter().map(listed_image).collect();
        content.index.notes.push(
            "the archive has images of docker save: it lacks the manifests that they had in a registry, so \
             their digests are new"
                .to_owned(),
        );
        Ok(content)
    }

    /// The manifest of an image, whose members are hashed.
    async fn manifest_of(
        &self,
        listed: &ListedImage,
        content: &mut DockerContent,
        hashed: &mut BTreeMap<String, HashedMember>,
    ) -> Result<Bytes> {
        let layers = listed.layers.as_deref().unwrap_or_default();
        if layers.len() > LAYERS_MAX {
            let reason = format!("an image has more than {LAYERS_MAX} layers");
            return Err(ArchiveError::document(LIST, reason));
        }
        for path in layers.iter().chain([&listed.config]) {
            if !hashed.contains_key(path) {
                let member = self.hash(path).await?;
                content.blobs.insert(member.digest.clone(), path.clone());
                hashed.insert(path.clone(), member);
            }
        }
        let descriptor = |path: &String, media_type: &str| {
            hashed.get(path).map(|member| {
                let media_type = format!("{media_type}{}", member.compression);
                json!({"mediaType": media_type, "digest": member.digest, "size": member.size_bytes})
            })
        };
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MediaType::OCI_IMAGE_MANIFEST.as_str(),
            "config": descriptor(&listed.config, CONFIG),
            "layers": layers.iter().map(|path| descriptor(path, LAYER)).collect::<Vec<_>>(),
        });
        Ok(manifest.to_string().into())
    }

    async fn hash(&self, path: &str) -> Result<HashedMember> {
        let received = self.tree.received(&clean(path));
        if let Some(file) = received.filter(|it| it.digest.algorithm() == Algorithm::Sha256) {
            let (digest, size_bytes) = (file.digest.clone(), file.size_bytes);
            return Ok(HashedMember {
                digest,
                size_bytes,
                compression: compression_of(&file.start),
            });
        }
        let content = self.tree.open(&clean(path)).await?;
        let absent = || ArchiveError::document(LIST, format!("it names {path:?}, which is absent"));
        let SourceContent { size_bytes, mut stream, .. } = content.ok_or_else(absent)?;
        let mut hasher = Hasher::new(Algorithm::Sha256);
        let mut compression = None;
        while let Some(chunk) = stream.try_next().await.map_err(ArchiveError::io(path))? {
            compression = compression.or_else(|| Some(compression_of(&chunk)));
            hasher.update(&chunk);
        }
        let compression = compression.unwrap_or_default();
        Ok(HashedMember { digest: hasher.finish(), size_bytes, compression })
    }
}

/// The first repository that a list of images names.
pub(crate) fn first_repository(bytes: &[u8]) -> Option<RepositoryName> {
    let list: Vec<ListedImage> = serde_json::from_slice(bytes).ok()?;
    let mut names = list.into_iter().flat_map(|listed| listed.repo_tags.unwrap_or_default());
    names.find_map(|name| Some(name.parse::<ImageName>().ok()?.repository))
}

/// How a layer is compressed, by how it begins.
fn compression_of(start: &[u8]) -> &'static str {
    match start {
        [0x1f, 0x8b, ..] => "+gzip",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "+zstd",
        _ => "",
    }
}

fn clean(path: &str) -> String {
    path.trim_start_matches("./").to_owned()
}

fn listed_image(
    ((repository, digest), tags): ((Option<RepositoryName>, Digest), BTreeSet<Tag>),
) -> SourceImage {
    let media_type = Some(MediaType::OCI_IMAGE_MANIFEST);
    SourceImage { repository, digest, media_type, tags: tags.into_iter().collect() }
}

#[async_trait]
impl ImageSource for DockerArchive {
    async fn index(&self) -> Result<SourceIndex> {
        Ok(self.content().await?.index.clone())
    }

    async fn manifest(&self, _: Option<&RepositoryName>, digest: &Digest) -> Result<FoundManifest> {
        let found = self.content().await?.manifests.get(digest).cloned();
        Ok(found.map_or(FoundManifest::Absent, |bytes| {
            debug_assert!(bytes.len() as u64 <= MANIFEST_BYTES_MAX);
            let media_type = Some(MediaType::OCI_IMAGE_MANIFEST);
            FoundManifest::Found(SourceManifest { media_type, bytes })
        }))
    }

    async fn blob(
        &self,
        _: Option<&RepositoryName>,
        digest: &Digest,
    ) -> Result<Option<SourceBlob>> {
        match self.content().await?.blobs.get(digest) {
            Some(path) => Ok(self.tree.open(&clean(path)).await?.map(SourceContent::into_blob)),
            None => Ok(None),
        }
    }
}
