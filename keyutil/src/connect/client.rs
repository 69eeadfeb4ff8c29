//! The SDK's client, whose calls go over our channel.

use std::{error::Error, time::Duration};

use backon::{ExponentialBuilder, Retryable};
use temporalio_client::{
    Client, ClientOptions, ConnectionOptions, RetryOptions, errors::ClientConnectError,
};
use tonic::{Code, Status};
use url::Url;

use super::{ConnectError, Connection, PendingConnection, diagnose::explain};
use crate::{
    base::chain, diagnosis::Diagnose, explain::TokenVerdict, token::Role, transport::bridge::Bridge,
};

impl PendingConnection {
    pub(super) async fn into_client(self) -> Result<Connection, ConnectError> {
        let target = self.channel.connector().target();
        let channel = self.channel();
        let (interceptor, namespace) = (self.interceptor.clone(), self.settings.namespace.clone());
        let rotating = self.channel.clone();
        let bridge = Bridge {
            channel: channel.clone(),
            compression: self.settings.compression,
            target: target.clone(),
            explain: Box::new(move |status| {
                // All that workers and starters do takes `write`.
                let known = explain(
                    &rotating,
                    &interceptor,
                    status,
                    &namespace,
                    Role::Write,
                    TokenVerdict::Unknown,
                );
                let error = known.or_else(|| {
                    is_of_the_server(status).then(|| ConnectError::Call {
                        target: rotating.connector().target(),
                        status: status.clone(),
                    })
                })?;
                let words = match &error {
                    ConnectError::Refused { explanation, .. } => {
                        format!("{}: {explanation}", status.message())
                    }
                    ConnectError::Call { .. } => status.message().to_owned(),
                    other => chain(other),
                };
                Some((words, error.diagnosis()))
            }),
            connected: Box::new({
                let channel = self.channel.clone();
                move || channel.connector().log().ongoing_failure().is_none()
            }),
            calls: self.observer.calls(),
            watch: self.watch,
        };
        // The SDK needs a URL and dials none: every call goes to the service.
        let url = Url::parse(&format!("http://{target}")).map_err(ConnectError::Url)?;
        let options = ConnectionOptions::new(url)
            .identity(identity())
            .service_override(bridge.into_service())
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
        let connection = (|| temporalio_client::Connection::connect(options.clone()))
            .retry(ExponentialBuilder::default().with_max_times(5))
            .when(|error| {
                matches!(error, ClientConnectError::SystemInfoCallError(status)
                    if status.code() == Code::Unavailable)
            })
            .await
            .map_err(|source| ConnectError::Sdk(Box::new(source)))?;
        let client = Client::new(
            connection,
            ClientOptions::new(self.settings.namespace).build(),
        )
        .map_err(|source| ConnectError::Sdk(Box::new(source)))?;
        Ok(Connection {
            client,
            channel,
            target,
            observer: self.observer,
        })
    }
}

/// Whether the server, or a proxy before it, says that it is not well. Other answers are of the one
/// call that got them.
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
