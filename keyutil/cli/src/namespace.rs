//! Registers a namespace and waits until it is usable.

use std::time::Duration;

use temporalio_common::protos::temporal::api::workflowservice::v1::{
    CountWorkflowExecutionsRequest, RegisterNamespaceRequest,
};
use tonic::Code;

use keyutil::{
    connect::{ConnectError, PendingConnection},
    token::Role,
};

/// Whether [`register`] created the namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registered {
    /// The namespace was created.
    Created,
    /// The namespace existed and was left unchanged.
    Existed,
}

/// Registers `namespace`, which must be the namespace of the connection, and waits until it is
/// usable. The histories of finished workflows are kept for `retention`.
///
/// # Errors
/// [`ConnectError`]. The token needs `<namespace>:admin`, which is enough before the namespace
/// exists, or `temporal-system:admin`.
pub async fn register(
    opened: &PendingConnection,
    namespace: &str,
    retention: Duration,
) -> Result<Registered, ConnectError> {
    let request = RegisterNamespaceRequest {
        namespace: namespace.to_owned(),
        workflow_execution_retention_period: retention.try_into().ok(),
        ..Default::default()
    };
    let registered = opened
        .retry_until_ready(async || {
            let mut service = opened.session().service();
            match service.register_namespace(request.clone()).await {
                Ok(_) => Ok(Registered::Created),
                Err(status) if status.code() == Code::AlreadyExists => Ok(Registered::Existed),
                Err(status) => Err(opened.session().explain(status, Role::Admin)),
            }
        })
        .await?;
    opened.wait_until_authorized().await?;
    opened
        .retry_until_ready(async || usable(opened, namespace).await)
        .await?;
    Ok(registered)
}

/// `DescribeNamespace` reads the database. `CountWorkflowExecutions` goes through the namespace
/// cache, which every other call uses and which learns of a new namespace later.
async fn usable(opened: &PendingConnection, namespace: &str) -> Result<(), ConnectError> {
    let mut service = opened.session().service();
    let request = CountWorkflowExecutionsRequest {
        namespace: namespace.to_owned(),
        ..Default::default()
    };
    match service.count_workflow_executions(request).await {
        Ok(_) => Ok(()),
        Err(status) => Err(opened.session().explain(status, Role::Read)),
    }
}
