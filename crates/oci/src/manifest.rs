//! [`Manifest`]: what a manifest says of itself and which content it refers to.
//!
//! This is the one place that decides what counts as a reference. The writer, which requires or
//! touches what a manifest refers to, and the collector, which keeps it, must agree; so both ask
//! here. Nothing is built in memory beyond what is returned, however the document is made.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::descriptor::null_as_default;
use crate::excerpt::excerpt;
use crate::media_type::{self, is_nondistributable_layer};
use crate::{Descriptor, Digest, InvalidDigest, MediaType};

/// The most descriptors one manifest may have.
pub const DESCRIPTORS_MAX: usize = 4096;

/// What a registry needs to know of a manifest; the bytes themselves are stored as they came.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// Its media type: the `Content-Type` it was pushed with, else what its body says.
    pub media_type: MediaType,
    /// What it refers to, each digest once, in the order of first appearance. Never its subject.
    pub references: Vec<ManifestReference>,
    /// The manifest it is about, if it is a referrer.
    pub subject: Option<Descriptor>,
    /// What kind of artifact a list of referrers shows it as.
    pub artifact_type: Option<String>,
    /// Its own annotations, which a list of referrers repeats.
    pub annotations: BTreeMap<String, String>,
}

/// One piece of content a manifest refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestReference {
    /// The content.
    pub digest: Digest,
    /// As what it appears (first, if it does so several times).
    pub kind: ReferenceKind,
    /// Whether the manifest is of no use without it. A [`ReferenceKind::Child`] is marked as
    /// required, but whether an index may be sparse is the caller's policy.
    pub required: bool,
}

/// As what a manifest refers to some content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReferenceKind {
    /// The config of an image: a blob.
    Config,
    /// A layer of an image, or a blob of an artifact: a blob.
    Layer,
    /// An entry of an index: a manifest, or a blob (build caches list layers there).
    Child,
    /// A digest in a manifest of unknown type: a manifest, a blob, or nothing at all.
    Any,
}

/// Why some bytes are not a manifest this registry accepts.
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
        /// What the header says.
        content_type: MediaType,
        /// What the body says, cut if it is long.
        body: String,
    },
    /// The body's media type is none.
    #[error("invalid manifest: {0}")]
    MediaType(#[from] crate::InvalidMediaType),
    /// Neither a header, nor the body, nor its shape says what it is.
    #[error(
        "unknown kind of manifest: send a Content-Type, a mediaType, or either manifests or \
         config and layers"
    )]
    UnknownKind,
    /// A field is missing that this media type must have.
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
        /// Where the descriptor is, such as `layers[3]`.
        field: String,
        /// What is wrong with its digest.
        error: InvalidDigest,
    },
    /// A descriptor has a negative size.
    #[error("invalid manifest: {field}: size {size} must be 0 or more")]
    NegativeSize {
        /// Where the descriptor is, such as `layers[3]`.
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
}

impl From<serde_json::Error> for InvalidManifest {
    fn from(error: serde_json::Error) -> Self {
        // A wrong value is quoted whole by serde_json, however long it is.
        Self::Json { reason: excerpt(&error.to_string()) }
    }
}

impl Manifest {
    /// Reads a manifest that was pushed with this `Content-Type`, or stored with this media type.
    ///
    /// # Errors
    ///
    /// See [`InvalidManifest`].
    pub fn parse(content_type: Option<&MediaType>, bytes: &[u8]) -> Result<Self, InvalidManifest> {
        let json = json(bytes)?;
        let envelope: Envelope = object(json)?;
        let media_type = envelope.media_type(content_type)?;
        match Kind::of(&media_type) {
            Kind::Image => image(media_type, object(json)?),
            Kind::Index => index(media_type, object(json)?),
            Kind::Artifact => artifact(media_type, object(json)?),
            Kind::Unknown => unknown(media_type, json),
        }
    }
}

/// What rules a media type brings.
enum Kind {
    Image,
    Index,
    Artifact,
    Unknown,
}

impl Kind {
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

/// What tells a manifest's media type.
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

/// The fields that matter of all manifests with known rules.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fields {
    config: Option<Object<RawDescriptor>>,
    #[serde(default, deserialize_with = "given")]
    layers: Option<Descriptors>,
    #[serde(default, deserialize_with = "given")]
    blobs: Option<Descriptors>,
    #[serde(default, deserialize_with = "given")]
    manifests: Option<Descriptors>,
    subject: Option<Object<RawDescriptor>>,
    artifact_type: Option<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    annotations: BTreeMap<String, String>,
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

    /// The subject of a referrer: only what identifies it.
    fn into_subject(self) -> Result<Descriptor, InvalidManifest> {
        let field = || "subject".to_owned();
        let (digest, size) = (self.digest(&field)?, self.size(&field)?);
        Ok(Descriptor { media_type: self.media_type, ..Descriptor::bare(digest, size) })
    }
}

fn image(media_type: MediaType, fields: Fields) -> Result<Manifest, InvalidManifest> {
    let missing = |field| InvalidManifest::MissingField { media_type: media_type.clone(), field };
    let config = fields.config.ok_or_else(|| missing("config"))?.0;
    let layers = fields.layers.ok_or_else(|| missing("layers"))?;
    let mut references = References::default();
    references.add(&config, ReferenceKind::Config, &|| "config".to_owned())?;
    references.add_all(&layers, ReferenceKind::Layer, "layers")?;
    let artifact_type = nonempty(fields.artifact_type).or(nonempty(Some(config.media_type)));
    Ok(Manifest {
        media_type,
        references: references.list,
        subject: fields.subject.map(|subject| subject.0.into_subject()).transpose()?,
        artifact_type,
        annotations: fields.annotations,
    })
}

fn index(media_type: MediaType, fields: Fields) -> Result<Manifest, InvalidManifest> {
    let Some(manifests) = fields.manifests else {
        return Err(InvalidManifest::MissingField { media_type, field: "manifests" });
    };
    let mut references = References::default();
    references.add_all(&manifests, ReferenceKind::Child, "manifests")?;
    Ok(Manifest {
        media_type,
        references: references.list,
        subject: fields.subject.map(|subject| subject.0.into_subject()).transpose()?,
        artifact_type: nonempty(fields.artifact_type),
        annotations: fields.annotations,
    })
}

fn artifact(media_type: MediaType, fields: Fields) -> Result<Manifest, InvalidManifest> {
    let mut references = References::default();
    if let Some(blobs) = fields.blobs {
        references.add_all(&blobs, ReferenceKind::Layer, "blobs")?;
    }
    Ok(Manifest {
        media_type,
        references: references.list,
        subject: fields.subject.map(|subject| subject.0.into_subject()).transpose()?,
        artifact_type: nonempty(fields.artifact_type),
        annotations: fields.annotations,
    })
}

/// The fields that are used of a manifest of unknown type if they look as they do in known ones.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct LooseFields {
    subject: Option<Object<RawDescriptor>>,
    artifact_type: Option<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    annotations: BTreeMap<String, String>,
}

fn unknown(media_type: MediaType, json: &str) -> Result<Manifest, InvalidManifest> {
    let fields: LooseFields = object(json).unwrap_or_default();
    let subject = fields.subject.and_then(|subject| subject.0.into_subject().ok());
    let mut references = References::default();
    let skip = subject.is_some().then_some("subject");
    let walk = Walk { references: Some(&mut references), skip };
    walk.deserialize(&mut serde_json::Deserializer::from_str(json))?;
    if references.count > DESCRIPTORS_MAX {
        return Err(InvalidManifest::TooManyDescriptors { max: DESCRIPTORS_MAX });
    }
    Ok(Manifest {
        media_type,
        references: references.list,
        subject,
        artifact_type: nonempty(fields.artifact_type),
        annotations: fields.annotations,
    })
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
        if self.count + descriptors.count > DESCRIPTORS_MAX {
            return Err(InvalidManifest::TooManyDescriptors { max: DESCRIPTORS_MAX });
        }
        for (index, descriptor) in descriptors.items.iter().enumerate() {
            self.add(&descriptor.0, kind, &|| format!("{list}[{index}]"))?;
        }
        Ok(())
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
            // Content that lives elsewhere may be addressed by what we cannot verify.
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
        if self.count > DESCRIPTORS_MAX {
            return;
        }
        match self.position.get(&reference.digest) {
            Some(position) => self.list[*position].required |= reference.required,
            None => {
                self.position.insert(reference.digest.clone(), self.list.len());
                self.list.push(reference);
            }
        }
    }
}

/// The bytes as text, if they are one JSON value: whatever is skipped later was looked at here, so
/// that what is accepted, and how deep it may be nested, does not depend on the media type.
fn json(bytes: &[u8]) -> Result<&str, InvalidManifest> {
    let not_text = |error| InvalidManifest::Json { reason: format!("not UTF-8: {error}") };
    let text = std::str::from_utf8(bytes).map_err(not_text)?;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    Walk { references: None, skip: None }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(text)
}

fn object<T: DeserializeOwned>(json: &str) -> Result<T, InvalidManifest> {
    let Object(value) = serde_json::from_str(json)?;
    Ok(value)
}

/// A `T` written as a JSON object; serde would also read one from an array of its fields.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = Object<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Object)
    }
}

/// Whether a field is there, whatever its value.
#[derive(Default)]
struct Present(bool);

impl<'de> Deserialize<'de> for Present {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Self(true))
    }
}

/// Tells a list that is `null`, which Go writes for an empty one, from one that is not there.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Descriptors>, D::Error> {
    null_as_default(deserializer).map(Some)
}

/// A list of descriptors, of which only the first [`DESCRIPTORS_MAX`] are kept but all are counted.
#[derive(Default)]
struct Descriptors {
    items: Vec<Object<RawDescriptor>>,
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
        while descriptors.count < DESCRIPTORS_MAX {
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

/// Whether a list has elements, whatever they are.
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

/// Walks any JSON value, and collects the strings that are digests if there is where to.
struct Walk<'a> {
    references: Option<&'a mut References>,
    /// A field of the outermost object to leave out.
    skip: Option<&'static str>,
}

impl Walk<'_> {
    fn inner(&mut self) -> Walk<'_> {
        Walk { references: self.references.as_deref_mut(), skip: None }
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        if let (Some(references), Ok(digest)) = (self.references, text.parse()) {
            let kind = ReferenceKind::Any;
            references.insert(ManifestReference { digest, kind, required: false });
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(self.inner())?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            if self.skip.is_some_and(|skip| skip == key) {
                map.next_value::<IgnoredAny>()?;
            } else {
                map.next_value_seed(self.inner())?;
            }
        }
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}
