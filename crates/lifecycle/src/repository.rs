//! [`RepositoryState`]: the content of one repository, as retention sees it.

use std::time::SystemTime;

use jreg_oci::{Algorithm, Digest, RepositoryName, Tag};

/// The content of one repository at the time of a run.
#[derive(Clone, Debug)]
pub struct RepositoryState {
    pub name: RepositoryName,
    pub tags: Vec<TagState>,
    /// Manifests that refer to others. One that does not may be left out.
    pub manifests: Vec<ManifestState>,
}

/// One tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagState {
    pub tag: Tag,
    pub digest: Digest,
    /// When the tag began to exist.
    pub created: SystemTime,
    /// The last acknowledged PUT of the tag; `None` if its record cannot be read.
    pub pushed: Option<SystemTime>,
    /// The last GET or HEAD of the tag, or GET of exactly its digest; `None`: never since pulls are
    /// tracked.
    pub pulled: Option<SystemTime>,
}

/// The references of one manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestState {
    pub digest: Digest,
    /// The manifests of an index.
    pub children: Vec<Digest>,
    pub subject: Option<Digest>,
}

impl TagState {
    /// When the tag was last used: a tag counts as pulled when it is pushed.
    pub(crate) fn used(&self) -> Option<SystemTime> {
        self.pushed.map(|pushed| self.pulled.map_or(pushed, |pulled| pulled.max(pushed)))
    }

    /// The manifest that this tag belongs to by its name: `sha256-<hex>`, alone or with a suffix
    /// such as `.sig`, as cosign and the referrers tag schema write them.
    pub(crate) fn subject_by_name(&self) -> Option<Digest> {
        let rest = self.tag.as_str().strip_prefix("sha256-")?;
        let (hex, suffix) = rest.split_at_checked(Algorithm::Sha256.hex_len())?;
        let is_suffix = suffix.is_empty() || suffix.starts_with(['.', '-', '_']);
        is_suffix.then(|| format!("sha256:{hex}").parse().ok()).flatten()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn tags_of_signatures_name_their_subject() {
        let digest = Digest::of(Algorithm::Sha256, b"image");
        let hex = digest.hex();
        let subject = |tag: &str| {
            let now = SystemTime::UNIX_EPOCH;
            let (tag, pushed) = (tag.parse().unwrap(), Some(now));
            let digest = digest.clone();
            TagState { tag, digest, created: now, pushed, pulled: None }.subject_by_name()
        };
        for suffix in ["", ".sig", ".att", ".sbom", "-2", "_x"] {
            assert_eq!(subject(&format!("sha256-{hex}{suffix}")), Some(digest.clone()), "{suffix}");
        }
        for other in [
            format!("sha256-{hex}0"),
            format!("sha256-{}", hex.get(1..).unwrap()),
            format!("sha512-{hex}"),
            format!("sha256_{hex}"),
            format!("sha256-{}", hex.to_uppercase()),
            "latest".to_owned(),
        ] {
            assert_eq!(subject(&other), None, "{other}");
        }
    }
}
