//! Continuation tokens of listings, for MinIO, whose `start-after` skips keys.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use http::HeaderMap;
use http::header::SERVER;

use crate::ListRequest;

/// How many tokens are kept: one for each listing that goes on at the same time.
const TOKENS_MAX: usize = 64;

/// Where listings go on.
///
/// MinIO counts keys before `start-after` to `max-keys`: those of `a-b/` and `a.b/` when it starts in
/// `a/`. With many of them it says that the listing ends there. A continuation token skips nothing,
/// but may show the state at the time of the first page, so that only listings of whole trees use
/// it, and only their next page.
#[derive(Debug, Default)]
pub(super) struct Continuations(Mutex<VecDeque<Continuation>>);

#[derive(Debug)]
struct Continuation {
    prefix: String,
    after: String,
    token: String,
}

impl Continuations {
    /// The token of the page that this request follows.
    pub(super) fn of(&self, request: &ListRequest) -> Option<String> {
        let after = request.start_after.as_deref()?;
        let kept = self.lock();
        let found =
            kept.iter().find(|kept| !request.delimiter && kept.is_of(&request.prefix, after));
        found.map(|found| found.token.clone())
    }

    /// Keeps the token of a page that ends with the key `last`.
    pub(super) fn keep(
        &self,
        request: &ListRequest,
        last: &str,
        token: String,
        headers: &HeaderMap,
    ) {
        let is_nested = last.strip_prefix(&request.prefix).is_some_and(|rest| rest.contains('/'));
        let is_minio =
            headers.get(SERVER).is_some_and(|server| server.as_bytes().starts_with(b"MinIO"));
        if request.delimiter || !is_nested || !is_minio {
            return;
        }
        let mut kept = self.lock();
        kept.retain(|kept| !kept.is_of(&request.prefix, last));
        kept.truncate(TOKENS_MAX - 1);
        let (prefix, after) = (request.prefix.clone(), last.to_owned());
        kept.push_front(Continuation { prefix, after, token });
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Continuation>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Continuation {
    fn is_of(&self, prefix: &str, after: &str) -> bool {
        self.after == after && self.prefix == prefix
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minio() -> HeaderMap {
        HeaderMap::from_iter([(SERVER, http::HeaderValue::from_static("MinIO"))])
    }

    fn following(prefix: &str, after: &str) -> ListRequest {
        ListRequest { start_after: Some(after.to_owned()), ..ListRequest::below(prefix) }
    }

    #[test]
    fn the_next_page_has_the_token_of_the_page_before() {
        let kept = Continuations::default();
        let first = ListRequest::below("r/");
        kept.keep(&first, "r/a/b", "one".to_owned(), &minio());
        kept.keep(&first, "r/a/b", "two".to_owned(), &minio());
        assert_eq!(kept.of(&following("r/", "r/a/b")).as_deref(), Some("two"));
        assert_eq!(kept.of(&first), None);
        assert_eq!(kept.of(&following("r/", "r/a/c")), None);
        assert_eq!(kept.of(&following("r/a/", "r/a/b")), None);
        let folders = ListRequest { delimiter: true, ..following("r/", "r/a/b") };
        assert_eq!(kept.of(&folders), None);
    }

    #[test]
    fn no_token_is_kept_for_a_folder_or_of_another_store() {
        let kept = Continuations::default();
        kept.keep(&ListRequest::below("r/a/"), "r/a/b", "token".to_owned(), &minio());
        assert_eq!(kept.of(&following("r/a/", "r/a/b")), None);
        kept.keep(&ListRequest::below("r/"), "r/a/b", "token".to_owned(), &HeaderMap::new());
        assert_eq!(kept.of(&following("r/", "r/a/b")), None);
    }

    #[test]
    fn old_tokens_make_room() {
        let kept = Continuations::default();
        for n in 0..=TOKENS_MAX {
            kept.keep(&ListRequest::below("r/"), &format!("r/a/{n}"), n.to_string(), &minio());
        }
        assert_eq!(kept.of(&following("r/", "r/a/0")), None);
        assert_eq!(kept.of(&following("r/", "r/a/1")).as_deref(), Some("1"));
    }
}
