//! [`next_link`]: where a list continues.

/// Maximum bytes of a header that are read.
pub const LINK_BYTES_MAX: usize = 16 * 1024;

/// The target of the link whose relation is `next` in a `Link` header (RFC 8288 section 3).
pub fn next_link(header: &str) -> Option<&str> {
    let mut rest = header.get(..header.len().min(LINK_BYTES_MAX))?;
    loop {
        let (target, after) =
            rest.trim_start_matches([' ', '\t', ',']).strip_prefix('<')?.split_once('>')?;
        let (is_next, after) = is_next(after);
        if is_next {
            return Some(target);
        }
        rest = after;
    }
}

/// Whether the parameters have `rel=next`, and what follows the link.
fn is_next(mut rest: &str) -> (bool, &str) {
    let (mut is_next, mut has_relation) = (false, false);
    while let Some(after) = rest.trim_start_matches([' ', '\t']).strip_prefix(';') {
        let end = after.find(['=', ';', ',']).unwrap_or(after.len());
        let (name, after) = after.split_at(end);
        let (value, after) = match after.strip_prefix('=') {
            Some(after) => value(after.trim_start_matches([' ', '\t'])),
            None => ("", after),
        };
        // Only the first relation counts (RFC 8288 section 3.3).
        if name.trim().eq_ignore_ascii_case("rel") && !has_relation {
            has_relation = true;
            is_next = value
                .split_ascii_whitespace()
                .any(|relation| relation.eq_ignore_ascii_case("next"));
        }
        rest = after;
    }
    (is_next, rest)
}

/// A quoted string, in which nothing of ours is escaped, or what reaches to the next separator.
fn value(text: &str) -> (&str, &str) {
    match text.strip_prefix('"') {
        Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
        None => text.split_at(text.find([';', ',']).unwrap_or(text.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_found() {
        for (header, expected) in [
            (r#"</v2/a/tags/list?n=2&last=b>; rel="next""#, Some("/v2/a/tags/list?n=2&last=b")),
            ("</a?b>;rel=next", Some("/a?b")),
            ("</a>; title=\"x, <y>; rel=next\"; REL=\"prev Next\"", Some("/a")),
            (r#"</a>; rel="prev", <https://other/b?c=d>; rel="next""#, Some("https://other/b?c=d")),
            (r#"</a>; rel="prev"; rel="next""#, None),
            ("</a>", None),
            ("", None),
            ("</a", None),
            ("/a; rel=next", None),
            ("</a>; rel=\"next", Some("/a")),
        ] {
            assert_eq!(next_link(header), expected, "{header}");
        }
    }
}
