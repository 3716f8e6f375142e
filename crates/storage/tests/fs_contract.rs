//! The folder store against the contract, under both durabilities.

use std::sync::Arc;

use jreg_storage::contract::ContractStore;
use jreg_storage::{Durability, FsOptions, FsStore};

fn folder(durability: Durability) -> ContractStore {
    let root = tempfile::tempdir().unwrap();
    let options = FsOptions { durability, ..FsOptions::default() };
    ContractStore::new(Arc::new(FsStore::open(root.path(), options).unwrap()), root)
}

mod strict {
    jreg_storage::contract_tests!(super::folder(jreg_storage::Durability::Strict));
}

mod relaxed {
    jreg_storage::contract_tests!(super::folder(jreg_storage::Durability::Relaxed));
}
