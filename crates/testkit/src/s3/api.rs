//! The operations of S3 over the bucket: what s3s has read of a request goes in, what it is to
//! write comes out.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, stream};
use http::HeaderMap;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use s3s::dto::*;
use s3s::{S3, S3ErrorCode, S3Request, S3Response, S3Result, TrailingHeaders, s3_error};
use tokio::sync::oneshot;

use super::bucket::Bucket;
use super::checksum;
use super::clock::{S3Clock, whole_seconds};
use super::condition::{Condition, IfMatchForm};
use super::listing::{self, After};
use super::multipart::{PART_NUMBER_MAX, Part, PartRules, Upload, named};
use super::object::{Object, kept, len};

/// The most that one page of a listing has (`ListObjectsV2`, `max-keys`).
const PAGE_MAX: i32 = 1000;
/// The most keys that one `DeleteObjects` may name.
const DELETE_MAX: usize = 1000;
/// What `encoding-type=url` leaves as it is.
const URL: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'/');

/// How the conditions of writes are kept: by the book, or by a server that lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Conditions {
    /// Check and write are one step.
    #[default]
    Atomic,
    /// Checked, and then written in a second step: right as long as writers come one at a time.
    /// Between the steps a writer waits for another to have checked too, so that of two
    /// concurrent ones both win, but for no longer than this.
    OneAtATime(Duration),
    /// Accepted, and not looked at.
    Ignored,
}

/// How the condition of a delete is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConditionalDelete {
    /// As those of writes are.
    #[default]
    Honoured,
    /// Accepted, and not looked at.
    Ignored,
    /// Refused with 501.
    Refused,
}

/// Where the emulator goes its own way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manners {
    pub(crate) conditions: Conditions,
    pub(crate) conditional_delete: ConditionalDelete,
    pub(crate) if_match: IfMatchForm,
    pub(crate) parts: PartRules,
    pub(crate) complete_again: bool,
}

/// The emulator's state.
#[derive(Debug)]
pub(crate) struct Api {
    bucket: Mutex<Bucket>,
    pub(crate) clock: S3Clock,
    manners: Manners,
    checked: Checked,
}

/// By key, who has checked a condition and not written yet, on a server that lies.
#[derive(Debug, Default)]
struct Checked(Mutex<HashMap<String, oneshot::Sender<()>>>);

impl Checked {
    async fn wait_for_another(&self, key: &str, at_most: Duration) {
        let another = {
            let mut waiting = self.0.lock().expect("no holder of the waiting panics");
            if waiting.remove(key).is_some_and(|other| other.send(()).is_ok()) {
                return;
            }
            let (here, another) = oneshot::channel();
            waiting.insert(key.to_owned(), here);
            another
        };
        tokio::time::timeout(at_most, another).await.ok();
    }
}

impl Api {
    pub(crate) fn new(manners: Manners, clock: S3Clock) -> Self {
        Self { bucket: Mutex::default(), clock, manners, checked: Checked::default() }
    }

    pub(crate) fn bucket(&self) -> MutexGuard<'_, Bucket> {
        self.bucket.lock().expect("no holder of the bucket panics")
    }

    pub(crate) fn now(&self) -> std::time::SystemTime {
        whole_seconds(self.clock.now())
    }

    /// Makes a write if its condition holds.
    async fn write<T>(
        &self,
        key: &str,
        condition: Condition,
        write: impl FnOnce(&mut Bucket) -> S3Result<T>,
    ) -> S3Result<T> {
        match self.manners.conditions {
            Conditions::Ignored => {}
            Conditions::OneAtATime(window) if condition != Condition::None => {
                condition.check(self.bucket().objects.get(key))?;
                self.checked.wait_for_another(key, window).await;
            }
            Conditions::OneAtATime(_) => {}
            Conditions::Atomic => {
                let mut bucket = self.bucket();
                condition.check(bucket.objects.get(key))?;
                return write(&mut bucket);
            }
        }
        write(&mut self.bucket())
    }

    fn deletion(&self, headers: &HeaderMap) -> S3Result<Condition> {
        let condition = Condition::of(headers, self.manners.if_match)?;
        match (condition, self.manners.conditional_delete) {
            (Condition::None, _) | (_, ConditionalDelete::Ignored) => Ok(Condition::None),
            (_, ConditionalDelete::Refused) => {
                Err(s3_error!(NotImplemented, "a condition on a delete"))
            }
            (condition, ConditionalDelete::Honoured) => Ok(condition),
        }
    }

    fn read<T>(
        &self,
        key: &str,
        headers: &HeaderMap,
        range: Option<Range>,
        read: impl FnOnce(&Object, std::ops::Range<u64>) -> T,
    ) -> S3Result<T> {
        let bucket = self.bucket();
        let object = bucket.object(key)?;
        check_read(object, headers)?;
        let whole = 0..object.size_bytes;
        let range = range.map_or(Ok(whole), |range| range.check(object.size_bytes));
        let range = range.map_err(|_| s3_error!(InvalidRange, "no such range of {key}"))?;
        Ok(read(object, range))
    }
}

/// The conditions of a read. Only the etag's; those on time are not kept.
fn check_read(object: &Object, headers: &HeaderMap) -> S3Result<()> {
    let names = |header: &str| {
        let value = headers.get(header)?.to_str().ok()?;
        let named = |etag: &str| etag == "*" || etag.trim_matches('"') == object.etag;
        Some(value.split(',').any(|etag| named(etag.trim())))
    };
    if names("if-match") == Some(false) {
        return Err(s3_error!(PreconditionFailed, "If-Match"));
    }
    if names("if-none-match") == Some(true) {
        let mut error = s3_error!(NotModified);
        error.set_headers(HeaderMap::from_iter([(http::header::ETAG, etag_header(object))]));
        return Err(error);
    }
    Ok(())
}

fn etag_header(object: &Object) -> http::HeaderValue {
    strong(&object.etag).to_http_header().expect("an etag is ASCII")
}

fn strong(etag: &str) -> ETag {
    ETag::Strong(etag.to_owned())
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).expect("what is in memory is shorter than 2^63")
}

/// What is given of an object's headers when it is read: checksums only when asked for, and of the
/// whole only.
fn shown(object: &Object, asked: &HeaderMap, whole: bool) -> HeaderMap {
    let checksums = whole && asked.contains_key("x-amz-checksum-mode");
    let mut headers = object.headers.clone();
    if !checksums {
        let names: Vec<_> = headers.keys().cloned().collect();
        for name in names.iter().filter(|name| name.as_str().starts_with("x-amz-checksum-")) {
            headers.remove(name);
        }
    }
    headers
}

/// The whole body of a write, held against its checksums.
async fn body(
    body: Option<StreamingBlob>,
    headers: &HeaderMap,
    trailers: Option<TrailingHeaders>,
) -> S3Result<Bytes> {
    let mut pieces = Vec::new();
    if let Some(mut body) = body {
        while let Some(piece) = body.next().await {
            // The body itself was read before: only its hash or framing can be wrong here.
            pieces.push(piece.map_err(mismatch)?);
        }
    }
    let bytes = match <[Bytes; 1]>::try_from(pieces) {
        Ok([bytes]) => bytes,
        Err(pieces) => pieces.iter().flatten().copied().collect::<BytesMut>().freeze(),
    };
    let mut said = headers.clone();
    said.extend(trailers.and_then(|trailers| trailers.take()).unwrap_or_default());
    checksum::verify(&bytes, &said)?;
    Ok(bytes)
}

fn mismatch(error: s3s::StdError) -> s3s::S3Error {
    let code = S3ErrorCode::Custom("XAmzContentSHA256Mismatch".into());
    let mut refused = s3s::S3Error::with_source(code, error);
    refused.set_status_code(http::StatusCode::BAD_REQUEST);
    refused
}

#[async_trait::async_trait]
impl S3 for Shared {
    async fn head_bucket(
        &self,
        _: S3Request<HeadBucketInput>,
    ) -> S3Result<S3Response<HeadBucketOutput>> {
        Ok(S3Response::new(HeadBucketOutput::default()))
    }

    async fn put_object(
        &self,
        request: S3Request<PutObjectInput>,
    ) -> S3Result<S3Response<PutObjectOutput>> {
        let S3Request { input, headers, trailing_headers, .. } = request;
        let condition = Condition::of(&headers, self.manners.if_match)?;
        let bytes = body(input.body, &headers, trailing_headers).await?;
        let object = Object::plain(bytes, kept(&headers), self.now());
        let e_tag = Some(strong(&object.etag));
        let key = input.key.clone();
        self.write(&key, condition, move |bucket| {
            bucket.objects.insert(input.key, object);
            Ok(())
        })
        .await?;
        Ok(S3Response::new(PutObjectOutput { e_tag, ..Default::default() }))
    }

    async fn get_object(
        &self,
        request: S3Request<GetObjectInput>,
    ) -> S3Result<S3Response<GetObjectOutput>> {
        let S3Request { input, headers, .. } = request;
        let partial = input.range.is_some();
        self.read(&input.key, &headers, input.range, |object, range| {
            let size = object.size_bytes;
            let content_range = format!("bytes {}-{}/{size}", range.start, range.end.max(1) - 1);
            let mut kept = shown(object, &headers, !partial);
            for (overridden, name) in [
                (input.response_content_type.is_some(), http::header::CONTENT_TYPE),
                (input.response_content_disposition.is_some(), http::header::CONTENT_DISPOSITION),
                (input.response_content_encoding.is_some(), http::header::CONTENT_ENCODING),
                (input.response_content_language.is_some(), http::header::CONTENT_LANGUAGE),
                (input.response_cache_control.is_some(), http::header::CACHE_CONTROL),
                (input.response_expires.is_some(), http::header::EXPIRES),
            ] {
                if overridden {
                    kept.remove(name);
                }
            }
            let output = GetObjectOutput {
                accept_ranges: Some("bytes".to_owned()),
                content_length: Some(signed(range.end - range.start)),
                content_range: partial.then_some(content_range),
                e_tag: Some(strong(&object.etag)),
                last_modified: Some(object.modified.into()),
                body: Some(blob(object.slices(range))),
                ..Default::default()
            };
            S3Response::with_headers(output, kept)
        })
    }

    async fn head_object(
        &self,
        request: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        let S3Request { input, headers, .. } = request;
        let partial = input.range.is_some();
        self.read(&input.key, &headers, input.range, |object, range| {
            let size = object.size_bytes;
            let content_range = format!("bytes {}-{}/{size}", range.start, range.end.max(1) - 1);
            let output = HeadObjectOutput {
                accept_ranges: Some("bytes".to_owned()),
                content_length: Some(signed(range.end - range.start)),
                content_range: partial.then_some(content_range),
                e_tag: Some(strong(&object.etag)),
                last_modified: Some(object.modified.into()),
                ..Default::default()
            };
            let mut response = S3Response::with_headers(output, shown(object, &headers, !partial));
            response.status = partial.then_some(http::StatusCode::PARTIAL_CONTENT);
            response
        })
    }

    async fn delete_object(
        &self,
        request: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        let condition = self.deletion(&request.headers)?;
        let key = request.input.key;
        self.write(&key, condition, |bucket| {
            bucket.objects.remove(&key);
            Ok(())
        })
        .await?;
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn delete_objects(
        &self,
        request: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        let Delete { objects, quiet } = request.input.delete;
        if objects.len() > DELETE_MAX {
            return Err(s3_error!(MalformedXML, "more than {DELETE_MAX} keys"));
        }
        let mut output = DeleteObjectsOutput::default();
        for object in objects {
            let key = object.key;
            let condition = match (object.e_tag, self.manners.conditional_delete) {
                (None, _) | (_, ConditionalDelete::Ignored) => Condition::None,
                (Some(etag), _) => Condition::Is(etag.into_value()),
            };
            let deleted = self.write(&key, condition, |bucket| {
                bucket.objects.remove(&key);
                Ok(())
            });
            match deleted.await {
                Ok(()) if quiet == Some(true) => {}
                Ok(()) => {
                    let deleted = DeletedObject { key: Some(key), ..Default::default() };
                    output.deleted.get_or_insert_default().push(deleted);
                }
                Err(error) => {
                    let error = Error {
                        code: Some(error.code().as_str().to_owned()),
                        message: error.message().map(str::to_owned),
                        key: Some(key),
                        version_id: None,
                    };
                    output.errors.get_or_insert_default().push(error);
                }
            }
        }
        Ok(S3Response::new(output))
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = request.input;
        let max_keys = input.max_keys.unwrap_or(PAGE_MAX).min(PAGE_MAX);
        let query = listing::Query {
            prefix: input.prefix.clone().unwrap_or_default(),
            delimiter: input.delimiter.clone().filter(|delimiter| !delimiter.is_empty()),
            after: after(&input)?,
            limit: usize::try_from(max_keys)
                .map_err(|_| s3_error!(InvalidArgument, "max-keys: {max_keys}"))?,
        };
        let url = input.encoding_type.as_ref().is_some_and(|form| form.as_str() == "url");
        let shown = |text: &str| match url {
            true => utf8_percent_encode(text, URL).to_string(),
            false => text.to_owned(),
        };
        let bucket = self.bucket();
        let page = listing::page(&bucket.objects, &query);
        let entry = |(key, object): &(&String, &Object)| s3s::dto::Object {
            key: Some(shown(key)),
            e_tag: Some(strong(&object.etag)),
            size: Some(signed(object.size_bytes)),
            last_modified: Some(object.modified.into()),
            storage_class: Some(storage_class(object)),
            ..Default::default()
        };
        let rolled = |prefix: &String| CommonPrefix { prefix: Some(shown(prefix)) };
        let output = ListObjectsV2Output {
            name: Some(input.bucket),
            prefix: Some(shown(&query.prefix)),
            delimiter: query.delimiter.as_deref().map(shown),
            start_after: input.start_after.as_deref().map(shown),
            continuation_token: input.continuation_token,
            max_keys: Some(max_keys),
            key_count: i32::try_from(page.len()).ok(),
            is_truncated: Some(page.next.is_some()),
            next_continuation_token: page.next.as_ref().map(After::token),
            contents: Some(page.objects.iter().map(entry).collect()),
            common_prefixes: Some(page.rolled.iter().map(rolled).collect()),
            encoding_type: input.encoding_type,
            request_charged: None,
        };
        Ok(S3Response::new(output))
    }

    async fn create_multipart_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let input = request.input;
        let upload = Upload {
            key: input.key.clone(),
            initiated: self.now(),
            headers: kept(&request.headers),
            parts: Default::default(),
        };
        let upload_id = Some(self.bucket().start(upload));
        Ok(S3Response::new(CreateMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id,
            ..Default::default()
        }))
    }

    async fn upload_part(
        &self,
        request: S3Request<UploadPartInput>,
    ) -> S3Result<S3Response<UploadPartOutput>> {
        let S3Request { input, headers, trailing_headers, .. } = request;
        let number = input.part_number;
        if !(1..=PART_NUMBER_MAX).contains(&number) {
            return Err(s3_error!(InvalidArgument, "part number {number}: 1 to 10000"));
        }
        let bytes = body(input.body, &headers, trailing_headers).await?;
        let part = Part::new(bytes, self.now());
        let e_tag = Some(strong(&part.etag()));
        self.bucket().upload(&input.key, &input.upload_id)?.parts.insert(number, part);
        Ok(S3Response::new(UploadPartOutput { e_tag, ..Default::default() }))
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let condition = Condition::of(&request.headers, self.manners.if_match)?;
        let CompleteMultipartUploadInput { bucket, key, upload_id: id, multipart_upload, .. } =
            request.input;
        let named = named(multipart_upload.and_then(|list| list.parts).unwrap_or_default())?;
        let again = self.bucket().completed(&key, &id, &named);
        let etag = match again.filter(|_| self.manners.complete_again) {
            Some(etag) => etag,
            None => {
                let (modified, rules) = (self.now(), self.manners.parts);
                self.bucket().upload(&key, &id)?.assemble(&named, rules, modified)?;
                self.write(&key, condition, |bucket| {
                    let object = bucket.upload(&key, &id)?.assemble(&named, rules, modified)?;
                    let etag = object.etag.clone();
                    bucket.complete(&id, named, object);
                    Ok(etag)
                })
                .await?
            }
        };
        Ok(S3Response::new(CompleteMultipartUploadOutput {
            location: Some(format!("/{bucket}/{key}")),
            bucket: Some(bucket),
            key: Some(key),
            e_tag: Some(strong(&etag)),
            ..Default::default()
        }))
    }

    async fn abort_multipart_upload(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        self.bucket().abort(&request.input.key, &request.input.upload_id)?;
        Ok(S3Response::new(AbortMultipartUploadOutput::default()))
    }

    async fn list_parts(
        &self,
        request: S3Request<ListPartsInput>,
    ) -> S3Result<S3Response<ListPartsOutput>> {
        let input = request.input;
        let max_parts = input.max_parts.unwrap_or(PAGE_MAX).clamp(1, PAGE_MAX);
        let marker = input.part_number_marker.unwrap_or(0);
        let mut bucket = self.bucket();
        let upload = bucket.upload(&input.key, &input.upload_id)?;
        let mut rest = upload.parts.range(marker.saturating_add(1)..);
        let limit = usize::try_from(max_parts).expect("a number from 1 to 1000");
        let parts: Vec<_> = rest.by_ref().take(limit).map(part_shown).collect();
        Ok(S3Response::new(ListPartsOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(input.upload_id),
            max_parts: Some(max_parts),
            part_number_marker: Some(marker),
            is_truncated: Some(rest.next().is_some()),
            next_part_number_marker: parts.last().and_then(|part| part.part_number),
            parts: Some(parts),
            ..Default::default()
        }))
    }

    async fn list_multipart_uploads(
        &self,
        request: S3Request<ListMultipartUploadsInput>,
    ) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
        let input = request.input;
        let max_uploads = input.max_uploads.unwrap_or(PAGE_MAX).clamp(1, PAGE_MAX);
        let limit = usize::try_from(max_uploads).expect("a number from 1 to 1000");
        let prefix = input.prefix.clone().unwrap_or_default();
        let marker = input.key_marker.clone().unwrap_or_default();
        let id_marker = input.upload_id_marker.clone();
        let after = |key: &str, id: &str| match &id_marker {
            Some(id_marker) => (key, id) > (&*marker, &**id_marker),
            None => key > &*marker,
        };
        let bucket = self.bucket();
        let mut rest = bucket
            .uploads()
            .into_iter()
            .filter(|(id, upload)| upload.key.starts_with(&prefix) && after(&upload.key, id));
        let uploads: Vec<_> = rest.by_ref().take(limit).map(upload_shown).collect();
        let more = rest.next().is_some();
        let last = uploads.last().filter(|_| more);
        Ok(S3Response::new(ListMultipartUploadsOutput {
            bucket: Some(input.bucket),
            prefix: input.prefix,
            key_marker: input.key_marker,
            upload_id_marker: input.upload_id_marker,
            max_uploads: Some(max_uploads),
            is_truncated: Some(more),
            next_key_marker: last.and_then(|upload| upload.key.clone()),
            next_upload_id_marker: last.and_then(|upload| upload.upload_id.clone()),
            uploads: Some(uploads),
            ..Default::default()
        }))
    }
}

fn after(input: &ListObjectsV2Input) -> S3Result<After> {
    match (&input.continuation_token, &input.start_after) {
        (Some(token), _) => After::from_token(token)
            .ok_or_else(|| s3_error!(InvalidArgument, "continuation-token: {token}")),
        (None, Some(key)) => Ok(After::Key(key.clone())),
        (None, None) => Ok(After::Start),
    }
}

fn storage_class(object: &Object) -> ObjectStorageClass {
    let class = object.headers.get("x-amz-storage-class").and_then(|value| value.to_str().ok());
    class.unwrap_or("STANDARD").to_owned().into()
}

fn part_shown((number, part): (&i32, &Part)) -> s3s::dto::Part {
    s3s::dto::Part {
        part_number: Some(*number),
        e_tag: Some(strong(&part.etag())),
        size: Some(signed(len(&part.bytes))),
        last_modified: Some(part.modified.into()),
        ..Default::default()
    }
}

fn upload_shown((id, upload): (&String, &Upload)) -> MultipartUpload {
    MultipartUpload {
        key: Some(upload.key.clone()),
        upload_id: Some(id.clone()),
        initiated: Some(upload.initiated.into()),
        ..Default::default()
    }
}

fn blob(pieces: Vec<Bytes>) -> StreamingBlob {
    StreamingBlob::wrap(stream::iter(pieces.into_iter().map(Ok::<_, std::io::Error>)))
}

/// The state, as s3s takes it.
#[derive(Clone, Debug)]
pub(crate) struct Shared(pub(crate) Arc<Api>);

impl std::ops::Deref for Shared {
    type Target = Api;

    fn deref(&self) -> &Api {
        &self.0
    }
}
