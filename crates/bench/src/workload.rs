//! What can be measured: the workloads by name.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

const KIB_4: usize = 4 * 1024;
const MIB: usize = 1024 * 1024;

/// Maximum concurrency of images of published sizes.
const IMAGES_CONCURRENCY_MAX: usize = 4;

/// Something to do again and again.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Workload {
    /// Its name in `--only`, tables and files.
    pub name: &'static str,
    /// What one operation is.
    pub about: &'static str,
    pub(crate) kind: WorkloadKind,
    /// Whether it is done while the command of `--gc-command` runs.
    pub(crate) runs_gc: bool,
}

/// What an operation of a workload is.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum WorkloadKind {
    BenchManifest { head: bool, by_tag: bool },
    BlobHead,
    BlobHeadMissing,
    BlobGet { size: usize },
    BlobRange,
    Push { size: usize, style: PushStyle },
    ImagePush { shape: ImageShape },
    ImagePull { shape: ImageShape },
    TagPut,
    TagPage,
    Catalog,
    Referrers,
    Mix,
}

/// The layers of an image.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum ImageShape {
    /// This many layers of [`LAYER_BYTES`].
    Even(usize),
    /// Layers with the sizes of a published image.
    Published(&'static [usize]),
}

/// The size of the layers of [`ImageShape::Even`].
const LAYER_BYTES: usize = 100 * 1024;

/// Compressed sizes of the layers of nginx 1.31.3 (`nginx:1-trixie`, linux/amd64).
const NGINX: &[usize] = &[29_780_905, 33_325_076, 626, 955, 403, 1_210, 1_397];
/// Compressed sizes of the layers of golang 1.26.5 (`golang:1-bookworm`, linux/amd64). The last
/// one has 32 bytes there, fewer than content needs to be unique.
const GOLANG: &[usize] = &[48_497_403, 24_044_100, 64_408_455, 92_512_821, 67_288_392, 125, 64];

impl ImageShape {
    pub(crate) fn layers(self) -> Vec<usize> {
        match self {
            Self::Even(layers) => vec![LAYER_BYTES; layers],
            Self::Published(layers) => layers.to_vec(),
        }
    }
}

/// How the bytes of a blob are sent.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum PushStyle {
    /// POST, PUT with the bytes and the digest: containerd, buildkit, crane.
    Known,
    /// POST, PATCH of unknown length, empty PUT with the digest: docker, podman, skopeo.
    Docker,
}

impl WorkloadKind {
    /// Whether an operation moves so many bytes that bytes a second are what counts.
    pub(crate) fn is_bulk(self) -> bool {
        match self {
            Self::BlobGet { size } | Self::Push { size, .. } => size >= MIB,
            Self::ImagePush { shape } | Self::ImagePull { shape } => {
                matches!(shape, ImageShape::Published(_))
            }
            _ => false,
        }
    }

    /// Whether it pushes blobs of 1 MiB or more, or images that have such layers.
    pub(crate) fn is_bulk_push(self) -> bool {
        self.is_bulk() && matches!(self, Self::Push { .. } | Self::ImagePush { .. })
    }

    /// Maximum of `--bulk-concurrency`: each operation on an image has several connections.
    pub(crate) fn concurrency_max(self) -> usize {
        match self {
            Self::ImagePush { .. } | Self::ImagePull { .. } => IMAGES_CONCURRENCY_MAX,
            _ => usize::MAX,
        }
    }

    /// Whether a registry may do without what is asked.
    pub(crate) fn is_optional(self) -> bool {
        matches!(self, Self::Catalog | Self::Referrers)
    }
}

const fn manifest(name: &'static str, about: &'static str, head: bool, by_tag: bool) -> Workload {
    other(name, about, WorkloadKind::BenchManifest { head, by_tag })
}

const fn get(name: &'static str, about: &'static str, size: usize) -> Workload {
    other(name, about, WorkloadKind::BlobGet { size })
}

const fn push(name: &'static str, about: &'static str, size: usize, style: PushStyle) -> Workload {
    other(name, about, WorkloadKind::Push { size, style })
}

const fn other(name: &'static str, about: &'static str, kind: WorkloadKind) -> Workload {
    Workload { name, about, kind, runs_gc: false }
}

const fn with_gc(name: &'static str, about: &'static str, kind: WorkloadKind) -> Workload {
    Workload { name, about, kind, runs_gc: true }
}

const KNOWN: &str = "POST, then PUT with the bytes and their digest";
const DOCKER: &str = "POST, PATCH of unknown length, empty PUT with the digest";

/// All workloads, in the order in which they run: reads first, large writes last.
pub const WORKLOADS: &[Workload] = &[
    manifest("manifest-get-tag", "GET of a manifest by tag", false, true),
    manifest("manifest-get-digest", "GET of a manifest by digest", false, false),
    manifest("manifest-head-tag", "HEAD of a manifest by tag", true, true),
    manifest("manifest-head-digest", "HEAD of a manifest by digest", true, false),
    other("blob-head", "HEAD of an existing blob", WorkloadKind::BlobHead),
    other("blob-head-missing", "HEAD of a missing blob", WorkloadKind::BlobHeadMissing),
    get("blob-get-4k", "GET of a blob of 4 KiB", KIB_4),
    get("blob-get-1m", "GET of a blob of 1 MiB", MIB),
    get("blob-get-1m16", "GET of a blob of 1 MiB + 16 bytes", MIB + 16),
    get("blob-get-4m", "GET of a blob of 4 MiB", 4 * MIB),
    get("blob-get-10m", "GET of a blob of 10 MiB", 10 * MIB),
    get("blob-get-64m", "GET of a blob of 64 MiB", 64 * MIB),
    get("blob-get-100m", "GET of a blob of 100 MiB", 100 * MIB),
    other(
        "blob-get-range",
        "GET of a random 64 KiB range of a blob of 10 MiB",
        WorkloadKind::BlobRange,
    ),
    other("tag-page", "GET of a page of 100 tags out of --tags", WorkloadKind::TagPage),
    other(
        "catalog",
        "GET of a page of 100 repositories out of --repositories",
        WorkloadKind::Catalog,
    ),
    other("referrers", "GET of the 20 referrers of a manifest", WorkloadKind::Referrers),
    other(
        "image-pull-5",
        "an image of 5 layers of 100 KiB, as containerd pulls it",
        WorkloadKind::ImagePull { shape: ImageShape::Even(5) },
    ),
    other(
        "image-pull-50",
        "an image of 50 layers of 100 KiB, as containerd pulls it",
        WorkloadKind::ImagePull { shape: ImageShape::Even(50) },
    ),
    other(
        "image-pull-nginx",
        "an image with layers as large as those of nginx, 63 MB, as containerd pulls it",
        WorkloadKind::ImagePull { shape: ImageShape::Published(NGINX) },
    ),
    other(
        "image-pull-golang",
        "an image with layers as large as those of golang, 297 MB, as containerd pulls it",
        WorkloadKind::ImagePull { shape: ImageShape::Published(GOLANG) },
    ),
    other(
        "tag-put",
        "PUT of an existing manifest, so that a tag points to another one",
        WorkloadKind::TagPut,
    ),
    push("push-known-4k", KNOWN, KIB_4, PushStyle::Known),
    push("push-docker-4k", DOCKER, KIB_4, PushStyle::Docker),
    other(
        "image-push-5",
        "an image of 5 layers of 100 KiB, as docker pushes it",
        WorkloadKind::ImagePush { shape: ImageShape::Even(5) },
    ),
    other(
        "image-push-50",
        "an image of 50 layers of 100 KiB, as docker pushes it",
        WorkloadKind::ImagePush { shape: ImageShape::Even(50) },
    ),
    other("mix", "75 % image-pull-5, 25 % image-push-5", WorkloadKind::Mix),
    with_gc("mix-gc", "mix, while the command of --gc-command runs in a loop", WorkloadKind::Mix),
    push("push-known-1m", KNOWN, MIB, PushStyle::Known),
    push("push-docker-1m", DOCKER, MIB, PushStyle::Docker),
    push("push-known-1m16", KNOWN, MIB + 16, PushStyle::Known),
    push("push-docker-1m16", DOCKER, MIB + 16, PushStyle::Docker),
    push("push-known-4m", KNOWN, 4 * MIB, PushStyle::Known),
    push("push-docker-4m", DOCKER, 4 * MIB, PushStyle::Docker),
    push("push-known-10m", KNOWN, 10 * MIB, PushStyle::Known),
    push("push-docker-10m", DOCKER, 10 * MIB, PushStyle::Docker),
    push("push-known-64m", KNOWN, 64 * MIB, PushStyle::Known),
    push("push-docker-64m", DOCKER, 64 * MIB, PushStyle::Docker),
    push("push-known-100m", KNOWN, 100 * MIB, PushStyle::Known),
    push("push-docker-100m", DOCKER, 100 * MIB, PushStyle::Docker),
    other(
        "image-push-nginx",
        "an image with layers as large as those of nginx, 63 MB, as docker pushes it",
        WorkloadKind::ImagePush { shape: ImageShape::Published(NGINX) },
    ),
    other(
        "image-push-golang",
        "an image with layers as large as those of golang, 297 MB, as docker pushes it",
        WorkloadKind::ImagePush { shape: ImageShape::Published(GOLANG) },
    ),
];

/// A name that no workload has.
#[derive(Clone, Debug, Error, Eq, PartialEq)]
#[error("there is no workload {0:?}; --list names them")]
pub struct UnknownWorkload(String);

impl FromStr for Workload {
    type Err = UnknownWorkload;

    fn from_str(text: &str) -> Result<Self, UnknownWorkload> {
        let found = WORKLOADS.iter().find(|workload| workload.name == text.trim());
        found.copied().ok_or_else(|| UnknownWorkload(text.to_owned()))
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// Workloads of a name, in which `*` stands for any characters.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct WorkloadPattern(pub(crate) Vec<Workload>);

impl FromStr for WorkloadPattern {
    type Err = UnknownWorkload;

    fn from_str(text: &str) -> Result<Self, UnknownWorkload> {
        let pattern = text.trim();
        let found = WORKLOADS.iter().filter(|workload| matches(pattern, workload.name));
        let found: Vec<_> = found.copied().collect();
        match found.is_empty() {
            true => Err(UnknownWorkload(text.to_owned())),
            false => Ok(Self(found)),
        }
    }
}

/// Whether a name has the parts of the pattern between its `*`, in their order.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut left) = name.strip_prefix(start) else { return false };
    let mut parts = rest.split('*').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return left.ends_with(part);
        }
        let Some((_, after)) = left.split_once(part) else { return false };
        left = after;
    }
    true
}

/// Those of `only`, or all if that is empty, without those of `skip`, in the order of
/// [`WORKLOADS`]. Workloads with GC only if there is a command for it.
pub(crate) fn select(only: &[Workload], skip: &[Workload], has_gc_command: bool) -> Vec<Workload> {
    let wanted = |workload: &&Workload| {
        (only.is_empty() || only.contains(workload)) && (has_gc_command || !workload.runs_gc)
    };
    let kept = |workload: &&Workload| !skip.contains(workload);
    WORKLOADS.iter().filter(wanted).filter(kept).copied().collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_unique_and_found() {
        let names: HashSet<_> = WORKLOADS.iter().map(|workload| workload.name).collect();
        assert_eq!(names.len(), WORKLOADS.len());
        for workload in WORKLOADS {
            assert_eq!(workload.name.parse::<Workload>().unwrap(), *workload);
        }
        let error = "blob-gte".parse::<Workload>().unwrap_err();
        assert_eq!(error.to_string(), r#"there is no workload "blob-gte"; --list names them"#);
    }

    #[test]
    fn a_pattern_selects_the_workloads_that_it_matches() {
        let names = |pattern: &str| -> Vec<_> {
            let found = pattern.parse::<WorkloadPattern>().unwrap().0;
            found.iter().map(|workload| workload.name).collect()
        };
        assert_eq!(names("blob-head"), ["blob-head"]);
        assert_eq!(names("push-*-64m"), ["push-known-64m", "push-docker-64m"]);
        assert_eq!(names("image-pu*-nginx"), ["image-pull-nginx", "image-push-nginx"]);
        assert_eq!(names("*"), WORKLOADS.iter().map(|w| w.name).collect::<Vec<_>>());
        assert_eq!(names("blob-head*"), ["blob-head", "blob-head-missing"]);
        for unknown in ["blob-gte*", "", "*-heads", "push-known-64m*-64m"] {
            assert!(unknown.parse::<WorkloadPattern>().is_err(), "{unknown}");
        }
    }

    #[test]
    fn every_size_is_pushed_in_both_styles_and_pulled() {
        for size in ["1m", "1m16", "4m", "10m", "64m", "100m"] {
            for name in ["push-known-", "push-docker-", "blob-get-"] {
                let workload: Workload = format!("{name}{size}").parse().unwrap();
                assert!(workload.kind.is_bulk(), "{workload}");
                assert_eq!(workload.kind.is_bulk_push(), name != "blob-get-", "{workload}");
            }
        }
        let small: Workload = "push-known-4k".parse().unwrap();
        assert!(!small.kind.is_bulk() && !small.kind.is_bulk_push());
    }

    #[test]
    fn published_images_have_layers_of_bytes_and_of_tens_of_megabytes() {
        for layers in [NGINX, GOLANG] {
            assert_eq!(layers.len(), 7);
            assert!(layers.iter().any(|size| *size < 1024), "{layers:?}");
            assert!(layers.iter().all(|size| (64..100_000_000).contains(size)), "{layers:?}");
            assert!(layers.iter().any(|size| *size > 30_000_000), "{layers:?}");
        }
    }

    #[test]
    fn a_selection_keeps_the_order() {
        let [a, b, c] = ["mix", "blob-head", "tag-put"].map(|name| name.parse().unwrap());
        assert_eq!(select(&[a, b, c], &[c], true), [b, a]);
        assert_eq!(select(&[], &[], true), WORKLOADS);
        assert_eq!(select(&[], WORKLOADS, true), []);
    }

    #[test]
    fn workloads_with_gc_are_skipped_without_a_gc_command() {
        let without = select(&[], &[], false);
        assert!(without.iter().all(|workload| !workload.runs_gc));
        assert!(without.len() < WORKLOADS.len());
    }
}
