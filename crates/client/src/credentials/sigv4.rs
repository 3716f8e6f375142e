//! [`sign`]: AWS Signature Version 4 of a POST.

use std::fmt::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chrono::DateTime;
use jreg_auth::Secret;
use ring::{digest, hmac};

/// The keys of AWS.
#[derive(Clone, Debug)]
pub(super) struct AwsKeys {
    pub(super) id: String,
    pub(super) secret: Secret,
    pub(super) session_token: Option<Secret>,
}

/// What is signed.
#[derive(Debug)]
pub(super) struct SignedParts<'a> {
    pub(super) method: &'a str,
    pub(super) path: &'a str,
    /// Sorted, their names in lowercase, without `x-amz-date` and `x-amz-security-token`.
    pub(super) headers: &'a [(&'a str, &'a str)],
    pub(super) body: &'a [u8],
    pub(super) region: &'a str,
    pub(super) service: &'a str,
}

/// The headers to add.
pub(super) fn sign(
    keys: &AwsKeys,
    parts: &SignedParts<'_>,
    now: SystemTime,
) -> Vec<(&'static str, String)> {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let time =
        DateTime::from_timestamp(i64::try_from(since).unwrap_or_default(), 0).unwrap_or_default();
    let (date, stamp) =
        (time.format("%Y%m%d").to_string(), time.format("%Y%m%dT%H%M%SZ").to_string());
    let mut headers: Vec<(&str, &str)> = parts.headers.to_vec();
    headers.push(("x-amz-date", &stamp));
    if let Some(token) = &keys.session_token {
        headers.push(("x-amz-security-token", token.reveal()));
    }
    headers.sort_unstable();
    let names = headers.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
    let lines = headers.iter().fold(String::new(), |mut lines, (name, value)| {
        // Writing to a string cannot fail.
        let _ = writeln!(lines, "{name}:{}", value.trim());
        lines
    });
    let SignedParts { method, path, body, region, service, .. } = parts;
    let canonical = format!("{method}\n{path}\n\n{lines}\n{names}\n{}", sha256(body));
    let scope = format!("{date}/{region}/{service}/aws4_request");
    let to_sign = format!("AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{}", sha256(canonical.as_bytes()));
    let key = format!("AWS4{}", keys.secret.reveal());
    let key = [&date, *region, *service, "aws4_request"]
        .iter()
        .fold(key.into_bytes(), |key, part| hmac_sha256(&key, part.as_bytes()));
    let signature = hex(&hmac_sha256(&key, to_sign.as_bytes()));
    let id = &keys.id;
    let authorization = format!(
        "AWS4-HMAC-SHA256 Credential={id}/{scope}, SignedHeaders={names}, Signature={signature}"
    );
    let token = keys
        .session_token
        .as_ref()
        .map(|token| ("x-amz-security-token", token.reveal().to_owned()));
    [("x-amz-date", stamp.clone()), ("authorization", authorization)]
        .into_iter()
        .chain(token)
        .collect()
}

fn hmac_sha256(key: &[u8], text: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text).as_ref().to_vec()
}

fn sha256(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts<'a>(
        method: &'a str,
        headers: &'a [(&'a str, &'a str)],
        body: &'a [u8],
    ) -> SignedParts<'a> {
        SignedParts { method, path: "/", headers, body, region: "us-east-1", service: "service" }
    }

    fn signature(method: &str, headers: &[(&str, &str)], body: &[u8]) -> String {
        let keys = AwsKeys {
            id: "AKIDEXAMPLE".to_owned(),
            secret: Secret::new("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"),
            session_token: None,
        };
        // 2015-08-30 12:36:00 UTC, as in the published test suite.
        let now = UNIX_EPOCH + Duration::from_secs(1_440_938_160);
        let signed = sign(&keys, &parts(method, headers, body), now);
        let authorization = signed.iter().find(|(name, _)| *name == "authorization");
        let signature = authorization.and_then(|(_, value)| value.split_once("Signature="));
        signature.map(|(_, signature)| signature.to_owned()).unwrap_or_default()
    }

    #[test]
    fn signatures_are_those_of_the_published_test_suite() {
        let host = [("host", "example.amazonaws.com")];
        let vanilla = "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31";
        assert_eq!(signature("GET", &host, b""), vanilla);
        let post = "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b";
        assert_eq!(signature("POST", &host, b""), post);
        let form = [
            ("content-type", "application/x-www-form-urlencoded"),
            ("host", "example.amazonaws.com"),
        ];
        let form_post = "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a";
        assert_eq!(signature("POST", &form, b"Param1=value1"), form_post);
    }
}
