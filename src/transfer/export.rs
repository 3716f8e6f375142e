//! `jreg export`: images of the registry become an OCI image layout, in a folder or a tar archive.
//!
//! Everything is looked up before the first byte is written, so that the index comes first and the same
//! images are the same bytes. Every blob is hashed on its way.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use futures::TryStreamExt;
use futures::future::BoxFuture;
use jreg_archive::{LayoutImage, LayoutWriter};
use jreg_oci::{
    Algorithm, Digest, Hasher, Manifest, ManifestReference, Reference, ReferenceKind,
    RepositoryName, Tag,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::access::{OpenBlob, RegistryAccess, RegistryManifest, TransferError};
use super::progress::{ItemStatus, LineOutput, MoveProgress, MoveSummary, MovedItem};

/// How deep manifests may refer to each other.
const DEPTH_MAX: usize = 16;
const REF_NAME: &str = "org.opencontainers.image.ref.name";
const IMAGE_NAME: &str = "io.containerd.image.name";

/// What to export: `NAME`, `NAME:TAG` or `NAME@DIGEST`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportedName {
    pub repository: RepositoryName,
    /// `None`: every tag.
    pub reference: Option<Reference>,
}

impl FromStr for ExportedName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = "it must be NAME, NAME:TAG or NAME@DIGEST, for example team/app:v1";
        let invalid = |error: &dyn std::fmt::Display| format!("{error}; {expected}");
        let (name, reference) = match (text.split_once('@'), text.split_once(':')) {
            (Some((name, digest)), _) => {
                let digest: Digest = digest.parse().map_err(|error| invalid(&error))?;
                (name, Some(Reference::Digest(digest)))
            }
            (None, Some((name, tag))) => {
                let tag: Tag = tag.parse().map_err(|error| invalid(&error))?;
                (name, Some(Reference::Tag(tag)))
            }
            (None, None) => (text, None),
        };
        Ok(Self { repository: name.parse().map_err(|error| invalid(&error))?, reference })
    }
}

/// A platform: `OS/ARCHITECTURE[/VARIANT]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportPlatform {
    os: String,
    architecture: String,
    variant: Option<String>,
}

impl FromStr for ExportPlatform {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split('/').collect();
        let is_word = |part: &&str| !part.is_empty();
        match parts[..] {
            [os, architecture, ref rest @ ..] if rest.len() < 2 && parts.iter().all(is_word) => {
                Ok(Self {
                    os: os.to_owned(),
                    architecture: architecture.to_owned(),
                    variant: rest.first().map(|&variant| variant.to_owned()),
                })
            }
            _ => Err("it must be OS/ARCHITECTURE[/VARIANT], for example linux/amd64".to_owned()),
        }
    }
}

impl ExportPlatform {
    fn matches(&self, of: &Value) -> bool {
        let is = |field: &str, wanted: &str| of[field].as_str() == Some(wanted);
        is("os", &self.os)
            && is("architecture", &self.architecture)
            && self.variant.as_ref().is_none_or(|variant| is("variant", variant))
    }
}

/// Where the layout goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExportTarget {
    Folder(PathBuf),
    Tar(PathBuf),
    Stdout,
}

impl ExportTarget {
    /// `-` is standard output, a name that ends in `.tar` an archive, and any other a folder.
    pub fn of(text: &str) -> Self {
        let path = Path::new(text);
        match text {
            "-" => Self::Stdout,
            _ if path.extension().is_some_and(|extension| extension == "tar") => {
                Self::Tar(path.to_owned())
            }
            _ => Self::Folder(path.to_owned()),
        }
    }
}

/// What to export, and how.
#[derive(Clone, Debug)]
pub struct ExportOptions {
    pub names: Vec<ExportedName>,
    pub target: ExportTarget,
    /// Of an index, only the images of these platforms.
    pub platforms: Vec<ExportPlatform>,
    /// Keep the index although some of its images are left out.
    pub sparse: bool,
    /// Also what refers to the images, and their signatures by tag.
    pub referrers: bool,
    pub json: bool,
    /// Host before the names for containerd and docker.
    pub host: String,
}

/// Where the bytes of an entry come from.
#[derive(Clone, Debug)]
enum PlannedContent {
    Manifest(bytes::Bytes),
    Blob(RepositoryName),
}

/// An entry of `index.json`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct PlannedEntry {
    /// Roots first, then what refers to them.
    is_referrer: bool,
    repository: RepositoryName,
    tag: Option<Tag>,
    digest: Digest,
}

/// Everything that is going to be written.
#[derive(Debug, Default)]
struct ExportPlan {
    entries: BTreeSet<PlannedEntry>,
    manifests: BTreeMap<Digest, RegistryManifest>,
    content: BTreeMap<Digest, PlannedContent>,
}

/// The fields of manifests that are looked at beside references.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ManifestFields {
    #[serde(default)]
    config: Option<TypedDescriptor>,
    #[serde(default)]
    layers: Option<Vec<TypedDescriptor>>,
    #[serde(default)]
    manifests: Option<Vec<TypedDescriptor>>,
    #[serde(default)]
    artifact_type: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct TypedDescriptor {
    #[serde(default)]
    media_type: String,
    digest: Digest,
    #[serde(default)]
    platform: Option<Value>,
}

type Result<T, E = TransferError> = std::result::Result<T, E>;

fn failed<T>(why: impl Into<String>) -> Result<T> {
    Err(TransferError::Content(why.into()))
}

/// An export.
#[derive(Debug)]
pub struct Exporter {
    registry: Arc<dyn RegistryAccess>,
    options: ExportOptions,
    progress: MoveProgress,
}

impl Exporter {
    pub fn new(registry: Arc<dyn RegistryAccess>, options: ExportOptions) -> Self {
        let output = match options.target {
            ExportTarget::Stdout => LineOutput::Stderr,
            _ => LineOutput::Stdout,
        };
        let progress = MoveProgress::new(options.json, false, output);
        Self { registry, options, progress }
    }

    /// Writes the layout. Nothing is left of one that fails.
    ///
    /// # Errors
    ///
    /// [`TransferError`].
    pub async fn run(&self) -> Result<MoveSummary> {
        let plan = self.plan().await?;
        self.progress.set_total(plan.entries.len());
        match &self.options.target {
            ExportTarget::Stdout => self.write(&plan, LayoutWriter::tar(io::stdout())).await?,
            ExportTarget::Folder(path) => {
                let what = format!("write to {}", path.display());
                let writer = LayoutWriter::folder(path).map_err(TransferError::io(what))?;
                self.write(&plan, writer).await?;
            }
            ExportTarget::Tar(path) => {
                let what = format!("write {}", path.display());
                let writer = LayoutWriter::tar_file(path).map_err(TransferError::io(what))?;
                self.write(&plan, writer).await?;
            }
        }
        for entry in &plan.entries {
            self.progress.advance();
            let item = match &entry.tag {
                Some(tag) => format!("{}:{tag}", entry.repository),
                None => format!("{}@{}", entry.repository, entry.digest),
            };
            let (status, digest) = (ItemStatus::Copied, Some(entry.digest.clone()));
            self.progress.item(&MovedItem {
                status,
                item,
                digest,
                bytes: 0,
                shared_bytes: 0,
                reason: None,
            });
        }
        Ok(self.progress.finish())
    }

    async fn plan(&self) -> Result<ExportPlan> {
        let mut plan = ExportPlan::default();
        for name in &self.options.names {
            let repository = &name.repository;
            match &name.reference {
                Some(reference) => {
                    if !self.plan_root(repository, reference, &mut plan).await? {
                        return failed(format!("{repository} has no manifest {reference}"));
                    }
                }
                // A tag may be deleted after it was listed.
                None => {
                    for reference in self.all_tags(repository).await? {
                        self.plan_root(repository, &reference, &mut plan).await?;
                    }
                }
            }
        }
        if self.options.referrers {
            self.plan_referrers(&mut plan).await?;
        }
        Ok(plan)
    }

    async fn all_tags(&self, name: &RepositoryName) -> Result<Vec<Reference>> {
        let tags = self.registry.tags(name).await?;
        match tags.is_empty() {
            true => failed(format!("repository {name} has no tags")),
            false => Ok(tags.into_iter().map(Reference::Tag).collect()),
        }
    }

    /// Adds an image. `false`: it is absent.
    async fn plan_root(
        &self,
        name: &RepositoryName,
        reference: &Reference,
        plan: &mut ExportPlan,
    ) -> Result<bool> {
        let Some(mut manifest) = self.registry.manifest(name, reference).await? else {
            return Ok(false);
        };
        if !self.options.platforms.is_empty() && !self.options.sparse {
            manifest = self.of_platform(name, manifest).await?;
        }
        let digest = manifest.digest.clone();
        self.plan_manifest(name, manifest, plan, 0).await?;
        let (repository, tag) = (name.clone(), reference.tag().cloned());
        plan.entries.insert(PlannedEntry { is_referrer: false, repository, tag, digest });
        Ok(true)
    }

    /// The one image of an index for the platform.
    async fn of_platform(
        &self,
        name: &RepositoryName,
        manifest: RegistryManifest,
    ) -> Result<RegistryManifest> {
        let fields = fields(&manifest)?;
        let Some(children) = fields.manifests else { return Ok(manifest) };
        let chosen: Vec<&Digest> = children
            .iter()
            .filter(|child| self.is_wanted(child))
            .map(|child| &child.digest)
            .collect();
        let (digest, count) = (&manifest.digest, chosen.len());
        let [chosen] = chosen[..] else {
            return failed(format!(
                "index {digest} of {name} has {count} images of the platform: give one that it has once, or --sparse"
            ));
        };
        match self.registry.manifest(name, &Reference::Digest(chosen.clone())).await? {
            Some(child) => Ok(child),
            None => failed(format!("{name} lacks {chosen}, which index {digest} lists")),
        }
    }

    fn is_wanted(&self, child: &TypedDescriptor) -> bool {
        let platform = child.platform.as_ref();
        self.options.platforms.iter().any(|wanted| platform.is_some_and(|of| wanted.matches(of)))
    }

    /// Adds a manifest with everything that it references.
    fn plan_manifest<'a>(
        &'a self,
        name: &'a RepositoryName,
        manifest: RegistryManifest,
        plan: &'a mut ExportPlan,
        depth: usize,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            if plan.manifests.contains_key(&manifest.digest) {
                return Ok(());
            }
            if depth > DEPTH_MAX {
                return failed(format!("manifests refer to each other more than {DEPTH_MAX} deep"));
            }
            let parsed = Manifest::parse_stored(&manifest.media_type, &manifest.bytes);
            let parsed = parsed.map_err(|error| {
                TransferError::Content(format!("manifest {}: {error}", manifest.digest))
            })?;
            let left_out = self.left_out(&manifest)?;
            for reference in parsed.references {
                if !left_out.contains(&reference.digest) {
                    self.plan_reference(name, &reference, plan, depth).await?;
                }
            }
            let (digest, bytes) = (manifest.digest.clone(), manifest.bytes.clone());
            plan.content.insert(digest.clone(), PlannedContent::Manifest(bytes));
            plan.manifests.insert(digest, manifest);
            Ok(())
        })
    }

    /// The images of an index that are of other platforms.
    fn left_out(&self, manifest: &RegistryManifest) -> Result<BTreeSet<Digest>> {
        if self.options.platforms.is_empty() {
            return Ok(BTreeSet::new());
        }
        let children = fields(manifest)?.manifests.unwrap_or_default();
        let left_out = children.into_iter().filter(|child| !self.is_wanted(child));
        Ok(left_out.map(|child| child.digest).collect())
    }

    async fn plan_reference(
        &self,
        name: &RepositoryName,
        reference: &ManifestReference,
        plan: &mut ExportPlan,
        depth: usize,
    ) -> Result<()> {
        let digest = &reference.digest;
        if plan.content.contains_key(digest) {
            return Ok(());
        }
        if reference.kind.may_be_manifest() {
            let child = Reference::Digest(digest.clone());
            if let Some(child) = self.registry.manifest(name, &child).await? {
                return self.plan_manifest(name, child, plan, depth + 1).await;
            }
        }
        if self.registry.has_blob(name, digest).await? {
            plan.content.insert(digest.clone(), PlannedContent::Blob(name.clone()));
            return Ok(());
        }
        let is_optional = !reference.required || reference.kind == ReferenceKind::Any;
        match is_optional || reference.kind == ReferenceKind::Child && self.options.sparse {
            true => Ok(()),
            false => failed(format!(
                "{name} lacks {digest}, which a manifest references; an index may be exported without some of its images with --sparse"
            )),
        }
    }

    /// Adds what refers to the manifests, by the API and by tags, until nothing more is found.
    async fn plan_referrers(&self, plan: &mut ExportPlan) -> Result<()> {
        let roots = plan.entries.iter().map(|entry| entry.repository.clone());
        let names: BTreeSet<RepositoryName> = roots.collect();
        for name in names {
            let tags = self.registry.tags(&name).await?;
            let mut seen = BTreeSet::new();
            loop {
                let subjects = plan.manifests.keys().filter(|digest| !seen.contains(*digest));
                let subjects: Vec<Digest> = subjects.cloned().collect();
                if subjects.is_empty() {
                    break;
                }
                for subject in subjects {
                    self.plan_referrers_of(&name, &subject, &tags, plan).await?;
                    seen.insert(subject);
                }
            }
        }
        Ok(())
    }

    async fn plan_referrers_of(
        &self,
        name: &RepositoryName,
        subject: &Digest,
        tags: &[Tag],
        plan: &mut ExportPlan,
    ) -> Result<()> {
        for digest in self.registry.referrers(name, subject).await? {
            self.plan_referrer(name, &Reference::Digest(digest), plan).await?;
        }
        for tag in tags.iter().filter(|tag| is_about(tag, subject)) {
            self.plan_referrer(name, &Reference::Tag(tag.clone()), plan).await?;
        }
        Ok(())
    }

    async fn plan_referrer(
        &self,
        name: &RepositoryName,
        reference: &Reference,
        plan: &mut ExportPlan,
    ) -> Result<()> {
        // It may have been deleted since it was listed.
        let Some(manifest) = self.registry.manifest(name, reference).await? else { return Ok(()) };
        let (digest, tag) = (manifest.digest.clone(), reference.tag().cloned());
        let is_listed = plan.entries.iter().any(|entry| {
            entry.repository == *name
                && entry.digest == digest
                && (tag.is_none() || entry.tag == tag)
        });
        self.plan_manifest(name, manifest, plan, 0).await?;
        if !is_listed {
            let repository = name.clone();
            plan.entries.insert(PlannedEntry { is_referrer: true, repository, tag, digest });
        }
        Ok(())
    }

    async fn write(&self, plan: &ExportPlan, mut writer: LayoutWriter) -> Result<()> {
        let what = || TransferError::io("write the layout");
        let (entries, images) = self.index(plan)?;
        writer.write_index(&entries, images.as_deref()).map_err(what())?;
        for (digest, content) in &plan.content {
            match content {
                PlannedContent::Manifest(bytes) => {
                    let size = bytes.len() as u64;
                    let begun = writer.begin_blob(digest, size);
                    begun.and_then(|()| writer.write(bytes)).map_err(what())?;
                    self.progress.add_bytes(size);
                }
                PlannedContent::Blob(name) => self.write_blob(name, digest, &mut writer).await?,
            }
            writer.end().map_err(what())?;
        }
        writer.finish().map_err(what())
    }

    async fn write_blob(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        writer: &mut LayoutWriter,
    ) -> Result<()> {
        let Some(blob) = self.registry.blob(name, digest).await? else {
            return failed(format!("blob {digest} of {name} was deleted during the export"));
        };
        let OpenBlob { size_bytes, mut stream, .. } = blob;
        writer.begin_blob(digest, size_bytes).map_err(TransferError::io("write the layout"))?;
        let mut hasher = Hasher::new(digest.algorithm());
        let read = || TransferError::io(format!("read blob {digest} of {name}"));
        while let Some(chunk) = stream.try_next().await.map_err(read())? {
            hasher.update(&chunk);
            writer.write(&chunk).map_err(TransferError::io("write the layout"))?;
            self.progress.add_bytes(chunk.len() as u64);
        }
        match hasher.finish() {
            actual if actual == *digest => Ok(()),
            actual => failed(format!("the bytes of blob {digest} of {name} have digest {actual}")),
        }
    }

    /// The entries of `index.json`, and of `manifest.json` if docker can load every image.
    fn index(&self, plan: &ExportPlan) -> Result<(Vec<Value>, Option<Vec<LayoutImage>>)> {
        let names: BTreeSet<_> = plan.entries.iter().map(|entry| &entry.repository).collect();
        let is_one = names.len() < 2;
        let mut entries = Vec::new();
        let mut images: BTreeMap<&Digest, Option<LayoutImage>> = BTreeMap::new();
        for entry in &plan.entries {
            let Some(manifest) = plan.manifests.get(&entry.digest) else { continue };
            let fields = fields(manifest)?;
            entries.push(self.entry(entry, manifest, &fields, is_one));
            if !entry.is_referrer {
                let image = images.entry(&entry.digest).or_insert_with(|| loadable(&fields));
                if let (Some(image), Some(tag)) = (image, &entry.tag) {
                    image.names.push(format!("{}{}:{tag}", self.host(), entry.repository));
                }
            }
        }
        Ok((entries, images.into_values().collect()))
    }

    fn entry(
        &self,
        entry: &PlannedEntry,
        manifest: &RegistryManifest,
        fields: &ManifestFields,
        is_one: bool,
    ) -> Value {
        let PlannedEntry { repository, tag, digest, .. } = entry;
        let mut value = Map::new();
        value.insert("mediaType".to_owned(), manifest.media_type.as_str().into());
        value.insert("digest".to_owned(), digest.to_string().into());
        value.insert("size".to_owned(), manifest.bytes.len().into());
        if let Some(kind) = &fields.artifact_type {
            value.insert("artifactType".to_owned(), kind.as_str().into());
        }
        if let Some(tag) = tag {
            let reference = match is_one {
                true => tag.to_string(),
                false => format!("{repository}:{tag}"),
            };
            let full = format!("{}{repository}:{tag}", self.host());
            value.insert("annotations".to_owned(), json!({REF_NAME: reference, IMAGE_NAME: full}));
        } else if !is_one {
            let full = format!("{}{repository}@{digest}", self.host());
            value.insert("annotations".to_owned(), json!({IMAGE_NAME: full}));
        }
        Value::Object(value)
    }

    fn host(&self) -> String {
        match self.options.host.as_str() {
            "" => String::new(),
            host => format!("{host}/"),
        }
    }
}

fn fields(manifest: &RegistryManifest) -> Result<ManifestFields> {
    serde_json::from_slice(&manifest.bytes)
        .map_err(|error| TransferError::Content(format!("manifest {}: {error}", manifest.digest)))
}

/// Whether a tag names a manifest as tools do that have no referrers: `sha256-<hex>`, with an ending as of cosign.
fn is_about(tag: &Tag, subject: &Digest) -> bool {
    let start = format!("{}-{}", subject.algorithm(), subject.hex());
    let truncated = match subject.algorithm() {
        Algorithm::Sha512 => start.chars().take(jreg_oci::TAG_CHARS_MAX).collect(),
        Algorithm::Sha256 => start.clone(),
    };
    let rest = tag.as_str().strip_prefix(&start).or_else(|| tag.as_str().strip_prefix(&truncated));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// An image that `docker load` takes, without its names; `None`: it is something else.
fn loadable(fields: &ManifestFields) -> Option<LayoutImage> {
    let config = fields.config.as_ref()?;
    let is_image = matches!(
        config.media_type.as_str(),
        "application/vnd.oci.image.config.v1+json"
            | "application/vnd.docker.container.image.v1+json"
    );
    let is_layer = |layer: &TypedDescriptor| {
        let kind = layer.media_type.as_str();
        kind.starts_with("application/vnd.oci.image.layer.v1.tar")
            || kind.starts_with("application/vnd.docker.image.rootfs.diff.tar")
    };
    let layers = fields.layers.as_deref().unwrap_or_default();
    let is_plain = is_image && fields.artifact_type.is_none() && layers.iter().all(is_layer);
    is_plain.then(|| LayoutImage {
        config: config.digest.clone(),
        layers: layers.iter().map(|layer| layer.digest.clone()).collect(),
        names: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_targets_and_platforms_are_read() {
        let name: ExportedName = "team/app:v1".parse().unwrap();
        assert_eq!(name.reference.unwrap().to_string(), "v1");
        assert_eq!("team/app".parse::<ExportedName>().unwrap().reference, None);
        let digest = format!("sha256:{}", "a".repeat(64));
        let name: ExportedName = format!("app@{digest}").parse().unwrap();
        assert_eq!(name.reference.unwrap().to_string(), digest);
        for wrong in ["", "app:", "app@x", "App", "app:v1:v2"] {
            let refused = wrong.parse::<ExportedName>().unwrap_err();
            assert!(refused.contains("NAME@DIGEST"), "{refused}");
        }
        assert_eq!(ExportTarget::of("-"), ExportTarget::Stdout);
        assert_eq!(ExportTarget::of("a/b.tar"), ExportTarget::Tar("a/b.tar".into()));
        assert_eq!(ExportTarget::of("a.tar/b"), ExportTarget::Folder("a.tar/b".into()));
        let arm: ExportPlatform = "linux/arm/v7".parse().unwrap();
        assert!(arm.matches(&json!({"os": "linux", "architecture": "arm", "variant": "v7"})));
        assert!(!arm.matches(&json!({"os": "linux", "architecture": "arm"})));
        let any: ExportPlatform = "linux/arm".parse().unwrap();
        assert!(any.matches(&json!({"os": "linux", "architecture": "arm", "variant": "v7"})));
        for wrong in ["", "linux", "linux/", "a/b/c/d"] {
            assert!(wrong.parse::<ExportPlatform>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn tags_of_signatures_are_told_from_others() {
        for algorithm in Algorithm::ALL {
            let subject = Digest::of(algorithm, b"");
            let start = format!("{algorithm}-{}", subject.hex());
            let start = start.get(..start.len().min(128)).unwrap();
            for (tag, expected) in [(start.to_owned(), true), (format!("x{start}"), false)] {
                let tag = tag.get(..tag.len().min(128)).unwrap().parse().unwrap();
                assert_eq!(is_about(&tag, &subject), expected, "{tag}");
            }
        }
        let subject = Digest::of(Algorithm::Sha256, b"");
        let start = format!("sha256-{}", subject.hex());
        assert!(is_about(&format!("{start}.sig").parse().unwrap(), &subject));
        assert!(!is_about(&format!("{start}0").parse().unwrap(), &subject));
    }
}
