//! [`Activity`]: a backup relies on bytes that are there already, and a removal takes what no snapshot names. So each
//! says what it does before it looks at what the other says; a store is linearizable, so that at least one of two
//! sees the other. A killed process is forgotten after a while.

use std::sync::Arc;
use std::time::Duration;

use jreg_storage::{Key, ListRequest, PutMode, Store};
use ulid::Ulid;

use super::{BackupError, key};

const ACTIVITY: &str = "activity/";
/// How long a mark counts that is not renewed.
const MARK_AGE_MAX: Duration = Duration::from_secs(15 * 60);
const RENEWAL: Duration = Duration::from_secs(60);

/// What is going on in a store of backups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ActivityKind {
    Backup,
    Removal,
}

impl ActivityKind {
    fn word(self) -> &'static str {
        match self {
            Self::Backup => "backup",
            Self::Removal => "removal",
        }
    }

    /// Whether it can go on beside another. Backups only add.
    fn excludes(self, other: &str) -> bool {
        self == Self::Removal || other != Self::Backup.word()
    }
}

/// A mark of what this process does, renewed until it is dropped.
#[derive(Debug)]
pub(super) struct Activity {
    store: Arc<dyn Store>,
    key: Key,
    kind: ActivityKind,
}

impl Activity {
    /// Marks that something begins.
    ///
    /// # Errors
    ///
    /// [`BackupError::Busy`].
    pub(super) async fn begin(
        store: &Arc<dyn Store>,
        kind: ActivityKind,
    ) -> Result<Self, BackupError> {
        let key = key(format!("{ACTIVITY}{}-{}", Ulid::generate(), kind.word()));
        let activity = Self { store: Arc::clone(store), key, kind };
        activity.renew().await?;
        match activity.find_other().await {
            Ok(None) => Ok(activity),
            Ok(Some(other)) => {
                activity.end().await;
                Err(BackupError::Busy { other })
            }
            Err(error) => {
                activity.end().await;
                Err(error)
            }
        }
    }

    /// Does something, and renews the mark meanwhile.
    pub(super) async fn during<T>(
        &self,
        work: impl Future<Output = Result<T, BackupError>>,
    ) -> Result<T, BackupError> {
        let renewing = async {
            loop {
                tokio::time::sleep(RENEWAL).await;
                if let Err(error) = self.renew().await {
                    return error;
                }
            }
        };
        tokio::select! {
            done = work => done,
            // Without its mark, what it relies on could be removed.
            error = renewing => Err(error),
        }
    }

    /// Removes the mark. If that fails it counts until it is old.
    pub(super) async fn end(self) {
        self.store.delete(&self.key, None).await.ok();
    }

    /// No other process writes this key.
    async fn renew(&self) -> Result<(), BackupError> {
        let mark = format!("{{\"mark\":\"{}\"}}", Ulid::generate());
        self.store.put(&self.key, mark.into(), PutMode::Overwrite).await?;
        Ok(())
    }

    /// Something else that may not go on beside this.
    async fn find_other(&self) -> Result<Option<String>, BackupError> {
        let mut request = ListRequest::below(ACTIVITY);
        loop {
            let page = self.store.list(&request).await?;
            for entry in &page.entries {
                let age = page.date.duration_since(entry.last_modified).unwrap_or_default();
                let kind = entry.key.as_str().rsplit('-').next().unwrap_or_default();
                if entry.key != self.key && age < MARK_AGE_MAX && self.kind.excludes(kind) {
                    return Ok(Some(format!("another {kind}")));
                }
            }
            match page.next {
                Some(next) => request.start_after = Some(next),
                None => return Ok(None),
            }
        }
    }
}
