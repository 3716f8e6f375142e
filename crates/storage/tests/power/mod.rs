//! A disk that keeps only synced data after a power cut.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::SystemTime;

use jreg_storage::testing::SyscallFaults;
use jreg_storage::{Syscall, SyscallHook, SyscallTarget};

/// Of the write-ahead log.
const SEGMENT_BYTES: u64 = 512 * 1024;

/// What is durable, and the faults of the calls that make it so.
#[derive(Debug)]
pub(crate) struct PowerDisk {
    pub(crate) faults: SyscallFaults,
    root: PathBuf,
    durable: Mutex<Durable>,
}

#[derive(Debug, Default)]
struct Durable {
    files: HashMap<u64, (Vec<u8>, SystemTime)>,
    folders: HashMap<u64, BTreeMap<String, Metadata>>,
}

impl PowerDisk {
    /// Over a folder that is durable as it is.
    pub(crate) fn new(root: &Path) -> Self {
        let disk = Self {
            faults: SyscallFaults::with_segments(SEGMENT_BYTES),
            root: root.to_owned(),
            durable: Mutex::default(),
        };
        disk.sync_all();
        disk
    }

    fn lock(&self) -> MutexGuard<'_, Durable> {
        self.durable.lock().unwrap()
    }

    pub(crate) fn sync_all(&self) {
        sync_below(&mut self.lock(), &self.root);
    }

    /// The folder as it is after a power cut.
    pub(crate) fn after_power_cut(&self) -> tempfile::TempDir {
        let found = folder();
        self.restore_to(found.path());
        found
    }

    pub(crate) fn restore_to(&self, folder: &Path) {
        let root = fs::metadata(&self.root).unwrap();
        restore(&self.lock(), root.ino(), folder);
    }
}

/// A folder in memory, if there is one: these tests sync thousands of times.
pub(crate) fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap()
}

fn sync_below(durable: &mut Durable, folder: &Path) {
    sync_folder(durable, folder);
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sync_below(durable, &path);
        } else {
            sync_file(durable, &File::open(path).unwrap());
        }
    }
}

fn sync_folder(durable: &mut Durable, folder: &Path) {
    let mut names = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        // Another thread may rename it meanwhile.
        if let Ok(metadata) = entry.metadata() {
            names.insert(entry.file_name().into_string().unwrap(), metadata);
        }
    }
    durable.folders.insert(fs::metadata(folder).unwrap().ino(), names);
}

fn sync_file(durable: &mut Durable, file: &File) {
    let metadata = file.metadata().unwrap();
    let path = opened_path(file);
    // It may be open for writing only.
    let Ok(bytes) = fs::read(path) else { return };
    durable.files.insert(metadata.ino(), (bytes, metadata.modified().unwrap()));
}

fn opened_path(file: &File) -> PathBuf {
    use std::os::fd::AsRawFd;
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

fn restore(durable: &Durable, folder: u64, to: &Path) {
    for (name, metadata) in durable.folders.get(&folder).into_iter().flatten() {
        let to = to.join(name);
        if metadata.is_dir() {
            fs::create_dir(&to).unwrap();
            restore(durable, metadata.ino(), &to);
        } else {
            let empty = (Vec::new(), SystemTime::UNIX_EPOCH);
            let (bytes, modified) = durable.files.get(&metadata.ino()).unwrap_or(&empty);
            fs::write(&to, bytes).unwrap();
            File::options().write(true).open(&to).unwrap().set_modified(*modified).unwrap();
        }
    }
}

impl SyscallHook for PowerDisk {
    fn segment_bytes(&self) -> Option<u64> {
        self.faults.segment_bytes()
    }

    fn before(&self, call: Syscall, target: SyscallTarget<'_>) -> io::Result<()> {
        self.faults.before(call, target)?;
        match (call, target) {
            (Syscall::SyncAll, _) => self.sync_all(),
            (Syscall::Sync, SyscallTarget::File(file)) if file.metadata()?.is_dir() => {
                sync_folder(&mut self.lock(), &fs::read_link(opened_path(file))?);
            }
            (Syscall::Sync, SyscallTarget::File(file)) => sync_file(&mut self.lock(), file),
            _ => {}
        }
        Ok(())
    }
}
