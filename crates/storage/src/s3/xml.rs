//! The documents that S3 sends and takes.

use quick_xml::DeError;
use serde::Deserialize;

use crate::Part;

/// A response of ListObjectsV2. What the place of a page in the listing depends on is required.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ListBucketResult {
    pub(super) is_truncated: bool,
    pub(super) next_continuation_token: Option<String>,
    #[serde(default)]
    pub(super) contents: Vec<ListedContent>,
    #[serde(default)]
    pub(super) common_prefixes: Vec<CommonPrefix>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ListedContent {
    pub(super) key: String,
    pub(super) size: u64,
    pub(super) last_modified: String,
    #[serde(rename = "ETag")]
    pub(super) etag: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct CommonPrefix {
    pub(super) prefix: String,
}

/// A response of CreateMultipartUpload.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct InitiatedUpload {
    pub(super) upload_id: String,
}

/// A response of ListMultipartUploads.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct UploadsPage {
    pub(super) is_truncated: bool,
    pub(super) next_key_marker: Option<String>,
    pub(super) next_upload_id_marker: Option<String>,
    #[serde(default, rename = "Upload")]
    pub(super) uploads: Vec<ListedUpload>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ListedUpload {
    pub(super) key: String,
    pub(super) upload_id: String,
    pub(super) initiated: String,
}

/// A response of ListParts.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct UploadedParts {
    pub(super) is_truncated: bool,
    pub(super) next_part_number_marker: Option<u64>,
    #[serde(default, rename = "Part")]
    pub(super) parts: Vec<UploadedPart>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct UploadedPart {
    pub(super) size: u64,
    pub(super) last_modified: String,
}

/// A response of UploadPartCopy.
#[derive(Debug, Deserialize)]
pub(super) struct CopiedPart {
    #[serde(rename = "ETag")]
    pub(super) etag: String,
}

/// A response of DeleteObjects: what was not deleted.
#[derive(Debug, Default, Deserialize)]
pub(super) struct DeleteResult {
    #[serde(default, rename = "Error")]
    pub(super) errors: Vec<NotDeleted>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct NotDeleted {
    pub(super) key: String,
    #[serde(default)]
    pub(super) code: String,
}

/// Reads a document.
pub(super) fn read<'d, T: Deserialize<'d>>(body: &'d [u8]) -> Result<T, DeError> {
    quick_xml::de::from_str(std::str::from_utf8(body).map_err(|e| DeError::Custom(e.to_string()))?)
}

/// Whether a document is an error, which CompleteMultipartUpload may send after a good status.
pub(super) fn is_error(body: &[u8]) -> bool {
    let text = String::from_utf8_lossy(body);
    let root = text.split('<').find(|tag| tag.starts_with(|c: char| c.is_ascii_alphabetic()));
    root.is_some_and(|root| root.starts_with("Error"))
}

/// The body of CompleteMultipartUpload.
pub(super) fn complete(parts: impl Iterator<Item = (u64, Part)>) -> String {
    let part = |(number, part): (u64, Part)| {
        let etag = quick_xml::escape::escape(part.etag);
        format!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>")
    };
    document("CompleteMultipartUpload", &parts.map(part).collect::<String>())
}

/// The body of DeleteObjects.
pub(super) fn delete(keys: impl Iterator<Item = String>) -> String {
    let object =
        |key: String| format!("<Object><Key>{}</Key></Object>", quick_xml::escape::escape(key));
    document("Delete", &format!("<Quiet>true</Quiet>{}", keys.map(object).collect::<String>()))
}

fn document(name: &str, content: &str) -> String {
    format!("<{name} xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">{content}</{name}>")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_listing_is_read_in_any_order() {
        let listing: ListBucketResult = read(
            br#"<?xml version="1.0"?><ListBucketResult><Contents><Key>a&amp;b</Key><Size>5</Size>
            <LastModified>2026-01-02T03:04:05.678Z</LastModified><ETag>&quot;x&quot;</ETag></Contents>
            <CommonPrefixes><Prefix>p/</Prefix></CommonPrefixes><Contents><Key>c</Key><Size>0</Size>
            <LastModified>2026-01-02T03:04:05Z</LastModified></Contents>
            <IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>
            </ListBucketResult>"#,
        )
        .unwrap();
        let keys: Vec<_> = listing.contents.iter().map(|content| content.key.as_str()).collect();
        assert_eq!(keys, ["a&b", "c"]);
        assert_eq!(listing.contents.first().unwrap().etag.as_deref(), Some("\"x\""));
        assert_eq!(listing.common_prefixes.first().unwrap().prefix, "p/");
        assert!(listing.is_truncated);
    }

    #[test]
    fn a_listing_that_is_cut_or_does_not_say_whether_it_ends_is_an_error() {
        for text in [
            "",
            "<ListBucketResult></ListBucketResult>",
            "<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>a</Key>",
            "<ListBucketResult><IsTruncated>false</IsTruncated>",
            "<html><body>hello</body></html>",
        ] {
            assert!(read::<ListBucketResult>(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn an_error_is_distinguished_from_a_result() {
        assert!(is_error(b"<?xml version=\"1.0\"?>\n<Error><Code>InternalError</Code></Error>"));
        assert!(is_error(b"  <Error/>"));
        assert!(!is_error(b"<?xml version=\"1.0\"?><CompleteMultipartUploadResult/>"));
        assert!(!is_error(b""));
    }

    #[test]
    fn keys_and_tags_are_escaped() {
        assert!(delete(["a&<b".to_owned()].into_iter()).contains("<Key>a&amp;&lt;b</Key>"));
        let part = Part { offset: 0, size_bytes: 1, etag: "\"x\"".to_owned() };
        let text = complete([(1, part)].into_iter());
        assert!(text.contains("<PartNumber>1</PartNumber><ETag>&quot;x&quot;</ETag>"), "{text}");
    }
}
