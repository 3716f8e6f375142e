//! The content of these tests.

use crate::fixtures::Fixtures;

/// Repository names.
pub(crate) const REPOSITORIES: [&str; 2] = ["three/a", "three/b"];
/// Tags, in byte order.
pub(crate) const TAGS: [&str; 2] = ["edge", "v1"];

/// Small blobs that are stored in one request.
const SMALL_BYTES: [usize; 4] = [2, 300, 20_000, 300_000];
/// Blobs of two and of three parts.
const LARGE_BYTES: [usize; 2] = [5 * 1024 * 1024 + 100_000, 11 * 1024 * 1024];

pub(crate) fn fixtures() -> Fixtures {
    let mut fixtures = Fixtures::with_layers(SMALL_BYTES.into_iter().chain(LARGE_BYTES));
    fixtures.add_image(0, &[1], None);
    fixtures.add_image(0, &[1, 2], None);
    fixtures.add_image(1, &[3, 4], None);
    fixtures.add_image(0, &[], Some((0, "application/x")));
    fixtures.add_index(&[0, 1], None);
    fixtures
}

/// The blobs that take several parts.
pub(crate) fn is_large(blob: usize) -> bool {
    blob >= SMALL_BYTES.len()
}
