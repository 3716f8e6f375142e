//! [`parse_challenges`]: the schemes of a `WWW-Authenticate` header.

/// Maximum bytes of a header that are read.
pub const CHALLENGE_BYTES_MAX: usize = 8 * 1024;

/// How a registry wants to be authenticated to (RFC 9110 section 11.6.1). Other schemes are left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// User and password with each request.
    Basic,
    /// A token of a token service.
    Bearer(BearerChallenge),
}

/// The parameters of a `Bearer` challenge.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BearerChallenge {
    /// The URL of the token service; not checked.
    pub realm: String,
    /// The service that the token is for.
    pub service: Option<String>,
    /// The scopes that the request needs.
    pub scope: Option<String>,
}

/// Reads the header. What follows a defect is ignored, and so is a `Bearer` challenge without a realm.
pub fn parse_challenges(header: &str) -> Vec<Challenge> {
    let mut found = Vec::new();
    let mut current: Option<Parameters<'_>> = None;
    let mut rest = header.get(..header.len().min(CHALLENGE_BYTES_MAX)).unwrap_or_default();
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let (word, after) = token(rest);
        if word.is_empty() {
            break;
        }
        match after.trim_start_matches([' ', '\t']).strip_prefix('=') {
            // A scheme: its parameters follow.
            None => {
                found.extend(current.take().and_then(Parameters::challenge));
                current = Some(Parameters { scheme: word, list: Vec::new() });
                rest = after;
            }
            Some(after) => {
                let Some((value, after)) = value(after.trim_start_matches([' ', '\t'])) else {
                    break;
                };
                if let Some(parameters) = &mut current {
                    parameters.list.push((word, value));
                }
                rest = after;
            }
        }
    }
    found.extend(current.and_then(Parameters::challenge));
    found
}

struct Parameters<'a> {
    scheme: &'a str,
    list: Vec<(&'a str, String)>,
}

impl Parameters<'_> {
    fn challenge(self) -> Option<Challenge> {
        if self.scheme.eq_ignore_ascii_case("basic") {
            return Some(Challenge::Basic);
        }
        let is_bearer = self.scheme.eq_ignore_ascii_case("bearer");
        let value = |name: &str| {
            let mut list = self.list.iter();
            let found = list.find(|(found, _)| found.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.clone()).filter(|value| !value.is_empty())
        };
        let realm = value("realm").filter(|_| is_bearer)?;
        Some(Challenge::Bearer(BearerChallenge {
            realm,
            service: value("service"),
            scope: value("scope"),
        }))
    }
}

/// The token (RFC 9110 section 5.6.2) at the beginning, which may be empty, and the rest.
fn token(text: &str) -> (&str, &str) {
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~/:".contains(c);
    text.split_at(text.find(|c| !is_token(c)).unwrap_or(text.len()))
}

/// A quoted string, or what reaches to the next comma or space.
fn value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let (value, rest) = text.split_at(text.find([',', ' ', '\t', '"']).unwrap_or(text.len()));
        return (!value.contains(char::is_control)).then(|| (value.to_owned(), rest));
    };
    let (mut value, mut is_escaped) = (String::new(), false);
    for (index, c) in quoted.char_indices() {
        match c {
            c if c.is_control() => return None,
            _ if is_escaped => {
                value.push(c);
                is_escaped = false;
            }
            '\\' => is_escaped = true,
            '"' => return Some((value, quoted.get(index + 1..)?)),
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        let [service, scope] = [service, scope].map(|value| value.map(str::to_owned));
        Challenge::Bearer(BearerChallenge { realm: realm.to_owned(), service, scope })
    }

    #[test]
    fn challenges_of_registries_are_read() {
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/nginx:pull""#;
        let scope = Some("repository:library/nginx:pull");
        let rows = [
            (hub, vec![bearer("https://auth.docker.io/token", Some("registry.docker.io"), scope)]),
            ("Basic realm=\"Registry\"", vec![Challenge::Basic]),
            ("basic", vec![Challenge::Basic]),
            ("BEARER Realm = \"a\" , SERVICE=b", vec![bearer("a", Some("b"), None)]),
            (
                r#"Basic realm="r", charset="UTF-8", Bearer realm="t",scope="a b""#,
                vec![Challenge::Basic, bearer("t", None, Some("a b"))],
            ),
            (r#"Bearer realm="a\"b\\c",service="""#, vec![bearer(r#"a"b\c"#, None, None)]),
            (r#"Bearer realm="a",error="insufficient_scope""#, vec![bearer("a", None, None)]),
            (
                "Bearer realm=https://a/b?c,service=d",
                vec![bearer("https://a/b?c", Some("d"), None)],
            ),
            (r#"Bearer realm="first",realm="second""#, vec![bearer("first", None, None)]),
            (r#"Negotiate abc==, Bearer realm="a""#, vec![bearer("a", None, None)]),
        ];
        for (header, expected) in rows {
            assert_eq!(parse_challenges(header), expected, "{header}");
        }
    }

    #[test]
    fn what_is_no_challenge_is_ignored() {
        for header in [
            "",
            ",",
            "Bearer",
            "Bearer service=\"a\"",
            "Bearer realm=\"",
            "Digest realm=\"a\"",
            "é",
            "=a",
            "\"\"",
        ] {
            assert_eq!(parse_challenges(header), [], "{header}");
        }
        let long = format!("Bearer realm=\"{}\"", "a".repeat(CHALLENGE_BYTES_MAX));
        assert_eq!(parse_challenges(&long), []);
    }
}
