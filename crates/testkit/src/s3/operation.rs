//! Which operation of S3 a request is, told from its method, path, query and headers alone: the
//! journal and the rules need it before, and whether or not, the request is understood further.

use http::Method;
use http::request::Parts;
use percent_encoding::percent_decode_str;

/// An operation of S3, by the names of its API reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names are those of the S3 API reference")]
pub enum S3Operation {
    GetObject,
    HeadObject,
    PutObject,
    DeleteObject,
    DeleteObjects,
    CopyObject,
    ListObjects,
    ListObjectsV2,
    HeadBucket,
    CreateMultipartUpload,
    UploadPart,
    UploadPartCopy,
    CompleteMultipartUpload,
    AbortMultipartUpload,
    ListParts,
    ListMultipartUploads,
    /// Anything else.
    Other,
}

impl S3Operation {
    /// Whether this writes by copying what the bucket has already.
    pub fn copies(self) -> bool {
        matches!(self, Self::CopyObject | Self::UploadPartCopy)
    }
}

/// What a request is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OperationTarget {
    pub(crate) operation: S3Operation,
    /// Decoded, and empty for an operation on the bucket.
    pub(crate) key: String,
    /// As it was sent.
    pub(crate) query: String,
}

impl OperationTarget {
    /// Reads it off the head of a request in path style.
    pub(crate) fn of(head: &Parts) -> Self {
        let path = head.uri.path().trim_start_matches('/');
        let key = path.split_once('/').map_or("", |(_bucket, key)| key);
        let query = head.uri.query().unwrap_or_default();
        let copies = head.headers.contains_key("x-amz-copy-source");
        Self {
            operation: operation(&head.method, key.is_empty(), query, copies),
            key: percent_decode_str(key).decode_utf8_lossy().into_owned(),
            query: query.to_owned(),
        }
    }
}

fn operation(method: &Method, on_bucket: bool, query: &str, copies: bool) -> S3Operation {
    let has = |name: &str| {
        query.split('&').any(|pair| pair.split_once('=').map_or(pair, |(name, _)| name) == name)
    };
    match (method.as_str(), on_bucket) {
        ("GET", true) if has("uploads") => S3Operation::ListMultipartUploads,
        ("GET", true) if has("list-type") => S3Operation::ListObjectsV2,
        ("GET", true) if query.is_empty() || has("prefix") => S3Operation::ListObjects,
        ("HEAD", true) => S3Operation::HeadBucket,
        ("POST", true) if has("delete") => S3Operation::DeleteObjects,
        ("GET", false) if has("uploadId") => S3Operation::ListParts,
        ("GET", false) => S3Operation::GetObject,
        ("HEAD", false) => S3Operation::HeadObject,
        ("PUT", false) if has("uploadId") && copies => S3Operation::UploadPartCopy,
        ("PUT", false) if has("uploadId") => S3Operation::UploadPart,
        ("PUT", false) if copies => S3Operation::CopyObject,
        ("PUT", false) => S3Operation::PutObject,
        ("DELETE", false) if has("uploadId") => S3Operation::AbortMultipartUpload,
        ("DELETE", false) => S3Operation::DeleteObject,
        ("POST", false) if has("uploads") => S3Operation::CreateMultipartUpload,
        ("POST", false) if has("uploadId") => S3Operation::CompleteMultipartUpload,
        _ => S3Operation::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_follow_from_method_path_and_query() {
        use S3Operation::*;
        for (method, uri, expected) in [
            ("GET", "/b/k?x-id=GetObject", GetObject),
            ("HEAD", "/b/k", HeadObject),
            ("PUT", "/b/k", PutObject),
            ("DELETE", "/b/k", DeleteObject),
            ("POST", "/b?delete", DeleteObjects),
            ("POST", "/b/?delete=", DeleteObjects),
            ("GET", "/b?list-type=2&prefix=uploads", ListObjectsV2),
            ("GET", "/b?prefix=a", ListObjects),
            ("GET", "/b?acl", Other),
            ("HEAD", "/b", HeadBucket),
            ("POST", "/b/k?uploads", CreateMultipartUpload),
            ("PUT", "/b/k?partNumber=1&uploadId=u", UploadPart),
            ("POST", "/b/k?uploadId=u", CompleteMultipartUpload),
            ("DELETE", "/b/k?uploadId=u", AbortMultipartUpload),
            ("GET", "/b/k?uploadId=u", ListParts),
            ("GET", "/b?uploads", ListMultipartUploads),
            ("PATCH", "/b/k", Other),
        ] {
            assert_eq!(target(method, uri, false).operation, expected, "{method} {uri}");
        }
        assert_eq!(target("PUT", "/b/k", true).operation, CopyObject);
        assert_eq!(target("PUT", "/b/k?partNumber=1&uploadId=u", true).operation, UploadPartCopy);
    }

    #[test]
    fn keys_are_decoded() {
        assert_eq!(target("GET", "/b/a%2Fb/c%20d", false).key, "a/b/c d");
        assert_eq!(target("GET", "/b/", false).key, "");
    }

    fn target(method: &str, uri: &str, copies: bool) -> OperationTarget {
        let mut request = http::Request::builder().method(method).uri(uri);
        if copies {
            request = request.header("x-amz-copy-source", "b/other");
        }
        OperationTarget::of(&request.body(()).unwrap().into_parts().0)
    }
}
