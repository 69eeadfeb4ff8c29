//! Calls of the tool: exit codes, keys, key sets.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use crate::common::openssl::{openssl, rsa_pkcs1};
use crate::common::program::{Ended, keyutil, run, with_keys};
use serde_json::Value;

#[test]
fn help_and_version_are_no_failure_and_mistakes_are_64() {
    let folder = tempfile::tempdir().unwrap();
    for (args, code) in [
        (&["--help"][..], 0),
        (&["--version"], 0),
        (&["token", "mint", "-h"], 0),
        (&["help", "jwks"], 0),
        (&[], 64),
        (&["tokens"], 64),
        (&["token"], 64),
        (&["token", "mint", "--subjekt=x"], 64),
        (&["token", "mint", "--token-lifetime=soon"], 64),
        (&["jwks", "serve", "--listen=8090"], 64),
    ] {
        let ended = run(keyutil(folder.path()).args(args));
        assert_eq!(ended.code, Some(code), "{args:?}: {ended:?}");
        let silent = if code == 0 {
            &ended.stderr
        } else {
            &ended.stdout
        };
        assert_eq!(silent, "", "{args:?}");
    }
}

#[test]
fn a_variable_that_is_empty_counts_as_not_set() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = keyutil(folder.path());
    // The one mistake keeps it from connecting; the empty variables must add none.
    command.args(["namespace", "register", "--namespace= "]);
    for name in [
        "TEMPORAL_ADDRESS",
        "TEMPORAL_NAMESPACE",
        "TEMPORAL_TLS",
        "TEMPORAL_TLS_CLIENT_CERT_PATH",
        "TEMPORAL_TLS_CLIENT_KEY_PATH",
        "TEMPORAL_TLS_SERVER_CA_CERT_PATH",
        "TEMPORAL_TLS_SERVER_NAME",
        "TEMPORAL_API_KEY",
        "KEYUTIL_GRPC_COMPRESSION",
        "KEYUTIL_CONNECT_TIMEOUT",
        "KEYUTIL_NO_PROXY",
        "KEYUTIL_DISTRUST_AFTER",
        "KEYUTIL_TLS_CRL_PATH",
        "KEYUTIL_TOKEN_FILE",
        "KEYUTIL_SIGNING_KEY_PATH",
        "KEYUTIL_PERMISSIONS",
        "KEYUTIL_AUDIENCE",
        "KEYUTIL_SUBJECT",
        "KEYUTIL_TOKEN_LIFETIME",
    ] {
        command.env(name, "");
    }
    let ended = run(&mut command);
    assert_eq!(ended.code, Some(64), "{ended:?}");
    let expected = "keyutil: `--namespace` is empty\n";
    assert_eq!(ended.stderr, expected);

    let serve = ["jwks", "serve", "--generate", "--listen=300.0.0.1:1"];
    let ended = run(keyutil(folder.path())
        .args(serve)
        .env("KEYUTIL_JWKS_LISTEN", ""));
    assert_eq!(ended.code, Some(64), "{ended:?}");
    let ended = run(keyutil(folder.path())
        .args(["key", "generate"])
        .env("KEYUTIL_SIGNING_DIR", ""));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(
        folder
            .path()
            .join("certs/signing/active/current.pem")
            .exists()
    );
}

#[test]
fn a_key_or_token_in_a_wrong_place_is_not_printed() {
    let folder = tempfile::tempdir().unwrap();
    let token = "eyJodW50ZXIyIjoxfQ.eyJodW50ZXIyIjoxfQ.aHVudGVyMg";
    let pem = "-----BEGIN PRIVATE KEY-----\nMIIhunter2\n-----END PRIVATE KEY-----";
    for (secret, part) in [(token, "eyJodW50"), (pem, "hunter2")] {
        for name in [
            "KEYUTIL_SIGNING_KEY_PATH",
            "KEYUTIL_TOKEN_FILE",
            "TEMPORAL_TLS_CLIENT_KEY_PATH",
            "TEMPORAL_TLS_SERVER_NAME",
        ] {
            for command in [&["doctor", "--help"][..], &["token", "mint", "-h"]] {
                let helped = run(keyutil(folder.path()).args(command).env(name, secret));
                assert_eq!(helped.code, Some(0), "{helped:?}");
                assert!(!helped.stdout.contains(part), "{name}: {helped:?}");
            }
        }
        let flag = format!("--connect-timeout={secret}");
        let unknown = format!("--tokn={secret}");
        for arguments in [
            &[secret][..],
            &["doctor", secret],
            &["token", "mint", secret],
            &["doctor", &flag],
            &["doctor", &unknown],
        ] {
            let ended = run(keyutil(folder.path()).args(arguments));
            assert_eq!(ended.code, Some(64), "{ended:?}");
            assert!(!ended.stderr.contains(part), "{arguments:?}: {ended:?}");
        }
    }
}

#[test]
fn a_namespace_that_no_permission_can_have_is_refused_by_its_flag() {
    let folder = with_keys();
    for command in [
        &["namespace", "register"][..],
        &["token", "mint"],
        &["doctor"],
    ] {
        let ended = run(keyutil(folder.path())
            .args(command)
            .args(["--namespace", "a b"])
            .env(
                "KEYUTIL_SIGNING_KEY_PATH",
                "certs/signing/active/current.pem",
            ));
        assert_eq!(ended.code, Some(64), "{ended:?}");
        assert!(ended.stderr.contains("`--namespace`: "), "{ended:?}");
        assert!(!ended.stderr.contains("--permissions"), "{ended:?}");
    }
}

#[test]
fn a_variable_that_is_not_utf_8_is_named() {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};
    let folder = tempfile::tempdir().unwrap();
    let ended = run(keyutil(folder.path())
        .args(["token", "mint"])
        .env("TEMPORAL_NAMESPACE", OsStr::from_bytes(b"\xff"))
        // A path need not be UTF-8.
        .env("KEYUTIL_SIGNING_KEY_PATH", OsStr::from_bytes(b"\xfe"))
        .env("KEYUTIL_SUBJECT", OsStr::from_bytes(b"\xfd")));
    assert_eq!(ended.code, Some(64), "{ended:?}");
    let expected = "error: not UTF-8: the variable `KEYUTIL_SUBJECT`, `TEMPORAL_NAMESPACE`\n";
    assert!(ended.stderr.starts_with(expected), "{ended:?}");
}

#[test]
fn too_few_descriptors_are_an_error_and_no_panic() {
    let folder = tempfile::tempdir().unwrap();
    let program = env!("CARGO_BIN_EXE_keyutil");
    for limit in 4..20 {
        let script = format!("ulimit -n {limit}; exec '{program}' jwks print");
        let mut limited = std::process::Command::new("bash");
        let ended = run(limited.current_dir(folder.path()).args(["-c", &script]));
        assert!(!ended.stderr.contains("panicked"), "{limit}: {ended:?}");
        assert!(ended.stderr.starts_with("keyutil: "), "{limit}: {ended:?}");
    }
}

#[test]
fn keys_are_made_once_private_and_replaced_only_when_asked() {
    let folder = tempfile::tempdir().unwrap();
    let generate = |args: &[&str]| {
        let mut command = keyutil(folder.path());
        run(command
            .args(["key", "generate", "--dir=new/signing"])
            .args(args))
    };
    let signing = folder.path().join("new/signing");

    let made = generate(&[]);

    assert_eq!((made.code, &made.stderr[..]), (Some(0), ""), "{made:?}");
    assert_eq!(mode(&signing), 0o700);
    for (file, wanted) in [
        ("active/current.pem", 0o600),
        ("next.pem", 0o600),
        ("jwks.json", 0o644),
        ("ring.json", 0o644),
    ] {
        assert_eq!(mode(&signing.join(file)), wanted, "{file}");
    }
    let kids = kids(&read(&signing.join("jwks.json")));
    assert_eq!(kids.len(), 2);
    assert!(kids.iter().all(|kid| made.stdout.contains(kid)), "{made:?}");
    assert!(!made.stdout.contains("PRIVATE KEY"), "{made:?}");

    let before = contents(&signing);
    let refused = generate(&[]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert_eq!(refused.stdout, "");
    assert!(
        refused.stderr.contains("`new/signing/active/current.pem`"),
        "{refused:?}"
    );
    assert!(hint(&refused).contains("`--force`"), "{refused:?}");
    assert_eq!(contents(&signing), before);

    assert_eq!(generate(&["--force"]).code, Some(0));
    let after = contents(&signing);
    for (path, content) in &before {
        let same = after
            .iter()
            .any(|(other, new)| other == path && new == content);
        let empty = content.is_empty();
        assert!(!same || empty, "{} was not replaced", path.display());
    }
}

#[test]
fn the_key_set_that_is_printed_is_the_one_that_is_published() {
    let folder = tempfile::tempdir().unwrap();
    let missing = run(keyutil(folder.path()).args(["jwks", "print"]));
    assert_eq!(missing.code, Some(64), "{missing:?}");
    assert!(
        missing.stderr.contains("`certs/signing/jwks.json`"),
        "{missing:?}"
    );
    assert!(
        hint(&missing).contains("`keyutil key generate`"),
        "{missing:?}"
    );

    run(keyutil(folder.path()).args(["key", "generate"]));
    let printed = run(keyutil(folder.path()).args(["jwks", "print"]));
    assert_eq!(printed.code, Some(0), "{printed:?}");
    let published = read(&folder.path().join("certs/signing/jwks.json"));
    assert_eq!(printed.stdout.trim_end(), published.trim_end());
    assert!(printed.stdout.ends_with("}\n"));
}

#[test]
fn keys_that_openssl_made_have_a_key_set_too() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    rsa_pkcs1(dir, "rsa.pem");
    // With a block `EC PARAMETERS` before the key.
    openssl(dir, "ecparam -name prime256v1 -genkey -out ec.pem");
    openssl(dir, "ecparam -name secp384r1 -genkey -noout -out p384.pem");
    openssl(
        dir,
        "rsa -in rsa.pem -aes128 -passout pass:tops3cret -out locked.pem",
    );
    openssl(dir, "rsa -in rsa.pem -pubout -out public.pem");
    openssl(dir, "genrsa -out short.pem 1024");

    for (file, kty) in [("rsa.pem", "RSA"), ("ec.pem", "EC")] {
        let printed = print_one(dir, file);
        assert_eq!(printed.code, Some(0), "{file}: {printed:?}");
        let set: Value = serde_json::from_str(&printed.stdout).unwrap();
        assert_eq!(set["keys"].as_array().unwrap().len(), 1, "{file}");
        assert_eq!(set["keys"][0]["kty"], kty);
        assert_eq!(set["keys"][0].get("d"), None);
        assert!(!kids(&printed.stdout)[0].is_empty());
    }
    for (file, words) in [
        ("p384.pem", "not one of P-256"),
        ("locked.pem", "encrypted"),
        ("public.pem", "public key"),
        ("short.pem", "the RSA key has 1024 bits and is too short"),
        ("missing.pem", "No such file"),
    ] {
        let refused = print_one(dir, file);
        assert_eq!(refused.code, Some(64), "{refused:?}");
        assert!(refused.stderr.contains(words), "{words}: {refused:?}");
        assert!(refused.stderr.contains(file), "{file}: {refused:?}");
    }
}

#[test]
fn a_file_in_the_place_of_the_folder_is_named_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    for args in [
        &["key", "generate", "--dir=file"][..],
        &["key", "list", "--dir=file"],
        &["pki", "init", "--dir=file"],
        &["pki", "init", "--dir=file/below"],
    ] {
        let refused = run(keyutil(folder.path()).args(args));
        assert_eq!(refused.code, Some(64), "{args:?}: {refused:?}");
        assert!(refused.stderr.contains("`file/"), "{args:?}: {refused:?}");
        assert!(hint(&refused).contains("`--dir`"), "{args:?}: {refused:?}");
    }
}

fn print_one(folder: &Path, key: &str) -> Ended {
    run(keyutil(folder).args(["jwks", "print", "--signing-key", key]))
}

fn hint(ended: &Ended) -> &str {
    let (_, hint) = ended.stderr.split_once("\nhint: ").unwrap_or_default();
    hint
}

fn kids(set: &str) -> Vec<String> {
    let set: Value = serde_json::from_str(set).unwrap();
    let kids = set["keys"].as_array().unwrap().iter();
    kids.map(|key| key["kid"].as_str().unwrap().to_owned())
        .collect()
}

/// Without the lock, which names the process that last held it.
fn contents(folder: &Path) -> Vec<(PathBuf, String)> {
    let entries = fs::read_dir(folder).unwrap();
    entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| !path.ends_with(".lock"))
        .flat_map(|path| match path.is_dir() {
            true => contents(&path),
            false => vec![(path.clone(), read(&path))],
        })
        .collect()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}
