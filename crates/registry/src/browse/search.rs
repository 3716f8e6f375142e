//! Search in lists of names: what contains the query, and what is a typing error away from it.

/// Maximum length of a query in bytes; of a longer one only so much counts.
const QUERY_BYTES_MAX: usize = 128;
/// Maximum number of words in a query.
const WORDS_MAX: usize = 6;

/// How well a name matches; better ones are less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NameMatch {
    /// It is the query.
    Exact,
    /// The last component is.
    Last,
    /// The last component begins with it.
    LastPrefix,
    /// A component begins with it.
    Prefix,
    /// It contains it.
    Contains,
    /// A component differs from it by so many typing errors.
    Typo(usize),
}

/// The indexes of the names that match a query, the best first: those that contain every word of it, then, if
/// `with_typos`, those that do so but for typing errors. An empty query matches nothing.
pub fn search_names<'a>(
    query: &str,
    names: impl Iterator<Item = &'a str>,
    with_typos: bool,
) -> Vec<(NameMatch, usize)> {
    let query = query.trim().to_lowercase();
    let query = query.get(..query.floor_char_boundary(QUERY_BYTES_MAX)).unwrap_or_default();
    let words: Vec<QueryWord<'_>> =
        query.split_whitespace().take(WORDS_MAX).map(QueryWord::new).collect();
    if words.is_empty() {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (index, name) in names.enumerate() {
        if let Some(quality) = matches(query, &words, name, with_typos) {
            found.push((quality, name.len(), index));
        }
    }
    found.sort_unstable();
    found.into_iter().map(|(quality, _, index)| (quality, index)).collect()
}

struct QueryWord<'a> {
    text: &'a str,
    /// The letters and digits in it, as bits.
    letters: u64,
    /// How many typing errors are forgiven.
    typos_max: usize,
}

impl<'a> QueryWord<'a> {
    fn new(text: &'a str) -> Self {
        let typos_max = match text.len() {
            0..=3 => 0,
            4..=7 => 1,
            _ => 2,
        };
        Self { text, letters: letters(text), typos_max }
    }

    /// How many typing errors turn the word into a component, or into how one begins.
    fn typos_in(&self, name: &str) -> Option<usize> {
        if self.typos_max == 0 {
            return None;
        }
        let components = name.split(|c: char| !c.is_ascii_alphanumeric());
        let counts = components.filter_map(|component| {
            let shortest = self.text.len().saturating_sub(self.typos_max);
            if component.len() < shortest || self.differs_too_much(component) {
                return None;
            }
            let longest = component.len().min(self.text.len() + self.typos_max);
            let ends = (shortest..=longest).rev();
            let distance = |end| Some(strsim::osa_distance(self.text, component.get(..end)?));
            ends.filter_map(distance).min().filter(|distance| *distance <= self.typos_max)
        });
        counts.min()
    }

    /// Each typing error adds at most one letter that the component does not have.
    fn differs_too_much(&self, component: &str) -> bool {
        let missing = self.letters & !letters(component);
        missing.count_ones() as usize > self.typos_max
    }
}

fn letters(text: &str) -> u64 {
    text.bytes().fold(0, |bits, byte| match byte {
        b'a'..=b'z' => bits | 1 << (byte - b'a'),
        b'A'..=b'Z' => bits | 1 << (byte - b'A'),
        b'0'..=b'9' => bits | 1 << (26 + byte - b'0'),
        _ => bits,
    })
}

fn matches(
    query: &str,
    words: &[QueryWord<'_>],
    name: &str,
    with_typos: bool,
) -> Option<NameMatch> {
    let lower;
    // Repository names are lowercase already; tags need not be.
    let name = match name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        true => {
            lower = name.to_ascii_lowercase();
            &lower
        }
        false => name,
    };
    let last = name.rsplit('/').next().unwrap_or(name);
    if name == query {
        return Some(NameMatch::Exact);
    }
    if last == query {
        return Some(NameMatch::Last);
    }
    if last.starts_with(query) {
        return Some(NameMatch::LastPrefix);
    }
    let mut worst = NameMatch::Prefix;
    let mut typos = 0;
    for word in words {
        match name.find(word.text) {
            Some(at) if is_start(name, at) => {}
            Some(_) => worst = worst.max(NameMatch::Contains),
            None if with_typos => typos += word.typos_in(name)?,
            None => return None,
        }
    }
    Some(if typos == 0 { worst } else { NameMatch::Typo(typos) })
}

/// Whether a component or a word of one begins there.
fn is_start(name: &str, at: usize) -> bool {
    let before = at.checked_sub(1).and_then(|before| name.as_bytes().get(before));
    before.is_none_or(|before| !before.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 8] = [
        "library/nginx",
        "nginx",
        "team/nginx-unit",
        "library/postgres",
        "base/opennginx",
        "library/redis",
        "platform/kubernetes/dashboard",
        "v1.27-Alpine",
    ];

    fn found(query: &str, with_typos: bool) -> Vec<&'static str> {
        let found = search_names(query, NAMES.into_iter(), with_typos);
        found.into_iter().map(|(_, index)| NAMES[index]).collect()
    }

    #[test]
    fn the_best_matches_are_first() {
        assert_eq!(
            found("nginx", false),
            ["nginx", "library/nginx", "team/nginx-unit", "base/opennginx"]
        );
        assert_eq!(found("lib post", false), ["library/postgres"]);
        assert_eq!(found("alpine", false), ["v1.27-Alpine"]);
        assert_eq!(found("", true), Vec::<&str>::new());
        assert_eq!(found("nothing-here", true), Vec::<&str>::new());
    }

    #[test]
    fn typing_errors_are_forgiven() {
        for (query, name) in [
            ("ngnix", "nginx"),
            ("postgers", "library/postgres"),
            ("postgress", "library/postgres"),
            ("kuberntes", "platform/kubernetes/dashboard"),
            ("dashbord", "platform/kubernetes/dashboard"),
            ("rediss", "library/redis"),
        ] {
            assert!(found(query, true).contains(&name), "{query}");
            assert!(!found(query, false).contains(&name), "{query}");
        }
        assert!(!found("rdis", false).contains(&"library/redis"));
        assert!(found("xyz", true).is_empty(), "short words have no typing errors");
    }

    #[test]
    fn hostile_queries_are_bounded() {
        let long = "é".repeat(10_000);
        assert!(found(&long, true).is_empty());
        let sorted = |mut names: Vec<&'static str>| {
            names.sort_unstable();
            names
        };
        assert_eq!(sorted(found(&"a ".repeat(1000), true)), sorted(found("a", true)));
    }
}
