//! [`CookieScheme`]: the cookies of pages, whose name and attributes depend on the connection.
//!
//! - Over TLS, of ours or of a trusted proxy, a cookie has the prefix `__Host-`: browsers accept it over
//!   TLS only, and from no other host (RFC 6265bis section 4.1.3.2).
//! - Over plain HTTP there are cookies on the machine itself only: the listener is on a loopback address
//!   and the browser addresses it as such. As browsers do not keep cookies apart by port, the name has the
//!   port.
//! - Elsewhere there are none: a cookie could be read on its way.

use std::net::Ipv4Addr;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, header};

use crate::options::HttpOptions;
use crate::proxies::Client;

/// Maximum bytes of `Cookie` headers that are looked at: more than browsers send.
const COOKIES_BYTES_MAX: usize = 64 * 1024;

/// Where cookies may be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CookieScheme {
    Tls,
    Loopback {
        /// Of the address in the browser.
        port: u16,
    },
}

/// The purpose of a cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CookieName<'a> {
    /// A session.
    Session,
    /// A random value that forms before the login are bound to.
    Form,
    /// A login in progress at an OpenID provider, with its id.
    PendingLogin(&'a str),
}

impl CookieScheme {
    /// `None`: pages that need a cookie say that they need TLS. `host` is the one of the request.
    pub(crate) fn of(options: &HttpOptions, client: &Client, host: Option<&str>) -> Option<Self> {
        if client.secure {
            return Some(Self::Tls);
        }
        let is_here =
            client.address.is_none_or(|address| address.ip().to_canonical().is_loopback());
        let (name, port) = split_port(host?)?;
        (options.listens_on_loopback && is_here && is_loopback(name))
            .then_some(Self::Loopback { port })
    }

    fn name(self, cookie: CookieName<'_>) -> String {
        let begin = match self {
            Self::Tls => "__Host-jreg".to_owned(),
            Self::Loopback { port } => format!("jreg-{port}"),
        };
        match cookie {
            CookieName::Session => begin,
            // Connections without a scheme have it, too: it is not secret.
            CookieName::Form => form_cookie_name(self == Self::Tls).to_owned(),
            CookieName::PendingLogin(id) => format!("{begin}-login-{id}"),
        }
    }

    /// The value of `Set-Cookie`. The value of the cookie is made of characters of tokens.
    pub(crate) fn set(self, cookie: CookieName<'_>, value: &str, age: Duration) -> HeaderValue {
        let attributes = match self {
            Self::Tls => "; Path=/; Secure; HttpOnly; SameSite=Lax",
            Self::Loopback { .. } => "; Path=/; HttpOnly; SameSite=Lax",
        };
        let (name, age) = (self.name(cookie), age.as_secs());
        let text = format!("{name}={value}{attributes}; Max-Age={age}");
        let value = HeaderValue::from_str(&text);
        let mut value = value.unwrap_or_else(|_| HeaderValue::from_static("jreg=; Max-Age=0"));
        value.set_sensitive(true);
        value
    }

    /// The value of `Set-Cookie` that removes a cookie.
    pub(crate) fn clear(self, cookie: CookieName<'_>) -> HeaderValue {
        self.set(cookie, "", Duration::ZERO)
    }

    /// The value of a cookie. `None` if there are two of the name: another host may have set one.
    pub(crate) fn get<'h>(self, headers: &'h HeaderMap, cookie: CookieName<'_>) -> Option<&'h str> {
        get_cookie(headers, &self.name(cookie))
    }

    /// The ids of the logins in progress.
    pub(crate) fn pending_logins(self, headers: &HeaderMap) -> Vec<String> {
        let begin = self.name(CookieName::PendingLogin(""));
        let ids = pairs(headers).filter_map(|(name, _)| name.strip_prefix(&begin));
        ids.filter_map(jreg_access::pending_login_id).map(str::to_owned).collect()
    }
}

/// The name of the cookie that forms before a login are bound to, over TLS or not.
pub(crate) fn form_cookie_name(is_secure: bool) -> &'static str {
    if is_secure { "__Host-jreg-form" } else { "jreg-form" }
}

/// The value of a cookie. `None` if there are two of the name: another host may have set one.
pub(crate) fn get_cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let mut found = pairs(headers).filter(|(of, _)| *of == name).map(|(_, value)| value);
    let value = found.next()?;
    (found.next().is_none() && !value.is_empty()).then_some(value)
}

fn pairs(headers: &HeaderMap) -> impl Iterator<Item = (&str, &str)> {
    let mut room = COOKIES_BYTES_MAX;
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    let lines = lines.take_while(move |line| {
        let left = room.checked_sub(line.len());
        room = left.unwrap_or_default();
        left.is_some()
    });
    lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim_matches(' ').split_once('='))
}

/// A host and its port, or that of plain HTTP.
fn split_port(authority: &str) -> Option<(&str, u16)> {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => Some((host, port.parse().ok()?)),
        _ => Some((authority, 80)),
    }
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host == "[::1]"
        || host.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const SESSION: CookieName<'_> = CookieName::Session;

    fn client(secure: bool, address: Option<&str>) -> Client {
        let address = address.map(|address| address.parse().unwrap());
        Client { secure, address, ..Client::default() }
    }

    fn headers(lines: &[&str]) -> HeaderMap {
        let lines = lines.iter().map(|line| (header::COOKIE, HeaderValue::from_str(line).unwrap()));
        HeaderMap::from_iter(lines)
    }

    #[test]
    fn cookies_need_tls_except_on_the_machine_itself() {
        let (here, open) = (
            HttpOptions { listens_on_loopback: true, ..HttpOptions::default() },
            HttpOptions { listens_on_loopback: false, ..HttpOptions::default() },
        );
        let local = client(false, Some("127.0.0.1:1"));
        for (host, port) in [
            ("localhost:5000", Some(5000)),
            ("LocalHost", Some(80)),
            ("127.0.0.1:5000", Some(5000)),
            ("127.1.2.3:1", Some(1)),
            ("[::1]:5000", Some(5000)),
            ("[::1]", Some(80)),
            ("registry.example.com", None),
            ("localhost.example.com:5000", None),
            ("127.0.0.1.example.com", None),
            ("10.0.0.1:5000", None),
            ("localhost:x", None),
            ("", None),
        ] {
            let scheme = port.map(|port| CookieScheme::Loopback { port });
            assert_eq!(CookieScheme::of(&here, &local, Some(host)), scheme, "{host}");
            assert_eq!(CookieScheme::of(&open, &local, Some(host)), None, "{host}");
            for options in [&here, &open] {
                let secure = client(true, Some("192.0.2.1:1"));
                assert_eq!(CookieScheme::of(options, &secure, Some(host)), Some(CookieScheme::Tls));
            }
        }
        let far = client(false, Some("192.0.2.1:1"));
        assert_eq!(CookieScheme::of(&here, &far, Some("localhost:5000")), None, "by a proxy");
        assert_eq!(CookieScheme::of(&here, &local, None), None);
    }

    #[test]
    fn a_cookie_has_the_attributes_of_its_connection() {
        let text = |value: HeaderValue| value.to_str().unwrap().to_owned();
        let minute = Duration::from_secs(60);
        let loopback = CookieScheme::Loopback { port: 5000 };
        assert_eq!(
            text(CookieScheme::Tls.set(SESSION, "a.b", minute)),
            "__Host-jreg=a.b; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=60"
        );
        assert_eq!(
            text(loopback.set(CookieName::PendingLogin("abc"), "x", minute)),
            "jreg-5000-login-abc=x; Path=/; HttpOnly; SameSite=Lax; Max-Age=60"
        );
        assert_eq!(
            text(CookieScheme::Tls.clear(CookieName::Form)),
            "__Host-jreg-form=; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=0"
        );
    }

    #[test]
    fn a_cookie_is_read_once_and_by_its_name_alone() {
        let tls = CookieScheme::Tls;
        let get = |lines: &[&str]| tls.get(&headers(lines), SESSION).map(str::to_owned);
        assert_eq!(get(&["__Host-jreg=a.b"]).as_deref(), Some("a.b"));
        assert_eq!(get(&["x=1; __Host-jreg=a=b; y=2"]).as_deref(), Some("a=b"));
        assert_eq!(get(&["x=1", "__Host-jreg=a"]).as_deref(), Some("a"), "HTTP/2 splits them");
        for lines in [
            &["__Host-jreg=a; __Host-jreg=b"][..],
            &["__Host-jreg=a", "__Host-jreg=a"],
            &["__host-jreg=a"],
            &["jreg-5000=a"],
            &["__Host-jreg=", ""],
            &["__Host-jreg-form=a"],
            &[],
        ] {
            assert_eq!(get(lines), None, "{lines:?}");
        }
        let long = format!("{}=1", "x".repeat(COOKIES_BYTES_MAX));
        assert_eq!(get(&[&long, "__Host-jreg=a"]), None);
        let pending = headers(&["__Host-jreg-login-abcdefgh=1; __Host-jreg-login-a<b; jreg-5=2"]);
        assert_eq!(tls.pending_logins(&pending), ["abcdefgh"]);
    }
}
