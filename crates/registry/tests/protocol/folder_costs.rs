//! Costs of a push to a folder: system calls by kind. They are counted, as time is for the benchmark.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use jreg_oci::{Algorithm, Digest};
use jreg_registry::{Registry, RegistryOptions, UploadChunk};
use jreg_storage::{
    Durability, FsOptions, FsStore, Syscall, SyscallHook, SyscallTarget, SystemClock,
};

/// Counts the system calls of a folder store by kind.
#[derive(Debug, Default)]
struct SyscallCounts(Mutex<BTreeMap<String, u64>>);

impl SyscallCounts {
    /// Those since the last call of this.
    fn take(&self) -> String {
        let counts = std::mem::take(&mut *self.0.lock().unwrap());
        let counts: Vec<_> =
            counts.into_iter().map(|(call, count)| format!("{call} {count}")).collect();
        counts.join(", ")
    }
}

impl SyscallHook for SyscallCounts {
    fn before(&self, call: Syscall, _: SyscallTarget<'_>) -> std::io::Result<()> {
        *self.0.lock().unwrap().entry(format!("{call:?}")).or_default() += 1;
        Ok(())
    }
}

/// Each 256 KiB of a blob is one write to a file that stays open. A known digest needs no session
/// record, nor, with relaxed durability, a stream that is closed at once.
#[tokio::test]
async fn system_calls_of_a_push_to_a_folder() {
    const KIB: usize = 1024;
    // Where nothing is found, up to four more look whether a folder above is what it should be.
    // The bytes and the link, each with a new folder in a new folder; the other writes are of 32 KiB.
    let known =
        |writes| format!("Create 2, MakeFolder 4, Rename 2, SetTime 2, Stat 7, Write {writes}");
    // A stream looks whether there is a session, before its bytes and after them; these go to a folder that another push may have made.
    let streamed =
        |writes| format!("Create 2, MakeFolder 3, Rename 2, SetTime 2, Stat 11, Write {writes}");
    // Whether any repository has the blob, whether its link is there, and of which version it is then.
    let known_small = "Create 2, MakeFolder 4, Rename 2, SetTime 2, Stat 5, Write 2".to_owned();
    let streamed_small = "Create 2, MakeFolder 3, Rename 2, SetTime 2, Stat 9, Write 2".to_owned();
    // And one write and sync of the log for each request; a stream has a session, which replaces itself once.
    let durable_known_small =
        "Create 2, MakeFolder 4, Overwrite 1, Rename 2, SetTime 2, Stat 6, Sync 1, Write 2"
            .to_owned();
    let durable_streamed_small =
        "Create 4, MakeFolder 3, Overwrite 2, Rename 4, SetTime 4, Stat 11, Sync 2, Write 4"
            .to_owned();
    // Syncs are of the bytes, the three folders that are new, and the log.
    let durable_known = |write_back: &str, writes| {
        format!(
            "Create 2, MakeFolder 4, Open 3, Overwrite 1, Rename 2, SetTime 2, Stat 8, Sync 5, Write {writes}{write_back}"
        )
    };
    let durable_streamed = |write_back: &str, writes| {
        format!(
            "Create 4, MakeFolder 3, Open 3, Overwrite 2, Rename 5, SetTime 4, Stat 13, Sync 5, Write {writes}{write_back}"
        )
    };
    let expected = [
        (Durability::Relaxed, 4 * KIB, false, known_small),
        (Durability::Relaxed, 4 * KIB, true, streamed_small),
        (Durability::Strict, 4 * KIB, false, durable_known_small),
        (Durability::Strict, 4 * KIB, true, durable_streamed_small),
        (Durability::Relaxed, 1024 * KIB + 16, false, known(34)),
        (Durability::Relaxed, 1024 * KIB + 16, true, streamed(34)),
        (Durability::Relaxed, 10 * 1024 * KIB, false, known(321)),
        (Durability::Relaxed, 10 * 1024 * KIB, true, streamed(321)),
        (Durability::Strict, 1024 * KIB + 16, false, durable_known("", 34)),
        (Durability::Strict, 1024 * KIB + 16, true, durable_streamed("", 36)),
        (Durability::Strict, 10 * 1024 * KIB, false, durable_known(", WriteBack 1", 321)),
        (Durability::Strict, 10 * 1024 * KIB, true, durable_streamed(", WriteBack 1", 323)),
    ];
    let mut counted = Vec::new();
    for (durability, length, is_streamed, _) in &expected {
        let (durability, length, is_streamed) = (*durability, *length, *is_streamed);
        let folder = tempfile::tempdir().unwrap();
        let counts = Arc::new(SyscallCounts::default());
        let options = FsOptions { durability, ..FsOptions::default() };
        let store = FsStore::open_with(folder.path(), options, counts.clone()).unwrap();
        let (clock, options) = (Arc::new(SystemClock::new()), RegistryOptions::default());
        let registry = Registry::open(Arc::new(store), clock, options).await.unwrap();
        let repository = registry.repository("app".parse().unwrap());
        for number in 0..2 {
            counts.take();
            let bytes = vec![number; length];
            let digest = Digest::of(Algorithm::Sha256, &bytes);
            if is_streamed {
                let id = repository.upload_start(None);
                let chunk = UploadChunk { length: None, ..UploadChunk::of(bytes) };
                repository.upload_append(&id, chunk).await.unwrap();
                repository.upload_finish(&id, &digest, UploadChunk::empty()).await.unwrap();
            } else {
                repository.blob_push(&digest, UploadChunk::of(bytes)).await.unwrap();
            }
        }
        counted.push((durability, length, is_streamed, counts.take()));
    }
    assert_eq!(counted, expected);
}
