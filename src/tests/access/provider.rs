//! An OpenID provider that can misbehave. It checks what it is sent, as a strict one does.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jreg_auth::{ClientSecret, CodeRequest, LoginClient, Secret};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

pub(crate) const CLIENT_ID: &str = "jreg-client";
const CLIENT_SECRET: &str = "client secret";

/// How it differs from an honest provider.
#[derive(Debug)]
pub(crate) struct Faults {
    /// Fields of its description; null removes one.
    pub(crate) description: Value,
    /// Claims of its ID tokens; null removes one.
    pub(crate) claims: Value,
    /// Instead of its ID tokens.
    pub(crate) id_token: Option<String>,
    /// Instead of every response of the token endpoint.
    pub(crate) response: Option<(u16, String)>,
    /// Whether a code can be exchanged again.
    pub(crate) codes_last: bool,
}

impl Default for Faults {
    fn default() -> Self {
        let (id_token, response) = (None, None);
        let none = || json!({});
        Self { description: none(), claims: none(), id_token, response, codes_last: false }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Provider {
    pub(crate) faults: Mutex<Faults>,
    codes: Mutex<HashMap<String, Authorization>>,
    /// Its clock, in seconds of the Unix epoch.
    pub(crate) now: AtomicU64,
    /// Requests to the token endpoint.
    pub(crate) exchanges: AtomicUsize,
}

/// What a code was issued for.
#[derive(Clone, Debug)]
struct Authorization {
    issuer: String,
    redirect_uri: String,
    challenge: String,
    nonce: String,
    user: Value,
}

/// How this registry is known to the provider `idp`, or another one.
pub(crate) fn client(issuer: &str) -> LoginClient {
    LoginClient {
        issuer: issuer.to_owned(),
        client_id: CLIENT_ID.to_owned(),
        secret: Some(ClientSecret::Value(Secret::new(CLIENT_SECRET))),
        label: format!("Provider {issuer}"),
        scopes: vec!["groups".to_owned()],
    }
}

/// The policy's issuer of a provider.
pub(crate) fn issuer(name: &str) -> String {
    format!(
        "[[issuer]]\nname = '{name}'\nissuer = 'https://{name}'\naudience = 'us'\n\
         jwks-url = 'https://{name}/keys'\nidentity = '{{login}}'\ngroups = 'groups'\n"
    )
}

fn merge(value: &mut Value, changes: &Value) {
    for (name, change) in changes.as_object().unwrap() {
        match change {
            Value::Null => drop(value.as_object_mut().unwrap().remove(name)),
            change => value[name] = change.clone(),
        }
    }
}

pub(crate) fn parameters(text: &str) -> HashMap<String, String> {
    let all: Vec<_> = form_urlencoded::parse(text.as_bytes()).into_owned().collect();
    let map: HashMap<_, _> = all.iter().cloned().collect();
    assert_eq!(map.len(), all.len(), "a parameter is repeated: {text}");
    map
}

impl Provider {
    pub(crate) fn set(&self, change: impl FnOnce(&mut Faults)) {
        let mut faults = Faults::default();
        change(&mut faults);
        *self.faults.lock().unwrap() = faults;
    }

    /// The description of an issuer at a URL, if it is that of one.
    pub(crate) fn description(&self, url: &str) -> Option<Value> {
        let issuer = url.strip_suffix("/.well-known/openid-configuration")?;
        let mut found = json!({
            "issuer": issuer,
            "authorization_endpoint": format!("{issuer}/authorize"),
            "token_endpoint": format!("{issuer}/token"),
            "jwks_uri": "https://nowhere/keys",
            "response_types_supported": ["code"],
        });
        merge(&mut found, &self.faults.lock().unwrap().description);
        Some(found)
    }

    /// What a browser is sent back with after its user has logged in: the query of the callback.
    pub(crate) fn authorize(&self, url: &str, user: Value) -> String {
        let (endpoint, query) = url.split_once('?').unwrap();
        let asked = parameters(query);
        let issuer = endpoint.strip_suffix("/authorize").unwrap().to_owned();
        assert_eq!(asked["response_type"], "code");
        assert_eq!(asked["code_challenge_method"], "S256");
        assert_eq!(asked["client_id"], CLIENT_ID);
        assert_eq!(asked["scope"], "openid groups");
        assert!(asked["state"].len() >= 32 && asked["nonce"].len() >= 32);
        let name = issuer.strip_prefix("https://").unwrap();
        let callback = format!("https://registry.example/ui/-/login/oidc/{name}/callback");
        assert_eq!(asked["redirect_uri"], callback);
        let mut codes = self.codes.lock().unwrap();
        let code = format!("code/{}+", codes.len());
        let authorization = Authorization {
            redirect_uri: callback,
            challenge: asked["code_challenge"].clone(),
            nonce: asked["nonce"].clone(),
            user,
            issuer: issuer.clone(),
        };
        codes.insert(code.clone(), authorization);
        let mut response = form_urlencoded::Serializer::new(String::new());
        response.append_pair("code", &code).append_pair("state", &asked["state"]);
        let names_issuer = "authorization_response_iss_parameter_supported";
        if self.faults.lock().unwrap().description[names_issuer] == true {
            response.append_pair("iss", &issuer);
        }
        response.finish()
    }

    /// Exchanges a code.
    pub(crate) fn exchange(
        &self,
        request: &CodeRequest,
        sign: impl Fn(&Value) -> String,
    ) -> (u16, String) {
        self.exchanges.fetch_add(1, Ordering::SeqCst);
        let faults = self.faults.lock().unwrap();
        if let Some(response) = &faults.response {
            return response.clone();
        }
        let form = parameters(request.form.reveal());
        let authorization = request.authorization.as_ref().map(Secret::reveal);
        let secret = STANDARD.encode(format!("{CLIENT_ID}:client%20secret"));
        if authorization != Some(&*format!("Basic {secret}")) || form.contains_key("client_secret")
        {
            return (401, json!({ "error": "invalid_client" }).to_string());
        }
        let mut codes = self.codes.lock().unwrap();
        let found = match faults.codes_last {
            true => codes.get(&form["code"]).cloned(),
            false => codes.insert(
                form["code"].clone(),
                Authorization {
                    issuer: String::new(),
                    redirect_uri: String::new(),
                    challenge: String::new(),
                    nonce: String::new(),
                    user: Value::Null,
                },
            ),
        };
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(form["code_verifier"].as_bytes()));
        let is_good = |of: &Authorization| {
            form["grant_type"] == "authorization_code"
                && request.url == format!("{}/token", of.issuer)
                && form["redirect_uri"] == of.redirect_uri
                && challenge == of.challenge
        };
        let Some(found) = found.filter(is_good) else {
            return (400, json!({ "error": "invalid_grant" }).to_string());
        };
        let mut claims = json!({
            "iss": found.issuer, "aud": CLIENT_ID, "sub": "u-1", "nonce": found.nonce,
            "iat": self.now.load(Ordering::SeqCst), "exp": 4_000_000_000_u32,
        });
        merge(&mut claims, &found.user);
        merge(&mut claims, &faults.claims);
        let id_token = faults.id_token.clone().unwrap_or_else(|| sign(&claims));
        let body =
            json!({ "access_token": "unused", "token_type": "Bearer", "id_token": id_token });
        (200, body.to_string())
    }
}
