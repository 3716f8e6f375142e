//! [`OpenIdProvider`]: what an OpenID provider says of itself (OpenID Connect Discovery 1.0), and the
//! requests of the authorization code flow (RFC 6749 section 4.1, with RFC 7636 and RFC 9207).

use std::fmt::Write as _;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::outbound::checked_url;
use crate::{LoginClient, PendingLogin, Secret};

/// Maximum length of an endpoint's URL, in bytes.
const URL_BYTES_MAX: usize = 2048;
/// Maximum length of a code, and of `state`, in bytes.
const CODE_BYTES_MAX: usize = 4096;

/// The endpoints of a provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenIdProvider {
    issuer: String,
    authorization_url: String,
    token_url: String,
    /// Whether the secret of a client is sent in the form, not in a header.
    secret_in_form: bool,
    /// Whether its responses name the issuer (RFC 9207).
    names_issuer: bool,
}

/// Error of an invalid description of a provider.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProviderError {
    #[error("the description of the provider is malformed")]
    Malformed,
    #[error("the description is of another issuer")]
    Issuer,
    #[error("its {name} {why}")]
    Endpoint { name: &'static str, why: String },
}

#[derive(Deserialize)]
struct ProviderMetadata {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    #[serde(default)]
    token_endpoint_auth_methods_supported: Vec<String>,
    #[serde(default)]
    authorization_response_iss_parameter_supported: bool,
}

/// The parameters of an authorization response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuthorizationResponse {
    pub state: Option<String>,
    pub code: Option<Secret>,
    pub iss: Option<String>,
    pub error: Option<String>,
}

/// Why an authorization response is not accepted. Messages contain nothing of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthorizationError {
    /// A parameter is repeated (RFC 6749 section 3.1), or too long.
    #[error("the response of the provider is malformed")]
    Malformed,
    #[error("the response of the provider belongs to another login")]
    State,
    #[error("the response of the provider comes from another issuer")]
    Issuer,
    /// By the codes of RFC 6749 section 4.1.2.1 and OpenID Connect Core section 3.1.2.6.
    #[error("the provider refused the login: {0}")]
    Refused(String),
    #[error("the response of the provider has no code")]
    NoCode,
}

/// A request to the token endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodeRequest {
    pub url: String,
    /// The value of the header `Authorization`.
    pub authorization: Option<Secret>,
    /// The form.
    pub form: Secret,
}

impl OpenIdProvider {
    /// The URL of a provider's description.
    pub fn discovery_url(issuer: &str) -> Result<String, ProviderError> {
        let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        endpoint("issuer", &url)
    }

    /// Parses the description of `issuer`.
    ///
    /// # Errors
    ///
    /// [`ProviderError`].
    pub fn parse(issuer: &str, bytes: &[u8]) -> Result<Self, ProviderError> {
        let found: ProviderMetadata =
            serde_json::from_slice(bytes).map_err(|_| ProviderError::Malformed)?;
        if found.issuer != issuer {
            return Err(ProviderError::Issuer);
        }
        // Without a list, only the header is supported.
        let methods = &found.token_endpoint_auth_methods_supported;
        let has = |name: &str| methods.iter().any(|method| method == name);
        Ok(Self {
            issuer: issuer.to_owned(),
            authorization_url: endpoint("authorization_endpoint", &found.authorization_endpoint)?,
            token_url: endpoint("token_endpoint", &found.token_endpoint)?,
            secret_in_form: !has("client_secret_basic") && has("client_secret_post"),
            names_issuer: found.authorization_response_iss_parameter_supported,
        })
    }

    /// Where a browser is sent to log in.
    pub fn authorization_request(
        &self,
        client: &LoginClient,
        login: &PendingLogin,
        redirect_url: &str,
    ) -> String {
        let challenge = login.challenge();
        let query = form(&[
            ("response_type", "code"),
            ("client_id", &client.client_id),
            ("redirect_uri", redirect_url),
            ("scope", &client.scope()),
            ("state", &login.state),
            ("nonce", &login.nonce),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
        ]);
        let separator = if self.authorization_url.contains('?') { '&' } else { '?' };
        format!("{}{separator}{query}", self.authorization_url)
    }

    /// The code of an authorization response to `login`.
    ///
    /// # Errors
    ///
    /// [`AuthorizationError`].
    pub fn code<'r>(
        &self,
        login: &PendingLogin,
        response: &'r AuthorizationResponse,
    ) -> Result<&'r Secret, AuthorizationError> {
        if !response.state.as_deref().is_some_and(|state| login.has_state(state)) {
            return Err(AuthorizationError::State);
        }
        match &response.iss {
            Some(issuer) if *issuer != self.issuer => return Err(AuthorizationError::Issuer),
            None if self.names_issuer => return Err(AuthorizationError::Issuer),
            Some(_) | None => {}
        }
        if let Some(error) = &response.error {
            return Err(AuthorizationError::Refused(error_code(error)));
        }
        response.code.as_ref().ok_or(AuthorizationError::NoCode)
    }

    /// The request that exchanges a code for an ID token.
    pub fn code_request(
        &self,
        client: &LoginClient,
        secret: Option<&Secret>,
        code: &Secret,
        login: &PendingLogin,
        redirect_url: &str,
    ) -> CodeRequest {
        let mut fields = vec![
            ("grant_type", "authorization_code"),
            ("code", code.reveal()),
            ("redirect_uri", redirect_url),
            ("code_verifier", &login.verifier),
            ("client_id", &client.client_id),
        ];
        let mut authorization = None;
        match secret {
            Some(secret) if self.secret_in_form => fields.push(("client_secret", secret.reveal())),
            Some(secret) => authorization = Some(basic(&client.client_id, secret)),
            None => {}
        }
        let form = Secret::new(form(&fields));
        CodeRequest { url: self.token_url.clone(), authorization, form }
    }
}

impl AuthorizationResponse {
    /// Takes the parameters of a query.
    ///
    /// # Errors
    ///
    /// [`AuthorizationError::Malformed`].
    pub fn of_parameters<'q>(
        parameters: impl IntoIterator<Item = (std::borrow::Cow<'q, str>, std::borrow::Cow<'q, str>)>,
    ) -> Result<Self, AuthorizationError> {
        let mut response = Self::default();
        for (name, value) in parameters {
            if value.len() > CODE_BYTES_MAX {
                return Err(AuthorizationError::Malformed);
            }
            let value = value.into_owned();
            let repeated = match name.as_ref() {
                "state" => response.state.replace(value).is_some(),
                "iss" => response.iss.replace(value).is_some(),
                "error" => response.error.replace(value).is_some(),
                "code" => response.code.replace(Secret::new(value)).is_some(),
                _ => false,
            };
            if repeated {
                return Err(AuthorizationError::Malformed);
            }
        }
        Ok(response)
    }
}

/// The ID token of a response of the token endpoint; `None`: it has none.
pub fn id_token_of(bytes: &[u8]) -> Option<Secret> {
    #[derive(Deserialize)]
    struct TokenResponse {
        id_token: String,
    }
    serde_json::from_slice::<TokenResponse>(bytes).ok().map(|found| Secret::new(found.id_token))
}

/// The error code of a response of the token endpoint (RFC 6749 section 5.2).
pub fn token_error_of(bytes: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct TokenErrorResponse {
        error: String,
    }
    serde_json::from_slice::<TokenErrorResponse>(bytes).ok().map(|found| error_code(&found.error))
}

/// An error code as it may be shown: RFC 6749 and its extensions have words with underscores.
fn error_code(text: &str) -> String {
    let is_code = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    match text.len() <= 64 && !text.is_empty() && text.bytes().all(is_code) {
        true => text.to_owned(),
        false => "unknown error".to_owned(),
    }
}

fn endpoint(name: &'static str, url: &str) -> Result<String, ProviderError> {
    let wrong = |why: String| ProviderError::Endpoint { name, why };
    let is_plain = url.len() <= URL_BYTES_MAX
        && !url.contains('#')
        && url.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\');
    if !is_plain {
        return Err(wrong(format!("is no URL of at most {URL_BYTES_MAX} bytes")));
    }
    checked_url(url).map_err(|error| wrong(error.to_string()))
}

/// `Basic` of a client (RFC 6749 section 2.3.1: both parts are encoded as in a form).
fn basic(id: &str, secret: &Secret) -> Secret {
    let pair = format!("{}:{}", encoded(id), encoded(secret.reveal()));
    Secret::new(format!("Basic {}", STANDARD.encode(pair)))
}

/// `application/x-www-form-urlencoded`.
fn form(fields: &[(&str, &str)]) -> String {
    let fields = fields.iter().map(|(name, value)| format!("{name}={}", encoded(value)));
    fields.collect::<Vec<_>>().join("&")
}

fn encoded(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(byte.into());
        } else {
            // Writing to a string cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
        encoded
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::SystemTime;

    use serde_json::{Value, json};

    use super::*;

    const ISSUER: &str = "https://id.example.com/realms/one";

    fn metadata(change: impl FnOnce(&mut Value)) -> Result<OpenIdProvider, ProviderError> {
        let mut found = json!({
            "issuer": ISSUER,
            "authorization_endpoint": "https://id.example.com/auth?kc=1",
            "token_endpoint": "https://id.example.com/token",
            "jwks_uri": "https://elsewhere.example.com/keys",
        });
        change(&mut found);
        OpenIdProvider::parse(ISSUER, found.to_string().as_bytes())
    }

    fn client() -> LoginClient {
        LoginClient {
            issuer: "idp".to_owned(),
            client_id: "jreg ä".to_owned(),
            secret: None,
            label: "Company".to_owned(),
            scopes: vec!["openid".to_owned(), "groups".to_owned()],
        }
    }

    fn login() -> PendingLogin {
        PendingLogin::new("idp", "/ui/", SystemTime::now()).unwrap()
    }

    fn response(state: &str, more: &[(&str, &str)]) -> AuthorizationResponse {
        let all = [("state", state)].into_iter().chain(more.iter().copied());
        AuthorizationResponse::of_parameters(all.map(|(name, value)| (name.into(), value.into())))
            .unwrap()
    }

    #[test]
    fn a_description_must_be_of_the_issuer_and_have_safe_endpoints() {
        assert!(metadata(|_| {}).is_ok());
        let other = metadata(|found| found["issuer"] = "https://id.example.com/realms/one/".into());
        assert_eq!(other, Err(ProviderError::Issuer));
        for url in [
            "http://id.example.com/token",
            "https://user@id.example.com/token",
            "javascript:alert(1)",
            "https://",
            "/token",
            "https://id.example.com/#x",
            "https://id.example.com/\r\nX: y",
            "https://id.example.com/ x",
        ] {
            for name in ["authorization_endpoint", "token_endpoint"] {
                assert!(metadata(|found| found[name] = url.into()).is_err(), "{name} {url}");
            }
        }
        assert_eq!(OpenIdProvider::parse(ISSUER, b"[]"), Err(ProviderError::Malformed));
        assert_eq!(
            OpenIdProvider::discovery_url("https://id.example.com/").unwrap(),
            "https://id.example.com/.well-known/openid-configuration"
        );
        for issuer in ["http://id.example.com", "file:///etc", "id", "http://10.0.0.1"] {
            assert!(OpenIdProvider::discovery_url(issuer).is_err(), "{issuer}");
        }
    }

    #[test]
    fn the_authorization_request_has_everything_encoded() {
        let (provider, login) = (metadata(|_| {}).unwrap(), login());
        let url = provider.authorization_request(&client(), &login, "https://r.example.com/ui/x");
        let expected = format!(
            "https://id.example.com/auth?kc=1&response_type=code&client_id=jreg%20%C3%A4&\
             redirect_uri=https%3A%2F%2Fr.example.com%2Fui%2Fx&scope=openid%20groups&state={}&\
             nonce={}&code_challenge={}&code_challenge_method=S256",
            login.state,
            login.nonce,
            login.challenge()
        );
        assert_eq!(url, expected);
        assert!(!url.contains(&login.verifier));
    }

    #[test]
    fn a_response_is_of_this_login_and_issuer() {
        let (login, code) = (login(), ("code", "c"));
        let plain = metadata(|_| {}).unwrap();
        let names = "authorization_response_iss_parameter_supported";
        let naming = metadata(|found| found[names] = true.into()).unwrap();
        let state = login.state.clone();
        let of = |provider: &OpenIdProvider, response: &AuthorizationResponse| {
            provider.code(&login, response).cloned()
        };
        assert_eq!(of(&plain, &response(&state, &[code])), Ok(Secret::new("c")));
        assert_eq!(of(&plain, &response(&state, &[code, ("iss", ISSUER)])), Ok(Secret::new("c")));
        let issuer = Err(AuthorizationError::Issuer);
        assert_eq!(of(&naming, &response(&state, &[code])), issuer, "it says who it is");
        for provider in [&plain, &naming] {
            let other = response(&state, &[code, ("iss", "https://evil.example.com")]);
            assert_eq!(of(provider, &other), issuer);
        }
        for wrong in ["", "x", &"x".repeat(43)] {
            let found = of(&plain, &response(wrong, &[code]));
            assert_eq!(found, Err(AuthorizationError::State), "{wrong}");
        }
        let none = AuthorizationResponse { code: Some(Secret::new("c")), ..Default::default() };
        assert_eq!(of(&plain, &none), Err(AuthorizationError::State));
        assert_eq!(of(&plain, &response(&state, &[])), Err(AuthorizationError::NoCode));
        for (error, shown) in [
            ("access_denied", "access_denied"),
            ("<script>", "unknown error"),
            ("", "unknown error"),
        ] {
            let refused = of(&plain, &response(&state, &[code, ("error", error)]));
            assert_eq!(refused, Err(AuthorizationError::Refused(shown.to_owned())));
        }
        for (name, value) in [("code", "d"), ("state", "d"), ("iss", "d"), ("error", "d")] {
            let twice = [(name, value), (name, value)].map(|(n, v)| (n.into(), v.into()));
            let found = AuthorizationResponse::of_parameters(twice);
            assert_eq!(found, Err(AuthorizationError::Malformed), "{name}");
        }
    }

    #[test]
    fn the_secret_goes_where_the_provider_takes_it() {
        let (login, secret, code) = (login(), Secret::new("s:+ä"), Secret::new("c&d"));
        let methods = "token_endpoint_auth_methods_supported";
        for (supported, in_form) in [
            (json!(null), false),
            (json!([]), false),
            (json!(["client_secret_basic", "client_secret_post"]), false),
            (json!(["client_secret_post"]), true),
            (json!(["private_key_jwt"]), false),
        ] {
            let provider = metadata(|found| {
                if !supported.is_null() {
                    found[methods] = supported.clone();
                }
            });
            let provider = provider.unwrap();
            let request = provider.code_request(&client(), Some(&secret), &code, &login, "u");
            let form = request.form.reveal();
            assert!(form.contains("code=c%26d&redirect_uri=u&code_verifier="), "{form}");
            assert_eq!(form.contains("client_secret=s%3A%2B%C3%A4"), in_form, "{supported}");
            assert_eq!(request.authorization.is_none(), in_form, "{supported}");
            let without = provider.code_request(&client(), None, &code, &login, "u");
            assert!(without.authorization.is_none() && !without.form.reveal().contains("secret"));
            assert!(!format!("{request:?}").contains("c%26d"));
        }
        let header = STANDARD.encode("jreg%20%C3%A4:s%3A%2B%C3%A4");
        assert_eq!(basic("jreg ä", &secret), Secret::new(format!("Basic {header}")));
    }

    #[test]
    fn responses_of_the_token_endpoint_are_parsed() {
        assert_eq!(
            id_token_of(br#"{"id_token":"a.b.c","access_token":1}"#),
            Some(Secret::new("a.b.c"))
        );
        for bytes in [&b""[..], b"access_token=x&scope=repo", b"{}", br#"{"id_token":5}"#, b"[1]"] {
            assert_eq!(id_token_of(bytes), None);
        }
        assert_eq!(
            token_error_of(br#"{"error":"invalid_grant"}"#).as_deref(),
            Some("invalid_grant")
        );
        assert_eq!(token_error_of(br#"{"error":"<b>"}"#).as_deref(), Some("unknown error"));
        assert_eq!(token_error_of(b"<html>"), None);
    }
}
