//! What credentials cost: time, and allocations.
//!
//! `cargo bench -p keyutil-cli --bench credentials`. Compare within one run: the first line of each
//! group is what the others are measured against.
#![expect(
    clippy::unwrap_used,
    reason = "a benchmark says what went wrong by panicking"
)]

use divan::{AllocProfiler, Bencher};

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

/// The token goes into every call.
mod interceptor {
    use std::time::{Duration, SystemTime};

    use keyutil::{
        credentials::TokenSource,
        probe::AuthInterceptor,
        token::{ClaimsTemplate, Permission, signing_key},
    };
    use secrecy::ExposeSecret;
    use tonic::{Request, service::Interceptor};

    use super::Bencher;

    fn source() -> (tempfile::TempDir, TokenSource) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("current.pem");
        std::fs::write(&path, signing_key::generate_pem().unwrap().expose_secret()).unwrap();
        let template = ClaimsTemplate {
            kid: None,
            subject: "worker".into(),
            permissions_claim: Default::default(),
            audience: None,
            permissions: vec![Permission::write("default")],
            lifetime: Duration::from_secs(300),
        };
        let source = TokenSource::minted(path, template).unwrap();
        (folder, source)
    }

    /// What the header map alone costs, with a value made beforehand.
    #[divan::bench(sample_size = 50)]
    fn a_header_value_put_into_a_request(bencher: Bencher<'_, '_>) {
        let (_folder, source) = source();
        let token = source.token(SystemTime::now()).unwrap();
        bencher
            .with_inputs(|| Request::new(()))
            .bench_values(|mut request| {
                request
                    .metadata_mut()
                    .insert("authorization", token.header().clone());
                request
            });
    }

    #[divan::bench(sample_size = 50)]
    fn the_interceptor_with_a_fresh_token(bencher: Bencher<'_, '_>) {
        let (_folder, source) = source();
        source.token(SystemTime::now()).unwrap();
        let bearer = AuthInterceptor::new(Some(source));
        bencher
            .with_inputs(|| (bearer.clone(), Request::new(())))
            .bench_values(|(mut bearer, request)| bearer.call(request));
    }

    /// What a process would pay that mints for every call.
    #[divan::bench]
    fn a_token_minted(bencher: Bencher<'_, '_>) {
        let pem = signing_key::generate_pem().unwrap();
        let key = keyutil::token::SigningKey::from_pem(pem.expose_secret().as_bytes()).unwrap();
        let template = ClaimsTemplate {
            kid: None,
            subject: "worker".into(),
            permissions_claim: Default::default(),
            audience: None,
            permissions: vec![Permission::write("default")],
            lifetime: Duration::from_secs(300),
        };
        bencher.bench(|| key.mint(&template.at(SystemTime::now())));
    }

    /// What a process would pay that reads its key for every token, too.
    #[divan::bench]
    fn a_key_parsed_and_a_token_minted(bencher: Bencher<'_, '_>) {
        let pem = signing_key::generate_pem().unwrap();
        let template = ClaimsTemplate {
            kid: None,
            subject: "worker".into(),
            permissions_claim: Default::default(),
            audience: None,
            permissions: vec![Permission::write("default")],
            lifetime: Duration::from_secs(300),
        };
        bencher.bench(|| {
            let key = keyutil::token::SigningKey::from_pem(pem.expose_secret().as_bytes()).unwrap();
            key.mint(&template.at(SystemTime::now()))
        });
    }
}

/// Done about once a second, for each credential.
mod look {
    use std::{fs, path::PathBuf};

    use keyutil::credentials::{Identity, Refresh, Reloading};
    use keyutil_cli::pki::{InitOptions, Layout, Party, PartyFiles, init};

    use super::Bencher;

    fn files() -> (tempfile::TempDir, PartyFiles) {
        let folder = tempfile::tempdir().unwrap();
        init(&InitOptions::new(folder.path())).unwrap();
        let files = Layout::new(folder.path()).party(Party::Worker);
        (folder, files)
    }

    /// What reading the two files alone costs.
    #[divan::bench]
    fn a_certificate_and_its_key_read(bencher: Bencher<'_, '_>) {
        let (_folder, files) = files();
        let read = |path: &PathBuf| fs::read(path).unwrap();
        bencher.bench(|| (read(&files.certificate), read(&files.key)));
    }

    #[divan::bench]
    fn a_certificate_and_its_key_unchanged(bencher: Bencher<'_, '_>) {
        let (_folder, files) = files();
        let identity: Reloading<Identity> = Identity::follow(files.certificate, files.key).unwrap();
        bencher.bench(|| identity.refresh());
    }
}
