use std::{
    collections::HashSet,
    fs,
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
};
use secrecy::{ExposeSecret, SecretString};
use x509_parser::{
    certificate::X509Certificate,
    extensions::ParsedExtension,
    oid_registry::{OID_EC_P256, OID_SIG_ECDSA_WITH_SHA256},
    pem::Pem,
};

use super::*;
use keyutil::{
    diagnosis::{Class, Diagnose},
    x509::certificate::CertificateSummary,
};

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn a_ca_may_sign_leaves_and_nothing_else() {
    inspect(authority("clients").certificate_pem(), |certificate| {
        let constraints = certificate.basic_constraints().unwrap().unwrap();
        assert!(constraints.critical && constraints.value.ca);
        assert_eq!(constraints.value.path_len_constraint, Some(0));
        let usage = certificate.key_usage().unwrap().unwrap();
        assert!(usage.critical);
        assert_eq!(usage.value.to_string(), "Key Cert Sign, CRL Sign");
        assert!(certificate.extended_key_usage().unwrap().is_none());
        assert!(subject_key(certificate).is_some());
        assert_eq!(certificate.subject(), certificate.issuer());
        assert_p256(certificate);
    });
}

#[test]
fn a_leaf_may_do_its_part_of_tls_and_nothing_else() {
    let authority = authority("clients");
    let mut authority_key = None;
    inspect(authority.certificate_pem(), |certificate| {
        authority_key = subject_key(certificate);
    });
    for (purpose, server, client) in [
        (Purpose::Client, false, true),
        (Purpose::Server, true, false),
        (Purpose::ServerAndClient, true, true),
    ] {
        let leaf = issue(&authority, purpose);
        inspect(&leaf.certificate_pem, |certificate| {
            let constraints = certificate.basic_constraints().unwrap().unwrap();
            assert!(!constraints.value.ca);
            let usage = certificate.key_usage().unwrap().unwrap();
            assert_eq!(usage.value.to_string(), "Digital Signature");
            let extended = certificate.extended_key_usage().unwrap().unwrap().value;
            let found = (extended.server_auth, extended.client_auth, extended.any);
            assert_eq!(found, (server, client, false), "{purpose:?}");
            assert!(subject_key(certificate).is_some());
            assert_eq!(issuer_key(certificate), authority_key);
            assert_p256(certificate);
        });
    }
}

#[test]
fn serial_numbers_are_positive_long_and_never_the_same() {
    let authority = authority("clients");
    let serials: HashSet<_> = (0..100)
        .map(|_| summary(&issue(&authority, Purpose::Client).certificate_pem).serial)
        .collect();

    assert_eq!(serials.len(), 100);
    for serial in serials {
        assert_eq!(serial.len(), 32, "{serial}");
        assert!(('4'..='7').contains(&serial.chars().next().unwrap()));
    }
}

#[test]
fn two_generations_of_one_ca_have_different_names() {
    let (old, new) = (authority("clients"), authority("clients"));
    for authority in [&old, &new] {
        let summary = authority.summary();
        let expected = format!("CN=temporal clients CA {}", &summary.serial[..8]);
        assert_eq!(summary.subject, expected);
    }
    assert_ne!(old.summary().subject, new.summary().subject);
}

#[test]
fn a_loaded_ca_signs_like_the_original() {
    let original = authority("clients");
    let loaded = Authority::load(original.certificate_pem(), &original.key_pem()).unwrap();
    let leaf = issue(&loaded, Purpose::Client);

    let pem = Pem::iter_from_buffer(original.certificate_pem().as_bytes())
        .next()
        .unwrap()
        .unwrap();
    let root = pem.parse_x509().unwrap();
    inspect(&leaf.certificate_pem, |certificate| {
        assert_eq!(certificate.issuer().as_raw(), root.subject().as_raw());
        assert_eq!(issuer_key(certificate), subject_key(&root));
    });
}

#[test]
fn leaves_of_an_intermediate_ca_bring_it_along() {
    let [root, intermediate] = root_and_intermediate();
    let loaded = Authority::load(intermediate.certificate_pem(), &intermediate.key_pem());

    for authority in [intermediate, loaded.unwrap()] {
        let leaf = issue(&authority, Purpose::Client);
        let blocks: Vec<_> = Pem::iter_from_buffer(leaf.certificate_pem.as_bytes())
            .map(|block| CertificateSummary::from_der(&block.unwrap().contents).unwrap())
            .collect();
        assert_eq!(blocks.len(), 2, "leaf, intermediate, and not the root");
        assert_eq!(blocks[0].issuer, blocks[1].subject);
        assert_eq!(blocks[1].issuer, root.summary().subject);
    }
}

/// A CA file that also has the key: leaf certificates, which are public, include only the chain.
#[test]
fn of_a_ca_file_only_the_certificates_are_passed_on() {
    let [_, intermediate] = root_and_intermediate();
    let key = intermediate.key_pem();
    let both = [key.expose_secret(), intermediate.certificate_pem()].concat();
    let loaded = Authority::load(&both, &key).unwrap();
    assert!(!loaded.certificate_pem().contains("PRIVATE KEY"));
    let leaf = issue(&loaded, Purpose::Client);
    assert!(!leaf.certificate_pem.contains("PRIVATE KEY"));
    assert_eq!(leaf.certificate_pem.matches("BEGIN CERTIFICATE").count(), 2);
}

#[test]
fn what_cannot_sign_is_not_loaded() {
    let ca = authority("clients");
    let leaf = issue(&ca, Purpose::Client);
    let key = ca.key_pem();
    let other_key = authority("clients").key_pem();
    let no_key = SecretString::from("no key");
    for (certificate, key, reason) in [
        (ca.certificate_pem(), &other_key, "does not match"),
        (&leaf.certificate_pem, &leaf.key_pem, "is not allowed to"),
        (ca.certificate_pem(), &no_key, "the private key of the CA"),
        (key.expose_secret(), &key, "a PEM block `CERTIFICATE`"),
        ("", &key, "a PEM block `CERTIFICATE`"),
    ] {
        let error = Authority::load(certificate, key).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn private_keys_are_never_printed() {
    let ca = authority("clients");
    let leaf = issue(&ca, Purpose::Client);
    let wrong = Authority::load(ca.certificate_pem(), &leaf.key_pem).unwrap_err();
    // A key in the middle of otherwise malformed text.
    let broken = leaf
        .key_pem
        .expose_secret()
        .replacen("PRIVATE", "SECRET", 1);
    let broken = Authority::load(ca.certificate_pem(), &broken.into()).unwrap_err();

    let printed = format!("{ca:?} {leaf:?} {wrong:?} {wrong} {broken:?} {broken}");
    for key in [ca.key_pem(), leaf.key_pem] {
        for line in key.expose_secret().lines() {
            assert!(!printed.contains(line), "{printed}");
        }
    }
}

#[test]
fn init_reports_every_mistake_and_touches_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let error = init(&InitOptions {
        authority_lifetime: Duration::ZERO,
        leaf_lifetime: Duration::MAX,
        frontend_names: vec!["https://temporal".to_owned(), "temporal:7233".to_owned()],
        internode_names: vec![String::new()],
        ..InitOptions::new(folder.path().join("certs"))
    })
    .unwrap_err();

    assert!(error.is_usage());
    let PkiError::Input { mistakes } = error else {
        panic!("{error}");
    };
    assert_eq!(mistakes.len(), 5, "{mistakes:?}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn an_interrupted_run_is_seen_even_where_everything_was_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = InitOptions::new(folder.path());
    let files = init(&options).unwrap().files;

    // A folder cannot be replaced by a file, so the second run fails there.
    let obstacle = &files[files.len() - 2].path;
    fs::remove_file(obstacle).unwrap();
    fs::create_dir(obstacle).unwrap();
    options.existing = Existing::Replace;
    let error = init(&options).unwrap_err();
    let named = obstacle.display().to_string();
    assert!(error.to_string().contains(&named), "{error}");

    options.existing = Existing::Refuse;
    let error = init(&options).unwrap_err();
    assert!(matches!(&error, PkiError::InTheWay { found, expected }
        if found.len() == files.len() - 1 && *expected == files.len()));
    assert!(error.hint().unwrap().contains("interrupted"));
    assert!(!error.is_usage());

    fs::remove_dir(obstacle).unwrap();
    options.existing = Existing::Replace;
    assert_eq!(init(&options).unwrap().files.len(), files.len());
}

#[test]
fn what_an_interrupted_run_has_left_is_made_anew_where_a_set_is_only_to_be_there() {
    let folder = tempfile::tempdir().unwrap();
    let layout = Layout::new(folder.path());
    let mut options = InitOptions::new(folder.path());
    let files = init(&options).unwrap().files;
    for interrupted_at in [0, 1, files.len() / 2, files.len() - 1] {
        let obstacle = &files[interrupted_at].path;
        let leftover = layout.party_folder(Party::Worker).join(".unfinished-Ab1");
        fs::write(&leftover, "half a key").unwrap();
        fs::remove_file(obstacle).unwrap();
        fs::create_dir(obstacle).unwrap();
        options.existing = Existing::Replace;
        init(&options).unwrap_err();
        fs::remove_dir(obstacle).unwrap();

        options.existing = Existing::Keep;
        let made = init(&options).unwrap().files;
        assert_eq!(made.len(), files.len(), "{interrupted_at}");
        let listing = list(&layout, &AuthorityOptions::default(), SystemTime::now());
        assert_eq!(listing.unwrap().problems, [""; 0]);
        assert!(!layout.unfinished_init().exists());
        assert!(!leftover.exists());
        assert_eq!(init(&options).unwrap().files, []);
    }
}

#[test]
fn of_many_at_once_one_makes_the_certificates() {
    let folder = tempfile::tempdir().unwrap();
    let options = InitOptions::new(folder.path());
    let made: Vec<bool> = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| init(&options).is_ok()))
            .collect();
        callers
            .into_iter()
            .map(|caller| caller.join().unwrap())
            .collect()
    });
    assert_eq!(made.iter().filter(|made| **made).count(), 1, "{made:?}");
    let listing = list(
        &Layout::new(folder.path()),
        &AuthorityOptions::default(),
        SystemTime::now(),
    );
    assert_eq!(listing.unwrap().problems, [""; 0]);
}

#[test]
fn new_cas_end_the_rotations_of_the_old_ones() {
    let folder = tempfile::tempdir().unwrap();
    let layout = Layout::new(folder.path());
    let mut options = InitOptions::new(folder.path());
    init(&options).unwrap();
    let (kind, waits) = (AuthorityKind::Clients, AuthorityOptions::default());
    rotate_authority(&layout, kind, RotationStep::Trust, &waits, SystemTime::now).unwrap();

    options.existing = Existing::Replace;
    init(&options).unwrap();

    let next = next_step(&layout, kind, &waits, SystemTime::now()).unwrap();
    assert!(!next.is_under_way());
    assert!(!layout.next_authority(kind).key.exists());
    assert!(!layout.rotation_record().exists());
}

fn authority(name: &str) -> Authority {
    let validity = Validity::from_now(HOUR).unwrap();
    Authority::generate(&AuthorityRequest { name, validity }).unwrap()
}

/// A CA that was made elsewhere, and an intermediate CA.
pub(super) fn root_and_intermediate() -> [Authority; 2] {
    let params = |name, path_length| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_length));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.use_authority_key_identifier_extension = true;
        params
    };
    let new_key = || KeyPair::generate().unwrap();
    let root = CertifiedIssuer::self_signed(params("root", 1), new_key()).unwrap();
    let below = CertifiedIssuer::signed_by(params("intermediate", 0), new_key(), &root).unwrap();
    [root, below].map(|one| Authority::load(&one.pem(), &one.key().serialize_pem().into()).unwrap())
}

fn issue(authority: &Authority, purpose: Purpose) -> Leaf {
    // Expired: the CA does not check.
    let validity = Validity::between(SystemTime::now() - 2 * HOUR, SystemTime::now() - HOUR);
    authority
        .issue(&LeafRequest {
            common_name: "worker",
            names: &["worker.temporal.local".parse().unwrap()],
            purpose,
            validity: validity.unwrap(),
        })
        .unwrap()
}

fn summary(pem: &str) -> CertificateSummary {
    let block = Pem::iter_from_buffer(pem.as_bytes()).next();
    CertificateSummary::from_der(&block.unwrap().unwrap().contents).unwrap()
}

fn inspect(pem: &str, check: impl FnOnce(&X509Certificate<'_>)) {
    let block = Pem::iter_from_buffer(pem.as_bytes()).next();
    check(&block.unwrap().unwrap().parse_x509().unwrap());
}

fn subject_key(certificate: &X509Certificate<'_>) -> Option<Vec<u8>> {
    let mut extensions = certificate.iter_extensions();
    extensions.find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(key) => Some(key.0.to_vec()),
        _ => None,
    })
}

fn issuer_key(certificate: &X509Certificate<'_>) -> Option<Vec<u8>> {
    let mut extensions = certificate.iter_extensions();
    extensions.find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(key) => {
            Some(key.key_identifier.as_ref()?.0.to_vec())
        }
        _ => None,
    })
}

fn assert_p256(certificate: &X509Certificate<'_>) {
    assert_eq!(
        certificate.signature_algorithm.algorithm,
        OID_SIG_ECDSA_WITH_SHA256
    );
    let parameters = certificate.public_key().algorithm.parameters.as_ref();
    assert_eq!(parameters.unwrap().as_oid().unwrap(), OID_EC_P256);
}

#[test]
fn a_folder_that_cannot_be_used_is_a_usage_error_with_a_hint() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let made = init(&InitOptions::new(&file)).unwrap_err();
    let layout = Layout::new(&folder.path().join("missing"));
    let (options, now) = (AuthorityOptions::default(), SystemTime::now());
    let listed = list(&layout, &options, now).unwrap_err();
    let leaf = LeafOptions::default();
    let rotated = rotate_leaf(&layout, Party::Worker, &leaf, || now).unwrap_err();
    for diagnosis in [made.diagnosis(), listed.diagnosis(), rotated.diagnosis()] {
        assert_eq!(diagnosis.class, Class::Usage, "{diagnosis:?}");
        assert!(diagnosis.hint.is_some(), "{diagnosis:?}");
    }
}
