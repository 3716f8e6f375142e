//! [`UpstreamRule`]: which requests a scripted upstream treats otherwise, and how.

use std::time::Duration;

use super::request::{RequestKind, UpstreamRequestRecord};

/// What happens to a request instead of the response that a registry gives, or to that response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpstreamFault {
    /// This status with these headers and this body.
    Status { status: u16, headers: Vec<(String, String)>, body: String },
    /// 401 with the challenge of the registry, whatever the request has.
    Unauthorized,
    /// The connection ends without a response.
    NoResponse,
    /// The response begins after this time.
    Delay(Duration),
    /// The connection ends after so many bytes of the body.
    ResetAfter(usize),
    /// The body stops after so many bytes, and the connection stays.
    StallAfter(usize),
    /// The body arrives in chunks of so many bytes with a pause between them.
    Slow { chunk: usize, pause: Duration },
    /// One bit of the body is another.
    WrongBytes,
    /// One bit of its first byte is another.
    WrongStart,
    /// The body has so many bytes more, and says so.
    LongBody(usize),
    /// The body lacks its last bytes, and says so.
    ShortBody(usize),
    /// Another `Docker-Content-Digest`.
    WrongDigestHeader,
    /// No `Docker-Content-Digest`.
    NoDigestHeader,
    /// No `Content-Length`: the body is chunked.
    NoContentLength,
    /// The whole blob, whatever range is requested.
    NoRanges,
    /// A 206 with another part than was requested, and a header that says so.
    OtherRange,
    /// A 206 whose `Content-Range` has another total.
    OtherTotal,
    /// 307 to this URL; without a path, to the same path there.
    Redirect(String),
    /// This header, instead of or beside those there are.
    Header(String, String),
}

impl UpstreamFault {
    /// A status without a body.
    pub fn status(status: u16) -> Self {
        Self::Status { status, headers: Vec::new(), body: String::new() }
    }

    /// 429, with `Retry-After` in seconds.
    pub fn too_many_requests(retry_after: Option<u64>) -> Self {
        let headers = retry_after.map(|seconds| ("retry-after".to_owned(), seconds.to_string()));
        Self::Status { status: 429, headers: headers.into_iter().collect(), body: String::new() }
    }
}

/// Which of the requests that match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RulePick {
    All,
    /// The first ones, so many.
    First(usize),
    /// Only this one, counted from 1.
    Nth(usize),
    /// Every n-th: 2 is the second, the fourth and so on.
    Every(usize),
    /// All but the first ones, so many.
    After(usize),
}

/// A rule: requests, and what happens to them.
#[derive(Clone, Debug)]
pub struct UpstreamRule {
    fault: UpstreamFault,
    kinds: Vec<RequestKind>,
    part: Option<String>,
    pick: RulePick,
    matched: usize,
}

impl UpstreamRule {
    /// For all requests but those for tokens.
    pub fn new(fault: UpstreamFault) -> Self {
        Self { fault, kinds: Vec::new(), part: None, pick: RulePick::All, matched: 0 }
    }

    /// Only for requests of this kind, or of several.
    #[must_use]
    pub fn on(mut self, kind: RequestKind) -> Self {
        self.kinds.push(kind);
        self
    }

    /// Only for paths that contain this.
    #[must_use]
    pub fn at(mut self, part: &str) -> Self {
        self.part = Some(part.to_owned());
        self
    }

    /// Only for some of these.
    #[must_use]
    pub fn pick(mut self, pick: RulePick) -> Self {
        self.pick = pick;
        self
    }

    /// The fault, if the rule is for this request; which it counts.
    pub(super) fn apply(&mut self, request: &UpstreamRequestRecord) -> Option<UpstreamFault> {
        let is_kind = match self.kinds.as_slice() {
            [] => request.kind != RequestKind::Token,
            kinds => kinds.contains(&request.kind),
        };
        let is_there = self.part.as_ref().is_none_or(|part| request.path.contains(part));
        if !is_kind || !is_there {
            return None;
        }
        self.matched += 1;
        let is_picked = match self.pick {
            RulePick::All => true,
            RulePick::First(most) => self.matched <= most,
            RulePick::Nth(number) => self.matched == number,
            RulePick::Every(interval) => self.matched.is_multiple_of(interval),
            RulePick::After(others) => self.matched > others,
        };
        is_picked.then(|| self.fault.clone())
    }
}
