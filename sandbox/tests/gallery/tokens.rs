//! Tokens that no program of this workspace would make.

use std::time::SystemTime;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use keyutil::token::{SigningKey, claims, signing_key};
use sandbox::stack::AUDIENCE;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use super::world::World;

/// A token as it should be, until it is changed.
pub struct Jwt {
    header: Value,
    claims: Value,
    pem: Vec<u8>,
}

impl Jwt {
    pub fn good(world: &World) -> Self {
        let now = claims::seconds(SystemTime::now());
        let path = world.stack.keyring().current_path();
        Self {
            header: json!({"alg": "ES256", "typ": "JWT", "kid": world.signing_key().kid()}),
            claims: json!({
                "sub": "somebody", "aud": AUDIENCE, "permissions": ["default:write"],
                "iat": now - 60, "nbf": now - 60, "exp": now + 300,
            }),
            pem: std::fs::read(path).unwrap(),
        }
    }

    /// Null is not there at all.
    pub fn header(mut self, name: &str, value: Value) -> Self {
        set(&mut self.header, name, value);
        self
    }

    pub fn claim(mut self, name: &str, value: Value) -> Self {
        set(&mut self.claims, name, value);
        self
    }

    /// A time that is so many seconds from now.
    pub fn time(self, name: &str, seconds: i64) -> Self {
        let now = claims::seconds(SystemTime::now());
        self.claim(name, now.saturating_add_signed(seconds).into())
    }

    /// With this key instead.
    pub fn by(mut self, pem: &SecretString) -> Self {
        self.pem = pem.expose_secret().as_bytes().to_vec();
        self
    }

    pub fn signed(&self) -> String {
        let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(&self.header), part(&self.claims));
        let signature = match self.header["alg"].as_str() {
            Some("none") => String::new(),
            Some("HS256") => sign(
                &message,
                &EncodingKey::from_secret(b"shared"),
                Algorithm::HS256,
            ),
            _ => sign(
                &message,
                &EncodingKey::from_ec_pem(&self.pem).unwrap(),
                Algorithm::ES256,
            ),
        };
        format!("{message}.{signature}")
    }
}

fn sign(message: &str, key: &EncodingKey, algorithm: Algorithm) -> String {
    crypto::sign(message.as_bytes(), key, algorithm).unwrap()
}

fn set(object: &mut Value, name: &str, value: Value) {
    let members = object.as_object_mut().unwrap();
    match value {
        Value::Null => members.remove(name),
        value => members.insert(name.to_owned(), value),
    };
}

/// A key that is not published.
pub fn new_key() -> (SecretString, String) {
    let pem = signing_key::generate_pem().unwrap();
    let read = SigningKey::from_pem(pem.expose_secret().as_bytes()).unwrap();
    let kid = read.kid().to_owned();
    (pem, kid)
}
