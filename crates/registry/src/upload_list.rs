//! The unfinished uploads of all repositories, for operators: what they hold, and how they are cancelled.
//!
//! What uploads hold are parts, tails and, in a folder, files. A file, or a multipart upload of a bucket, that no session
//! names is being written by a request whose digest is known, or was left by a crash.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use futures::stream::{self, StreamExt};
use jreg_oci::RepositoryName;
use jreg_storage::{ErrorKind, Key, Multipart, StagedUpload, error_chain};
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::attempts::SwapAttempts;
use crate::core::Core;
use crate::keys::{self, UploadKey};
use crate::record::{StoredRecord, VersionedRecord};
use crate::session::{AbandonedBytes, OpenUpload, SessionState, UploadSession};
use crate::window::WRITE_MAX;
use crate::{Error, Registry, Result, UploadId};

/// Maximum number of uploads in a list; those that began first are in it.
pub const UPLOADS_LISTED_MAX: usize = 10_000;

const READS_AT_ONCE: usize = 16;
const UPLOAD_CONTENDED: &str = "the upload is being changed by too many others";

/// What unfinished uploads hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldUploads {
    pub uploads: u64,
    pub bytes: u64,
}

/// Where an unfinished upload stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ListedUploadState {
    /// It has a session, and can be continued.
    Open,
    /// It was cancelled, and not all of its bytes could be deleted yet.
    Cancelled,
    /// A request is sending it; no session names it yet.
    Sending,
    /// No session names its file or multipart upload: a crash left it, or a session is about to. In a bucket also one that
    /// a request is sending whose digest is known.
    Orphan,
    /// Its session cannot be read ([`Registry::fsck`]).
    Unreadable,
}

/// An unfinished upload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedUpload {
    /// The id of the session, or of the file or multipart upload that no session names.
    pub id: String,
    pub repository: Option<RepositoryName>,
    pub state: ListedUploadState,
    /// When it began, in seconds of the Unix epoch; `None` without a session.
    pub started: Option<u64>,
    /// When bytes were last stored.
    pub last_byte: u64,
    pub bytes: u64,
    /// What the store lists and no session names.
    #[serde(skip)]
    pub(crate) staged: Option<Multipart>,
}

/// The unfinished uploads of a registry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadList {
    /// Those that began first, at most [`UPLOADS_LISTED_MAX`].
    pub uploads: Vec<ListedUpload>,
    /// All of them.
    pub held: HeldUploads,
}

impl UploadList {
    fn add(&mut self, upload: ListedUpload) {
        self.held.uploads += 1;
        self.held.bytes += upload.bytes;
        if self.uploads.len() < UPLOADS_LISTED_MAX {
            self.uploads.push(upload);
        }
    }
}

/// A listed session, and the tails of its upload.
struct SessionEntry {
    id: UploadId,
    key: Key,
    last_modified: SystemTime,
}

/// Tails of one upload in the listing: their size, and when the last was written.
pub(crate) type Tails = HashMap<String, (u64, SystemTime)>;

/// Files of uploads, by the store's id of each.
pub(crate) type StagedFiles = HashMap<String, StagedUpload>;

impl Registry {
    /// The unfinished uploads, in the order in which they began. Reads every session.
    ///
    /// # Errors
    ///
    /// [`Error::Store`].
    pub async fn list_uploads(&self) -> Result<UploadList> {
        self.core().list_uploads().await
    }

    /// The unfinished uploads that have a session, at most [`UPLOADS_LISTED_MAX`], in the order in which they began.
    /// Reads every session.
    ///
    /// # Errors
    ///
    /// [`Error::Store`].
    pub async fn list_sessions(&self) -> Result<Vec<ListedUpload>> {
        let core = self.core();
        // In a bucket a session knows what its upload holds, and each multipart upload would cost a request.
        let staged = match core.store.capabilities().is_remote {
            true => StagedFiles::new(),
            false => core.staged_files().await?,
        };
        let mut list = UploadList::default();
        core.visit_sessions(staged, &mut |upload: ListedUpload| list.add(upload)).await?;
        Ok(list.uploads)
    }

    /// The open uploads of every repository, as their sessions say.
    ///
    /// # Errors
    ///
    /// [`Error::Store`].
    pub async fn open_uploads(&self) -> Result<OpenUploads> {
        let mut uploads = OpenUploads::default();
        self.core()
            .visit_sessions(HashMap::new(), &mut |upload: ListedUpload| {
                let Some(repository) = upload.repository else { return };
                let held = uploads.0.entry(repository).or_default();
                held.uploads += 1;
                held.bytes += upload.bytes;
            })
            .await?;
        Ok(uploads)
    }

    /// Cancels a listed upload, or removes bytes that no session names, and frees what they hold.
    ///
    /// # Errors
    ///
    /// [`Error::UploadUnknown`] for one that is finished by now; [`Error::Busy`] for bytes that no session
    /// names yet, but may soon; [`Error::Damaged`], [`Error::Store`].
    pub async fn cancel_listed_upload(&self, upload: &ListedUpload) -> Result<()> {
        let core = self.core();
        core.check_required().await?;
        let id = upload.id.parse::<UploadId>();
        match (upload.state, id) {
            (ListedUploadState::Orphan, id) if is_past_write(upload, core.clock.now()) => {
                match (&upload.staged, id) {
                    (Some(staged), _) => Ok(core.store.abort_multipart(staged).await?),
                    (None, Ok(id)) => core.remove_tails(&id).await,
                    (None, Err(_)) => Err(Error::Busy { what: "the upload is gone" }),
                }
            }
            (ListedUploadState::Orphan | ListedUploadState::Sending, _) | (_, Err(_)) => {
                Err(Error::Busy { what: "the upload is being sent" })
            }
            (_, Ok(id)) => core.cancel_session(&id).await,
        }
    }
}

/// What open uploads hold, by repository.
#[derive(Clone, Debug, Default)]
pub struct OpenUploads(HashMap<RepositoryName, HeldUploads>);

impl OpenUploads {
    pub(crate) fn of(&self, repository: &RepositoryName) -> HeldUploads {
        self.0.get(repository).copied().unwrap_or_default()
    }

    /// The bytes of those whose repositories match.
    pub(crate) fn bytes_of(&self, matches: impl Fn(&RepositoryName) -> bool) -> u64 {
        self.0.iter().filter(|(name, _)| matches(name)).map(|(_, held)| held.bytes).sum()
    }
}

impl UploadList {
    /// Those that `jreg upload cancel --older-than` cancels: that began longer ago. What no session
    /// names must have been without a new byte for that long, and for as long as a session may be on
    /// its way to the store.
    pub fn older_than(
        &self,
        age: Duration,
        now: SystemTime,
    ) -> impl Iterator<Item = &ListedUpload> {
        self.uploads.iter().filter(move |upload| {
            let is_older = |at: u64| now.duration_since(time(at)).is_ok_and(|since| since >= age);
            match upload.state {
                ListedUploadState::Open | ListedUploadState::Cancelled => {
                    upload.started.is_some_and(is_older)
                }
                ListedUploadState::Orphan => {
                    is_older(upload.last_byte) && is_past_write(upload, now)
                }
                ListedUploadState::Sending | ListedUploadState::Unreadable => false,
            }
        })
    }
}

impl Core {
    async fn list_uploads(&self) -> Result<UploadList> {
        // Before the sessions: what none of them names then is an orphan, or one will.
        let staged = self.staged_files().await?;
        let mut list = UploadList::default();
        let (staged, tails) =
            self.visit_sessions(staged, &mut |upload: ListedUpload| list.add(upload)).await?;
        for (id, (bytes, last)) in tails {
            // Its session ended the page before.
            if let Some(upload) = list.uploads.iter_mut().find(|upload| upload.id == id) {
                upload.bytes += bytes;
                list.held.bytes += bytes;
                continue;
            }
            list.add(without_session(id, ListedUploadState::Orphan, bytes, last));
        }
        let mut staged: Vec<_> = staged.into_values().collect();
        staged.sort_by(|one, other| {
            (one.last_modified, &one.upload.id).cmp(&(other.last_modified, &other.upload.id))
        });
        for StagedUpload { upload, size_bytes, last_modified, may_be_named } in staged {
            let state = match may_be_named {
                true => ListedUploadState::Orphan,
                false => ListedUploadState::Sending,
            };
            let listed = without_session(upload.id.clone(), state, size_bytes, last_modified);
            list.add(ListedUpload { staged: Some(upload), ..listed });
        }
        Ok(list)
    }

    /// What the store lists of unfinished uploads.
    async fn staged_files(&self) -> Result<StagedFiles> {
        let staged = match self.store.staged_uploads(keys::BLOBS).await {
            Err(error) if error.kind() == ErrorKind::Refused => {
                let error = error_chain(&error);
                warn!(error, "cannot list multipart uploads: those without a session are missing");
                Vec::new()
            }
            staged => staged?,
        };
        Ok(staged.into_iter().map(|staged| (staged.upload.id.clone(), staged)).collect())
    }

    /// Reads the sessions of unfinished uploads, and returns the files and tails that none of them names.
    pub(crate) async fn visit_sessions(
        &self,
        mut staged: StagedFiles,
        add: &mut (dyn FnMut(ListedUpload) + Send),
    ) -> Result<(StagedFiles, Tails)> {
        let mut tails = Tails::new();
        let mut pages = self.list_pages(keys::UPLOADS);
        while let Some(page) = pages.next().await? {
            let mut sessions = Vec::new();
            for entry in page.entries {
                let last_modified = entry.last_modified;
                match keys::upload_key(&entry.key) {
                    Some(UploadKey::Session(id)) => {
                        sessions.push(SessionEntry { id, key: entry.key, last_modified });
                    }
                    Some(UploadKey::Tail(id, _)) => {
                        let tail = tails.entry(id.to_string()).or_insert((0, last_modified));
                        tail.0 += entry.size_bytes;
                        tail.1 = tail.1.max(last_modified);
                    }
                    None => {}
                }
            }
            self.add_sessions(sessions, &mut staged, &mut tails, add).await?;
        }
        Ok((staged, tails))
    }

    /// Adds the unfinished ones of a page of sessions.
    async fn add_sessions(
        &self,
        sessions: Vec<SessionEntry>,
        staged: &mut StagedFiles,
        tails: &mut Tails,
        add: &mut (dyn FnMut(ListedUpload) + Send),
    ) -> Result<()> {
        let reads: Vec<_> = sessions
            .into_iter()
            .map(|entry| async { (self.read::<UploadSession>(&entry.key).await, entry) })
            .collect();
        let mut reads = stream::iter(reads).buffered(READS_AT_ONCE);
        while let Some((read, SessionEntry { id, last_modified, .. })) = reads.next().await {
            let (tail_bytes, tail_last) =
                tails.remove(&id.to_string()).unwrap_or((0, last_modified));
            let last_byte = last_modified.max(tail_last);
            let found = match read {
                Ok(Some(read)) => self.held_by(&read.value, staged, last_byte).await?,
                Ok(None) => None,
                Err(Error::Damaged { .. }) => {
                    Some((None, ListedUploadState::Unreadable, 0, last_byte))
                }
                Err(error) => return Err(error),
            };
            let Some((repository, state, bytes, last_byte)) = found else { continue };
            let bytes = bytes + tail_bytes;
            if state == ListedUploadState::Cancelled && bytes == 0 {
                continue;
            }
            let (id, started) = (id.to_string(), Some(seconds(id.begun())));
            let last_byte = seconds(last_byte);
            let staged = None;
            add(ListedUpload { id, repository, state, started, last_byte, bytes, staged });
        }
        Ok(())
    }

    /// What a session says of its upload, and how much it holds beside its listed tails; `None`: it
    /// is finished.
    async fn held_by(
        &self,
        session: &UploadSession,
        staged: &mut StagedFiles,
        last_byte: SystemTime,
    ) -> Result<Option<(Option<RepositoryName>, ListedUploadState, u64, SystemTime)>> {
        let mut last_byte = last_byte;
        let mut in_parts = |multipart: &Option<Multipart>| {
            let Some(upload) = multipart else { return 0 };
            let Some(file) = staged.remove(&upload.id) else { return upload.size_bytes() };
            last_byte = last_byte.max(file.last_modified);
            file.size_bytes
        };
        let (state, bytes) = match &session.state {
            SessionState::Open(OpenUpload { multipart, tail, .. }) => {
                let tail = tail.as_ref().filter(|tail| !is_listed(&tail.key));
                let tail_bytes = tail.map_or(0, |tail| tail.size_bytes);
                (ListedUploadState::Open, in_parts(multipart) + tail_bytes)
            }
            SessionState::Cancelled(AbandonedBytes { multipart, objects }) => {
                let mut bytes = in_parts(multipart);
                for key in objects.iter().filter(|key| !is_listed(key)) {
                    bytes += self.stat(key).await?.map_or(0, |stat| stat.size_bytes);
                }
                (ListedUploadState::Cancelled, bytes)
            }
            SessionState::Closed(closed) => {
                in_parts(&closed.multipart);
                return Ok(None);
            }
        };
        Ok(Some((Some(session.repository.clone()), state, bytes, last_byte)))
    }

    /// Cancels an upload by its session alone, however old it is.
    async fn cancel_session(&self, id: &UploadId) -> Result<()> {
        let (key, unknown) = (keys::upload(id), || Error::UploadUnknown { id: id.clone() });
        let mut attempts = SwapAttempts::new(UPLOAD_CONTENDED);
        let bytes = loop {
            attempts.next().await?;
            let read = self.read::<UploadSession>(&key).await?.ok_or_else(unknown)?;
            let VersionedRecord { value: UploadSession { repository, state }, etag, .. } = read;
            let bytes = match state {
                SessionState::Open(open) => open.into_abandoned(),
                SessionState::Cancelled(bytes) => break bytes,
                SessionState::Closed(_) => return Err(unknown()),
            };
            let state = SessionState::Cancelled(bytes.clone());
            let cancelled = UploadSession { repository, state }.encode();
            if self.swap(&key, Some(&etag), cancelled).await?.is_some() {
                break bytes;
            }
        };
        bytes.discard(self).await?;
        self.remove_tails(id).await
    }

    /// Removes the tails of an upload that has no session, or whose session does not name them any more.
    async fn remove_tails(&self, id: &UploadId) -> Result<()> {
        let mut pages = self.list_pages(format!("{}.", keys::upload(id)));
        while let Some(page) = pages.next().await? {
            for entry in page.entries {
                let upload = keys::upload_key(&entry.key);
                if matches!(upload, Some(UploadKey::Tail(of, _)) if of == *id) {
                    self.store.delete(&entry.key, None).await?;
                }
            }
        }
        Ok(())
    }
}

/// Whether an object is among the listed tails.
fn is_listed(key: &Key) -> bool {
    key.as_str().starts_with(keys::UPLOADS)
}

fn without_session(
    id: String,
    state: ListedUploadState,
    bytes: u64,
    last_byte: SystemTime,
) -> ListedUpload {
    let (repository, started, staged) = (None, None, None);
    ListedUpload { id, repository, state, started, last_byte: seconds(last_byte), bytes, staged }
}

/// Whether no session that names such bytes can be on its way to the store.
fn is_past_write(upload: &ListedUpload, now: SystemTime) -> bool {
    now.duration_since(time(upload.last_byte)).is_ok_and(|since| since > WRITE_MAX)
}

fn time(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}
