//! [`LayoutWriter`]: writes an OCI image layout to a folder or as a tar archive.
//!
//! The same images are the same bytes: entries come in the order in which they are given, with the time 0, the
//! owner 0 and fixed modes. The names in a layout are ours, so a folder is written to without looking for links in it.
//!
//! What is not finished is removed when the writer is dropped. If the process is killed, a file has another name until it is
//! whole, and a folder has no `index.json`.

use std::fs::{self, File, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use jreg_oci::Digest;
use serde_json::{Value, json};
use tar::{EntryType, Header};
use tempfile::NamedTempFile;

const BLOCK: u64 = 512;
const MODE: u32 = 0o644;
/// Permissions of an archive, as far as the umask allows.
const FILE_MODE: u32 = 0o666;

/// An image that `docker load` takes, for `manifest.json`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayoutImage {
    pub config: Digest,
    pub layers: Vec<Digest>,
    /// Its names, with tags.
    pub names: Vec<String>,
}

/// A layout that is being written.
pub struct LayoutWriter {
    output: LayoutOutput,
    /// The entry that is being written, with how many bytes of it are left.
    left: u64,
    size_bytes: u64,
}

enum LayoutOutput {
    Folder(FolderOutput),
    Tar(Box<dyn Write + Send>),
    /// An archive that gets its name when it is whole.
    TarFile {
        file: BufWriter<NamedTempFile>,
        path: PathBuf,
    },
}

/// A folder. The documents come last: without them it is no layout.
struct FolderOutput {
    root: PathBuf,
    file: Option<BufWriter<File>>,
    /// Files and folders, each after the folder that it is in.
    made: Vec<PathBuf>,
    documents: Vec<(&'static str, Vec<u8>)>,
}

impl FolderOutput {
    fn open(root: &Path) -> io::Result<Self> {
        let is_new = !root.try_exists()?;
        fs::create_dir_all(root)?;
        if fs::read_dir(root)?.next().is_some() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the folder is not empty"));
        }
        let made = if is_new { vec![root.to_owned()] } else { Vec::new() };
        Ok(Self { root: root.to_owned(), file: None, made, documents: Vec::new() })
    }

    fn create(&mut self, name: &str) -> io::Result<()> {
        let path = self.root.join(name);
        for folder in folders_of(name).map(|folder| self.root.join(folder)) {
            match fs::create_dir(&folder) {
                Ok(()) => self.made.push(folder),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        let file = File::create_new(&path)?;
        self.made.push(path);
        self.file = Some(BufWriter::new(file));
        Ok(())
    }

    fn end_file(&mut self) -> io::Result<()> {
        match self.file.take() {
            Some(file) => file.into_inner().map_err(|error| error.into_error())?.sync_all(),
            None => Ok(()),
        }
    }

    fn finish(mut self) -> io::Result<()> {
        self.sync_folders()?;
        for (name, bytes) in std::mem::take(&mut self.documents) {
            self.create(name)?;
            if let Some(file) = &mut self.file {
                file.write_all(&bytes)?;
            }
            self.end_file()?;
        }
        self.sync_folders()?;
        sync_parent(&self.root)?;
        self.made.clear();
        Ok(())
    }

    fn sync_folders(&self) -> io::Result<()> {
        for folder in self.made.iter().filter(|path| path.is_dir()) {
            File::open(folder)?.sync_all()?;
        }
        File::open(&self.root)?.sync_all()
    }
}

impl Drop for FolderOutput {
    fn drop(&mut self) {
        for path in self.made.iter().rev() {
            // Whatever fails, nothing takes what is left for a layout.
            let _ = if path.is_dir() { fs::remove_dir(path) } else { fs::remove_file(path) };
        }
    }
}

/// The folders that a name is in, from the top.
fn folders_of(name: &str) -> impl Iterator<Item = &str> {
    name.match_indices('/').filter_map(|(at, _)| name.get(..at))
}

fn sync_parent(path: &Path) -> io::Result<()> {
    File::open(folder_of(path))?.sync_all()
}

fn folder_of(path: &Path) -> &Path {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent.unwrap_or(Path::new("."))
}

impl std::fmt::Debug for LayoutWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LayoutWriter").field("left", &self.left).finish_non_exhaustive()
    }
}

impl LayoutWriter {
    /// Writes to a folder, which must be empty or absent.
    ///
    /// # Errors
    ///
    /// I/O errors; the folder has something in it.
    pub fn folder(root: &Path) -> io::Result<Self> {
        let output = LayoutOutput::Folder(FolderOutput::open(root)?);
        Ok(Self { output, left: 0, size_bytes: 0 })
    }

    /// Writes a tar archive to a file, which replaces another one of its name when it is whole.
    ///
    /// # Errors
    ///
    /// I/O errors.
    pub fn tar_file(path: &Path) -> io::Result<Self> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let mut builder = tempfile::Builder::new();
        let prefix = format!(".{name}.");
        builder.prefix(&prefix).suffix(".partial").permissions(Permissions::from_mode(FILE_MODE));
        let file = BufWriter::new(builder.tempfile_in(folder_of(path))?);
        let output = LayoutOutput::TarFile { file, path: path.to_owned() };
        Ok(Self { output, left: 0, size_bytes: 0 })
    }

    /// Writes a tar archive.
    pub fn tar(output: impl Write + Send + 'static) -> Self {
        Self { output: LayoutOutput::Tar(Box::new(output)), left: 0, size_bytes: 0 }
    }

    /// Writes the documents of a layout: its mark, `index.json`, and what `docker load` reads, if it can.
    ///
    /// # Errors
    ///
    /// I/O errors.
    pub fn write_index(
        &mut self,
        entries: &[Value],
        docker: Option<&[LayoutImage]>,
    ) -> io::Result<()> {
        self.write_document("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": entries,
        });
        self.write_document("index.json", index.to_string().as_bytes())?;
        let Some(images) = docker else { return Ok(()) };
        let list: Vec<Value> = images.iter().map(docker_entry).collect();
        self.write_document("manifest.json", Value::from(list).to_string().as_bytes())
    }

    /// Begins the blob of a digest, of which exactly so many bytes follow.
    ///
    /// # Errors
    ///
    /// I/O errors; the entry before it is not whole.
    pub fn begin_blob(&mut self, digest: &Digest, size_bytes: u64) -> io::Result<()> {
        self.begin(&blob_path(digest), size_bytes)
    }

    fn begin(&mut self, path: &str, size_bytes: u64) -> io::Result<()> {
        if self.left > 0 {
            return Err(io::Error::other("the entry before is not whole"));
        }
        (self.left, self.size_bytes) = (size_bytes, size_bytes);
        match &mut self.output {
            LayoutOutput::Tar(output) => write_header(output, path, size_bytes),
            LayoutOutput::TarFile { file, .. } => write_header(file, path, size_bytes),
            LayoutOutput::Folder(folder) => folder.create(path),
        }
    }

    /// Appends bytes to the entry.
    ///
    /// # Errors
    ///
    /// I/O errors; more bytes than were announced.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let left = self.left.checked_sub(bytes.len() as u64);
        self.left = left.ok_or_else(|| io::Error::other("more bytes than were announced"))?;
        match &mut self.output {
            LayoutOutput::Tar(output) => output.write_all(bytes),
            LayoutOutput::TarFile { file, .. } => file.write_all(bytes),
            LayoutOutput::Folder(FolderOutput { file: Some(file), .. }) => file.write_all(bytes),
            LayoutOutput::Folder(_) => Err(io::Error::other("no entry was begun")),
        }
    }

    /// Ends the entry.
    ///
    /// # Errors
    ///
    /// I/O errors; fewer bytes than were announced.
    pub fn end(&mut self) -> io::Result<()> {
        if self.left > 0 {
            return Err(io::Error::other("fewer bytes than were announced"));
        }
        let padding = zeros(self.size_bytes.next_multiple_of(BLOCK) - self.size_bytes);
        match &mut self.output {
            LayoutOutput::Tar(output) => output.write_all(padding),
            LayoutOutput::TarFile { file, .. } => file.write_all(padding),
            LayoutOutput::Folder(folder) => folder.end_file(),
        }
    }

    fn write_document(&mut self, path: &'static str, bytes: &[u8]) -> io::Result<()> {
        if let LayoutOutput::Folder(folder) = &mut self.output {
            folder.documents.push((path, bytes.to_vec()));
            return Ok(());
        }
        self.begin(path, bytes.len() as u64)?;
        self.write(bytes)?;
        self.end()
    }

    /// Ends the layout.
    ///
    /// # Errors
    ///
    /// I/O errors.
    pub fn finish(self) -> io::Result<()> {
        match self.output {
            LayoutOutput::Tar(mut output) => {
                output.write_all(zeros(BLOCK))?;
                output.write_all(zeros(BLOCK))?;
                output.flush()
            }
            LayoutOutput::TarFile { mut file, path } => {
                file.write_all(zeros(BLOCK))?;
                file.write_all(zeros(BLOCK))?;
                let file = file.into_inner().map_err(|error| error.into_error())?;
                file.as_file().sync_all()?;
                file.persist(&path).map_err(|error| error.error)?;
                sync_parent(&path)
            }
            LayoutOutput::Folder(folder) => folder.finish(),
        }
    }
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}

fn docker_entry(image: &LayoutImage) -> Value {
    let layers: Vec<String> = image.layers.iter().map(blob_path).collect();
    json!({"Config": blob_path(&image.config), "RepoTags": image.names, "Layers": layers})
}

fn zeros(count: u64) -> &'static [u8] {
    const ZEROS: [u8; 512] = [0; 512];
    ZEROS.get(..usize::try_from(count).unwrap_or_default()).unwrap_or(&ZEROS)
}

fn write_header(output: &mut dyn Write, path: &str, size_bytes: u64) -> io::Result<()> {
    let mut header = Header::new_gnu();
    if header.set_path(path).is_err() {
        write_long_name(output, path)?;
        let cut = path.get(..100).unwrap_or(path);
        header.set_path(cut)?;
    }
    finish_header(&mut header, EntryType::Regular, size_bytes);
    output.write_all(header.as_bytes())
}

/// A name that does not fit a header: that of a blob with a SHA-512 digest.
fn write_long_name(output: &mut dyn Write, path: &str) -> io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_path("././@LongLink").or_else(|_| header.set_path("@LongLink"))?;
    let length = path.len() as u64 + 1;
    finish_header(&mut header, EntryType::GNULongName, length);
    output.write_all(header.as_bytes())?;
    output.write_all(path.as_bytes())?;
    output.write_all(zeros(length.next_multiple_of(BLOCK) - path.len() as u64))
}

fn finish_header(header: &mut Header, kind: EntryType, size_bytes: u64) {
    header.set_entry_type(kind);
    header.set_size(size_bytes);
    header.set_mode(MODE);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_cksum();
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use jreg_oci::Algorithm;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn write(writer: &mut LayoutWriter, bytes: &[u8]) {
        writer.begin_blob(&Digest::of(Algorithm::Sha256, bytes), bytes.len() as u64).unwrap();
        writer.write(bytes).unwrap();
        writer.end().unwrap();
    }

    #[test]
    fn a_folder_is_a_layout_when_it_is_whole_and_else_nothing() {
        let home = tempfile::tempdir().unwrap();
        let (new, given) = (home.path().join("new"), home.path().join("given"));
        fs::create_dir(&given).unwrap();
        for root in [&new, &given] {
            let mut writer = LayoutWriter::folder(root).unwrap();
            writer.write_index(&[], Some(&[])).unwrap();
            write(&mut writer, b"1");
            writer.begin_blob(&Digest::of(Algorithm::Sha512, b"2"), 1).unwrap();
            assert_eq!(names(root), ["blobs"], "what a killed process leaves is no layout");
            drop(writer);
            assert_eq!(root.exists(), root == &given);
        }
        assert!(names(&given).is_empty());
        let mut writer = LayoutWriter::folder(&given).unwrap();
        writer.write_index(&[], None).unwrap();
        write(&mut writer, b"1");
        writer.finish().unwrap();
        assert_eq!(names(&given), ["blobs", "index.json", "oci-layout"]);
        assert!(LayoutWriter::folder(&given).is_err());
    }

    #[test]
    fn a_file_has_its_name_when_it_is_whole() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("a.tar");
        let other = home.path().join("other");
        fs::write(&other, b"of another program").unwrap();
        std::os::unix::fs::symlink(&other, home.path().join("a.tar.partial")).unwrap();
        let mut writer = LayoutWriter::tar_file(&path).unwrap();
        writer.write_index(&[], None).unwrap();
        drop(writer);
        assert_eq!(names(home.path()), ["a.tar.partial", "other"]);
        let mut writer = LayoutWriter::tar_file(&path).unwrap();
        writer.write_index(&[], None).unwrap();
        writer.finish().unwrap();
        assert_eq!(names(home.path()), ["a.tar", "a.tar.partial", "other"]);
        assert_eq!(fs::read(&other).unwrap(), b"of another program");
        // As any file that a program creates.
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&path), mode(&other));
        assert!(LayoutWriter::tar_file(&home.path().join("none/a.tar")).is_err());
    }
}
