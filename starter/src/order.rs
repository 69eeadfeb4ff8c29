//! The commands of the example workflow, to be replaced together with it.

use clap::{Args, Subcommand};
use keyutil::settings;
use serde::Serialize;
use serde_json::{Value, json};
use temporalio_client::{
    Client, WorkflowExecuteUpdateOptions, WorkflowGetResultOptions, WorkflowHandle,
    WorkflowIdReusePolicy, WorkflowQueryOptions, WorkflowSignalOptions, WorkflowStartOptions,
    errors::WorkflowUpdateError,
};
use worker::order::{Order, OrderWorkflow};

use crate::{
    Context,
    outcome::{Failure, Lateness, Outcome},
};

#[derive(Clone, Debug, Subcommand)]
pub enum OrderCommand {
    /// Start an order and wait for its receipt
    Start(StartArgs),
    #[command(flatten)]
    Message(Message),
}

/// What is sent to a running order.
#[derive(Clone, Debug, Subcommand)]
pub enum Message {
    /// Approve an order (a signal)
    Approve {
        /// Order id
        #[arg(value_parser = settings::id)]
        order_id: String,
        /// Name of the person who approves
        #[arg(long, value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
        by: String,
    },
    /// Show the progress of an order (a query)
    Progress {
        /// Order id
        #[arg(value_parser = settings::id)]
        order_id: String,
    },
    /// Change the number of items before the approval (an update)
    SetItems {
        /// Order id
        #[arg(value_parser = settings::id)]
        order_id: String,
        /// New number of items
        items: u32,
    },
}

#[derive(Args, Clone, Debug)]
pub struct StartArgs {
    /// Order id; the workflow id is `order-` and this id
    #[arg(long, value_name = "ID", value_parser = settings::id)]
    order_id: String,

    /// Number of items
    #[arg(long, default_value = "1", value_parser = clap::value_parser!(u32).range(1..))]
    items: u32,

    /// Price of an item, in cents
    #[arg(long, default_value = "995", value_name = "CENTS")]
    price_per_item: u64,

    /// Time that one run waits for the approval before it continues as a new one, at least 1s
    #[arg(long, default_value = "24h", value_name = "DURATION", value_parser = whole_seconds)]
    approval_wait: u64,

    /// Do not wait for the receipt
    #[arg(long)]
    detach: bool,
}

impl OrderCommand {
    pub async fn run(&self, context: &Context<'_>) -> Outcome {
        let order_id = match self {
            Self::Start(start) => &start.order_id,
            Self::Message(
                Message::Approve { order_id, .. }
                | Message::Progress { order_id }
                | Message::SetItems { order_id, .. },
            ) => order_id,
        };
        let workflow_id = format!("order-{order_id}");
        let call = async |run_id: &mut Option<String>| match self {
            Self::Start(start) => start.run(context, &workflow_id, run_id).await,
            Self::Message(message) => message.send(context, &workflow_id).await,
        };
        let running = match self {
            Self::Start(_) => None,
            Self::Message(_) => Some(&*workflow_id),
        };
        let mut outcome = tokio::select! {
            outcome = context.outcome(&workflow_id, call) => outcome,
            never = context.warn_if_unpolled(running) => match never {},
        };
        if let Err(failure) = &mut outcome.ended
            && failure.lateness == Some(Lateness::NotFinished)
        {
            *failure = context.explain_late(failure.clone(), running).await;
        }
        outcome
    }
}

impl Message {
    async fn send(
        &self,
        context: &Context<'_>,
        workflow_id: &str,
    ) -> Result<(&'static str, Value), Failure> {
        let client = context.connection.client();
        let order: WorkflowHandle<Client, OrderWorkflow> = client.get_workflow_handle(workflow_id);
        match self {
            Self::Approve { by, .. } => {
                let options = WorkflowSignalOptions::default();
                let sent = order.signal(OrderWorkflow::approve, by.clone(), options);
                sent.await.map_err(|error| {
                    context.failed(error, format!("failed to approve `{workflow_id}`"))
                })?;
                Ok(("Approved by", json!(by)))
            }
            Self::Progress { .. } => {
                let options = WorkflowQueryOptions::default();
                let progress = order.query(OrderWorkflow::progress, (), options).await;
                let progress = progress.map_err(|error| {
                    context.failed(error, format!("failed to query `{workflow_id}`"))
                })?;
                Ok(("Progress", value(progress)))
            }
            Self::SetItems { items, .. } => {
                let options = WorkflowExecuteUpdateOptions::default();
                let updated = order.execute_update(OrderWorkflow::set_items, *items, options);
                let previous = updated.await.map_err(|error| {
                    let attempted = format!("failed to update `{workflow_id}`");
                    match error {
                        // Its text is that of the validator, or of the workflow.
                        WorkflowUpdateError::Failed(failure) => {
                            context.failed(anyhow::Error::msg(failure.message), attempted)
                        }
                        other => context.failed(other, attempted),
                    }
                })?;
                Ok(("Previous number of items", json!(previous)))
            }
        }
    }
}

impl StartArgs {
    async fn run(
        &self,
        context: &Context<'_>,
        workflow_id: &str,
        run_id: &mut Option<String>,
    ) -> Result<(&'static str, Value), Failure> {
        let order = Order {
            order_id: self.order_id.clone(),
            items: self.items,
            price_per_item: self.price_per_item,
            wait_seconds: self.approval_wait,
            waits: 0,
        };
        // No execution timeout: it would end an order that waits for its approval. An order id is
        // used once, even after the order is done.
        let options = WorkflowStartOptions::new(context.task_queue, workflow_id)
            .id_reuse_policy(WorkflowIdReusePolicy::RejectDuplicate)
            .build();
        let client = context.connection.client();
        let started = client.start_workflow(OrderWorkflow::run, order, options);
        let handle = started
            .await
            .map_err(|error| context.start_failed(error, workflow_id))?;
        *run_id = handle.run_id().map(str::to_owned);
        context.announce(workflow_id);
        if self.detach {
            return Ok(("Run id", json!(handle.run_id())));
        }
        let receipt = handle.get_result(WorkflowGetResultOptions::default()).await;
        let receipt = receipt.map_err(|error| context.no_result(error, workflow_id, None))?;
        Ok(("Receipt", value(receipt)))
    }
}

/// A timer of the workflow has whole seconds in its input.
fn whole_seconds(text: &str) -> Result<u64, String> {
    match humantime::parse_duration(text) {
        Ok(wait) if wait.as_secs() > 0 && wait.subsec_nanos() == 0 => Ok(wait.as_secs()),
        Ok(_) => Err("it must be whole seconds, at least one, as in `90s`".to_owned()),
        Err(error) => Err(format!("{error}: write it as in `24h`")),
    }
}

fn value(result: impl Serialize) -> Value {
    serde_json::to_value(result).unwrap_or_else(|error| json!(error.to_string()))
}
