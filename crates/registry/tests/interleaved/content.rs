//! Blobs and manifests to push, and their digests.

use bytes::Bytes;
use jreg_oci::{Algorithm, Digest};

const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";

pub(crate) fn digest(bytes: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, bytes)
}

/// Bytes of which no two are alike nearby.
pub(crate) fn bytes(length: usize) -> Bytes {
    (0..length).map(|n| u8::try_from(n % 251).unwrap()).collect()
}

/// An image with one blob.
pub(crate) fn image(config: &[u8]) -> String {
    let (digest, size) = (digest(config), config.len());
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{IMAGE}","config":{{"mediaType":"application/x",
        "digest":"{digest}","size":{size}}},"layers":[]}}"#
    )
}

/// An image with one blob, of which only the push says what it is.
pub(crate) fn bare_image(config: &[u8]) -> String {
    image(config).replace(&format!(r#""mediaType":"{IMAGE}","config""#), r#""config""#)
}

/// An index of images.
pub(crate) fn index(children: &[&str]) -> String {
    let descriptors: Vec<_> = children.iter().map(|child| descriptor(child)).collect();
    format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, descriptors.join(","))
}

/// An image with one blob that is about another manifest.
pub(crate) fn referrer(subject: &str, config: &[u8]) -> String {
    let subject = format!(r#""subject":{}"#, descriptor(subject));
    image(config).replace(r#""layers":[]"#, &format!(r#""layers":[],{subject}"#))
}

fn descriptor(manifest: &str) -> String {
    let (digest, size) = (digest(manifest.as_bytes()), manifest.len());
    format!(r#"{{"mediaType":"{IMAGE}","digest":"{digest}","size":{size}}}"#)
}
