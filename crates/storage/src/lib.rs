//! Bytes under keys: one trait, one contract, several stores.
//!
//! [`Store`] is the whole interface. [`Key`] names an object, [`Error`] is a failure and [`Clock`]
//! the time. This crate knows nothing of OCI.
//!
//! - [`MemoryStore`] is the reference, [`FsStore`] the store in a folder, [`S3Store`] the one in a
//!   bucket.
//! - [`MeteredStore`] is put around a store to observe it, [`TombstoneStore`] around a shared one so that
//!   no late write brings a deleted record back, [`SingleWriterStore`] around one that keeps no
//!   conditions, [`HedgedStore`] around one whose responses are slow at times, [`CoalescedStore`] around one
//!   whose requests travel, [`PacedStore`] around what work in the background uses, [`ReadOnlyStore`] around one that must not change.
//! - `contract` (a cargo feature) is the contract of the trait as tests; `testing` (another) has
//!   stores that fail, record and wait.

mod clock;
mod coalesced;
#[cfg(feature = "contract")]
pub mod contract;
mod error;
mod forward;
mod fs;
mod hedged;
mod jitter;
mod key;
mod memory;
mod metered;
mod paced;
mod read_only;
mod s3;
mod send_window;
mod single_writer;
mod store;
mod swap_retries;
#[cfg(feature = "testing")]
pub mod testing;
mod tombstones;

pub use clock::{Clock, SystemClock};
pub use coalesced::{CoalescedStore, GATHER_MAX};
pub use error::{Error, ErrorKind, Result, error_chain};
#[cfg(feature = "testing")]
pub use fs::SyscallHook;
pub use fs::{
    Durability, FS_THREADS, FsOpenError, FsOptions, FsStore, SyncCounts, Syscall, SyscallTarget,
};
pub use hedged::{Hedge, HedgedStore};
pub use jitter::full_jitter;
pub use key::{COMPONENT_BYTES_MAX, InvalidKey, KEY_BYTES_MAX, Key};
pub use memory::{MemoryBuilder, MemoryStore};
pub use metered::{MeteredStore, StoreObserver};
pub use paced::PacedStore;
pub use read_only::ReadOnlyStore;
pub use s3::{
    BucketCapabilities, CLOCK_DIFFERENCE_MAX, Encryption, InvalidS3Url, PART_BYTES_MAX,
    PART_BYTES_MIN, S3Credentials, S3OpenError, S3Options, S3Store, S3Url,
};
pub use send_window::{SendWindow, SendWindowClosed};
pub use single_writer::SingleWriterStore;
pub use store::{
    ByteRange, ByteStream, CopiedObject, CopyMethod, CopySource, ETag, ListPage, ListRequest,
    Listed, Multipart, OpenFile, Part, PartRules, Presign, Purged, Put, PutMode, PutPurpose,
    RECORD_BYTES_MAX, Record, SequenceOutcome, StagedUpload, Stat, Store, StoreCapabilities,
    StoreChange, StoreFuture, StoreHealth, Written, put_in_sequence,
};
pub use swap_retries::SwapRetries;
pub use tombstones::{TOMBSTONE_BYTES, TombstoneStore};
