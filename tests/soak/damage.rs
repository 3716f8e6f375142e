//! Damage: blob objects are lost or truncated while GC runs. No wrong bytes are served, later
//! acknowledged content is present at every instance, and pushing again repairs everything.

use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use futures::future::join;
use jreg_registry::{Error, TouchPolicy, UploadChunk};
use jreg_storage::{ByteRange, ListRequest, PutMode};

use crate::soak::client::Shared;
use crate::soak::cluster::INSTANCES;
use crate::soak::fault_schedule::count;
use crate::soak::fixtures::{REPOSITORIES, repository_name};
use crate::soak::gc::collect_once;

const ROUNDS: usize = 4;
const HOUR: Duration = Duration::from_secs(3600);

/// A repository and a blob, by fixture numbers.
type Held = (usize, usize);

/// Damages some objects, and repairs them by pushing every blob of the repositories again.
pub(crate) async fn damage_and_heal(shared: &Shared) {
    for round in 0..ROUNDS {
        let held = held(shared).await;
        damage_some(shared).await;
        for instance in 0..INSTANCES {
            for of in &held {
                // Missing bytes may be an error, but never other bytes.
                pull(shared, instance, *of).await.ok();
            }
        }
        let pushing = async {
            for (number, of) in held.iter().enumerate() {
                push(shared, number % INSTANCES, *of).await;
            }
        };
        let collecting = collect_once(&shared.cluster, round % INSTANCES, Duration::ZERO);
        Box::pin(join(pushing, collecting)).await;
        for instance in 0..INSTANCES {
            for of in &held {
                if let Err(error) = pull(shared, instance, *of).await {
                    shared
                        .cluster
                        .schedule
                        .violation(&format!("{of:?} was pushed again: {error}"), &[]);
                }
            }
        }
        shared.cluster.schedule.advance(HOUR).await;
    }
}

/// The blobs that repositories have.
async fn held(shared: &Shared) -> Vec<Held> {
    let mut held = Vec::new();
    for repository in 0..REPOSITORIES.len() {
        for (blob, found) in shared.fixtures.blobs.iter().enumerate() {
            let digest = found.digest.clone();
            let stat = shared.cluster.at(0, |registry| async move {
                registry
                    .repository(repository_name(repository))
                    .blob_stat(&digest, TouchPolicy::IfOld)
                    .await
            });
            if stat.await.is_some_and(|stat| stat.is_ok()) {
                held.push((repository, blob));
            }
        }
    }
    held
}

/// Half of all objects are lost or truncated.
async fn damage_some(shared: &Shared) {
    let (store, schedule) = (shared.cluster.bare(), &shared.cluster.schedule);
    let mut request = ListRequest::below("blobs/");
    loop {
        let page = store.list(&request).await.unwrap();
        for entry in page.entries {
            let rng = schedule.rng().below(4);
            let cut = Bytes::from(vec![0; usize::try_from(entry.size_bytes / 2).unwrap()]);
            match rng {
                0 => store.delete(&entry.key, None).await.unwrap(),
                1 => drop(store.put(&entry.key, cut, PutMode::Overwrite).await.unwrap()),
                _ => continue,
            }
            count(&schedule.counts.damaged);
            schedule.note(|| format!("--- {} is damaged", entry.key));
        }
        match page.next {
            Some(next) => request.start_after = Some(next),
            None => return,
        }
    }
}

/// Reads a blob at an instance: correctly, or with an error.
async fn pull(shared: &Shared, instance: usize, (repository, blob): Held) -> Result<(), Error> {
    let right = shared.fixtures.blobs[blob].clone();
    let read = shared.cluster.at(instance, |registry| async move {
        let reader =
            registry.repository(repository_name(repository)).blob_open(&right.digest).await?;
        let range = ByteRange { start: 0, end: reader.blob().size_bytes };
        let read: Vec<Bytes> = reader.read(range).await?.try_collect().await?;
        Ok::<_, Error>(read.concat())
    });
    let read = read.await.expect("no instance crashes any more")?;
    if read != shared.fixtures.blobs[blob].bytes {
        shared
            .cluster
            .schedule
            .violation(&format!("{repository} {blob}: wrong bytes are served"), &[]);
    }
    Ok(())
}

/// Pushes a blob, in one request or as a stream. It must not fail.
async fn push(shared: &Shared, instance: usize, (repository, blob): Held) {
    let found = shared.fixtures.blobs[blob].clone();
    let is_streamed = shared.cluster.schedule.chance(2);
    let pushed = shared.cluster.at(instance, |registry| async move {
        let repository = registry.repository(repository_name(repository));
        let chunk = UploadChunk::of(found.bytes);
        if !is_streamed {
            return repository.blob_push(&found.digest, chunk).await;
        }
        let id = repository.upload_start(None);
        repository.upload_append(&id, chunk).await?;
        repository.upload_finish(&id, &found.digest, UploadChunk::empty()).await
    });
    if let Err(error) = pushed.await.expect("no instance crashes any more") {
        shared.cluster.schedule.violation(&format!("{repository} {blob}: {error}"), &[]);
    }
}
