//! [`FillProgress`]: how much of a blob is stored while it is, for readers that follow it.

use jreg_storage::Multipart;
use tokio::sync::watch;

/// How much of a blob is stored, while it is.
#[derive(Clone, Debug, Default)]
pub struct StoredFill {
    /// The multipart upload, once there is one.
    upload: Option<Multipart>,
    /// How many bytes of it are stored, without a gap.
    pub bytes: u64,
}

/// Where a fill says how much of it is stored.
#[derive(Debug, Default)]
pub struct FillProgress(watch::Sender<StoredFill>);

impl StoredFill {
    pub(crate) fn upload(&self) -> Option<&Multipart> {
        self.upload.as_ref()
    }
}

impl FillProgress {
    /// What is stored now, and from now on.
    pub fn subscribe(&self) -> watch::Receiver<StoredFill> {
        self.0.subscribe()
    }

    pub(crate) fn set(&self, upload: &Multipart) {
        let bytes = upload.size_bytes();
        let upload = Some(Multipart { parts: Vec::new(), ..upload.clone() });
        self.0.send_replace(StoredFill { upload, bytes });
    }
}
