//! [`attached_tags`]: the tags by which tools without referrers attach something to a manifest.

use crate::{Digest, Tag};

/// What cosign appends to the digest of what it signs (`sha256-<hex>.sig`).
const ENDINGS: [&str; 3] = ["sig", "att", "sbom"];

/// The tags that cosign gives to the signature, the attestation and the SBOM of a manifest. A digest that is too
/// long for a tag has none.
///
/// ```
/// # use jreg_oci::{Digest, attached_tags};
/// let digest: Digest = format!("sha256:{}", "a".repeat(64)).parse().unwrap();
/// let first = attached_tags(&digest).next().unwrap();
/// assert_eq!(first.as_str(), format!("sha256-{}.sig", "a".repeat(64)));
/// ```
pub fn attached_tags(digest: &Digest) -> impl Iterator<Item = Tag> + use<> {
    let name = format!("{}-{}", digest.algorithm(), digest.hex());
    ENDINGS.into_iter().filter_map(move |ending| format!("{name}.{ending}").parse().ok())
}
