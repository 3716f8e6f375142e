//! One page of a listing: keys in byte order, those with the delimiter after the prefix rolled up,
//! and a token to continue from.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::object::{S3Object, hex};

/// How listings are answered: by the book, or by a server that lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Listings {
    /// In byte order, below the prefix, after `start-after`, cut where the page is full.
    #[default]
    ByTheBook,
    /// The keys of each page come last first.
    OutOfOrder,
    /// Each page repeats its first key.
    KeysRepeated,
    /// `start-after` is not looked at.
    StartAfterIgnored,
    /// `prefix` is not looked at.
    PrefixIgnored,
    /// `delimiter` is not looked at.
    DelimiterIgnored,
    /// Without a delimiter, `start-after=a/b/` skips everything below `a/b/` (MinIO of February
    /// 2026).
    FolderSkipped,
    /// A page that is full is said to be cut, also where nothing follows (versitygw 1.8.0).
    MoreClaimed,
}

/// What to list.
#[derive(Clone, Debug, Default)]
pub(crate) struct ListingQuery {
    pub(crate) prefix: String,
    /// None where it is empty.
    pub(crate) delimiter: Option<String>,
    pub(crate) after: ListingStart,
    pub(crate) limit: usize,
    pub(crate) listings: Listings,
}

/// Where a page begins.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) enum ListingStart {
    #[default]
    Start,
    /// After this key. What keys are rolled up into must be after it too: as Ceph RGW has it, and
    /// AWS where the key of `start-after` is just that.
    Key(String),
    /// After all keys that are rolled up into this.
    Rolled(String),
}

impl ListingStart {
    /// As an opaque token.
    pub(crate) fn token(&self) -> String {
        match self {
            Self::Start => String::new(),
            Self::Key(key) => format!("k{}", hex(key.as_bytes())),
            Self::Rolled(prefix) => format!("p{}", hex(prefix.as_bytes())),
        }
    }

    /// Reads a token; none if it is not one of ours.
    pub(crate) fn from_token(token: &str) -> Option<Self> {
        let text = |digits: &str| {
            let bytes: Option<Vec<u8>> = digits
                .as_bytes()
                .chunks(2)
                .map(|pair| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok())
                .collect();
            String::from_utf8(bytes?).ok()
        };
        match token.split_at_checked(1)? {
            ("k", digits) => text(digits).map(Self::Key),
            ("p", digits) => text(digits).map(Self::Rolled),
            _ => None,
        }
    }

    fn lower_bound(&self) -> Bound<&str> {
        match self {
            Self::Start => Bound::Unbounded,
            Self::Key(key) => Bound::Excluded(key),
            Self::Rolled(prefix) => Bound::Included(prefix),
        }
    }

    fn is_past(&self, rolled: &str) -> bool {
        matches!(self, Self::Key(key) if rolled <= &**key)
    }

    fn skips(&self, key: &str) -> bool {
        matches!(self, Self::Rolled(prefix) if key.starts_with(prefix))
    }
}

#[derive(Debug, Default)]
pub(crate) struct ListingPage<'a> {
    pub(crate) objects: Vec<(&'a String, &'a S3Object)>,
    pub(crate) rolled: Vec<String>,
    /// Where the next page begins, if there is one.
    pub(crate) next: Option<ListingStart>,
}

impl ListingPage<'_> {
    /// How many entries it has of both kinds.
    pub(crate) fn len(&self) -> usize {
        self.objects.len() + self.rolled.len()
    }
}

impl ListingQuery {
    /// What a server that lies takes it for.
    fn misread(&self) -> Self {
        let mut query = self.clone();
        match self.listings {
            Listings::StartAfterIgnored => query.after = ListingStart::Start,
            Listings::PrefixIgnored => query.prefix.clear(),
            Listings::DelimiterIgnored => query.delimiter = None,
            Listings::FolderSkipped => {
                if let ListingStart::Key(key) = &self.after
                    && key.ends_with('/')
                    && self.delimiter.is_none()
                {
                    query.after = ListingStart::Rolled(key.clone());
                }
            }
            Listings::ByTheBook
            | Listings::OutOfOrder
            | Listings::KeysRepeated
            | Listings::MoreClaimed => {}
        }
        query
    }
}

/// Lists one page.
pub(crate) fn page<'a>(
    objects: &'a BTreeMap<String, S3Object>,
    query: &ListingQuery,
) -> ListingPage<'a> {
    let mut page = honest_page(objects, &query.misread());
    match query.listings {
        Listings::OutOfOrder => page.objects.reverse(),
        Listings::KeysRepeated => {
            let first = page.objects.first().copied();
            page.objects.splice(0..0, first);
        }
        Listings::MoreClaimed if page.len() == query.limit => {
            let last = page.objects.last().map(|(key, _)| ListingStart::Key((*key).clone()));
            let rolled = page.rolled.last().map(|rolled| ListingStart::Rolled(rolled.clone()));
            page.next = page.next.or(last).or(rolled);
        }
        _ => {}
    }
    page
}

fn honest_page<'a>(
    objects: &'a BTreeMap<String, S3Object>,
    query: &ListingQuery,
) -> ListingPage<'a> {
    let mut page = ListingPage::default();
    let mut last = query.after.clone();
    if query.limit == 0 {
        return page;
    }
    for (key, object) in objects.range::<str, _>((query.after.lower_bound(), Bound::Unbounded)) {
        if !key.starts_with(&query.prefix) || last.skips(key) {
            continue;
        }
        let rolled = rolled_up(key, query);
        if rolled.as_ref().is_some_and(|rolled| query.after.is_past(rolled)) {
            continue;
        }
        if page.len() == query.limit {
            page.next = Some(last);
            break;
        }
        last = match rolled {
            Some(rolled) => {
                page.rolled.push(rolled.clone());
                ListingStart::Rolled(rolled)
            }
            None => {
                page.objects.push((key, object));
                ListingStart::Key(key.clone())
            }
        };
    }
    page
}

fn rolled_up(key: &str, query: &ListingQuery) -> Option<String> {
    let delimiter = query.delimiter.as_deref()?;
    let (name, _) = key.strip_prefix(&*query.prefix)?.split_once(delimiter)?;
    Some(format!("{}{name}{delimiter}", query.prefix))
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use std::time::SystemTime;

    use super::*;
    use crate::s3::pieces::Pieces;

    #[test]
    fn pages_join_up_to_the_whole_whatever_their_size() {
        let objects = bucket(&["a", "b/1", "b/2", "b0", "c/1", "d"]);
        for limit in 1..8 {
            let query =
                ListingQuery { delimiter: Some("/".to_owned()), limit, ..ListingQuery::default() };
            assert_eq!(walk(&objects, query), ["a", "b/", "b0", "c/", "d"], "{limit}");
            let query = ListingQuery { limit, ..ListingQuery::default() };
            assert_eq!(walk(&objects, query), ["a", "b/1", "b/2", "b0", "c/1", "d"], "{limit}");
        }
    }

    #[test]
    fn a_last_page_that_is_full_is_not_followed_by_another() {
        let objects = bucket(&["a/1", "a/2"]);
        let delimiter = Some("/".to_owned());
        let page = page(&objects, &ListingQuery { delimiter, limit: 1, ..ListingQuery::default() });
        assert_eq!(page.rolled, ["a/"]);
        assert_eq!(page.next, None);
    }

    #[test]
    fn tokens_are_read_back_and_others_refused() {
        for after in [ListingStart::Key("a/é".to_owned()), ListingStart::Rolled("b/".to_owned())] {
            assert_eq!(ListingStart::from_token(&after.token()), Some(after));
        }
        for wrong in ["", "x", "kzz", "é"] {
            assert_eq!(ListingStart::from_token(wrong), None, "{wrong}");
        }
    }

    fn bucket(keys: &[&str]) -> BTreeMap<String, S3Object> {
        let object = S3Object::plain(Pieces::default(), HeaderMap::new(), SystemTime::UNIX_EPOCH);
        keys.iter().map(|key| ((*key).to_owned(), object.clone())).collect()
    }

    fn walk(objects: &BTreeMap<String, S3Object>, mut query: ListingQuery) -> Vec<String> {
        let mut names = Vec::new();
        loop {
            let page = page(objects, &query);
            assert!(page.len() <= query.limit);
            let mut entries: Vec<_> =
                page.objects.into_iter().map(|(key, _)| key.clone()).collect();
            entries.extend(page.rolled);
            entries.sort();
            names.extend(entries);
            match page.next {
                Some(next) => query.after = next,
                None => return names,
            }
        }
    }
}
