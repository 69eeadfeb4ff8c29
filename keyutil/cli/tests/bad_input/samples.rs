//! Good samples, made once in each run, and what is secret in them.

use std::{
    fs,
    sync::LazyLock,
    time::{Duration, SystemTime},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use keyutil::token::{ClaimsTemplate, Permission, SigningKey, signing_key::generate_pem};
use keyutil_cli::{
    keys::Jwks,
    pki::{LeafRequest, Purpose, Validity},
};
use secrecy::ExposeSecret;
use tokio_rustls::rustls::pki_types::{CertificateDer, pem::PemObject};

use super::{check::Secrets, mutation::Sample};
use crate::common::{
    intermediate::root_and_intermediate,
    openssl::{openssl, rsa_pkcs1},
};

/// PEM of every kind that some parser takes, and of some that none takes.
pub static PEM: LazyLock<Vec<Sample>> = LazyLock::new(|| {
    let [authority, below] = root_and_intermediate("root", 1);
    let leaf = below.issue(&LeafRequest {
        common_name: "worker",
        names: &["localhost".parse().unwrap(), "::1".parse().unwrap()],
        purpose: Purpose::Client,
        validity: hour(),
    });
    let leaf = leaf.unwrap();
    let bundle = [authority.certificate_pem(), below.certificate_pem()].concat();
    let key = leaf.key_pem.expose_secret().to_owned();
    let mut samples = vec![
        sample("chain", &leaf.certificate_pem),
        sample("chain and key", &[&leaf.certificate_pem[..], &key].concat()),
        sample("bundle", &bundle),
        sample("leaf key", &key),
        sample("CA key", authority.key_pem().expose_secret()),
        sample("signing key", generate_pem().unwrap().expose_secret()),
    ];
    let folder = tempfile::tempdir().unwrap();
    rsa_pkcs1(folder.path(), "RSA-PKCS1");
    for words in [
        "ecparam -name prime256v1 -genkey -out SEC1",
        "ecparam -name secp384r1 -genkey -noout -out P-384",
        "genpkey -algorithm ED25519 -out Ed25519",
        "genpkey -algorithm RSA -out RSA",
        "pkcs8 -topk8 -in SEC1 -passout pass:x -out encrypted",
        "ec -in SEC1 -aes128 -passout pass:x -out encrypted-SEC1",
        "req -x509 -key RSA -subj /CN=old -days 9 -out RSA-certificate",
    ] {
        openssl(folder.path(), words);
    }
    for name in [
        "RSA-PKCS1",
        "SEC1",
        "P-384",
        "Ed25519",
        "RSA",
        "encrypted",
        "encrypted-SEC1",
        "RSA-certificate",
    ] {
        samples.push(sample(
            name,
            &fs::read_to_string(folder.path().join(name)).unwrap(),
        ));
    }
    samples
});

/// The first certificates of those, as they are inside.
pub static DER: LazyLock<Vec<Sample>> = LazyLock::new(|| {
    let certificates = PEM.iter().filter_map(|sample| {
        let text = CertificateDer::from_pem_slice(&sample.text).ok()?.to_vec();
        Some(Sample {
            name: sample.name,
            text,
        })
    });
    certificates.collect()
});

/// Of all samples of PEM.
pub static PEM_SECRETS: LazyLock<Secrets> = LazyLock::new(|| {
    let mut secrets = Vec::new();
    for sample in &*PEM {
        secrets.extend(secrets_of(&sample.text));
    }
    Secrets::new(secrets)
});

/// A token, and others that differ from it.
pub static TOKENS: LazyLock<Vec<Sample>> = LazyLock::new(|| {
    let template = |audience: Option<&str>, permissions: &[&str]| ClaimsTemplate {
        kid: None,
        subject: "worker".into(),
        permissions_claim: Default::default(),
        audience: audience.map(str::to_owned),
        permissions: permissions
            .iter()
            .map(|text| text.parse::<Permission>().unwrap())
            .collect(),
        lifetime: Duration::from_secs(3600),
    };
    let mint = |template: ClaimsTemplate| {
        KEY.mint(&template.at(SystemTime::now()))
            .unwrap()
            .expose_secret()
            .to_owned()
    };
    let plain = mint(template(None, &["default:write"]));
    vec![
        sample("token", &plain),
        sample(
            "token",
            &mint(template(
                Some("temporal"),
                &["default:admin", "temporal-system:read"],
            )),
        ),
        sample("Bearer", &format!("Bearer {plain}\r\n")),
        sample("JSON", &format!(r#"{{"access_token":"{plain}"}}"#)),
    ]
});

/// Every run of a token, signed or not.
pub static TOKEN_SECRETS: LazyLock<Secrets> = LazyLock::new(|| {
    let tokens = TOKENS.iter().take(2).map(|sample| &sample.text);
    Secrets::new(tokens)
});

pub static KEY: LazyLock<SigningKey> = LazyLock::new(|| {
    let pem = generate_pem().unwrap();
    SigningKey::from_pem(pem.expose_secret().as_bytes()).unwrap()
});

/// Documents, one of them with what must not be in it.
pub static KEY_SETS: LazyLock<Vec<Sample>> = LazyLock::new(|| {
    let pem = fs_rsa();
    let rsa = SigningKey::from_pem(pem.as_bytes()).unwrap();
    let document = Jwks::publishing([&*KEY, &rsa]).unwrap().document();
    let mut private: serde_json::Value = serde_json::from_slice(&document).unwrap();
    private["keys"][0]["d"] = PRIVATE_MEMBER.into();
    vec![
        Sample {
            name: "key set",
            text: document.to_vec(),
        },
        sample("private key set", &private.to_string()),
    ]
});

pub const PRIVATE_MEMBER: &str = "jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI";

fn fs_rsa() -> String {
    let folder = tempfile::tempdir().unwrap();
    rsa_pkcs1(folder.path(), "key");
    fs::read_to_string(folder.path().join("key")).unwrap()
}

/// The base64 of every private key in a text, and the bytes that it stands for.
pub fn secrets_of(text: &[u8]) -> Vec<Vec<u8>> {
    let text = String::from_utf8_lossy(text);
    let blocks = text.split("-----BEGIN ").filter(|block| {
        block
            .split_once("-----")
            .is_some_and(|(label, _)| label.ends_with("PRIVATE KEY"))
    });
    let mut secrets = Vec::new();
    for block in blocks {
        let content = block.split("-----").nth(1).unwrap();
        let lines = content.lines().filter(|line| !line.contains([':', ',']));
        let base64: String = lines.collect();
        let Ok(der) = BASE64_STANDARD.decode(&base64) else {
            secrets.push(base64.into_bytes());
            continue;
        };
        // The rest is public, and also in certificates and key sets.
        let private = match &der[..] {
            [0x30, 0x81, 0x87, ..] => 36..68,
            [0x30, 0x77, ..] => 7..39,
            [0x30, 0x81, 0xa4, ..] => 8..56,
            rsa if rsa.len() > 1000 => 304..rsa.len(),
            other => 16..other.len(),
        };
        let text = (private.start * 4).div_ceil(3)..private.end * 4 / 3;
        secrets.push(base64.as_bytes()[text].to_vec());
        secrets.push(der[private].to_vec());
    }
    secrets
}

pub fn hour() -> Validity {
    Validity::from_now(Duration::from_secs(3600)).unwrap()
}

fn sample(name: &'static str, text: &str) -> Sample {
    let text = text.as_bytes().to_vec();
    Sample { name, text }
}
