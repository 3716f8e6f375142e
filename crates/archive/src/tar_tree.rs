//! [`TarTree`]: the files in a tar archive, found once and then read by their position.
//!
//! An archive is hostile input. Nothing in it becomes a path of this machine: names are only looked up
//! among the members. Symbolic and hard links lead to other members, or nowhere. What extractors interpret
//! differently is refused: a name twice, names with `..` or an absolute one, sparse files, and sizes that
//! disagree. What one header may take is bounded, and so is the number of members.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, StreamExt};
use tar::{EntryType, Header, PaxExtensions};

use crate::{ArchiveError, Result, SourceContent, SourceTree};

const BLOCK: u64 = 512;
/// The most members of an archive.
pub const MEMBERS_MAX: usize = 1_000_000;
/// The longest name of a member, in bytes.
pub const NAME_BYTES_MAX: usize = 4096;
/// The most bytes of one extended header.
pub const HEADER_BYTES_MAX: u64 = 1024 * 1024;
/// How many links may lead to a file.
const LINKS_MAX: usize = 8;
/// How much is read at a time.
const CHUNK_BYTES: u64 = 256 * 1024;

/// What a name in an archive stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum TarMember {
    File {
        offset: u64,
        size_bytes: u64,
    },
    /// The name of another member.
    Link(String),
}

/// The files in a tar archive that is a file.
#[derive(Debug)]
pub struct TarTree {
    file: Arc<File>,
    members: BTreeMap<String, TarMember>,
}

/// What extended headers say of the member after them.
#[derive(Debug, Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size_bytes: Option<u64>,
}

impl TarTree {
    /// Finds the members of an archive. Blocks the thread.
    ///
    /// # Errors
    ///
    /// [`ArchiveError`].
    pub fn open(file: File) -> Result<Self> {
        let length = file.metadata().map_err(ArchiveError::io("the archive"))?.len();
        let mut scan = TarScan { file: &file, length, offset: 0, members: BTreeMap::new() };
        scan.run()?;
        let members = scan.members;
        Ok(Self { file: Arc::new(file), members })
    }

    /// Where a file lies, through links within the archive.
    fn find(&self, path: &str) -> Option<(u64, u64)> {
        let mut path = path;
        for _ in 0..=LINKS_MAX {
            match self.members.get(path)? {
                TarMember::File { offset, size_bytes } => return Some((*offset, *size_bytes)),
                TarMember::Link(to) => path = to,
            }
        }
        None
    }
}

/// One pass over the headers of an archive.
struct TarScan<'f> {
    file: &'f File,
    length: u64,
    offset: u64,
    members: BTreeMap<String, TarMember>,
}

impl TarScan<'_> {
    fn run(&mut self) -> Result<()> {
        let mut extensions = Extensions::default();
        while let Some(header) = self.next_header()? {
            let at = self.offset - BLOCK;
            let size = header.entry_size().map_err(|error| self.damaged(error))?;
            match header.entry_type() {
                EntryType::GNULongName => extensions.path = Some(self.text(size)?),
                EntryType::GNULongLink => extensions.link = Some(self.text(size)?),
                EntryType::XHeader => self.read_pax(size, &mut extensions)?,
                EntryType::XGlobalHeader => {
                    self.extension(size)?;
                }
                kind => {
                    let extensions = std::mem::take(&mut extensions);
                    self.member(kind, &header, extensions)?;
                }
            }
            if self.offset <= at {
                return Err(self.damaged("it does not go on"));
            }
        }
        Ok(())
    }

    /// The next header; `None` at the end of the archive.
    fn next_header(&mut self) -> Result<Option<Header>> {
        // Archives that lack the blocks of zeros at the end are common; ones that end within a header are cut.
        if self.offset >= self.length {
            return Ok(None);
        }
        let mut header = Header::new_old();
        let block = header.as_mut_bytes();
        let read = self.file.read_exact_at(block, self.offset);
        read.map_err(|_| self.damaged("it ends within a header"))?;
        self.offset += BLOCK;
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let sum = checksum(header.as_bytes());
        match header.cksum() {
            Ok(stored) if stored == sum => Ok(Some(header)),
            _ => Err(self.damaged("a header has another checksum")),
        }
    }

    fn member(&mut self, kind: EntryType, header: &Header, extensions: Extensions) -> Result<()> {
        let Extensions { path, link, size_bytes } = extensions;
        let path = path.unwrap_or_else(|| header.path_bytes().into_owned());
        let shown = String::from_utf8_lossy(&path).into_owned();
        let refuse = |reason| ArchiveError::Member { name: shown.clone(), reason };
        let size = match size_bytes {
            Some(size) => size,
            None => header.entry_size().map_err(|error| self.damaged(error))?,
        };
        let is_folder = kind.is_dir() || path.ends_with(b"/");
        let name = clean_name(&path).map_err(refuse)?;
        let member = match kind {
            EntryType::Regular | EntryType::Continuous if is_folder => None,
            EntryType::Regular | EntryType::Continuous => {
                Some(TarMember::File { offset: self.offset, size_bytes: size })
            }
            EntryType::Directory => None,
            EntryType::Symlink | EntryType::Link => {
                let to = link.or_else(|| header.link_name_bytes().map(|name| name.into_owned()));
                let to = to.ok_or_else(|| refuse("is a link that leads nowhere"))?;
                let base = match kind {
                    EntryType::Symlink => name.rsplit_once('/').map_or("", |(folder, _)| folder),
                    _ => "",
                };
                let to =
                    link_target(base, &to).ok_or_else(|| refuse("leads out of the archive"))?;
                Some(TarMember::Link(to))
            }
            EntryType::GNUSparse => return Err(refuse("is a sparse file")),
            _ => return Err(refuse("is neither a file, a folder nor a link")),
        };
        let has_data = matches!(member, Some(TarMember::File { .. }));
        if !has_data && size > 0 {
            return Err(refuse("has bytes although it is no file"));
        }
        self.skip(size)?;
        let Some(member) = member else { return Ok(()) };
        if name.is_empty() {
            return Err(refuse("has no name"));
        }
        if self.members.len() >= MEMBERS_MAX {
            let reason = format!("it has more than {MEMBERS_MAX} members");
            return Err(ArchiveError::TooLarge { reason });
        }
        match self.members.insert(name, member) {
            None => Ok(()),
            Some(_) => Err(refuse("is there twice")),
        }
    }

    /// Passes over the bytes of a member.
    fn skip(&mut self, size: u64) -> Result<()> {
        let padded = size.checked_next_multiple_of(BLOCK);
        let end = padded.and_then(|padded| self.offset.checked_add(padded));
        match end {
            // The last block may lack its padding.
            Some(end) if self.offset + size <= self.length => {
                self.offset = end;
                Ok(())
            }
            _ => Err(self.damaged("it ends within a member")),
        }
    }

    /// The bytes of an extended header.
    fn extension(&mut self, size: u64) -> Result<Vec<u8>> {
        if size > HEADER_BYTES_MAX {
            let reason = format!("an extended header has more than {HEADER_BYTES_MAX} bytes");
            return Err(ArchiveError::TooLarge { reason });
        }
        let start = self.offset;
        self.skip(size)?;
        let mut bytes = vec![0; usize::try_from(size).unwrap_or_default()];
        let read = self.file.read_exact_at(&mut bytes, start);
        read.map_err(|_| self.damaged("it ends within an extended header"))?;
        Ok(bytes)
    }

    /// A long name.
    fn text(&mut self, size: u64) -> Result<Vec<u8>> {
        let mut text = self.extension(size)?;
        while text.pop_if(|last| *last == 0).is_some() {}
        Ok(text)
    }

    fn read_pax(&mut self, size: u64, extensions: &mut Extensions) -> Result<()> {
        let bytes = self.extension(size)?;
        for record in PaxExtensions::new(&bytes) {
            let record = record.map_err(|error| self.damaged(error))?;
            let key = record.key_bytes();
            if key.starts_with(b"GNU.sparse.") {
                let (name, reason) = ("?".to_owned(), "is a sparse file");
                return Err(ArchiveError::Member { name, reason });
            }
            match key {
                b"path" => extensions.path = Some(record.value_bytes().to_vec()),
                b"linkpath" => extensions.link = Some(record.value_bytes().to_vec()),
                b"size" => {
                    let size = record.value().ok().and_then(|value| value.parse().ok());
                    let size = size.ok_or_else(|| self.damaged("a size is no number"))?;
                    extensions.size_bytes = Some(size);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn damaged(&self, reason: impl ToString) -> ArchiveError {
        ArchiveError::Damaged { offset: self.offset, reason: reason.to_string() }
    }
}

/// The sum of a header's bytes, with spaces in place of the stored sum.
fn checksum(block: &[u8; 512]) -> u32 {
    let outside = |index: &usize| !(148..156).contains(index);
    let bytes = block.iter().enumerate().filter(|(index, _)| outside(index));
    bytes.map(|(_, byte)| u32::from(*byte)).sum::<u32>() + 8 * u32::from(b' ')
}

/// A member's name without `./` at its start.
fn clean_name(name: &[u8]) -> Result<String, &'static str> {
    let name = std::str::from_utf8(name).map_err(|_| "has a name that is not UTF-8")?;
    if name.len() > NAME_BYTES_MAX {
        return Err("has a name that is too long");
    }
    if name.starts_with('/') {
        return Err("has an absolute name");
    }
    if name.contains(['\0', '\\']) {
        return Err("has a name with a character that no file of an image has");
    }
    let parts = name.split('/').filter(|part| !part.is_empty() && *part != ".");
    let mut clean = Vec::new();
    for part in parts {
        if part == ".." {
            return Err("leads out of the archive");
        }
        clean.push(part);
    }
    Ok(clean.join("/"))
}

/// The name that a link in a folder leads to; `None` if that is outside of the archive.
fn link_target(folder: &str, to: &[u8]) -> Option<String> {
    let to = std::str::from_utf8(to).ok().filter(|to| !to.starts_with('/'))?;
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in to.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// Reads a chunk, and says where the next one begins.
fn read_chunk(file: &File, offset: u64, end: u64) -> io::Result<Bytes> {
    let length = (end - offset).min(CHUNK_BYTES);
    let mut chunk = vec![0; usize::try_from(length).unwrap_or_default()];
    file.read_exact_at(&mut chunk, offset)?;
    Ok(chunk.into())
}

#[async_trait]
impl SourceTree for TarTree {
    async fn names(&self, folder: &str) -> Result<Vec<String>> {
        let below = self.members.range(folder.to_owned()..);
        let below = below.map_while(|(name, _)| name.strip_prefix(folder));
        let mut names: Vec<String> = below
            .map(|rest| match rest.split_once('/') {
                Some((first, _)) => format!("{first}/"),
                None => rest.to_owned(),
            })
            .collect();
        names.sort();
        names.dedup();
        Ok(names)
    }

    async fn open(&self, path: &str) -> Result<Option<SourceContent>> {
        let Some((start, size_bytes)) = self.find(path) else { return Ok(None) };
        let (file, end) = (Arc::clone(&self.file), start + size_bytes);
        let chunks = stream::try_unfold(start, move |offset| {
            let file = Arc::clone(&file);
            async move {
                if offset == end {
                    return Ok(None);
                }
                let reading = tokio::task::spawn_blocking(move || read_chunk(&file, offset, end));
                let chunk = reading.await.map_err(io::Error::other)??;
                let next = offset + chunk.len() as u64;
                Ok(Some((chunk, next)))
            }
        });
        Ok(Some(SourceContent { size_bytes, place: None, stream: chunks.boxed() }))
    }

    async fn size(&self, path: &str) -> Result<Option<u64>> {
        Ok(self.find(path).map(|(_, size_bytes)| size_bytes))
    }
}

#[cfg(test)]
mod tests;
