//! [`TarMembers`]: the members of a tar archive, one after the other, of a file or a stream.
//!
//! An archive is hostile input. Nothing in it becomes a path of this machine: names are only looked up
//! among the members. Symbolic and hard links lead to other members, or nowhere. What extractors interpret
//! differently is refused: a name twice, names with `..` or an absolute one, sparse files, and sizes that
//! disagree. What one header may take is bounded, and so is the number of members.

use std::collections::BTreeMap;
use std::io;

use tar::{EntryType, Header, PaxExtensions};

use crate::{ArchiveError, Result};

const BLOCK: u64 = 512;
/// The most members of an archive.
pub const MEMBERS_MAX: usize = 1_000_000;
/// The longest name of a member, in bytes.
pub const NAME_BYTES_MAX: usize = 4096;
/// The most bytes of the names of all members, with those that links lead to: they are in memory.
pub const NAMES_BYTES_MAX: usize = 256 * 1024 * 1024;
/// The most bytes of one extended header.
pub const HEADER_BYTES_MAX: u64 = 1024 * 1024;
/// How many links may lead to a file.
const LINKS_MAX: usize = 8;

/// The bytes of an archive, in their order.
pub(crate) trait TarInput {
    /// Fills a buffer, as far as there are bytes.
    ///
    /// # Errors
    ///
    /// I/O errors.
    fn read_full(&mut self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Passes over bytes. `false`: there are fewer.
    ///
    /// # Errors
    ///
    /// I/O errors.
    fn pass(&mut self, bytes: u64) -> io::Result<bool>;
}

/// A file or a link of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TarMember {
    pub(crate) name: String,
    pub(crate) kind: MemberKind,
}

/// What a member is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MemberKind {
    /// So many bytes, which follow.
    File { size_bytes: u64 },
    /// Another name of another member.
    Link(String),
}

/// The members of an archive by their names, with what is known of each file.
#[derive(Debug)]
pub(crate) struct MemberMap<T> {
    members: BTreeMap<String, MappedMember<T>>,
    names_bytes: usize,
}

#[derive(Debug)]
enum MappedMember<T> {
    File(T),
    /// The name of another member.
    Link(String),
}

impl<T> Default for MemberMap<T> {
    fn default() -> Self {
        Self { members: BTreeMap::new(), names_bytes: 0 }
    }
}

impl<T> MemberMap<T> {
    pub(crate) fn add_file(&mut self, name: String, file: T) -> Result<()> {
        self.add(name, MappedMember::File(file))
    }

    pub(crate) fn add_link(&mut self, name: String, to: String) -> Result<()> {
        self.add(name, MappedMember::Link(to))
    }

    fn add(&mut self, name: String, member: MappedMember<T>) -> Result<()> {
        if self.members.len() >= MEMBERS_MAX {
            let reason = format!("it has more than {MEMBERS_MAX} members");
            return Err(ArchiveError::TooLarge { reason });
        }
        let target_bytes = match &member {
            MappedMember::Link(to) => to.len(),
            MappedMember::File(_) => 0,
        };
        self.names_bytes += name.len() + target_bytes;
        if self.names_bytes > NAMES_BYTES_MAX {
            let reason = format!("the names of its members have more than {NAMES_BYTES_MAX} bytes");
            return Err(ArchiveError::TooLarge { reason });
        }
        self.check_new(&name)?;
        self.members.insert(name, member);
        Ok(())
    }

    /// Fails for a name that another member has.
    pub(crate) fn check_new(&self, name: &str) -> Result<()> {
        match self.members.contains_key(name) {
            true => Err(ArchiveError::Member { name: name.to_owned(), reason: "is there twice" }),
            false => Ok(()),
        }
    }

    /// A file, through links within the archive.
    pub(crate) fn find(&self, path: &str) -> Option<&T> {
        let mut path = path;
        for _ in 0..=LINKS_MAX {
            match self.members.get(path)? {
                MappedMember::File(file) => return Some(file),
                MappedMember::Link(to) => path = to,
            }
        }
        None
    }

    /// The names in a folder, in order; those of folders end with `/`.
    pub(crate) fn names(&self, folder: &str) -> Vec<String> {
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
        names
    }

    #[cfg(test)]
    pub(crate) fn all(&self) -> Vec<&str> {
        self.members.keys().map(String::as_str).collect()
    }
}

/// What extended headers say of the member after them.
#[derive(Debug, Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size_bytes: Option<u64>,
}

/// One pass over an archive.
#[derive(Debug)]
pub(crate) struct TarMembers<I> {
    input: I,
    offset: u64,
}

impl<I: TarInput> TarMembers<I> {
    pub(crate) fn new(input: I) -> Self {
        Self { input, offset: 0 }
    }

    /// Where the next header or the bytes of the last file begin.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// The next file or link; `None` at the end of the archive. The caller reads or passes over the bytes of a file.
    pub(crate) fn next(&mut self) -> Result<Option<TarMember>> {
        let mut extensions = Extensions::default();
        while let Some(header) = self.next_header()? {
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
                    if let Some(member) = self.member(kind, &header, extensions)? {
                        return Ok(Some(member));
                    }
                }
            }
        }
        Ok(None)
    }

    /// The next header; `None` at the end of the archive.
    fn next_header(&mut self) -> Result<Option<Header>> {
        let mut header = Header::new_old();
        let read = self.input.read_full(header.as_mut_bytes());
        match read.map_err(|error| self.failed(error))? {
            // Archives that lack the blocks of zeros at the end are common; ones that end within a header are cut.
            0 => return Ok(None),
            read if read as u64 == BLOCK => self.offset += BLOCK,
            _ => return Err(self.damaged("it ends within a header")),
        }
        if header.as_bytes().iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let sum = checksum(header.as_bytes());
        match header.cksum() {
            Ok(stored) if stored == sum => Ok(Some(header)),
            _ => Err(self.damaged("a header has another checksum")),
        }
    }

    /// The member of a header; `None`: it is a folder.
    fn member(
        &self,
        kind: EntryType,
        header: &Header,
        extensions: Extensions,
    ) -> Result<Option<TarMember>> {
        let Extensions { path, link, size_bytes } = extensions;
        let path = path.unwrap_or_else(|| header.path_bytes().into_owned());
        let shown = String::from_utf8_lossy(&path).into_owned();
        let refuse = |reason| ArchiveError::Member { name: shown.clone(), reason };
        let size_bytes = match size_bytes {
            Some(size) => size,
            None => header.entry_size().map_err(|error| self.damaged(error))?,
        };
        let is_folder = kind.is_dir() || path.ends_with(b"/");
        let name = clean_name(&path).map_err(refuse)?;
        let kind = match kind {
            EntryType::Regular | EntryType::Continuous if is_folder => None,
            EntryType::Regular | EntryType::Continuous => Some(MemberKind::File { size_bytes }),
            EntryType::Directory => None,
            EntryType::Symlink | EntryType::Link => {
                let to = link.or_else(|| header.link_name_bytes().map(|name| name.into_owned()));
                let to = to.ok_or_else(|| refuse("is a link that leads nowhere"))?;
                if to.len() > NAME_BYTES_MAX {
                    return Err(refuse("is a link to a name that is too long"));
                }
                let base = match kind {
                    EntryType::Symlink => name.rsplit_once('/').map_or("", |(folder, _)| folder),
                    _ => "",
                };
                let to =
                    link_target(base, &to).ok_or_else(|| refuse("leads out of the archive"))?;
                Some(MemberKind::Link(to))
            }
            EntryType::GNUSparse => return Err(refuse("is a sparse file")),
            _ => return Err(refuse("is neither a file, a folder nor a link")),
        };
        let has_data = matches!(kind, Some(MemberKind::File { .. }));
        if !has_data && size_bytes > 0 {
            return Err(refuse("has bytes although it is no file"));
        }
        match kind {
            Some(_) if name.is_empty() => Err(refuse("has no name")),
            kind => Ok(kind.map(|kind| TarMember { name, kind })),
        }
    }

    /// Reads the next bytes of a file, as many as fit.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Result<()> {
        let read = self.input.read_full(buffer).map_err(|error| self.failed(error))?;
        self.offset += read as u64;
        match read == buffer.len() {
            true => Ok(()),
            false => Err(self.damaged("it ends within a member")),
        }
    }

    /// Passes over what is left of a file, and over what fills its last block.
    pub(crate) fn pass(&mut self, bytes: u64) -> Result<()> {
        let end = self.offset.checked_add(bytes);
        let end = end.and_then(|end| end.checked_next_multiple_of(BLOCK));
        let Some(end) = end else { return Err(self.damaged("it ends within a member")) };
        if !self.input.pass(bytes).map_err(|error| self.failed(error))? {
            return Err(self.damaged("it ends within a member"));
        }
        // The last block may lack its padding.
        let padding = end - self.offset - bytes;
        self.input.pass(padding).map_err(|error| self.failed(error))?;
        self.offset = end;
        Ok(())
    }

    /// The bytes of an extended header.
    fn extension(&mut self, size: u64) -> Result<Vec<u8>> {
        if size > HEADER_BYTES_MAX {
            let reason = format!("an extended header has more than {HEADER_BYTES_MAX} bytes");
            return Err(ArchiveError::TooLarge { reason });
        }
        let mut bytes = vec![0; usize::try_from(size).unwrap_or_default()];
        self.read(&mut bytes)?;
        self.pass(0)?;
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

    /// What reading it failed with: a limit that it exceeds, or damage.
    fn failed(&self, error: io::Error) -> ArchiveError {
        error.downcast::<ArchiveError>().unwrap_or_else(|error| self.damaged(error))
    }

    fn damaged(&self, reason: impl ToString) -> ArchiveError {
        ArchiveError::Damaged { offset: self.offset, reason: reason.to_string() }
    }

    /// Reads what follows the archive.
    pub(crate) fn finish(&mut self, read: impl FnOnce(&mut I) -> io::Result<()>) -> Result<()> {
        read(&mut self.input).map_err(|error| self.failed(error))
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
