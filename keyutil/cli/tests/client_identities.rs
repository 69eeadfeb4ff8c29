//! Certificates and keys as other tools make them are loaded, and presented to a server.

use crate::common::client::World;
use crate::common::maker::Maker;
use crate::common::openssl::openssl;
use crate::common::peer::{Peer, call, mutual};

#[tokio::test]
async fn every_usual_form_is_presented() {
    let (world, maker) = (World::new(), Maker::new());
    let ca = maker.read("ca.crt");
    let peer = Peer::start(mutual(&world.server(), &ca)).await;
    let forms = [maker.keys(), maker.texts(), maker.chain()].concat();
    for (certificate, key) in forms {
        let mut args = world.args(peer.port);
        args.tls_cert_path = Some(maker.path(&certificate));
        args.tls_key_path = Some(maker.path(&key));
        let opened = crate::common::client::open(&args);
        let identity = maker.load(&certificate, &key).unwrap();
        let seen = call(opened.session().channel()).await;
        assert_eq!(seen.serial, identity, "{certificate} {key}");
    }
}

/// rustls does not parse version 1, and a server in Go takes it, so it must be presented.
#[test]
fn a_certificate_of_version_1_is_loaded() {
    let maker = Maker::new();
    maker.key("ec.key");
    openssl(
        maker.dir(),
        "req -new -key ec.key -subj /CN=old -config openssl.cnf -out old.csr",
    );
    openssl(
        maker.dir(),
        "x509 -req -in old.csr -CA ca.crt -CAkey ca.key -set_serial 7 -days 30 -out old.crt",
    );
    assert_eq!(maker.load("old.crt", "ec.key").unwrap(), "07");
}
