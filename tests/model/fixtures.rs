//! The content of these tests.

use bytes::Bytes;
use jreg_oci::Algorithm;
use jreg_testkit::{Blob, Rng};

use crate::fixtures::{FixtureBlob, Fixtures};

/// Repository names, in byte order.
pub(crate) const REPOSITORIES: [&str; 2] = ["a", "a/b"];
/// Tags, in byte order.
pub(crate) const TAGS: [&str; 3] = ["1", "B", "a"];
/// Artifact types.
pub(crate) const TYPES: [&str; 2] = ["application/x", "application/y"];

pub(crate) const BLOBS: usize = 6;
pub(crate) const MANIFESTS: usize = 6;

const CONFIG: usize = 1;

pub(crate) fn fixtures() -> Fixtures {
    let mut fixtures = Fixtures::new(blobs());
    fixtures.add_image(CONFIG, &[2], None);
    fixtures.add_image(CONFIG, &[3, 3, 4], None);
    fixtures.add_image(CONFIG, &[5], Some((0, TYPES[0])));
    fixtures.add_index(&[0, 1], None);
    fixtures.add_index(&[], Some((0, TYPES[1])));
    fixtures.add_image(CONFIG, &[], Some((3, TYPES[1])));
    assert_eq!((fixtures.blobs.len(), fixtures.manifests.len()), (BLOBS, MANIFESTS));
    fixtures
}

fn blobs() -> Vec<FixtureBlob> {
    let mut rng = Rng::new(77);
    let by_sha256 = |bytes: Bytes| FixtureBlob::new(bytes, Algorithm::Sha256);
    let small = Blob::layer(&mut rng, 10).bytes;
    vec![
        by_sha256(Bytes::new()),
        by_sha256(Bytes::from_static(b"{}")),
        by_sha256(small.clone()),
        by_sha256(rng.bytes(100_000)),
        FixtureBlob::new(small, Algorithm::Sha512),
        by_sha256(rng.bytes(40_000)),
    ]
}
