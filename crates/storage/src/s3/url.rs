//! [`S3Url`]: where a bucket is and how it wants to be spoken to, as one line of text.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use form_urlencoded::Serializer;

/// How a bucket is to encrypt what is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Encryption {
    /// As the bucket's own default says.
    Default,
    /// With keys of the store (SSE-S3, `AES256`).
    S3,
    /// With a key of the key management service (SSE-KMS); the account's default key, or this.
    Kms(Option<String>),
}

/// A bucket, or a folder in one.
///
/// `s3://bucket[/prefix][?key=value&..]`. The keys:
/// - `endpoint`: `http://` or `https://`, host and port of a store other than AWS;
/// - `region` (default: what `AWS_REGION` says, else `us-east-1`);
/// - `path_style`: `true` puts the bucket into the path, `false` into the host name (default:
///   `true` with an endpoint, `false` on AWS);
/// - `ca_file`: certificates (PEM) to trust beside the system's;
/// - `sse`: `AES256` or `aws:kms`; `kms_key_id`: the key for `aws:kms`;
/// - `storage_class`: of blobs, for example `INTELLIGENT_TIERING`;
/// - `sign_payload`: whether bodies are part of the signature (default: only over plain HTTP,
///   where nothing else protects them).
///
/// It never holds credentials, so it can be printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Url {
    /// The bucket's name.
    pub bucket: String,
    /// What every key is stored below; without a slash at either end, empty for none.
    pub prefix: String,
    /// The store's address, without a slash at the end; `None` is AWS.
    pub endpoint: Option<String>,
    /// The region, which is part of every signature; `None` takes the environment's.
    pub region: Option<String>,
    /// Whether the bucket is in the path rather than in the host name.
    pub path_style: bool,
    /// Certificates to trust beside the system's.
    pub ca_file: Option<PathBuf>,
    /// How to encrypt what is written.
    pub encryption: Encryption,
    /// The storage class of blobs.
    pub storage_class: Option<String>,
    /// Whether bodies are part of the signature.
    pub sign_payload: bool,
}

/// Why a text is not an [`S3Url`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidS3Url {
    /// Another scheme, or none.
    #[error("{0:?} does not start with s3://")]
    Scheme(String),
    /// The bucket's name cannot be one.
    #[error(
        "bucket {0:?} must be 3 to 63 lower-case letters, digits, dots and hyphens (or capitals and _ on old buckets)"
    )]
    Bucket(String),
    /// The prefix could not start keys.
    #[error("prefix {0:?} must be a key of at most {PREFIX_BYTES_MAX} bytes: {1}")]
    Prefix(String, &'static str),
    /// No key has this name.
    #[error("unknown key `{name}`, did you mean `{nearest}`?")]
    UnknownKey {
        /// The name.
        name: String,
        /// The known name that is most like it.
        nearest: &'static str,
    },
    /// A key was given twice.
    #[error("key `{0}` is given twice")]
    Repeated(String),
    /// The key does not take this value.
    #[error("`{name}` cannot be {value:?}: it must be {allowed}")]
    Value {
        /// The key.
        name: &'static str,
        /// The value.
        value: String,
        /// Which values it takes.
        allowed: &'static str,
    },
}

/// S3 takes keys of 1,024 bytes; what is left is more than any of ours needs.
const PREFIX_BYTES_MAX: usize = 256;

const KEYS: [&str; 8] = [
    "ca_file",
    "endpoint",
    "kms_key_id",
    "path_style",
    "region",
    "sign_payload",
    "sse",
    "storage_class",
];

impl FromStr for S3Url {
    type Err = InvalidS3Url;

    fn from_str(text: &str) -> Result<Self, InvalidS3Url> {
        let rest =
            text.strip_prefix("s3://").ok_or_else(|| InvalidS3Url::Scheme(text.to_owned()))?;
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
        let values = Values::read(query)?;
        let endpoint =
            values.parse("endpoint", "http://HOST[:PORT] or https://HOST[:PORT]", endpoint)?;
        let secure = endpoint.as_ref().is_none_or(|endpoint| endpoint.starts_with("https://"));
        Ok(Self {
            bucket: checked_bucket(bucket)?,
            prefix: checked_prefix(prefix)?,
            region: values.parse("region", "letters, digits and hyphens", word)?,
            path_style: values.flag("path_style")?.unwrap_or(endpoint.is_some()),
            ca_file: values.get("ca_file").map(PathBuf::from),
            encryption: values.encryption()?,
            storage_class: values.parse("storage_class", "capitals, digits and _", class)?,
            sign_payload: values.flag("sign_payload")?.unwrap_or(!secure),
            endpoint,
        })
    }
}

/// The query, each key known and given once.
struct Values(Vec<(&'static str, String)>);

impl Values {
    fn read(query: &str) -> Result<Self, InvalidS3Url> {
        let mut values: Vec<(&'static str, String)> = Vec::new();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let Some(known) = KEYS.into_iter().find(|known| *known == name) else {
                return Err(InvalidS3Url::UnknownKey {
                    nearest: nearest(&name),
                    name: name.into_owned(),
                });
            };
            if values.iter().any(|(given, _)| *given == known) {
                return Err(InvalidS3Url::Repeated(name.into_owned()));
            }
            values.push((known, value.into_owned()));
        }
        Ok(Self(values))
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(given, _)| *given == name).map(|(_, value)| value.as_str())
    }

    fn parse<T>(
        &self,
        name: &'static str,
        allowed: &'static str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, InvalidS3Url> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let wrong = || InvalidS3Url::Value { name, value: value.to_owned(), allowed };
        parse(value).ok_or_else(wrong).map(Some)
    }

    fn flag(&self, name: &'static str) -> Result<Option<bool>, InvalidS3Url> {
        self.parse(name, "true or false", |value| value.parse().ok())
    }

    fn encryption(&self) -> Result<Encryption, InvalidS3Url> {
        let key_id = self.get("kms_key_id").map(str::to_owned);
        let chosen = self.parse("sse", "AES256 or aws:kms", |value| match value {
            "AES256" => Some(Encryption::S3),
            "aws:kms" => Some(Encryption::Kms(key_id.clone())),
            _ => None,
        })?;
        match (chosen, key_id) {
            (Some(Encryption::Kms(key_id)), _) => Ok(Encryption::Kms(key_id)),
            (_, Some(value)) => Err(InvalidS3Url::Value {
                name: "kms_key_id",
                value,
                allowed: "given only with sse=aws:kms",
            }),
            (chosen, None) => Ok(chosen.unwrap_or(Encryption::Default)),
        }
    }
}

fn nearest(name: &str) -> &'static str {
    let likeness = |known: &&str| strsim::normalized_damerau_levenshtein(name, known);
    KEYS.into_iter()
        .max_by(|a, b| likeness(a).total_cmp(&likeness(b)))
        .expect("there are known keys")
}

fn checked_bucket(bucket: &str) -> Result<String, InvalidS3Url> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    let edges = |b: &u8| b.is_ascii_alphanumeric();
    let bytes = bucket.as_bytes();
    let fits = (3..=63).contains(&bytes.len())
        && bytes.iter().copied().all(allowed)
        && bytes.first().is_some_and(edges)
        && bytes.last().is_some_and(edges);
    if fits { Ok(bucket.to_owned()) } else { Err(InvalidS3Url::Bucket(bucket.to_owned())) }
}

fn checked_prefix(prefix: &str) -> Result<String, InvalidS3Url> {
    let prefix = prefix.trim_end_matches('/');
    let wrong = |why| Err(InvalidS3Url::Prefix(prefix.to_owned(), why));
    if prefix.len() > PREFIX_BYTES_MAX {
        return wrong("it is longer");
    }
    if !prefix.is_empty() && prefix.parse::<crate::Key>().is_err() {
        return wrong("no component may be empty or start with a dot");
    }
    Ok(prefix.to_owned())
}

fn endpoint(value: &str) -> Option<String> {
    let value = value.trim_end_matches('/');
    let uri: http::Uri = value.parse().ok()?;
    let authority = uri.authority()?;
    let plain = matches!(uri.scheme_str(), Some("http" | "https"))
        && matches!(uri.path(), "" | "/")
        && uri.query().is_none()
        && !authority.as_str().contains('@')
        && !authority.host().is_empty();
    plain.then(|| value.to_owned())
}

fn word(value: &str) -> Option<String> {
    let fits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    fits.then(|| value.to_owned())
}

fn class(value: &str) -> Option<String> {
    let allowed = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
    (!value.is_empty() && value.bytes().all(allowed)).then(|| value.to_owned())
}

impl S3Url {
    /// The address of the bucket, to which `/` and a key are added.
    pub(super) fn bucket_address(&self, region: &str) -> String {
        let bucket = &self.bucket;
        let endpoint =
            self.endpoint.clone().unwrap_or_else(|| format!("https://s3.{region}.amazonaws.com"));
        match (self.path_style, endpoint.split_once("://")) {
            (false, Some((scheme, host))) => format!("{scheme}://{bucket}.{host}"),
            _ => format!("{endpoint}/{bucket}"),
        }
    }

    /// The service that has the bucket: what is in another bucket of it can be copied by it.
    pub fn service(&self) -> &str {
        self.endpoint.as_deref().unwrap_or("aws")
    }

    /// Whether the store is reached over TLS.
    pub(super) fn is_secure(&self) -> bool {
        self.endpoint.as_ref().is_none_or(|endpoint| endpoint.starts_with("https://"))
    }

    fn query(&self) -> String {
        let mut query = Serializer::new(String::new());
        let secure = self.is_secure();
        let mut put = |name: &str, value: Option<&str>| {
            if let Some(value) = value {
                query.append_pair(name, value);
            }
        };
        let flag = |value: bool, default: bool| (value != default).then(|| value.to_string());
        put("endpoint", self.endpoint.as_deref());
        put("region", self.region.as_deref());
        put("path_style", flag(self.path_style, self.endpoint.is_some()).as_deref());
        put("ca_file", self.ca_file.as_ref().map(|file| file.to_string_lossy()).as_deref());
        match &self.encryption {
            Encryption::Default => {}
            Encryption::S3 => put("sse", Some("AES256")),
            Encryption::Kms(key_id) => {
                put("sse", Some("aws:kms"));
                put("kms_key_id", key_id.as_deref());
            }
        }
        put("storage_class", self.storage_class.as_deref());
        put("sign_payload", flag(self.sign_payload, !secure).as_deref());
        query.finish()
    }
}

/// As [`S3Url::from_str`] reads it back; values that are the default are left out.
impl fmt::Display for S3Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}", self.bucket)?;
        if !self.prefix.is_empty() {
            write!(f, "/{}", self.prefix)?;
        }
        match self.query().as_str() {
            "" => Ok(()),
            // These two mean nothing in a query, and an address is easier to read with them.
            query => write!(f, "?{}", query.replace("%3A", ":").replace("%2F", "/")),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(text: &str) -> S3Url {
        text.parse().unwrap()
    }

    fn message(text: &str) -> String {
        text.parse::<S3Url>().unwrap_err().to_string()
    }

    #[test]
    fn every_part_is_read() {
        let url = read(
            "s3://bucket/a/b/?endpoint=http://127.0.0.1:9000/&region=eu-1&path_style=false\
             &ca_file=/etc/ca.pem&sse=aws:kms&kms_key_id=k%2F1&storage_class=STANDARD_IA\
             &sign_payload=false",
        );
        assert_eq!(url.bucket, "bucket");
        assert_eq!(url.prefix, "a/b");
        assert_eq!(url.endpoint.as_deref(), Some("http://127.0.0.1:9000"));
        assert_eq!(url.region.as_deref(), Some("eu-1"));
        assert_eq!(url.ca_file, Some(PathBuf::from("/etc/ca.pem")));
        assert_eq!(url.encryption, Encryption::Kms(Some("k/1".into())));
        assert_eq!(url.storage_class.as_deref(), Some("STANDARD_IA"));
        assert!(!url.sign_payload && !url.path_style);
        assert_eq!(read(&url.to_string()), url);
    }

    #[test]
    fn defaults_follow_from_the_endpoint_and_are_not_written() {
        let aws = read("s3://bucket");
        assert!(!aws.path_style && !aws.sign_payload);
        assert_eq!(aws.to_string(), "s3://bucket");
        let own = read("s3://bucket?endpoint=http://127.0.0.1:9000");
        assert!(own.path_style && own.sign_payload);
        assert_eq!(read(&own.to_string()), own);
        assert!(!read("s3://bucket?endpoint=https://s3.example").sign_payload);
    }

    #[test]
    fn the_address_of_the_bucket_depends_on_the_style() {
        for (url, address) in [
            ("s3://bkt", "https://bkt.s3.eu-1.amazonaws.com"),
            ("s3://bkt?path_style=true", "https://s3.eu-1.amazonaws.com/bkt"),
            ("s3://bkt?endpoint=http://h:1", "http://h:1/bkt"),
            ("s3://bkt?endpoint=http://h:1&path_style=false", "http://bkt.h:1"),
        ] {
            assert_eq!(read(url).bucket_address("eu-1"), address, "{url}");
        }
    }

    #[test]
    fn an_unknown_key_is_named_with_the_nearest_known_one() {
        assert_eq!(
            message("s3://bucket?endpiont=http://h"),
            "unknown key `endpiont`, did you mean `endpoint`?"
        );
        assert_eq!(message("s3://bucket?region=a&region=b"), "key `region` is given twice");
    }

    #[test]
    fn wrong_values_are_named_with_what_is_allowed() {
        for (text, part) in [
            ("http://bucket", "does not start with s3://"),
            ("s3://", "bucket \"\""),
            ("s3://b", "bucket \"b\""),
            ("s3://-bucket", "bucket \"-bucket\""),
            ("s3://user:secret@bucket", "bucket"),
            ("s3://bucket/a//b", "prefix \"a//b\""),
            ("s3://bucket?endpoint=h:9000", "`endpoint` cannot be \"h:9000\""),
            ("s3://bucket?endpoint=http://u:p@h", "`endpoint` cannot be"),
            ("s3://bucket?path_style=yes", "true or false"),
            ("s3://bucket?sse=kms", "AES256 or aws:kms"),
            ("s3://bucket?kms_key_id=k", "only with sse=aws:kms"),
            ("s3://bucket?sse=AES256&kms_key_id=k", "only with sse=aws:kms"),
            ("s3://bucket?storage_class=x", "capitals"),
            ("s3://bucket?region=", "`region` cannot be"),
        ] {
            assert!(message(text).contains(part), "{text}: {}", message(text));
        }
    }
}
