//! Content to push, made to order from a seed: blobs, images, indexes, artifacts, and the
//! oddities that real tools produce.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::{Rng, sha256, sha512};

/// Media types.
pub mod media {
    /// OCI image manifest.
    pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// OCI image index.
    pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// OCI image configuration.
    pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// OCI layer.
    pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    /// OCI layer that may not be pushed.
    pub const NONDISTRIBUTABLE: &str =
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip";
    /// The empty JSON object as a blob.
    pub const EMPTY: &str = "application/vnd.oci.empty.v1+json";
    /// The artifact manifest that the image specification dropped, which is still pushed.
    pub const ARTIFACT: &str = "application/vnd.oci.artifact.manifest.v1+json";
    /// Docker image manifest, schema 2.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// Docker manifest list.
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// Docker image configuration.
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
}

/// A blob, with the media type that a manifest gives it.
#[derive(Clone, Debug)]
pub struct Blob {
    pub media_type: &'static str,
    pub bytes: Bytes,
}

impl Blob {
    /// A layer of random bytes.
    pub fn layer(rng: &mut Rng, len: usize) -> Self {
        Self { media_type: media::LAYER, bytes: rng.bytes(len) }
    }

    /// Its SHA-256 digest.
    pub fn digest(&self) -> String {
        sha256(&self.bytes)
    }

    pub fn descriptor(&self) -> Value {
        json!({"mediaType": self.media_type, "digest": self.digest(), "size": self.bytes.len()})
    }
}

/// A manifest as it is pushed.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// The media type, for the Content-Type.
    pub media_type: String,
    /// The exact bytes.
    pub bytes: Bytes,
}

impl Manifest {
    /// A manifest of this JSON, written with tabs and newlines as Docker does: a registry that
    /// parses and writes it again changes its digest.
    pub fn tabbed(media_type: &str, value: &Value) -> Self {
        let mut bytes = Vec::new();
        let tabs = serde_json::ser::PrettyFormatter::with_indent(b"\t");
        let mut writer = serde_json::Serializer::with_formatter(&mut bytes, tabs);
        serde::Serialize::serialize(value, &mut writer).expect("a JSON value can be written");
        Self { media_type: media_type.to_owned(), bytes: bytes.into() }
    }

    /// A manifest of this JSON on one line.
    pub fn compact(media_type: &str, value: &Value) -> Self {
        Self { media_type: media_type.to_owned(), bytes: value.to_string().into() }
    }

    /// Its SHA-256 digest.
    pub fn digest(&self) -> String {
        sha256(&self.bytes)
    }

    /// Its SHA-512 digest.
    pub fn digest512(&self) -> String {
        sha512(&self.bytes)
    }

    pub fn descriptor(&self) -> Value {
        json!({"mediaType": self.media_type, "digest": self.digest(), "size": self.bytes.len()})
    }
}

/// An image: blobs to push first, and the manifest that names them.
#[derive(Clone, Debug)]
pub struct Image {
    /// The configuration, then the layers.
    pub blobs: Vec<Blob>,
    pub manifest: Manifest,
}

/// What an image should be like.
#[derive(Clone, Debug)]
pub struct ImageSpec {
    /// What all its bytes follow from.
    pub seed: u64,
    /// How many layers.
    pub layers: usize,
    /// How long each layer is.
    pub layer_bytes: usize,
    /// The manifest's media type.
    pub media_type: &'static str,
    /// The configuration's media type.
    pub config_type: &'static str,
    /// The descriptor of its subject.
    pub subject: Option<Value>,
    pub artifact_type: Option<&'static str>,
    /// Its annotations; null for none.
    pub annotations: Value,
}

impl Default for ImageSpec {
    fn default() -> Self {
        Self {
            seed: 1,
            layers: 2,
            layer_bytes: 1000,
            media_type: media::MANIFEST,
            config_type: media::CONFIG,
            subject: None,
            artifact_type: None,
            annotations: Value::Null,
        }
    }
}

impl ImageSpec {
    /// Makes the image.
    pub fn build(&self) -> Image {
        let mut rng = Rng::new(self.seed);
        let config = json!({"architecture": "amd64", "os": "linux", "seed": rng.bits(),
            "rootfs": {"type": "layers", "diff_ids": []}});
        let config = Blob { media_type: self.config_type, bytes: config.to_string().into() };
        let layers: Vec<_> =
            (0..self.layers).map(|_| Blob::layer(&mut rng, self.layer_bytes)).collect();
        let mut manifest = json!({
            "schemaVersion": 2,
            "mediaType": self.media_type,
            "config": config.descriptor(),
            "layers": layers.iter().map(Blob::descriptor).collect::<Vec<_>>(),
        });
        if let Some(subject) = &self.subject {
            manifest["subject"] = subject.clone();
        }
        if let Some(artifact_type) = self.artifact_type {
            manifest["artifactType"] = artifact_type.into();
        }
        if !self.annotations.is_null() {
            manifest["annotations"] = self.annotations.clone();
        }
        let manifest = Manifest::tabbed(self.media_type, &manifest);
        Image { blobs: std::iter::once(config).chain(layers).collect(), manifest }
    }
}

impl Image {
    /// A plain image.
    pub fn plain(seed: u64) -> Self {
        ImageSpec { seed, ..ImageSpec::default() }.build()
    }

    /// An artifact without layers that refers to `subject`.
    pub fn referrer(seed: u64, subject: &Manifest, artifact_type: &'static str) -> Self {
        ImageSpec {
            seed,
            layers: 0,
            config_type: media::EMPTY,
            subject: Some(subject.descriptor()),
            artifact_type: Some(artifact_type),
            annotations: json!({"org.example.seed": seed.to_string()}),
            ..ImageSpec::default()
        }
        .build()
    }
}

/// An index of these descriptors.
pub fn index_of(descriptors: &[Value]) -> Manifest {
    let index = json!({"schemaVersion": 2, "mediaType": media::INDEX, "manifests": descriptors});
    Manifest::tabbed(media::INDEX, &index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_follows_from_its_seed() {
        let (one, again, other) = (Image::plain(1), Image::plain(1), Image::plain(2));
        assert_eq!(one.manifest.bytes, again.manifest.bytes);
        assert_ne!(one.manifest.digest(), other.manifest.digest());
        assert_eq!(one.blobs.len(), 3);
        assert!(one.manifest.bytes.starts_with(b"{\n\t\""));
    }
}
