//! The operations of S3 over the state: what s3s has read of a request goes in, what it is to
//! write comes out.

use futures::stream;
use http::{Extensions, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use s3s::dto::*;
use s3s::{S3, S3Request, S3Response, S3Result, s3_error};

use super::body::receive;
use super::condition::Condition;
use super::journal::JournalEntry;
use super::listing::{self, ListingPage, ListingStart, Listings};
use super::multipart::{PART_NUMBER_MAX, S3Part, S3Upload, named};
use super::object::{S3Object, echoed, kept};
use super::pieces::Pieces;
use super::reading::{ObjectRead, signed, span, strong};
use super::state::{ConditionalDelete, SharedState};

/// The most that one page of a listing has (`ListObjectsV2`, `max-keys`).
const PAGE_MAX: i32 = 1000;
/// Maximum number of keys that one `DeleteObjects` may name.
const DELETE_MAX: usize = 1000;
/// What `encoding-type=url` leaves as it is.
const URL: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'/');

#[async_trait::async_trait]
impl S3 for SharedState {
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
        let condition = Condition::of(&headers, self.behavior.if_match)?;
        let (bytes, headers) = receive(input.body, headers, trailing_headers).await?;
        let mut object = S3Object::plain(bytes.into(), kept(&headers), self.now());
        object.pieces = self.keep(object.pieces);
        let output = PutObjectOutput { e_tag: Some(strong(&object.etag)), ..Default::default() };
        let key = input.key;
        if condition == Condition::None {
            self.tear(&key, &object.etag).await;
        }
        self.write(&key, condition, |bucket| {
            bucket.objects.insert(key.clone(), object);
            Ok(())
        })
        .await?;
        Ok(S3Response::with_headers(output, echoed(&headers)))
    }

    async fn copy_object(
        &self,
        request: S3Request<CopyObjectInput>,
    ) -> S3Result<S3Response<CopyObjectOutput>> {
        let S3Request { input, headers, extensions, .. } = request;
        let condition = Condition::of(&headers, self.behavior.if_match)?;
        let source = self.source(&input.copy_source)?;
        let replaces = input.metadata_directive.is_some_and(|what| what.as_str() == "REPLACE");
        let kept = if replaces { kept(&headers) } else { source.headers };
        note_copied(&extensions, source.pieces.len());
        let object = S3Object::plain(source.pieces, kept, self.now());
        let result = CopyObjectResult {
            e_tag: Some(strong(&object.etag)),
            last_modified: Some(object.modified.into()),
            ..Default::default()
        };
        self.write(&input.key, condition, |bucket| {
            bucket.objects.insert(input.key.clone(), object);
            Ok(())
        })
        .await?;
        let copy_object_result = Some(result);
        Ok(S3Response::new(CopyObjectOutput { copy_object_result, ..Default::default() }))
    }

    async fn get_object(
        &self,
        request: S3Request<GetObjectInput>,
    ) -> S3Result<S3Response<GetObjectOutput>> {
        let S3Request { input, headers, .. } = request;
        let reading = ObjectRead::of(self.bucket().object(&input.key)?, &headers, input.range)?;
        let reading = reading.overridden_by(&input);
        let output = GetObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            content_length: Some(reading.size_bytes),
            content_range: reading.content_range,
            e_tag: Some(reading.etag),
            last_modified: Some(reading.modified.into()),
            body: Some(blob(reading.pieces)),
            ..Default::default()
        };
        Ok(S3Response::with_headers(output, reading.headers))
    }

    async fn head_object(
        &self,
        request: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        let S3Request { input, headers, .. } = request;
        let reading = ObjectRead::of(self.bucket().object(&input.key)?, &headers, input.range)?;
        let output = HeadObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            content_length: Some(reading.size_bytes),
            content_range: reading.content_range,
            e_tag: Some(reading.etag),
            last_modified: Some(reading.modified.into()),
            ..Default::default()
        };
        let mut response = S3Response::with_headers(output, reading.headers);
        response.status = input.range.map(|_| StatusCode::PARTIAL_CONTENT);
        Ok(response)
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
        let (mut deleted, mut errors) = (Vec::new(), Vec::new());
        for object in objects {
            match self.delete_one(object).await {
                Ok(_) if quiet == Some(true) => {}
                Ok(one) => deleted.push(one),
                Err(error) => errors.push(error),
            }
        }
        let (deleted, errors) = (Some(deleted), Some(errors));
        let output = DeleteObjectsOutput { deleted, errors, request_charged: None };
        Ok(S3Response::new(output))
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = request.input;
        let max_keys = input.max_keys.unwrap_or(PAGE_MAX).min(PAGE_MAX);
        let limit = usize::try_from(max_keys)
            .map_err(|_| s3_error!(InvalidArgument, "max-keys: {max_keys}"))?;
        let query = listing::ListingQuery {
            prefix: input.prefix.clone().unwrap_or_default(),
            delimiter: input.delimiter.clone().filter(|delimiter| !delimiter.is_empty()),
            after: after(&input)?,
            limit,
            listings: match self.behavior.listings {
                // A token is the server's own.
                Listings::StartAfterIgnored | Listings::FolderSkipped
                    if input.continuation_token.is_some() =>
                {
                    Listings::ByTheBook
                }
                listings => listings,
            },
        };
        let bucket = self.bucket();
        let page = listing::page(&bucket.objects, &query);
        Ok(S3Response::new(page_shown(&page, &query, input, max_keys)))
    }

    async fn create_multipart_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let input = request.input;
        let upload = S3Upload {
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
        let number = part_number(input.part_number)?;
        let (bytes, headers) = receive(input.body, headers, trailing_headers).await?;
        let mut part = S3Part::new(bytes.into(), self.now());
        part.pieces = self.keep(part.pieces);
        let output = UploadPartOutput { e_tag: Some(strong(&part.etag())), ..Default::default() };
        self.bucket().upload(&input.key, &input.upload_id)?.parts.insert(number, part);
        Ok(S3Response::with_headers(output, echoed(&headers)))
    }

    async fn upload_part_copy(
        &self,
        request: S3Request<UploadPartCopyInput>,
    ) -> S3Result<S3Response<UploadPartCopyOutput>> {
        let S3Request { input, extensions, .. } = request;
        let number = part_number(input.part_number)?;
        let source = self.source(&input.copy_source)?;
        let range = input.copy_source_range.as_deref().map(Range::parse).transpose();
        let range = range.map_err(|_| s3_error!(InvalidArgument, "x-amz-copy-source-range"))?;
        let whole = source.size_bytes();
        let span = match range {
            Some(range) => span(range, whole)?,
            None => 0..whole,
        };
        note_copied(&extensions, span.end - span.start);
        let part = S3Part::new(source.pieces.slice(span), self.now());
        let copied = CopyPartResult {
            e_tag: Some(strong(&part.etag())),
            last_modified: Some(part.modified.into()),
            ..Default::default()
        };
        self.bucket().upload(&input.key, &input.upload_id)?.parts.insert(number, part);
        let copy_part_result = Some(copied);
        Ok(S3Response::new(UploadPartCopyOutput { copy_part_result, ..Default::default() }))
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let condition = Condition::of(&request.headers, self.behavior.if_match)?;
        let CompleteMultipartUploadInput { bucket, key, upload_id: id, multipart_upload, .. } =
            request.input;
        let named = named(multipart_upload.and_then(|list| list.parts).unwrap_or_default())?;
        let again = self.bucket().completed(&key, &id, &named);
        let etag = match again.filter(|_| self.behavior.complete_again) {
            Some(etag) => etag,
            None => {
                let (modified, rules) = (self.now(), self.behavior.parts);
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

impl SharedState {
    async fn delete_one(&self, named: ObjectIdentifier) -> Result<DeletedObject, Error> {
        let key = named.key;
        let condition = match (named.e_tag, self.behavior.conditional_delete) {
            (None, _) | (_, ConditionalDelete::Ignored) => Condition::None,
            (Some(etag), _) => Condition::Is(etag.into_value()),
        };
        let deleted = self.write(&key, condition, |bucket| {
            bucket.objects.remove(&key);
            Ok(())
        });
        match deleted.await {
            Ok(()) => Ok(DeletedObject { key: Some(key), ..Default::default() }),
            Err(error) => Err(Error {
                code: Some(error.code().as_str().to_owned()),
                message: error.message().map(str::to_owned),
                key: Some(key),
                version_id: None,
            }),
        }
    }

    /// What is to be copied.
    fn source(&self, source: &CopySource) -> S3Result<S3Object> {
        match source {
            CopySource::Bucket { key, .. } => self.bucket().object(key).cloned(),
            _ => Err(s3_error!(NotImplemented, "a copy from an access point")),
        }
    }
}

fn note_copied(extensions: &Extensions, bytes: u64) {
    if let Some(entry) = extensions.get::<JournalEntry>() {
        entry.note(|recorded| recorded.bytes_copied += bytes);
    }
}

fn part_number(number: i32) -> S3Result<i32> {
    if (1..=PART_NUMBER_MAX).contains(&number) {
        Ok(number)
    } else {
        Err(s3_error!(InvalidArgument, "part number {number}: 1 to {PART_NUMBER_MAX}"))
    }
}

fn after(input: &ListObjectsV2Input) -> S3Result<ListingStart> {
    match (&input.continuation_token, &input.start_after) {
        (Some(token), _) => ListingStart::from_token(token)
            .ok_or_else(|| s3_error!(InvalidArgument, "continuation-token: {token}")),
        (None, Some(key)) => Ok(ListingStart::Key(key.clone())),
        (None, None) => Ok(ListingStart::Start),
    }
}

fn page_shown(
    page: &ListingPage<'_>,
    query: &listing::ListingQuery,
    input: ListObjectsV2Input,
    max_keys: i32,
) -> ListObjectsV2Output {
    let url = input.encoding_type.as_ref().is_some_and(|form| form.as_str() == "url");
    let shown = |text: &str| match url {
        true => utf8_percent_encode(text, URL).to_string(),
        false => text.to_owned(),
    };
    let entry = |(key, object): &(&String, &S3Object)| s3s::dto::Object {
        key: Some(shown(key)),
        e_tag: Some(strong(&object.etag)),
        size: Some(signed(object.size_bytes())),
        last_modified: Some(object.modified.into()),
        storage_class: Some(storage_class(object)),
        ..Default::default()
    };
    let rolled = |prefix: &String| CommonPrefix { prefix: Some(shown(prefix)) };
    ListObjectsV2Output {
        name: Some(input.bucket),
        prefix: Some(shown(&query.prefix)),
        delimiter: query.delimiter.as_deref().map(shown),
        start_after: input.start_after.as_deref().map(shown),
        continuation_token: input.continuation_token,
        max_keys: Some(max_keys),
        key_count: i32::try_from(page.len()).ok(),
        is_truncated: Some(page.next.is_some()),
        next_continuation_token: page.next.as_ref().map(ListingStart::token),
        contents: Some(page.objects.iter().map(entry).collect()),
        common_prefixes: Some(page.rolled.iter().map(rolled).collect()),
        encoding_type: input.encoding_type,
        request_charged: None,
    }
}

fn storage_class(object: &S3Object) -> ObjectStorageClass {
    let class = object.headers.get("x-amz-storage-class").and_then(|value| value.to_str().ok());
    class.unwrap_or("STANDARD").to_owned().into()
}

fn part_shown((number, part): (&i32, &S3Part)) -> s3s::dto::Part {
    s3s::dto::Part {
        part_number: Some(*number),
        e_tag: Some(strong(&part.etag())),
        size: Some(signed(part.size_bytes())),
        last_modified: Some(part.modified.into()),
        ..Default::default()
    }
}

fn upload_shown((id, upload): (&String, &S3Upload)) -> MultipartUpload {
    MultipartUpload {
        key: Some(upload.key.clone()),
        upload_id: Some(id.clone()),
        initiated: Some(upload.initiated.into()),
        ..Default::default()
    }
}

fn blob(pieces: Pieces) -> StreamingBlob {
    StreamingBlob::wrap(stream::iter(pieces.into_iter().map(Ok::<_, std::io::Error>)))
}
