//! Certificates, CA bundles and private keys.

use std::time::{Duration, SystemTime};

use keyutil::{
    credentials::{Identity, TrustBundle},
    token::{ClaimsTemplate, SigningKey},
    x509::certificate::{CertificateSummary, public_key},
};
use keyutil_cli::pki::Authority;
use proptest::prelude::*;

use super::{
    check::{cases, soon, told},
    mutation::inputs,
    samples::{DER, PEM, PEM_SECRETS},
};

proptest! {
    #![proptest_config(cases(400))]

    #[test]
    fn signing_keys(input in inputs(&PEM)) {
        let parsed = soon(&input, || SigningKey::from_pem(&input.text));
        PEM_SECRETS.check(&told(&parsed));
        // One that is taken can sign.
        if let Ok(key) = parsed {
            let template = ClaimsTemplate {
                kid: None,
                subject: "worker".into(),
                permissions_claim: Default::default(),
                audience: None,
                permissions: Vec::new(),
                lifetime: Duration::from_secs(60),
            };
            key.mint(&template.at(SystemTime::now())).unwrap();
        }
    }

    #[test]
    fn client_certificates_and_keys(chain in inputs(&PEM), key in inputs(&PEM)) {
        let now = SystemTime::now();
        for (chain, key) in [
            (&chain.text, &key.text),
            (&chain.text, &PEM[3].text),
            (&PEM[0].text, &key.text),
            (&chain.text, &chain.text),
        ] {
            let parsed = soon(&(), || Identity::parse(chain, key, now));
            PEM_SECRETS.check(&told(&parsed));
        }
    }

    #[test]
    fn ca_bundles(input in inputs(&PEM)) {
        let parsed = soon(&input, || TrustBundle::parse(&input.text));
        PEM_SECRETS.check(&told(&parsed));
    }

    #[test]
    fn cas_and_their_keys(certificate in inputs(&PEM), key in inputs(&PEM)) {
        let text = |text: &[u8]| String::from_utf8_lossy(text).into_owned();
        let (certificate, key) = (text(&certificate.text), text(&key.text));
        for (certificate, key) in [
            (&certificate, &key),
            (&text(&PEM[2].text), &key),
            (&certificate, &text(&PEM[4].text)),
        ] {
            let loaded = soon(&(), || Authority::load(certificate, &key.clone().into()));
            PEM_SECRETS.check(&told(&loaded));
            if let Ok(authority) = loaded {
                PEM_SECRETS.check(authority.certificate_pem());
            }
        }
    }

    #[test]
    fn certificates(input in inputs(&DER)) {
        let parsed = soon(&input, || CertificateSummary::from_der(&input.text));
        PEM_SECRETS.check(&told(&parsed));
        PEM_SECRETS.check(&told(&soon(&input, || public_key(&input.text))));
    }
}
