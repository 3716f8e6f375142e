//! [`UpstreamRequestRecord`]: a request as the scripted upstream saw it.

use http::request::Parts;
use http::{Method, header};

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RequestKind {
    Ping,
    ManifestHead,
    ManifestGet,
    BlobHead,
    BlobGet,
    Referrers,
    Tags,
    Catalog,
    Token,
    Other,
}

/// A request, and the status of its response.
#[derive(Clone, Debug)]
pub struct UpstreamRequestRecord {
    pub kind: RequestKind,
    pub method: String,
    pub path: String,
    pub query: String,
    /// The body, of a token request by POST.
    pub form: String,
    pub authorization: Option<String>,
    pub accept: Option<String>,
    pub range: Option<String>,
    pub user_agent: Option<String>,
    /// Every header, its name in lowercase.
    pub headers: Vec<(String, String)>,
    pub is_http2: bool,
    pub status: u16,
}

/// The path of a request below `/v2/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum UpstreamPath {
    Ping,
    Token,
    Catalog,
    Tags(String),
    Manifest(String, String),
    Blob(String, String),
    Referrers(String, String),
    Other,
}

impl UpstreamPath {
    pub(super) fn parse(path: &str) -> Self {
        let Some(path) = path.strip_prefix("/v2/") else {
            return match path {
                "/token" => Self::Token,
                "/v2" => Self::Ping,
                _ => Self::Other,
            };
        };
        let split = |middle: &str| {
            let (repository, rest) = path.rsplit_once(middle)?;
            Some((repository.to_owned(), rest.to_owned()))
        };
        match path {
            "" => return Self::Ping,
            "_catalog" => return Self::Catalog,
            _ => {}
        }
        if let Some(repository) = path.strip_suffix("/tags/list") {
            return Self::Tags(repository.to_owned());
        }
        let manifest =
            split("/manifests/").map(|(repository, rest)| Self::Manifest(repository, rest));
        let blob = || split("/blobs/").map(|(repository, rest)| Self::Blob(repository, rest));
        let referrers =
            || split("/referrers/").map(|(repository, rest)| Self::Referrers(repository, rest));
        manifest.or_else(blob).or_else(referrers).unwrap_or(Self::Other)
    }

    pub(super) fn repository(&self) -> Option<&str> {
        match self {
            Self::Tags(repository)
            | Self::Manifest(repository, _)
            | Self::Blob(repository, _)
            | Self::Referrers(repository, _) => Some(repository),
            Self::Ping | Self::Token | Self::Catalog | Self::Other => None,
        }
    }

    pub(super) fn kind(&self, method: &Method) -> RequestKind {
        match self {
            Self::Ping => RequestKind::Ping,
            Self::Token => RequestKind::Token,
            Self::Catalog => RequestKind::Catalog,
            Self::Tags(_) => RequestKind::Tags,
            Self::Manifest(..) if *method == Method::HEAD => RequestKind::ManifestHead,
            Self::Manifest(..) => RequestKind::ManifestGet,
            Self::Blob(..) if *method == Method::HEAD => RequestKind::BlobHead,
            Self::Blob(..) => RequestKind::BlobGet,
            Self::Referrers(..) => RequestKind::Referrers,
            Self::Other => RequestKind::Other,
        }
    }
}

impl UpstreamRequestRecord {
    /// A header, by its name in lowercase.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn of(head: &Parts, form: String, is_http2: bool) -> Self {
        let header =
            |name| head.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let text =
            |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let headers = head.headers.iter().map(|(name, value)| (name.to_string(), text(value)));
        Self {
            kind: UpstreamPath::parse(head.uri.path()).kind(&head.method),
            method: head.method.to_string(),
            path: head.uri.path().to_owned(),
            query: head.uri.query().unwrap_or_default().to_owned(),
            form,
            authorization: header(header::AUTHORIZATION),
            accept: header(header::ACCEPT),
            range: header(header::RANGE),
            user_agent: header(header::USER_AGENT),
            headers: headers.collect(),
            is_http2,
            status: 0,
        }
    }
}
