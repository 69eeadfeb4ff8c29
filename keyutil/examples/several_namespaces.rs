//! Two workers in two namespaces over one connection, in one process.
//!
//! The settings are made in code, as in a service with its own configuration. The token is minted
//! with permissions on both namespaces. To run the example, source the environment file of `sandbox
//! up`, and register the second namespace:
//!
//! ```text
//! cargo keyutil namespace register --namespace payments
//! SECOND_NAMESPACE=payments cargo run -p keyutil --example several_namespaces
//! ```

use std::{
    env,
    io::{self, IsTerminal},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::Context;
use keyutil::{
    ConnectArgs, program,
    settings::{ClaimsArgs, TokenArgs},
    worker::RunOptions,
};
use temporalio_client::ClientOptions;
use temporalio_macros::{workflow, workflow_methods};
use temporalio_sdk::{WorkerOptions, WorkflowContext, WorkflowResult};
use tracing_subscriber::EnvFilter;

/// Returns the namespace in which it runs.
#[workflow]
#[derive(Default)]
struct WhereWorkflow;

#[workflow_methods]
impl WhereWorkflow {
    #[run]
    async fn run(context: &mut WorkflowContext<Self>) -> WorkflowResult<String> {
        Ok(context.namespace().to_owned())
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    program::run("several_namespaces", work()).await
}

async fn work() -> anyhow::Result<()> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        // Unlike `io::stderr`, it never waits for its reader.
        .with_writer(program::log_writer)
        .with_ansi(io::stderr().is_terminal())
        .init();

    let namespaces = [
        variable("TEMPORAL_NAMESPACE")?,
        variable("SECOND_NAMESPACE")?,
    ];
    let connection = keyutil::connect(&settings(&namespaces)?, "several_namespaces").await?;
    let mut workers = Vec::new();
    for namespace in &namespaces {
        let client = connection.client_with(ClientOptions::new(namespace).build());
        let options = WorkerOptions::new(format!("{namespace}-tasks"))
            .register_workflow::<WhereWorkflow>()?
            .build();
        workers.push((client?, options));
    }
    keyutil::worker::run(workers, RunOptions::default(), program::interrupted()).await?;
    Ok(())
}

/// Settings for the first namespace, with permissions on all of them.
fn settings(namespaces: &[String; 2]) -> anyhow::Result<ConnectArgs> {
    let permissions = namespaces.each_ref().map(|name| format!("{name}:write"));
    Ok(ConnectArgs {
        address: variable("TEMPORAL_ADDRESS")?,
        namespace: namespaces[0].clone(),
        tls_cert_path: path("TEMPORAL_TLS_CLIENT_CERT_PATH"),
        tls_key_path: path("TEMPORAL_TLS_CLIENT_KEY_PATH"),
        tls_ca_path: path("TEMPORAL_TLS_SERVER_CA_CERT_PATH"),
        token: TokenArgs {
            signing_key: path("KEYUTIL_SIGNING_KEY_PATH"),
            claims: ClaimsArgs {
                permissions: Some(permissions.join(",")),
                audience: env::var("KEYUTIL_AUDIENCE").ok(),
                ..ClaimsArgs::default()
            },
            ..TokenArgs::default()
        },
        ..ConnectArgs::default()
    })
}

fn variable(name: &str) -> anyhow::Result<String> {
    env::var(name).with_context(|| format!("`{name}` is not set"))
}

fn path(name: &str) -> Option<PathBuf> {
    env::var_os(name).map(PathBuf::from)
}
