//! The replay of a recorded invoice.

use crate::replay::replay;

#[tokio::test]
async fn the_recorded_invoice_replays() {
    let history = include_str!("../history/invoice.json");
    replay(history).await.unwrap();
    let altered = history.replace("Billing::send", "Billing::post");
    replay(&altered).await.unwrap_err();
}
