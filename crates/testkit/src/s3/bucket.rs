//! The content of the one bucket: objects in the byte order of their keys, and uploads. Every
//! method is one step under one lock, which is what makes the emulator linearizable.

use std::collections::BTreeMap;

use s3s::{S3Result, s3_error};

use super::multipart::{NamedPart, S3Upload};
use super::object::S3Object;

/// The content.
#[derive(Debug, Default)]
pub(crate) struct Bucket {
    pub(crate) objects: BTreeMap<String, S3Object>,
    uploads: BTreeMap<String, S3Upload>,
    completed: BTreeMap<String, CompletedUpload>,
    uploads_started: u64,
}

/// An upload that has become an object.
#[derive(Clone, Debug)]
struct CompletedUpload {
    key: String,
    named: Vec<NamedPart>,
    etag: String,
}

impl Bucket {
    pub(crate) fn object(&self, key: &str) -> S3Result<&S3Object> {
        self.objects.get(key).ok_or_else(|| s3_error!(NoSuchKey, "no such key: {key}"))
    }

    /// Starts an upload, and gives its id: with characters in it that a client must encode.
    pub(crate) fn start(&mut self, upload: S3Upload) -> String {
        self.uploads_started += 1;
        let id = format!("2~{:08}+/=._-", self.uploads_started);
        self.uploads.insert(id.clone(), upload);
        id
    }

    pub(crate) fn upload(&mut self, key: &str, id: &str) -> S3Result<&mut S3Upload> {
        self.uploads
            .get_mut(id)
            .filter(|upload| upload.key == key)
            .ok_or_else(|| s3_error!(NoSuchUpload, "no such upload: {id}"))
    }

    /// All uploads with their ids, by key and then by age.
    pub(crate) fn uploads(&self) -> Vec<(&String, &S3Upload)> {
        let mut uploads: Vec<_> = self.uploads.iter().collect();
        uploads.sort_by(|(id, upload), (other_id, other)| {
            (&upload.key, id).cmp(&(&other.key, other_id))
        });
        uploads
    }

    pub(crate) fn uploads_mut(&mut self) -> impl Iterator<Item = &mut S3Upload> {
        self.uploads.values_mut()
    }

    pub(crate) fn abort(&mut self, key: &str, id: &str) -> S3Result<()> {
        self.upload(key, id)?;
        self.uploads.remove(id);
        Ok(())
    }

    /// The etag of the object that an upload has become, if it was completed just so.
    pub(crate) fn completed(&self, key: &str, id: &str, named: &[NamedPart]) -> Option<String> {
        let completed = self.completed.get(id)?;
        (completed.key == key && completed.named == named).then(|| completed.etag.clone())
    }

    /// Puts the object of an upload in its place.
    pub(crate) fn complete(&mut self, id: &str, named: Vec<NamedPart>, object: S3Object) {
        let Some(S3Upload { key, .. }) = self.uploads.remove(id) else { return };
        let etag = object.etag.clone();
        self.completed.insert(id.to_owned(), CompletedUpload { key: key.clone(), named, etag });
        self.objects.insert(key, object);
    }
}
