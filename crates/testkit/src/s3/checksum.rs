//! Holds a body against the checksums that came with it: `Content-MD5`, and `x-amz-checksum-*`
//! as headers or as trailers.

use http::HeaderMap;
use s3s::checksum::ChecksumHasher;
use s3s::crypto::{Checksum as _, Md5};
use s3s::{S3Result, s3_error};

/// Refuses a body that is not what one of the headers says.
pub(crate) fn verify(body: &[u8], headers: &HeaderMap) -> S3Result<()> {
    let said = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let sums = sums(body, headers);
    for (name, sum) in [
        ("x-amz-checksum-crc32", sums.checksum_crc32),
        ("x-amz-checksum-crc32c", sums.checksum_crc32c),
        ("x-amz-checksum-crc64nvme", sums.checksum_crc64nvme),
        ("x-amz-checksum-sha1", sums.checksum_sha1),
        ("x-amz-checksum-sha256", sums.checksum_sha256),
        ("content-md5", headers.get("content-md5").map(|_| base64(&Md5::checksum(body)))),
    ] {
        if said(name) != sum.as_deref() {
            return Err(s3_error!(BadDigest, "{name} is not that of the body"));
        }
    }
    Ok(())
}

fn sums(body: &[u8], headers: &HeaderMap) -> s3s::dto::Checksum {
    let mut hasher = ChecksumHasher::default();
    for name in headers.keys() {
        match name.as_str() {
            "x-amz-checksum-crc32" => hasher.crc32 = Some(Default::default()),
            "x-amz-checksum-crc32c" => hasher.crc32c = Some(Default::default()),
            "x-amz-checksum-crc64nvme" => hasher.crc64nvme = Some(Default::default()),
            "x-amz-checksum-sha1" => hasher.sha1 = Some(Default::default()),
            "x-amz-checksum-sha256" => hasher.sha256 = Some(Default::default()),
            _ => {}
        }
    }
    hasher.update(body);
    hasher.finalize()
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let bits = three.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte));
        let bits = bits << (8 * (3 - three.len()));
        for place in 0..=three.len() {
            let digit = (bits >> (18 - 6 * place)) & 63;
            text.push(char::from(DIGITS[digit as usize]));
        }
        text.extend(std::iter::repeat_n('=', 3 - three.len()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The check values of the algorithms for `123456789`, in base64.
    const CHECKS: [(&str, &str); 6] = [
        ("x-amz-checksum-crc32", "y/Q5Jg=="),
        ("x-amz-checksum-crc32c", "4waSgw=="),
        ("x-amz-checksum-crc64nvme", "rosUhgp5mIg="),
        ("x-amz-checksum-sha1", "98O8HYCOBHMq32eZZczDTKeuNEE="),
        ("x-amz-checksum-sha256", "FeKw08M4keuw8e9gnsQZQgwg4yDOlMZfvIwzEkSOsiU="),
        ("content-md5", "JfnnlDI7RTiF9RgfG2JNCw=="),
    ];

    #[test]
    fn every_checksum_is_verified() {
        for (name, value) in CHECKS {
            let headers = HeaderMap::from_iter([(
                http::HeaderName::from_static(name),
                http::HeaderValue::from_static(value),
            )]);
            assert!(verify(b"123456789", &headers).is_ok(), "{name}");
            assert!(verify(b"123456780", &headers).is_err(), "{name}");
        }
        assert!(verify(b"anything", &HeaderMap::new()).is_ok());
    }
}
