//! Images where no registry serves them: OCI image layouts, archives of `docker save`, and the storage of
//! distribution, Harbor and zot. This crate reads them as lists and streams, and writes layouts; it knows
//! no registry.
//!
//! - `tree.rs`: files below a folder, in a bucket or in a tar archive, as [`SourceTree`]; this crate reads archives,
//!   the caller brings the others
//! - `tar_members.rs`: the members of an archive, which is hostile input; `tar_tree.rs`: of one that is a file;
//!   `stream.rs`: of one that is read once, whose blobs go to the registry meanwhile; `unpack.rs`: compressed ones
//! - `source.rs`: what a source has, as [`ImageSource`]
//! - `layout.rs`, `docker.rs`, `distribution.rs`: the formats; `detect.rs`: which one something is
//! - `image_name.rs`: names of images as other tools write them
//! - `writer.rs`: writes an OCI image layout to a folder or as a tar archive
//!
//! Headers and extended headers of tar are parsed by the crate `tar`; the loop over the members is ours, since it
//! must bound what one header may take, and refuse what extractors interpret differently. gzip and zstd are
//! read by `flate2` (its Rust backend) and `ruzstd`: neither needs a C compiler.

#![allow(missing_docs, reason = "a comment that repeats a field's name is noise")]

mod detect;
mod distribution;
mod docker;
mod error;
mod image_name;
mod layout;
mod source;
mod stream;
mod tar_members;
mod tar_tree;
mod tree;
mod unpack;
mod writer;

pub use detect::{SourceKind, detect, open};
pub use distribution::{DistributionOptions, DistributionSource, TagList};
pub use docker::DockerArchive;
pub use error::{ArchiveError, Result};
pub use image_name::{ImageName, InvalidImageName};
pub use layout::LayoutSource;
pub use source::{
    FoundManifest, ImageSource, MANIFEST_BYTES_MAX, SkippedItem, SourceBlob, SourceImage,
    SourceIndex, SourceManifest,
};
pub use stream::{
    ArchiveStream, BlobReceiver, KEPT_MEMORY_BYTES_MAX, NoReceiver, OpenedArchive, Spool,
    StreamedTree, open_archive,
};
pub use tar_members::{HEADER_BYTES_MAX, MEMBERS_MAX, NAME_BYTES_MAX, NAMES_BYTES_MAX};
pub use tar_tree::TarTree;
pub use tree::{ReceivedFile, SourceContent, SourcePlace, SourceTree};
pub use unpack::{UNPACKED_BYTES_MAX, UNPACKED_RATIO_MAX};
pub use writer::{LayoutImage, LayoutWriter};
