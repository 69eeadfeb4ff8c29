//! The gallery of failures: each is caused for real, and what `keyutil doctor` and the starter say
//! of it is compared with what is kept in `gallery/*.txt`, for a person to read. The table of
//! failures in `docs/troubleshooting.md` is made of the same data.
//!
//! `SNAPSHOTS=overwrite cargo test -p sandbox --test it gallery` writes both anew.

mod case;
mod client_certificate;
mod clock;
mod connection;
mod files;
mod frames;
mod healthy;
mod key_set;
mod namespace;
mod peers;
mod permission;
mod redact;
mod said;
mod server_certificate;
mod servers;
mod show;
mod table;
mod task_queue;
mod token;
mod tokens;
mod world;

use show::show;

#[tokio::test(flavor = "multi_thread")]
async fn the_way_to_the_server() {
    show("connection", connection::ROWS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_certificate_of_the_server() {
    show("server_certificate", server_certificate::ROWS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_certificate_of_the_client() {
    show("client_certificate", client_certificate::ROWS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_the_client() {
    show("files", files::ROWS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens() {
    show("token", token::ROWS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn permissions() {
    show("permission", permission::ROWS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_set() {
    show("key_set", key_set::ROWS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clocks() {
    show("clock", clock::ROWS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces() {
    show("namespace", namespace::ROWS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_of_other_kinds() {
    show("servers", servers::ROWS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn task_queues() {
    show("task_queue", task_queue::ROWS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_is_well() {
    healthy::is_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_as_a_person_reads_it() {
    healthy::is_ill().await;
}

#[test]
fn the_table_in_the_documents_has_these_rows() {
    table::compare(&[
        connection::ROWS,
        server_certificate::ROWS,
        files::ROWS,
        client_certificate::ROWS,
        token::ROWS,
        key_set::ROWS,
        clock::ROWS,
        servers::ROWS,
        permission::ROWS,
        namespace::ROWS,
        task_queue::ROWS,
    ]);
}
