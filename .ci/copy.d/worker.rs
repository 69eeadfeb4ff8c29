//! Invoices: the workflow that takes the place of the example.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use temporalio_macros::{activities, workflow, workflow_methods};
use temporalio_sdk::{
    ActivityOptions, WorkflowContext, WorkflowResult,
    activities::{ActivityContext, ActivityError},
};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Invoice {
    pub customer: String,
    pub cents: u64,
}

#[workflow]
#[derive(Debug, Default)]
pub struct InvoiceWorkflow;

#[workflow_methods]
impl InvoiceWorkflow {
    #[run]
    pub async fn run(
        context: &mut WorkflowContext<Self>,
        invoice: Invoice,
    ) -> WorkflowResult<String> {
        let options = ActivityOptions::start_to_close_timeout(Duration::from_secs(10));
        let document = context
            .execute_activity(Billing::render, invoice, options.clone())
            .await?;
        Ok(context
            .execute_activity(Billing::send, document, options)
            .await?)
    }
}

#[derive(Debug)]
pub struct Billing;

#[activities]
impl Billing {
    #[activity]
    pub async fn render(
        _context: ActivityContext,
        invoice: Invoice,
    ) -> Result<String, ActivityError> {
        Ok(format!("{} owes {} cents", invoice.customer, invoice.cents))
    }

    #[activity]
    pub async fn send(
        _context: ActivityContext,
        document: String,
    ) -> Result<String, ActivityError> {
        Ok(format!("sent: {document}"))
    }
}
