//! Archives of images: reading one ends, in little memory, and what is read lies within it.
#![no_main]

use std::io::Cursor;
use std::sync::Arc;

use jreg_archive::{ArchiveStream, NoReceiver, SourceTree, Spool};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let spool = Spool { bytes_max: 1 << 20, ..Spool::default() };
    let Ok(stream) = ArchiveStream::open(Cursor::new(bytes.to_vec()), &spool) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let Ok(tree) = stream.receive(Arc::new(NoReceiver)).await else { return };
        for name in tree.names("").await.unwrap() {
            assert!(!name.starts_with('/') && !name.starts_with(".."));
            let size = tree.size(&name).await.unwrap();
            assert!(size.is_none_or(|size| size <= 1 << 20));
        }
    });
});
