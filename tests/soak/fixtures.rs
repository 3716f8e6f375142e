//! The content of these tests.

use jreg_oci::{RepositoryName, Tag};

use crate::fixtures::Fixtures;

/// Repository names that need no encoding in a key.
pub(crate) const REPOSITORIES: [&str; 3] = ["one", "three", "two"];
/// Tags, in byte order.
pub(crate) const TAGS: [&str; 3] = ["edge", "stable", "v1"];

const ARTIFACT_TYPE: &str = "application/x";

/// Fixtures with blobs of these sizes.
pub(crate) fn fixtures(blob_bytes: [usize; 8]) -> Fixtures {
    let mut fixtures = Fixtures::with_layers(blob_bytes);
    for (config, layers) in [(0, &[1][..]), (0, &[1, 2]), (3, &[4]), (3, &[4, 5]), (6, &[7, 1])] {
        fixtures.add_image(config, layers, None);
    }
    fixtures.add_index(&[0, 2], None);
    fixtures.add_index(&[1, 3], None);
    fixtures.add_image(0, &[], Some((0, ARTIFACT_TYPE)));
    fixtures.add_image(6, &[5], Some((5, ARTIFACT_TYPE)));
    fixtures
}

pub(crate) fn repository_name(repository: usize) -> RepositoryName {
    REPOSITORIES[repository].parse().unwrap()
}

pub(crate) fn tag_of(tag: usize) -> Tag {
    TAGS[tag].parse().unwrap()
}
