//! [`LayoutWriter`]: writes an OCI image layout to a folder or as a tar archive.
//!
//! The same images are the same bytes: entries come in the order in which they are given, with the time 0, the
//! owner 0 and fixed modes. The names in a layout are ours, so a folder is written to without looking for links in it.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use jreg_oci::Digest;
use serde_json::{Value, json};
use tar::{EntryType, Header};

const BLOCK: u64 = 512;
const MODE: u32 = 0o644;

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
    Folder { root: PathBuf, file: Option<(PathBuf, BufWriter<File>)> },
    Tar(Box<dyn Write + Send>),
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
        fs::create_dir_all(root)?;
        if fs::read_dir(root)?.next().is_some() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the folder is not empty"));
        }
        let output = LayoutOutput::Folder { root: root.to_owned(), file: None };
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
        self.write_whole("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": entries,
        });
        self.write_whole("index.json", index.to_string().as_bytes())?;
        let Some(images) = docker else { return Ok(()) };
        let list: Vec<Value> = images.iter().map(docker_entry).collect();
        self.write_whole("manifest.json", Value::from(list).to_string().as_bytes())
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
            LayoutOutput::Folder { root, file } => {
                let path = root.join(path);
                if let Some(folder) = path.parent() {
                    fs::create_dir_all(folder)?;
                }
                let opened = File::create_new(&path)?;
                *file = Some((path, BufWriter::new(opened)));
                Ok(())
            }
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
            LayoutOutput::Folder { file: Some((_, file)), .. } => file.write_all(bytes),
            LayoutOutput::Folder { .. } => Err(io::Error::other("no entry was begun")),
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
        match &mut self.output {
            LayoutOutput::Tar(output) => {
                let padding = self.size_bytes.next_multiple_of(BLOCK) - self.size_bytes;
                output.write_all(zeros(padding))
            }
            LayoutOutput::Folder { file, .. } => match file.take() {
                Some((_, file)) => {
                    file.into_inner().map_err(|error| error.into_error())?.sync_all()
                }
                None => Ok(()),
            },
        }
    }

    fn write_whole(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
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
            LayoutOutput::Folder { root, .. } => File::open(root)?.sync_all(),
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
