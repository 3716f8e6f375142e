//! The memory store against the contract, in both its shapes.

use jreg_storage::{ErrorKind, Key, MemoryStore, PartRules, Store};

fn shared() -> MemoryStore {
    MemoryStore::builder()
        .remote()
        .part_rules(PartRules { part_bytes: 2048, uniform: true, parts_max: 4 })
        .build()
}

mod in_process {
    jreg_storage::contract_tests!(jreg_storage::MemoryStore::new());
}

mod like_s3 {
    jreg_storage::contract_tests!(super::shared());
}

/// Completes an upload of parts of the given sizes.
async fn complete(sizes: &[usize]) -> Result<(), ErrorKind> {
    let store = shared();
    let key: Key = "a".parse().unwrap();
    let mut upload = store.create_multipart(&key, 1, 10).await.unwrap();
    for size in sizes {
        let offset = upload.size_bytes();
        let part = store.put_part(&upload, offset, vec![0; *size].into()).await.unwrap();
        upload.record(part);
    }
    store.complete_multipart(&upload).await.map_err(|error| error.kind())
}

#[tokio::test]
async fn uniform_parts_are_equal_but_for_a_smaller_last() {
    for allowed in [&[10][..], &[10, 10], &[10, 10, 3]] {
        assert_eq!(complete(allowed).await, Ok(()), "{allowed:?}");
    }
    for refused in [&[][..], &[10, 11], &[10, 3, 10], &[10, 10, 10, 10, 10]] {
        assert_eq!(complete(refused).await, Err(ErrorKind::Refused), "{refused:?}");
    }
}
