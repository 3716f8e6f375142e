//! The value types of settings, each with its parser and formatter.

use std::fmt::{self, Display};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use jreg_auth::ForwardedHeader;
use jreg_oci::{MediaTypePattern, UnknownNamespace};
use jreg_registry::ReferencePolicy;
use jreg_storage::{Durability, S3Url};
use jreg_telemetry::audit::AuditTarget;
use jreg_telemetry::logging::LogFormat;

/// The kind of a value that is any text.
pub(super) const TEXT: &str = "TEXT";

/// A value in a flag, a variable or the file.
pub trait Value: Sized {
    /// The kind of value, for the help.
    const KIND: &'static str = TEXT;

    /// Whether an error message must not repeat the value.
    const IS_SECRET: bool = false;

    /// Parses one text.
    fn parse(text: &str) -> Option<Self>;

    /// Formats the value so that [`Value::parse`] returns it.
    fn show(&self) -> String;

    /// A more precise error than "not allowed", if there is one.
    fn refusal(_text: &str) -> Option<String> {
        None
    }

    /// Parses all given texts: exactly one, unless the type is repeatable.
    fn parse_all(texts: &[String]) -> Option<Self> {
        match texts {
            [text] => Self::parse(text.trim()),
            _ => None,
        }
    }

    /// Formats all texts that [`Value::parse_all`] parses.
    fn show_all(&self) -> Vec<String> {
        vec![self.show()]
    }
}

/// The storage location of a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StorageLocation {
    /// A folder, created if absent.
    Folder(PathBuf),
    /// A bucket of S3 or an S3-compatible store.
    Bucket(S3Url),
    /// Memory, for tests and trials.
    Memory,
}

/// Replaces secrets in output.
pub(super) const REDACTED: &str = "[redacted]";

/// A rejected text as shown in error messages: without the user information of a URL, which can be
/// a password.
/// address, which can be a password.
pub(super) fn repeatable(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match rest.split_at_checked(end).and_then(|(authority, _)| authority.rfind('@')) {
        Some(at) => {
            let host = rest.get(at..).unwrap_or_default();
            format!("{scheme}://{REDACTED}{host}")
        }
        None => text.to_owned(),
    }
}

/// A value that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretValue(String);

impl SecretValue {
    /// The secret itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

/// A TLS version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVersion {
    /// TLS 1.2 (RFC 5246).
    Tls12,
    /// TLS 1.3 (RFC 8446).
    Tls13,
}

/// The external base URL of the registry.
///
/// - `http://` or `https://`, a host, perhaps a port and a path;
/// - no user, query or fragment, and no slash at the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicUrl(String);

impl PublicUrl {
    /// The URL, without a slash at the end.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for StorageLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) => write!(f, "{}", path.display()),
            Self::Bucket(url) => write!(f, "{url}"),
            Self::Memory => f.write_str("memory:"),
        }
    }
}

impl Value for StorageLocation {
    const KIND: &'static str = "LOCATION";

    fn parse(text: &str) -> Option<Self> {
        if text == "memory:" {
            return Some(Self::Memory);
        }
        if text.starts_with(S3_SCHEME) {
            return text.parse().ok().map(Self::Bucket);
        }
        let path = match text.split_once(':') {
            Some(("file", path)) => path.strip_prefix("//").unwrap_or(path),
            // A word and a colon select a kind of store; write a path with a colon as `./a:b`.
            Some((kind, _)) if kind.bytes().all(|b| b.is_ascii_alphanumeric()) => return None,
            _ => text,
        };
        (!path.is_empty()).then(|| Self::Folder(PathBuf::from(path)))
    }

    fn show(&self) -> String {
        self.to_string()
    }

    fn refusal(text: &str) -> Option<String> {
        let url = text.starts_with(S3_SCHEME).then(|| text.parse::<S3Url>())?;
        url.err().map(|error| error.to_string())
    }
}

const S3_SCHEME: &str = "s3://";

impl Value for PublicUrl {
    const KIND: &'static str = "URL";

    fn parse(text: &str) -> Option<Self> {
        let text = text.trim_end_matches('/');
        let uri: http::Uri = text.parse().ok()?;
        let authority = uri.authority()?;
        let plain = matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.query().is_none()
            && !text.contains('#')
            && !authority.as_str().contains('@')
            && !authority.host().is_empty();
        plain.then(|| Self(text.to_owned()))
    }

    fn show(&self) -> String {
        self.0.clone()
    }
}

impl Value for AuditTarget {
    const KIND: &'static str = "FILE";

    fn parse(text: &str) -> Option<Self> {
        match text {
            "off" | "false" => Some(Self::Off),
            "stdout" => Some(Self::Stdout),
            "stderr" => Some(Self::Stderr),
            "" | "on" | "true" => None,
            path => Some(Self::File(PathBuf::from(path))),
        }
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

/// Implements [`Value`] for an enum by one table of words.
macro_rules! words {
    ($type:ty { $kind:literal: $($value:path => $word:literal),+ $(,)? }) => {
        impl Value for $type {
            const KIND: &'static str = $kind;

            fn parse(text: &str) -> Option<Self> {
                match text { $($word => Some($value),)+ _ => None }
            }

            fn show(&self) -> String {
                match self { $($value => $word,)+ }.to_owned()
            }
        }
    };
}

words!(Durability { "strict|relaxed": Durability::Strict => "strict", Durability::Relaxed => "relaxed" });
words!(LogFormat {
    "auto|json|pretty":
    LogFormat::Auto => "auto",
    LogFormat::Json => "json",
    LogFormat::Pretty => "pretty",
});
words!(ForwardedHeader {
    "HEADER":
    ForwardedHeader::XForwarded => "x-forwarded",
    ForwardedHeader::Forwarded => "forwarded",
});
words!(TlsVersion { "1.2|1.3": TlsVersion::Tls12 => "1.2", TlsVersion::Tls13 => "1.3" });
words!(UnknownNamespace {
    "ignore|refuse":
    UnknownNamespace::Ignore => "ignore",
    UnknownNamespace::Refuse => "refuse",
});
words!(ReferencePolicy {
    "POLICY":
    ReferencePolicy::Strict => "strict",
    ReferencePolicy::SparseIndex => "sparse-index",
    ReferencePolicy::Off => "off",
});

impl Value for bool {
    const KIND: &'static str = "on|off";

    fn parse(text: &str) -> Option<Self> {
        match text {
            "on" | "true" => Some(true),
            "off" | "false" => Some(false),
            _ => None,
        }
    }

    fn show(&self) -> String {
        if *self { "on" } else { "off" }.to_owned()
    }
}

/// Implements [`Value`] by `FromStr` and `Display`.
macro_rules! plain {
    ($($type:ty: $kind:expr),+) => {$(
        impl Value for $type {
            const KIND: &'static str = $kind;

            fn parse(text: &str) -> Option<Self> {
                Self::from_str(text).ok()
            }

            fn show(&self) -> String {
                self.to_string()
            }
        }
    )+};
}

plain!(usize: "NUMBER", u32: "NUMBER", String: TEXT);

/// Kind of an address to listen on.
const ADDRESS: &str = "IP:PORT";

/// An address to listen on: `localhost` is the loopback address, no host means all IPv4 addresses.
impl Value for SocketAddr {
    const KIND: &'static str = ADDRESS;

    fn parse(text: &str) -> Option<Self> {
        let host = match text.rsplit_once(':')? {
            ("localhost", _) => Ipv4Addr::LOCALHOST,
            ("", _) => Ipv4Addr::UNSPECIFIED,
            _ => return text.parse().ok(),
        };
        let (_, port) = text.rsplit_once(':')?;
        let is_port = port.bytes().all(|byte| byte.is_ascii_digit());
        port.parse::<u16>().ok().filter(|_| is_port).map(|port| Self::from((host, port)))
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for Option<SocketAddr> {
    const KIND: &'static str = ADDRESS;

    fn parse(text: &str) -> Option<Self> {
        if text == "none" { Some(None) } else { SocketAddr::parse(text).map(Some) }
    }

    fn show(&self) -> String {
        self.as_ref().map_or_else(|| "none".to_owned(), Value::show)
    }
}

/// A size in bytes: a number, optionally with `KiB`, `MiB`, `GiB` or `TiB`.
impl Value for u64 {
    const KIND: &'static str = "SIZE";

    fn parse(text: &str) -> Option<Self> {
        jreg_units::parse_size(text)
    }

    fn show(&self) -> String {
        jreg_units::format_size(*self)
    }
}

/// A duration: a number with `ms`, `s`, `m`, `h` or `d`.
impl Value for Duration {
    const KIND: &'static str = "DURATION";

    fn parse(text: &str) -> Option<Self> {
        jreg_units::parse_duration(text)
    }

    fn show(&self) -> String {
        jreg_units::format_duration(*self)
    }
}

impl Value for Option<u64> {
    const KIND: &'static str = "SIZE";

    fn parse(text: &str) -> Option<Self> {
        if text == "auto" { Some(None) } else { u64::parse(text).map(Some) }
    }

    fn show(&self) -> String {
        self.as_ref().map_or_else(|| "auto".to_owned(), Value::show)
    }
}

impl Value for Option<usize> {
    const KIND: &'static str = "NUMBER";

    fn parse(text: &str) -> Option<Self> {
        if text == "auto" { Some(None) } else { usize::parse(text).map(Some) }
    }

    fn show(&self) -> String {
        self.as_ref().map_or_else(|| "auto".to_owned(), Value::show)
    }
}

impl Value for Option<Duration> {
    const KIND: &'static str = "DURATION";

    fn parse(text: &str) -> Option<Self> {
        if text == "off" { Some(None) } else { Duration::parse(text).map(Some) }
    }

    fn show(&self) -> String {
        self.as_ref().map_or_else(|| "off".to_owned(), Value::show)
    }
}

impl Value for Option<String> {
    fn parse(text: &str) -> Option<Self> {
        if text == "none" { Some(None) } else { Some(Some(text.to_owned())) }
    }

    fn show(&self) -> String {
        self.clone().unwrap_or_else(|| "none".to_owned())
    }
}

impl Value for Option<SecretValue> {
    const KIND: &'static str = "SECRET";

    const IS_SECRET: bool = true;

    fn parse(text: &str) -> Option<Self> {
        Option::<String>::parse(text).map(|text| text.map(SecretValue))
    }

    fn show(&self) -> String {
        if self.is_some() { REDACTED } else { "none" }.to_owned()
    }
}

impl Value for Option<PublicUrl> {
    const KIND: &'static str = "URL";

    fn parse(text: &str) -> Option<Self> {
        if text == "none" { Some(None) } else { PublicUrl::parse(text).map(Some) }
    }

    fn show(&self) -> String {
        self.as_ref().map_or_else(|| "none".to_owned(), Value::show)
    }
}

/// An item of a list.
pub(crate) trait ListItem: FromStr + Display {
    /// See [`Value::KIND`].
    const KIND: &'static str;
}

impl ListItem for IpNet {
    const KIND: &'static str = "CIDR";
}

impl ListItem for MediaTypePattern {
    const KIND: &'static str = "MEDIA-TYPE";
}

impl<T: ListItem> Value for Vec<T> {
    const KIND: &'static str = T::KIND;

    fn parse(text: &str) -> Option<Self> {
        text.parse().ok().map(|item| vec![item])
    }

    fn show(&self) -> String {
        self.show_all().join(", ")
    }

    fn parse_all(texts: &[String]) -> Option<Self> {
        texts.iter().map(|text| text.trim().parse().ok()).collect()
    }

    fn show_all(&self) -> Vec<String> {
        self.iter().map(ToString::to_string).collect()
    }
}

impl Value for Vec<String> {
    fn parse(text: &str) -> Option<Self> {
        Some(vec![text.to_owned()])
    }

    fn show(&self) -> String {
        self.join(", ")
    }

    fn parse_all(texts: &[String]) -> Option<Self> {
        Some(texts.to_vec())
    }

    fn show_all(&self) -> Vec<String> {
        self.clone()
    }
}
