//! An example of a business workflow, to be replaced: an order waits for its approval, is charged,
//! and is shipped.
//!
//! It uses what most services need: a typed input, a signal, a query, an update with a validator, a
//! timer, continue-as-new, activities with a retry policy, an error that is not retried, and an
//! activity that reports its progress by heartbeats.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use temporalio_common::RetryPolicy;
use temporalio_macros::{activities, workflow, workflow_methods};
use temporalio_sdk::{
    ActivityOptions, ApplicationFailure, ContinueAsNewOptions, SyncWorkflowContext,
    WorkflowContext, WorkflowContextView, WorkflowResult,
    activities::{ActivityContext, ActivityError},
    workflows::select,
};

/// The input of [`OrderWorkflow`]. Fields can be added, with `#[serde(default)]`: runs in progress
/// and starters of an older version do not send them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    pub order_id: String,
    pub items: u32,
    /// In cents.
    pub price_per_item: u64,
    /// How long one run waits for the approval before it continues as a new one, in seconds.
    pub wait_seconds: u64,
    /// The number of runs that ended without an approval.
    #[serde(default)]
    pub waits: u32,
}

/// The answer to the query `progress`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    pub stage: Stage,
    pub items: u32,
    pub waits: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    AwaitingApproval,
    Charging,
    Shipping,
    Shipped,
}

/// The result of [`OrderWorkflow`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    pub payment_id: String,
    pub approved_by: String,
    pub parcels: u32,
}

/// An order that is not approved within this number of waits fails.
pub const MAX_WAITS: u32 = 10;

/// The state of a run. It is rebuilt from the history by a replay, so only the input, signals and
/// updates change it.
#[workflow]
#[derive(Debug)]
pub struct OrderWorkflow {
    order: Order,
    stage: Stage,
    approved_by: Option<String>,
}

#[workflow_methods]
impl OrderWorkflow {
    #[init]
    pub fn new(_context: &WorkflowContextView, order: Order) -> Self {
        Self {
            order,
            stage: Stage::AwaitingApproval,
            approved_by: None,
        }
    }

    #[run]
    pub async fn run(context: &mut WorkflowContext<Self>) -> WorkflowResult<Receipt> {
        let wait = Duration::from_secs(context.state(|state| state.order.wait_seconds));
        select! {
            approved = context.wait_condition(|state: &Self| state.approved_by.is_some()) => approved?,
            _ = context.timer(wait) => {}
        }
        // An approval and the timer can arrive together, so the state decides.
        let Some(approved_by) = context.state(|state| state.approved_by.clone()) else {
            return Self::wait_again(context);
        };

        context.state_mut(|state| state.stage = Stage::Charging);
        let order = context.state(|state| state.order.clone());
        let charging = ActivityOptions::with_start_to_close_timeout(Duration::from_secs(10))
            .retry_policy(
                RetryPolicy::builder()
                    .initial_interval(Duration::from_millis(500))
                    .maximum_interval(Duration::from_secs(30))
                    .maximum_attempts(10)
                    .build(),
            )
            .build();
        let payment_id = context
            .execute_activity(Fulfilment::charge, order.clone(), charging)
            .await?;

        context.state_mut(|state| state.stage = Stage::Shipping);
        // The heartbeat timeout detects the death of a worker in 10 seconds instead of an hour.
        let shipping = ActivityOptions::with_start_to_close_timeout(Duration::from_secs(3600))
            .heartbeat_timeout(Duration::from_secs(10))
            .build();
        let parcels = context
            .execute_activity(Fulfilment::ship, order, shipping)
            .await?;
        context.state_mut(|state| state.stage = Stage::Shipped);
        Ok(Receipt {
            payment_id,
            approved_by,
            parcels,
        })
    }

    /// Continues as a new run, so that the history stays short however long the approval takes.
    fn wait_again(context: &mut WorkflowContext<Self>) -> WorkflowResult<Receipt> {
        let mut order = context.state(|state| state.order.clone());
        order.waits += 1;
        if order.waits >= MAX_WAITS {
            let failure = format!("order `{}` was not approved in time", order.order_id);
            return Err(ApplicationFailure::non_retryable(failure).into());
        }
        match context.continue_as_new(order, ContinueAsNewOptions::default())? {}
    }

    /// Approves the order. The first approval counts.
    #[signal]
    pub fn approve(&mut self, _context: &mut SyncWorkflowContext<Self>, approved_by: String) {
        self.approved_by.get_or_insert(approved_by);
    }

    #[query]
    pub fn progress(&self, _context: &WorkflowContextView) -> Progress {
        Progress {
            stage: self.stage,
            items: self.order.items,
            waits: self.order.waits,
        }
    }

    /// Refuses a change before it is written to the history.
    #[update_validator(set_items)]
    fn validate_set_items(
        &self,
        _context: &WorkflowContextView,
        items: &u32,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        match (self.stage, &self.approved_by, items) {
            (_, _, 0) => Err("an order must have at least one item".into()),
            (Stage::AwaitingApproval, None, _) => Ok(()),
            _ => Err("the order is already approved".into()),
        }
    }

    /// Changes the number of items and returns the previous one.
    #[update]
    pub fn set_items(&mut self, _context: &mut SyncWorkflowContext<Self>, items: u32) -> u32 {
        std::mem::replace(&mut self.order.items, items)
    }
}

/// The activities of [`OrderWorkflow`]. Clients for other services are fields of this struct: one
/// instance serves all activities of a worker.
#[derive(Debug)]
pub struct Fulfilment {
    /// How long it takes to hand one parcel to the carrier.
    pub time_per_parcel: Duration,
}

/// The maximum amount of one payment, in cents.
pub const PAYMENT_LIMIT: u64 = 1_000_000;

#[activities]
impl Fulfilment {
    /// Charges the order and returns the id of the payment.
    #[activity]
    pub async fn charge(
        self: Arc<Self>,
        _context: ActivityContext,
        order: Order,
    ) -> Result<String, ActivityError> {
        let amount = order.price_per_item.saturating_mul(order.items.into());
        if amount > PAYMENT_LIMIT {
            let failure = ApplicationFailure::builder(format!(
                "{amount} cents exceed the limit of {PAYMENT_LIMIT} cents"
            ))
            .type_name("PaymentDeclined".to_owned())
            .non_retryable(true)
            .build();
            return Err(ActivityError::application(failure));
        }
        // An activity can run more than once. The order id, which does not change between attempts,
        // is the idempotency key for a payment service.
        Ok(format!("payment-{}", order.order_id))
    }

    /// Ships one parcel for each item and returns their number. A retry continues after the last
    /// parcel that the server knows of. The SDK sends heartbeats at intervals, so a parcel may be
    /// shipped again: its order id and number are the idempotency key for the carrier.
    #[activity]
    pub async fn ship(
        self: Arc<Self>,
        context: ActivityContext,
        order: Order,
    ) -> Result<u32, ActivityError> {
        let shipped: u32 = context.heartbeat_details().deserialize()?.unwrap_or(0);
        for parcel in shipped..order.items {
            tokio::select! {
                () = tokio::time::sleep(self.time_per_parcel) => {}
                // The server answers a heartbeat with the cancellation.
                () = context.cancelled() => return Err(ActivityError::cancelled()),
            }
            context.record_heartbeat(parcel + 1).await?;
        }
        Ok(order.items)
    }
}
