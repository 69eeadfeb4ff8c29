//! The command for invoices.

use clap::Args;
use serde_json::Value;
use temporalio_client::{WorkflowGetResultOptions, WorkflowStartOptions};
use worker::invoice::{Invoice, InvoiceWorkflow};

use crate::{
    Context,
    outcome::{Failure, Outcome},
};

#[derive(Args, Clone, Debug)]
pub struct InvoiceCommand {
    /// Invoice id, which is also the workflow id
    #[arg(long, value_name = "ID")]
    invoice_id: String,

    /// Customer
    #[arg(long, value_name = "NAME")]
    customer: String,

    /// Amount, in cents
    #[arg(long)]
    cents: u64,
}

impl InvoiceCommand {
    pub async fn run(&self, context: &Context<'_>) -> Outcome {
        let call = async |run_id: &mut Option<String>| self.send(context, run_id).await;
        context.outcome(&self.invoice_id, call).await
    }

    async fn send(
        &self,
        context: &Context<'_>,
        run_id: &mut Option<String>,
    ) -> Result<(&'static str, Value), Failure> {
        let invoice = Invoice {
            customer: self.customer.clone(),
            cents: self.cents,
        };
        let id = &self.invoice_id;
        let options = WorkflowStartOptions::new(context.task_queue, id.as_str()).build();
        let client = context.connection.client();
        let started = client.start_workflow(InvoiceWorkflow::run, invoice, options);
        let handle = started
            .await
            .map_err(|error| context.start_failed(error, id))?;
        *run_id = handle.run_id().map(str::to_owned);
        context.announce(id);
        let result = handle.get_result(WorkflowGetResultOptions::default()).await;
        let result = result.map_err(|error| context.no_result(error, id, None))?;
        Ok(("Workflow result", result.into()))
    }
}
