//! Which format a source has, by what is in it.

use crate::docker::LIST;
use crate::{
    ArchiveError, DistributionOptions, DistributionSource, DockerArchive, ImageSource,
    LayoutSource, Result, SourceTree,
};

/// The format of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceKind {
    /// One OCI image layout.
    Layout,
    /// An archive of `docker save` that is no layout.
    DockerArchive,
    /// The storage of distribution or Harbor, below this folder.
    Distribution(&'static str),
    /// The storage of zot or olareg: a layout for each repository.
    Layouts,
    /// A storage of jreg.
    Jreg,
}

/// Where the storage of distribution may begin, from what an operator names.
const DISTRIBUTION_ROOTS: [&str; 4] = ["docker/registry/v2/", "registry/v2/", "v2/", ""];
/// How deep, and in how many folders, a layout is looked for.
const DEPTH_MAX: usize = 8;
const FOLDERS_MAX: usize = 10_000;

/// Tells the format of a tree; `None`: it is none that is known.
///
/// # Errors
///
/// [`ArchiveError`].
pub async fn detect(tree: &dyn SourceTree) -> Result<Option<SourceKind>> {
    if tree.size("jreg.json").await?.is_some() {
        return Ok(Some(SourceKind::Jreg));
    }
    if tree.size("oci-layout").await?.is_some() || tree.size("index.json").await?.is_some() {
        return Ok(Some(SourceKind::Layout));
    }
    if tree.size(LIST).await?.is_some() {
        return Ok(Some(SourceKind::DockerArchive));
    }
    for root in DISTRIBUTION_ROOTS {
        let names = tree.names(root).await?;
        let has = |folder: &str| names.iter().any(|name| name == folder);
        if has("repositories/") && has("blobs/") {
            return Ok(Some(SourceKind::Distribution(root)));
        }
    }
    Ok(has_layout(tree).await?.then_some(SourceKind::Layouts))
}

/// Whether there is a layout in any folder of a tree.
async fn has_layout(tree: &dyn SourceTree) -> Result<bool> {
    let mut folders = vec![(String::new(), 0)];
    let mut seen = 0;
    while let Some((folder, depth)) = folders.pop() {
        seen += 1;
        if seen > FOLDERS_MAX {
            break;
        }
        for name in tree.names(&folder).await? {
            if name == "oci-layout" {
                return Ok(true);
            }
            if name.ends_with('/') && depth < DEPTH_MAX && !name.starts_with(['_', '.']) {
                folders.push((format!("{folder}{name}"), depth + 1));
            }
        }
    }
    Ok(false)
}

/// Opens a tree in the format that it has. A storage of jreg is for the caller, who knows what a
/// registry is.
///
/// # Errors
///
/// [`ArchiveError::Unknown`].
pub async fn open(
    tree: Box<dyn SourceTree>,
    place: &str,
    distribution: DistributionOptions,
) -> Result<Box<dyn ImageSource>> {
    Ok(match detect(&*tree).await? {
        Some(SourceKind::Layout) => Box::new(LayoutSource::single(tree)),
        Some(SourceKind::Layouts) => Box::new(LayoutSource::storage(tree)),
        Some(SourceKind::DockerArchive) => Box::new(DockerArchive::new(tree)),
        Some(SourceKind::Distribution(root)) => {
            Box::new(DistributionSource::new(tree, root, distribution))
        }
        Some(SourceKind::Jreg) | None => {
            return Err(ArchiveError::Unknown { place: place.to_owned() });
        }
    })
}
