//! The SDK's client, whose calls go over our channel.

use std::{error::Error, time::Duration};

use backon::{ExponentialBuilder, Retryable};
use temporalio_client::{
    Client, ClientOptions, ConnectionOptions, RetryOptions,
    callback_based::CallbackBasedGrpcService, errors::ClientConnectError,
};
use tonic::{Code, Status};
use url::Url;

use super::{ConnectError, Connection, PendingConnection, Session};
use crate::{
    base::chain,
    diagnosis::{Diagnose, Diagnosis},
    explain::TokenVerdict,
    token::Role,
    transport::sdk_service,
};

impl PendingConnection {
    /// What `ConnectionOptions::service_override` takes, for a caller that makes the SDK's
    /// connection itself. It follows the credentials for as long as it, or a clone of it, lives.
    pub fn sdk_service(&self) -> CallbackBasedGrpcService {
        let session = self.session.clone();
        let explain = move |status: &Status, namespace: Option<&str>| {
            explain(&session, status, namespace.unwrap_or(session.namespace()))
        };
        sdk_service(
            self.session.authorized_channel(),
            self.session.channel().clone(),
            self.session.compression(),
            self.observer.outcomes(),
            explain,
        )
    }

    pub(super) async fn into_connection(self) -> Result<Connection, ConnectError> {
        let service = self.sdk_service();
        let Self {
            session, observer, ..
        } = self;
        // The SDK needs a URL and dials none: every call goes to the service.
        let url = Url::parse(&format!("http://{}", session.target())).map_err(ConnectError::Url)?;
        let options = ConnectionOptions::new(url)
            .identity(self.identity.unwrap_or_else(identity))
            .service_override(service)
            .maybe_metrics_meter(self.meter)
            // Refused by the SDK together with `service_override`.
            .dns_load_balancing(None)
            .retry_options(
                // The SDK's own limits are 10 attempts and 10 s: less than a server's restart.
                RetryOptions::builder()
                    .max_elapsed_time(Some(Duration::from_secs(60)))
                    .max_retries(0)
                    .build(),
            )
            .build();
        // The SDK makes one call here, and does not retry it.
        let sdk = (|| temporalio_client::Connection::connect(options.clone()))
            .retry(ExponentialBuilder::default().with_max_times(5))
            .when(|error| {
                matches!(error, ClientConnectError::SystemInfoCallError(status)
                    if status.code() == Code::Unavailable)
            })
            .await
            .map_err(|source| ConnectError::Sdk(Box::new(source)))?;
        let client = Client::new(sdk.clone(), ClientOptions::new(session.namespace()).build())
            .map_err(|source| ConnectError::Sdk(Box::new(source)))?;
        Ok(Connection {
            sdk,
            client,
            session,
            observer,
        })
    }
}

/// What a failed call of the SDK means for more calls than this one: the message for its status,
/// and the diagnosis.
fn explain(session: &Session, status: &Status, namespace: &str) -> Option<(String, Diagnosis)> {
    // All that workers and starters do takes `write`.
    let known = session.explain_shared(status, namespace, Role::Write, TokenVerdict::Unknown);
    let error = known.or_else(|| {
        is_of_the_server(status).then(|| ConnectError::Call {
            target: session.target(),
            status: status.clone(),
        })
    })?;
    let message = match &error {
        ConnectError::Refused { explanation, .. } => {
            format!("{}: {explanation}", status.message())
        }
        ConnectError::Call { .. } => status.message().to_owned(),
        other => chain(other),
    };
    Some((message, error.diagnosis()))
}

/// Whether the server, or a proxy before it, says that it is not well. Other answers concern the
/// one call that got them.
fn is_of_the_server(status: &Status) -> bool {
    let unwell = matches!(
        status.code(),
        Code::Unavailable | Code::ResourceExhausted | Code::Internal | Code::Unknown
    );
    unwell && status.source().is_none()
}

/// `pid@host`, as the other SDKs have it: what people look for in the Web UI.
fn identity() -> String {
    let host = gethostname::gethostname();
    format!("{}@{}", std::process::id(), host.to_string_lossy())
}
