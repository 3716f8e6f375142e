//! [`RegistrySource`]: another storage of jreg as a source of images.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use jreg_archive::{
    ArchiveError, FoundManifest, ImageSource, Result, SourceBlob, SourceImage, SourceIndex,
    SourceManifest,
};
use jreg_oci::{Digest, Reference, RepositoryName, Tag};

use super::access::{OpenBlob, RegistryAccess, RegistryManifest, TransferError};

/// A registry as a source.
#[derive(Debug)]
pub(super) struct RegistrySource {
    registry: Arc<dyn RegistryAccess>,
}

impl RegistrySource {
    pub(super) fn new(registry: Arc<dyn RegistryAccess>) -> Self {
        Self { registry }
    }

    async fn index_of(&self, name: &RepositoryName, index: &mut SourceIndex) -> Result<()> {
        let mut images: BTreeMap<Digest, Vec<Tag>> = BTreeMap::new();
        for tag in self.registry.tags(name).await.map_err(failed)? {
            let reference = Reference::Tag(tag.clone());
            match self.registry.manifest(name, &reference).await.map_err(failed)? {
                Some(manifest) => images.entry(manifest.digest).or_default().push(tag),
                // It was deleted meanwhile, or its manifest is gone.
                None => index.skipped.push(jreg_archive::SkippedItem {
                    item: format!("{name}:{tag}"),
                    reason: "the tag has no manifest".to_owned(),
                }),
            }
        }
        let tagged: Vec<Digest> = images.keys().cloned().collect();
        let all = self.registry.manifests(name).await.map_err(failed)?;
        let untagged = all.into_iter().filter(|digest| !images.contains_key(digest));
        let untagged: Vec<Digest> = untagged.collect();
        for digest in tagged.into_iter().chain(untagged) {
            let tags = images.remove(&digest).unwrap_or_default();
            let repository = Some(name.clone());
            index.images.push(SourceImage { repository, digest, media_type: None, tags });
        }
        Ok(())
    }
}

fn failed(error: TransferError) -> ArchiveError {
    ArchiveError::Io { what: "the registry".to_owned(), source: io::Error::other(error) }
}

#[async_trait]
impl ImageSource for RegistrySource {
    async fn index(&self) -> Result<SourceIndex> {
        let mut index = SourceIndex::default();
        for name in self.registry.repositories().await.map_err(failed)? {
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
        let reference = Reference::Digest(digest.clone());
        let found = self.registry.manifest(name, &reference).await.map_err(failed)?;
        Ok(found.map_or(FoundManifest::Absent, |RegistryManifest { media_type, bytes, .. }| {
            FoundManifest::Found(SourceManifest { media_type: Some(media_type), bytes })
        }))
    }

    async fn blob(
        &self,
        repository: Option<&RepositoryName>,
        digest: &Digest,
    ) -> Result<Option<SourceBlob>> {
        let Some(name) = repository else { return Ok(None) };
        let found = self.registry.blob(name, digest).await.map_err(failed)?;
        Ok(found.map(|OpenBlob { size_bytes, place, stream }| SourceBlob {
            size_bytes,
            place,
            stream,
        }))
    }

    async fn referrers(
        &self,
        repository: Option<&RepositoryName>,
        digest: &Digest,
    ) -> Result<Vec<Digest>> {
        match repository {
            Some(name) => self.registry.referrers(name, digest).await.map_err(failed),
            None => Ok(Vec::new()),
        }
    }
}
