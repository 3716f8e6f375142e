//! The emulator as a registry's store.

use std::sync::Arc;

use jreg_storage::{PART_BYTES_MIN, S3Credentials, S3Options, S3Store, Store, TombstoneStore};

use super::S3Server;

impl S3Server {
    /// How a store reaches it, with the smallest parts that there are, at an instance whose clock
    /// agrees with the server's.
    pub fn options(&self) -> S3Options {
        let url = self.storage_url().parse().expect("the emulator knows its own address");
        let (key_id, secret) = (self.access_key().to_owned(), self.secret_key().to_owned());
        let credentials = S3Credentials::Static { key_id, secret, token: None };
        let clock = Arc::new(self.clock().clone());
        S3Options { credentials, clock, part_bytes: PART_BYTES_MIN, ..S3Options::new(url) }
    }

    /// A store of its own over the bucket, as an instance of jreg has it.
    pub fn store(&self) -> Arc<dyn Store> {
        let store = S3Store::open(self.options()).expect("the options are good");
        Arc::new(TombstoneStore::new(store, jreg_registry::may_come_back))
    }
}
