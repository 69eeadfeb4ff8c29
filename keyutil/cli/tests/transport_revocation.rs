//! A server whose certificate is revoked by a list that openssl made.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};

use crate::common::client::{World, authority, issue, look, now, open};
use crate::common::openssl::openssl;
use crate::common::peer::{Peer, call, mutual, try_call};
use keyutil::{
    ConnectError, Status, chain,
    connect::PendingConnection,
    diagnosis::{Class, Diagnose},
    settings::Settings,
};
use keyutil_cli::pki::{Authority, Leaf, Purpose};
use secrecy::ExposeSecret;

#[tokio::test]
async fn a_server_with_a_revoked_certificate_is_refused_by_name() {
    let world = World::new();
    let (stolen, good) = (world.server(), world.server());
    let clients = world.clients.certificate_pem();
    let peer = Peer::start(mutual(&stolen, clients)).await;
    let lists = Lists::new(&world.frontend);
    lists.revoke(&stolen, "30");
    let mut args = world.args(peer.port);
    args.tls_crl_path = Some(lists.file());

    let client = open(&args);
    let error = client.session().probe().await.unwrap_err();
    let ConnectError::ServerCertificate { .. } = &error else {
        panic!("{error:?}");
    };
    let told = chain(&error);
    for words in ["failed to verify the certificate", "is revoked by a list"] {
        assert!(told.contains(words), "{told}");
    }
    let diagnosis = error.diagnosis();
    assert_eq!(diagnosis.class, Class::ServerTls);
    let hint = diagnosis.hint.unwrap();
    assert!(
        hint.contains("`tls_crl_path`") || hint.contains("`--tls-crl-path`"),
        "{hint}"
    );

    // Another one of the same CA is not revoked.
    peer.present(mutual(&good, clients));
    call(client.session().channel()).await;
}

#[tokio::test]
async fn of_two_lists_of_one_issuer_the_newer_counts() {
    let world = World::new();
    let stolen = world.server();
    let peer = Peer::start(mutual(&stolen, world.clients.certificate_pem())).await;
    let lists = Lists::new(&world.frontend);
    lists.write("30");
    let older = fs::read_to_string(lists.file()).unwrap();
    // The times of lists are whole seconds.
    let second = || {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        now.unwrap().as_secs()
    };
    let written = second();
    until(async || second() > written).await;
    lists.revoke(&stolen, "30");
    let newer = fs::read_to_string(lists.file()).unwrap();
    for lists_in_file in [older.clone() + &newer, newer + &older] {
        fs::write(lists.file(), lists_in_file).unwrap();
        let mut args = world.args(peer.port);
        args.tls_crl_path = Some(lists.file());
        let refused = open(&args).session().probe().await.unwrap_err();
        assert!(
            chain(&refused).contains("is revoked by a list"),
            "{refused:?}"
        );
    }
}

#[tokio::test]
async fn a_list_that_arrives_ends_the_use_of_the_connection() {
    let world = World::new();
    let stolen = world.server();
    let clients = world.clients.certificate_pem();
    let peer = Peer::start(mutual(&stolen, clients)).await;
    let lists = Lists::new(&world.frontend);
    lists.write("30");
    let mut args = world.args(peer.port);
    args.tls_crl_path = Some(lists.file());
    let client = open(&args);
    let first = call(client.session().channel()).await;
    assert_eq!(first.connection, "1");

    // One that revokes something else leads to a new connection.
    lists.revoke(&world.server(), "30");
    look(&client);
    let second = call(client.session().channel()).await;
    assert_ne!(second.connection, "1");

    lists.revoke(&stolen, "30");
    look(&client);
    for _ in 0..10 {
        try_call(client.session().channel()).await.unwrap_err();
    }
    peer.until_serials(&[]).await;
    let failure = status(&client).connection.last_failure.unwrap();
    assert!(
        failure.reason.contains("is revoked by a list"),
        "{}",
        failure.reason
    );
    let shown = status(&client).credentials.revocation_lists.unwrap();
    let in_use = shown.in_use.unwrap();
    assert!(in_use.contains("(2 revoked)"), "{in_use}");

    peer.present(mutual(&world.server(), clients));
    until(async || try_call(client.session().channel()).await.is_ok()).await;
    assert_eq!(status(&client).connection.rejected, None);
}

#[tokio::test]
async fn a_list_that_is_no_use_keeps_the_last_one_and_an_old_one_still_revokes() {
    let world = World::new();
    let stolen = world.server();
    let clients = world.clients.certificate_pem();
    let peer = Peer::start(mutual(&stolen, clients)).await;
    let lists = Lists::new(&world.frontend);
    lists.revoke(&stolen, "0");
    let mut args = world.args(peer.port);
    args.tls_crl_path = Some(lists.file());
    let client = open(&args);
    try_call(client.session().channel()).await.unwrap_err();
    until(async || {
        let shown = status(&client).credentials.revocation_lists.unwrap();
        shown
            .warnings
            .iter()
            .any(|warning| warning.contains("is out of date"))
    })
    .await;

    for content in ["garbage", world.frontend.certificate_pem()] {
        fs::write(lists.file(), content).unwrap();
        look(&client);
        // At the second look, because a file may be half written at the first.
        look(&client);
        let shown = status(&client).credentials.revocation_lists.unwrap();
        let reason = shown.last_failure.unwrap().reason;
        assert!(reason.contains("unusable revocation lists"), "{reason}");
        try_call(client.session().channel()).await.unwrap_err();
    }
    let refused = Settings::new(&args, "test").unwrap_err().to_string();
    assert!(refused.contains("unusable revocation lists"), "{refused}");

    // A list of another CA says nothing about this certificate.
    let others = authority("others");
    let other_lists = Lists::new(&others);
    other_lists.revoke(&issue(&others, Purpose::Server, now()), "30");
    args.tls_crl_path = Some(other_lists.file());
    call(open(&args).session().channel()).await;
}

/// What openssl needs to make the lists of a CA.
struct Lists {
    folder: tempfile::TempDir,
}

impl Lists {
    fn new(authority: &Authority) -> Self {
        let lists = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        for (file, content) in [
            ("ca.crt", authority.certificate_pem()),
            ("ca.key", authority.key_pem().expose_secret()),
            ("index.txt", ""),
            ("number", "01\n"),
            ("openssl.cnf", CONFIG),
        ] {
            fs::write(lists.folder.path().join(file), content).unwrap();
        }
        lists
    }

    /// Adds this certificate to the list, and writes one that is valid for so many days.
    fn revoke(&self, leaf: &Leaf, days: &str) {
        fs::write(self.folder.path().join("leaf.crt"), &leaf.certificate_pem).unwrap();
        openssl(
            self.folder.path(),
            "ca -config openssl.cnf -revoke leaf.crt",
        );
        self.write(days);
    }

    fn write(&self, days: &str) {
        let valid = match days {
            "0" => "-crlsec 1".to_owned(),
            days => format!("-crldays {days}"),
        };
        let words = format!("ca -config openssl.cnf -gencrl {valid} -out new.pem");
        openssl(self.folder.path(), &words);
        fs::rename(self.folder.path().join("new.pem"), self.file()).unwrap();
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("crl.pem")
    }
}

const CONFIG: &str = "
[ca]
default_ca = this
[this]
database = index.txt
crlnumber = number
certificate = ca.crt
private_key = ca.key
default_md = sha256
policy = any
[any]
commonName = optional
";

fn status(client: &PendingConnection) -> Status {
    client.observer().status()
}

async fn until(mut reached: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !reached().await {
        assert!(begun.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
