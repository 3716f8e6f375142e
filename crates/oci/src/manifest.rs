//! [`Manifest`]: the metadata of a manifest and its references.
//!
//! This is the only place that decides what counts as a reference. Pushes, which require or
//! touch the references of a manifest, and GC, which keeps them, must agree; so both use
//! it. Memory is bounded by the result, whatever the document contains.
//!
//! The references of a manifest depend on its bytes alone: every digest that is a string in
//! them, except for that of the subject, in any field. That is the union of all
//! interpretations, so that no client can remove references by the media type of a push. The media type
//! determines which of them are required, and as what.
//!
//! Other clients may parse the same bytes as another type, or with other rules for the names of
//! fields. So a document that is an image by some of its fields and an index by others is rejected
//! (CVE-2021-41190), and so is one whose `mediaType` is not its `Content-Type`, and one with a field
//! that other clients take for another one (`field_names.rs`).

use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::descriptor::null_as_default;
use crate::excerpt::excerpt;
use crate::field_names::{AmbiguousField, ambiguous_field, is_same_field};
use crate::media_type::{self, is_nondistributable_layer};
use crate::scan::{FoundString, scan, unescaped};
use crate::{Annotations, Descriptor, Digest, InvalidDigest, MediaType};

/// Maximum descriptors in the lists of a manifest, including repeated ones.
pub const DESCRIPTORS_MAX: usize = 2048;

/// The maximum of an earlier version, whose manifests must stay readable.
const DESCRIPTORS_STORED_MAX: usize = 4096;

/// Maximum store requests to look up the references of a manifest: one for a
/// config or a layer, two for a digest that may be a manifest or a blob. So an index may have half as many
/// entries as an image may have layers.
pub const LOOKUPS_MAX: usize = 2048;

/// Maximum annotations of a manifest.
pub const ANNOTATIONS_MAX: usize = 4096;

/// Maximum nesting depth of objects and arrays in a manifest.
pub const NESTING_MAX: usize = 127;

/// The version of the rules for references. Caches of references store it and
/// ignore entries of another version.
pub const EXTRACTOR_VERSION: u32 = 2;

/// The metadata of a manifest; the bytes themselves are stored as pushed.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// The `Content-Type` it was pushed with, else the `mediaType` of its body.
    pub media_type: MediaType,
    /// Its references, each digest once: those in the fields of its media type, then every
    /// other digest in it. Its subject only if it appears elsewhere, too.
    pub references: Vec<ManifestReference>,
    /// The subject, if it is a referrer.
    pub subject: Option<Descriptor>,
    /// The artifact type in a list of referrers.
    pub artifact_type: Option<String>,
    /// Its annotations, which a list of referrers includes.
    pub annotations: Annotations,
}

/// A reference of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestReference {
    /// The digest of the content.
    pub digest: Digest,
    /// How it is referenced (the first time, if repeated).
    pub kind: ReferenceKind,
    /// Whether the manifest is incomplete without it. A [`ReferenceKind::Child`] is marked as
    /// required, but whether an index may be sparse is the caller's policy.
    pub required: bool,
}

/// How a manifest references content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReferenceKind {
    /// The config of an image: a blob.
    Config,
    /// A layer of an image, or a blob of an artifact: a blob.
    Layer,
    /// An entry of an index: a manifest, or a blob (build caches list layers there).
    Child,
    /// A digest somewhere else in the document: a manifest, a blob, or nothing at all.
    Any,
}

impl ReferenceKind {
    /// Whether it may be a manifest; it may be a blob in any case.
    pub fn may_be_manifest(self) -> bool {
        matches!(self, Self::Child | Self::Any)
    }

    /// Maximum store objects to look up for it.
    fn lookups(self) -> usize {
        if self.may_be_manifest() { 2 } else { 1 }
    }
}

/// Error of bytes that are no acceptable manifest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidManifest {
    /// Not one JSON object, or a field of it has the wrong type.
    #[error("invalid manifest: {reason}")]
    Json {
        /// What is wrong, with line and column.
        reason: String,
    },
    /// The header and the body disagree.
    #[error("invalid manifest: its mediaType {body:?} must be the Content-Type {content_type:?}")]
    MediaTypeMismatch {
        /// The media type in the header.
        content_type: MediaType,
        /// The media type in the body, truncated.
        body: String,
    },
    /// The media type in the body is malformed.
    #[error("invalid manifest: {0}")]
    MediaType(#[from] crate::InvalidMediaType),
    /// Neither a header, nor the body, nor its fields determine the media type.
    #[error(
        "unknown kind of manifest: send a Content-Type, a mediaType, or either manifests or \
         config and layers"
    )]
    UnknownKind,
    /// A required field of this media type is missing.
    #[error("invalid manifest: {media_type} must have the field {field:?}")]
    MissingField {
        /// The media type.
        media_type: MediaType,
        /// The field.
        field: &'static str,
    },
    /// A descriptor has no usable digest.
    #[error("invalid manifest: {field}: {error}")]
    Digest {
        /// The field of the descriptor, such as `layers[3]`.
        field: String,
        /// What is wrong with its digest.
        error: InvalidDigest,
    },
    /// A descriptor has a negative size.
    #[error("invalid manifest: {field}: size {size} must be 0 or more")]
    NegativeSize {
        /// The field of the descriptor, such as `layers[3]`.
        field: String,
        /// The size.
        size: i64,
    },
    /// More descriptors than [`DESCRIPTORS_MAX`].
    #[error("invalid manifest: more than {max} descriptors")]
    TooManyDescriptors {
        /// [`DESCRIPTORS_MAX`].
        max: usize,
    },
    /// References that take more than [`LOOKUPS_MAX`] store requests to look up.
    #[error(
        "invalid manifest: it refers to too much: layers count once, entries of an index and \
         digests elsewhere twice, and all together must be {max} or fewer"
    )]
    TooManyReferences {
        /// [`LOOKUPS_MAX`].
        max: usize,
    },
    /// More annotations than [`ANNOTATIONS_MAX`].
    #[error("invalid manifest: more than {max} annotations")]
    TooManyAnnotations {
        /// [`ANNOTATIONS_MAX`].
        max: usize,
    },
    /// Ambiguous: an object has a field twice, also for clients that ignore case.
    #[error(
        "invalid manifest: a field {field:?} is repeated or written in another case: clients would \
         disagree on its value (CVE-2021-41190)"
    )]
    AmbiguousField {
        /// The name of the field, or the beginning of it.
        field: String,
    },
    /// Ambiguous: an image for some clients and an index for others.
    #[error(
        "invalid manifest: {media_type} with both config or layers and manifests, or with the \
         fields of another kind: clients would disagree on what it is (CVE-2021-41190)"
    )]
    Ambiguous {
        /// The media type.
        media_type: MediaType,
    },
}

impl From<serde_json::Error> for InvalidManifest {
    fn from(error: serde_json::Error) -> Self {
        // serde_json quotes an invalid value in full, however long it is.
        Self::Json { reason: excerpt(&error.to_string()) }
    }
}

impl Manifest {
    /// Parses a manifest that is pushed with this `Content-Type`, and enforces the limits.
    ///
    /// # Errors
    ///
    /// See [`InvalidManifest`].
    pub fn parse(content_type: Option<&MediaType>, bytes: &[u8]) -> Result<Self, InvalidManifest> {
        let json = json(bytes)?;
        let envelope: Envelope = object(json)?;
        let media_type = envelope.media_type(content_type)?;
        let kind = ManifestKind::of(&media_type);
        let scanned = Scanned::of(json, LOOKUPS_MAX + 1);
        if scanned.is_ambiguous(&kind) {
            return Err(InvalidManifest::Ambiguous { media_type });
        }
        if scanned.depth > NESTING_MAX {
            let reason = format!("nested more than {NESTING_MAX} deep");
            return Err(InvalidManifest::Json { reason });
        }
        match ambiguous_field(json) {
            Some(AmbiguousField::Repeated(field)) => {
                return Err(InvalidManifest::AmbiguousField { field: excerpt(&field) });
            }
            Some(AmbiguousField::OtherCase(field)) if !matches!(kind, ManifestKind::Unknown) => {
                return Err(InvalidManifest::AmbiguousField { field: field.to_owned() });
            }
            _ => {}
        }
        let has_more = scanned.has_more;
        let (manifest, descriptors) = read(media_type, &kind, json, scanned)?;
        manifest.check_limits(descriptors, has_more)?;
        Ok(manifest)
    }

    /// Parses a manifest that was stored with this media type. A manifest that was once accepted must stay
    /// readable, or GC would stop: no limit applies.
    ///
    /// # Errors
    ///
    /// See [`InvalidManifest`]: only what [`Manifest::parse`] has never accepted.
    pub fn parse_stored(media_type: &MediaType, bytes: &[u8]) -> Result<Self, InvalidManifest> {
        let json = json(bytes)?;
        let _: Envelope = object(json)?;
        let kind = ManifestKind::of(media_type);
        read(media_type.clone(), &kind, json, Scanned::of(json, usize::MAX))
            .map(|(manifest, _)| manifest)
    }

    fn check_limits(&self, descriptors: usize, has_more: bool) -> Result<(), InvalidManifest> {
        if descriptors > DESCRIPTORS_MAX {
            return Err(InvalidManifest::TooManyDescriptors { max: DESCRIPTORS_MAX });
        }
        let lookups = self.references.iter().map(|reference| reference.kind.lookups());
        if has_more || lookups.sum::<usize>() > LOOKUPS_MAX {
            return Err(InvalidManifest::TooManyReferences { max: LOOKUPS_MAX });
        }
        if self.annotations.len() > ANNOTATIONS_MAX {
            return Err(InvalidManifest::TooManyAnnotations { max: ANNOTATIONS_MAX });
        }
        Ok(())
    }
}

/// The manifest by the rules of its media type, with every other digest in it; and its number of
/// descriptors.
fn read(
    media_type: MediaType,
    kind: &ManifestKind,
    json: &str,
    scanned: Scanned,
) -> Result<(Manifest, usize), InvalidManifest> {
    let mut references = References::default();
    let fields = match kind {
        ManifestKind::Image => image(&media_type, object(json)?, &mut references)?,
        ManifestKind::Index => index(&media_type, object(json)?, &mut references)?,
        ManifestKind::Artifact => artifact(object(json)?, &mut references)?,
        ManifestKind::Unknown => object::<LooseFields>(json).unwrap_or_default().into(),
    };
    let descriptors = references.count;
    references.add_scanned(scanned, fields.subject.is_some());
    let manifest = Manifest {
        media_type,
        references: references.list,
        subject: fields.subject,
        artifact_type: fields.artifact_type,
        annotations: fields.annotations,
    };
    Ok((manifest, descriptors))
}

/// The scan of the whole document, independent of its media type.
#[derive(Default)]
struct Scanned {
    /// Each digest in it once, in order, and whether it appears in another field of the outermost
    /// object than `subject`.
    digests: Vec<(Digest, bool)>,
    position: HashMap<Digest, usize>,
    /// Whether there are more than the maximum.
    has_more: bool,
    has_image_fields: bool,
    has_index_fields: bool,
    depth: usize,
}

impl Scanned {
    /// Scans a document for at most `digests_max` different digests.
    fn of(json: &str, digests_max: usize) -> Self {
        let mut scanned = Self::default();
        let depth = scan(json, |found| match found {
            FoundString::Field(name, true) => scanned.note_field(&name),
            FoundString::Field(_, false) => {}
            FoundString::Value(text, field) => {
                if let Ok(digest) = text.parse() {
                    let is_elsewhere = unescaped(field).is_none_or(|field| field != "subject");
                    scanned.note_digest(digest, is_elsewhere, digests_max);
                }
            }
        });
        Self { depth, ..scanned }
    }

    fn note_field(&mut self, name: &str) {
        // Clients written in Go match field names case-insensitively.
        let is_one_of = |names: &[&str]| names.iter().any(|it| is_same_field(name, it));
        self.has_image_fields |= is_one_of(&["config", "layers"]);
        self.has_index_fields |= is_one_of(&["manifests"]);
    }

    fn note_digest(&mut self, digest: Digest, is_elsewhere: bool, digests_max: usize) {
        if let Some(known) = self.position.get(&digest).and_then(|at| self.digests.get_mut(*at)) {
            known.1 |= is_elsewhere;
        } else if self.digests.len() < digests_max {
            self.position.insert(digest.clone(), self.digests.len());
            self.digests.push((digest, is_elsewhere));
        } else {
            self.has_more = true;
        }
    }

    fn is_ambiguous(&self, kind: &ManifestKind) -> bool {
        match kind {
            ManifestKind::Image => self.has_index_fields,
            ManifestKind::Index => self.has_image_fields,
            ManifestKind::Artifact => self.has_image_fields || self.has_index_fields,
            ManifestKind::Unknown => self.has_image_fields && self.has_index_fields,
        }
    }
}

/// The rules of a media type.
enum ManifestKind {
    Image,
    Index,
    Artifact,
    Unknown,
}

impl ManifestKind {
    fn of(media_type: &MediaType) -> Self {
        let is_one_of = |names: &[&str]| names.iter().any(|name| media_type.is(name));
        if is_one_of(&[media_type::OCI_IMAGE_MANIFEST, media_type::DOCKER_MANIFEST]) {
            Self::Image
        } else if is_one_of(&[media_type::OCI_IMAGE_INDEX, media_type::DOCKER_MANIFEST_LIST]) {
            Self::Index
        } else if is_one_of(&[media_type::OCI_ARTIFACT_MANIFEST]) {
            Self::Artifact
        } else {
            Self::Unknown
        }
    }
}

/// The fields that determine a manifest's media type.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    #[serde(default, deserialize_with = "null_as_default")]
    media_type: String,
    #[serde(default)]
    manifests: Present,
    #[serde(default)]
    config: Present,
    #[serde(default)]
    layers: Present,
}

impl Envelope {
    fn media_type(&self, content_type: Option<&MediaType>) -> Result<MediaType, InvalidManifest> {
        let body = self.media_type.as_str();
        match content_type {
            Some(header) if body.is_empty() || header.is(body) => Ok(header.clone()),
            Some(header) => Err(InvalidManifest::MediaTypeMismatch {
                content_type: header.clone(),
                body: excerpt(body),
            }),
            None if body.is_empty() => self.guess().ok_or(InvalidManifest::UnknownKind),
            None => Ok(body.parse()?),
        }
    }

    fn guess(&self) -> Option<MediaType> {
        if self.manifests.0 {
            Some(MediaType::OCI_IMAGE_INDEX)
        } else if self.config.0 && self.layers.0 {
            Some(MediaType::OCI_IMAGE_MANIFEST)
        } else {
            None
        }
    }
}

/// The relevant fields of all manifests with known rules.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ManifestFields {
    config: Option<JsonObject<RawDescriptor>>,
    #[serde(default, deserialize_with = "given")]
    layers: Option<Descriptors>,
    #[serde(default, deserialize_with = "given")]
    blobs: Option<Descriptors>,
    #[serde(default, deserialize_with = "given")]
    manifests: Option<Descriptors>,
    subject: Option<JsonObject<RawDescriptor>>,
    artifact_type: Option<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    annotations: Annotations,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDescriptor {
    #[serde(default, deserialize_with = "null_as_default")]
    media_type: String,
    digest: String,
    #[serde(default, deserialize_with = "null_as_default")]
    size: i64,
    #[serde(default, deserialize_with = "null_as_default")]
    urls: NonEmpty,
}

impl RawDescriptor {
    /// Whether the content is expected in this registry.
    fn is_local(&self) -> bool {
        !self.urls.0 && !is_nondistributable_layer(&self.media_type)
    }

    fn size(&self, field: &dyn Fn() -> String) -> Result<u64, InvalidManifest> {
        let negative = |_| InvalidManifest::NegativeSize { field: field(), size: self.size };
        u64::try_from(self.size).map_err(negative)
    }

    fn digest(&self, field: &dyn Fn() -> String) -> Result<Digest, InvalidManifest> {
        self.digest.parse().map_err(|error| InvalidManifest::Digest { field: field(), error })
    }

    /// The subject of a referrer: media type, digest and size only.
    fn into_subject(self) -> Result<Descriptor, InvalidManifest> {
        let field = || "subject".to_owned();
        let (digest, size) = (self.digest(&field)?, self.size(&field)?);
        Ok(Descriptor { media_type: self.media_type, ..Descriptor::bare(digest, size) })
    }
}

/// The metadata of a manifest apart from its references.
#[derive(Default)]
struct KnownFields {
    subject: Option<Descriptor>,
    artifact_type: Option<String>,
    annotations: Annotations,
}

impl ManifestFields {
    fn known(self) -> Result<KnownFields, InvalidManifest> {
        Ok(KnownFields {
            subject: self.subject.map(|subject| subject.0.into_subject()).transpose()?,
            artifact_type: nonempty(self.artifact_type),
            annotations: self.annotations,
        })
    }
}

fn image(
    media_type: &MediaType,
    mut fields: ManifestFields,
    references: &mut References,
) -> Result<KnownFields, InvalidManifest> {
    let missing = |field| InvalidManifest::MissingField { media_type: media_type.clone(), field };
    let config = fields.config.take().ok_or_else(|| missing("config"))?.0;
    let layers = fields.layers.take().ok_or_else(|| missing("layers"))?;
    references.add(&config, ReferenceKind::Config, &|| "config".to_owned())?;
    references.add_all(&layers, ReferenceKind::Layer, "layers")?;
    let mut known = fields.known()?;
    known.artifact_type = known.artifact_type.or(nonempty(Some(config.media_type)));
    Ok(known)
}

fn index(
    media_type: &MediaType,
    mut fields: ManifestFields,
    references: &mut References,
) -> Result<KnownFields, InvalidManifest> {
    let Some(manifests) = fields.manifests.take() else {
        let media_type = media_type.clone();
        return Err(InvalidManifest::MissingField { media_type, field: "manifests" });
    };
    references.add_all(&manifests, ReferenceKind::Child, "manifests")?;
    fields.known()
}

fn artifact(
    mut fields: ManifestFields,
    references: &mut References,
) -> Result<KnownFields, InvalidManifest> {
    if let Some(blobs) = fields.blobs.take() {
        references.add_all(&blobs, ReferenceKind::Layer, "blobs")?;
    }
    fields.known()
}

/// The fields of a manifest of unknown type that are used if they are well-formed.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct LooseFields {
    subject: Option<JsonObject<RawDescriptor>>,
    artifact_type: Option<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    annotations: Annotations,
}

impl From<LooseFields> for KnownFields {
    fn from(fields: LooseFields) -> Self {
        Self {
            subject: fields.subject.and_then(|subject| subject.0.into_subject().ok()),
            artifact_type: nonempty(fields.artifact_type),
            annotations: fields.annotations,
        }
    }
}

fn nonempty(value: Option<String>) -> Option<String> {
    value.filter(|value| !value.is_empty())
}

/// References in the order of first appearance, each digest once.
#[derive(Default)]
struct References {
    list: Vec<ManifestReference>,
    position: HashMap<Digest, usize>,
    count: usize,
}

impl References {
    fn add_all(
        &mut self,
        descriptors: &Descriptors,
        kind: ReferenceKind,
        list: &str,
    ) -> Result<(), InvalidManifest> {
        for (index, descriptor) in descriptors.items.iter().enumerate() {
            self.add(&descriptor.0, kind, &|| format!("{list}[{index}]"))?;
        }
        self.count += descriptors.count - descriptors.items.len();
        Ok(())
    }

    /// Adds the digests in any field, except for those within a subject.
    fn add_scanned(&mut self, scanned: Scanned, has_subject: bool) {
        for (digest, is_elsewhere) in scanned.digests {
            if is_elsewhere || !has_subject {
                let kind = ReferenceKind::Any;
                self.insert(ManifestReference { digest, kind, required: false });
            }
        }
    }

    fn add(
        &mut self,
        descriptor: &RawDescriptor,
        kind: ReferenceKind,
        field: &dyn Fn() -> String,
    ) -> Result<(), InvalidManifest> {
        descriptor.size(field)?;
        let required = descriptor.is_local();
        match descriptor.digest(field) {
            Ok(digest) => self.insert(ManifestReference { digest, kind, required }),
            // External content may have a digest of an unsupported algorithm.
            Err(InvalidManifest::Digest {
                error: InvalidDigest::UnsupportedAlgorithm { .. },
                ..
            }) if !required => self.count += 1,
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn insert(&mut self, reference: ManifestReference) {
        self.count += 1;
        match self.position.get(&reference.digest) {
            Some(position) => self.list[*position].required |= reference.required,
            None => {
                self.position.insert(reference.digest.clone(), self.list.len());
                self.list.push(reference);
            }
        }
    }
}

/// The bytes as text, if they are one JSON value: parts that are skipped later are validated here, so
/// that acceptance does not depend on the media type.
///
/// Invalid UTF-8 is rejected: some parsers would replace it, and others fail, so that
/// the names of fields could differ. Half of a surrogate pair, written as an escape, is accepted in
/// annotations and other irrelevant text: other registries accept it, every
/// parser finds the end of such a string, and the bytes are stored as pushed. In a digest, a media
/// type or the name of a field of the outermost object it is rejected.
fn json(bytes: &[u8]) -> Result<&str, InvalidManifest> {
    let not_text = |error| InvalidManifest::Json { reason: format!("not UTF-8: {error}") };
    let text = std::str::from_utf8(bytes).map_err(not_text)?;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    IgnoredAny::deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(text)
}

fn object<T: DeserializeOwned>(json: &str) -> Result<T, InvalidManifest> {
    let JsonObject(value) = serde_json::from_str(json)?;
    Ok(value)
}

/// A `T` from a JSON object; serde would also accept an array of its fields.
struct JsonObject<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for JsonObject<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = JsonObject<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<JsonObject<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(JsonObject)
    }
}

/// Whether a field is present, whatever its value.
#[derive(Default)]
struct Present(bool);

impl<'de> Deserialize<'de> for Present {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Self(true))
    }
}

/// Distinguishes a list that is `null`, which Go writes for an empty one, from an absent one.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Descriptors>, D::Error> {
    null_as_default(deserializer).map(Some)
}

/// A list of descriptors, of which only the first [`DESCRIPTORS_STORED_MAX`] are kept but all are
/// counted.
#[derive(Default)]
struct Descriptors {
    items: Vec<JsonObject<RawDescriptor>>,
    count: usize,
}

impl<'de> Deserialize<'de> for Descriptors {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(DescriptorsVisitor)
    }
}

struct DescriptorsVisitor;

impl<'de> Visitor<'de> for DescriptorsVisitor {
    type Value = Descriptors;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of descriptors")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Descriptors, A::Error> {
        let mut descriptors = Descriptors::default();
        while descriptors.count < DESCRIPTORS_STORED_MAX {
            let Some(item) = seq.next_element()? else { return Ok(descriptors) };
            descriptors.items.push(item);
            descriptors.count += 1;
        }
        while seq.next_element::<IgnoredAny>()?.is_some() {
            descriptors.count += 1;
        }
        Ok(descriptors)
    }
}

/// Whether a list has elements.
#[derive(Default)]
struct NonEmpty(bool);

impl<'de> Deserialize<'de> for NonEmpty {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(NonEmptyVisitor)
    }
}

struct NonEmptyVisitor;

impl<'de> Visitor<'de> for NonEmptyVisitor {
    type Value = NonEmpty;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<NonEmpty, A::Error> {
        let mut nonempty = NonEmpty(false);
        while seq.next_element::<IgnoredAny>()?.is_some() {
            nonempty.0 = true;
        }
        Ok(nonempty)
    }
}
