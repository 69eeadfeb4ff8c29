//! The example workflow: its activities in the SDK's test environment, and a replay that must
//! fail. `starter/tests/it/order.rs` runs it on a server.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use temporalio_sdk::{
    activities::ActivityError,
    testing::{ActivityEnvironment, ActivityEnvironmentError},
};
use worker::order::{Fulfilment, Order, PAYMENT_LIMIT};

use crate::replay::replay;

fn order(items: u32, price_per_item: u64) -> Order {
    Order {
        order_id: "17".to_owned(),
        items,
        price_per_item,
        wait_seconds: 60,
        waits: 0,
    }
}

fn fulfilment() -> Fulfilment {
    Fulfilment {
        time_per_parcel: Duration::from_millis(1),
    }
}

#[tokio::test]
async fn a_payment_up_to_the_limit_is_charged() {
    let environment = ActivityEnvironment::builder()
        .register_activities(fulfilment())
        .build();
    let charged = environment.run(Fulfilment::charge, order(1, PAYMENT_LIMIT));
    assert_eq!(charged.await.unwrap(), "payment-17");
}

#[tokio::test]
async fn a_larger_payment_is_declined_and_not_retried() {
    let environment = ActivityEnvironment::builder()
        .register_activities(fulfilment())
        .build();
    for order in [order(1, PAYMENT_LIMIT + 1), order(u32::MAX, u64::MAX)] {
        let error = environment.run(Fulfilment::charge, order).await;
        let Err(ActivityEnvironmentError::Activity(ActivityError::Application(failure))) = error
        else {
            panic!("{error:?}");
        };
        assert_eq!(failure.type_name(), Some("PaymentDeclined"));
        assert!(failure.is_non_retryable());
    }
}

#[tokio::test]
async fn each_parcel_is_reported_by_a_heartbeat() {
    assert_eq!(ship_from(None).await, [1, 2, 3]);
}

#[tokio::test]
async fn a_retry_goes_on_after_the_last_reported_parcel() {
    assert_eq!(ship_from(Some(2)).await, [3]);
    assert_eq!(ship_from(Some(3)).await, [0; 0]);
}

/// Ships three parcels in an attempt after one that reported so many, and returns the heartbeats.
async fn ship_from(reported: Option<u32>) -> Vec<u32> {
    let heartbeats = Arc::new(Mutex::new(Vec::new()));
    let recorder = heartbeats.clone();
    let mut environment = ActivityEnvironment::builder_with_default()
        .register_activities(fulfilment())
        .on_heartbeat(move |parcel| recorder.lock().push(*parcel.downcast::<u32>().unwrap()));
    if let Some(reported) = reported {
        environment = environment.heartbeat_details(reported).unwrap();
    }
    let shipped = environment.build().run(Fulfilment::ship, order(3, 1)).await;
    assert_eq!(shipped.unwrap(), 3);
    let heartbeats = heartbeats.lock();
    heartbeats.clone()
}

#[tokio::test]
async fn a_cancelled_shipment_stops() {
    let environment = ActivityEnvironment::builder()
        .register_activities(Fulfilment {
            time_per_parcel: Duration::from_secs(3600),
        })
        .build();
    environment.cancel();
    let error = environment.run(Fulfilment::ship, order(3, 1)).await;
    assert!(
        matches!(
            error,
            Err(ActivityEnvironmentError::Activity(
                ActivityError::Cancelled { .. }
            ))
        ),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_run_that_ships_before_it_charges_does_not_replay() {
    let history = include_str!("../history/order.json")
        .replace("Fulfilment::charge", "other")
        .replace("Fulfilment::ship", "Fulfilment::charge");
    let error = replay(&history).await.unwrap_err();
    assert!(error.contains("nondeterminis"), "{error}");
}
