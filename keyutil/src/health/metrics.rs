//! The status as metrics, in the text format of Prometheus.
//!
//! Labels have few values. Only the label that identifies a credential changes, and only its
//! current value is exported.

use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::{
    Encoder, GaugeVec, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder, core::Collector,
};

use crate::{
    base::stderr,
    status::{CredentialStatus, CredentialsStatus, Status, readiness},
};

/// The `Content-Type` of the output of [`render`].
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// Renders the status as metrics. They are built anew for each scrape, because the counters live
/// elsewhere.
///
/// # Errors
/// None, unless the metric names in this file are invalid.
pub fn render(status: &Status, now: SystemTime) -> prometheus::Result<String> {
    let numbers = Numbers::default();
    numbers.ready(readiness(status, now).is_ok())?;
    numbers.credentials(&status.credentials, now)?;
    numbers.connection(status)?;
    numbers.calls(status)?;
    numbers.text()
}

const LABELS: &[&str] = &["credential"];

/// The metrics of one scrape.
#[derive(Debug, Default)]
pub struct Numbers {
    registry: Registry,
}

impl Numbers {
    /// Adds whether the process can do its work.
    ///
    /// # Errors
    /// An error for a duplicate name.
    pub fn ready(&self, ready: bool) -> prometheus::Result<()> {
        let help = "1 if the process can do its work, or else 0";
        self.gauge("ready", help, &[])?
            .with_label_values(&[] as &[&str])
            .set(i64::from(ready));
        Ok(())
    }

    /// Adds the credentials in use, their expiry and their replacements.
    ///
    /// # Errors
    /// An error for a duplicate name.
    pub fn credentials(
        &self,
        status: &CredentialsStatus,
        now: SystemTime,
    ) -> prometheus::Result<()> {
        self.expiry(status.named())?;
        let since = self.time(
            "credential_in_use_since_timestamp_seconds",
            "Time since which the credential is in use, in seconds since 1970",
            LABELS,
        )?;
        let reloads = self.counter(
            "credential_reloads_total",
            "New contents of credential files, by result: in use (ok) or unusable (failed)",
            &["credential", "result"],
        )?;
        let broken = self.gauge(
            "credential_files_broken",
            "1 while the files contain something unusable and the previous credential is kept",
            LABELS,
        )?;
        let stalled = self.time(
            "credential_read_stalled_seconds",
            "Time for which the file system has not answered the read of a credential's file, or 0",
            LABELS,
        )?;
        for (name, credential) in status.named() {
            if let Some(taken) = credential.since {
                since.with_label_values(&[name]).set(seconds(taken));
            }
            for (result, count) in [
                ("ok", credential.reloads),
                ("failed", credential.failed_reloads),
            ] {
                reloads.with_label_values(&[name, result]).inc_by(count);
            }
            broken
                .with_label_values(&[name])
                .set(i64::from(credential.last_failure.is_some()));
            let read = credential.stalled.as_ref();
            stalled
                .with_label_values(&[name])
                .set(read.map_or(0.0, |read| read.lasts(now).as_secs_f64()));
        }
        if let Some(minting) = &status.minting {
            self.count("tokens_minted_total", "Tokens minted", minting.minted)?;
            self.count(
                "token_mint_failures_total",
                "Failed attempts to mint a token",
                minting.failed,
            )?;
        }
        Ok(())
    }

    /// Adds the credentials in use and their validity.
    ///
    /// # Errors
    /// An error for a duplicate name.
    pub fn expiry<'a>(
        &self,
        credentials: impl Iterator<Item = (&'static str, &'a CredentialStatus)>,
    ) -> prometheus::Result<()> {
        let info = self.gauge(
            "credential_info",
            "Always 1; the label `id` identifies the credential in use",
            &["credential", "id"],
        )?;
        let start = self.time(
            "credential_valid_from_timestamp_seconds",
            "Start of the validity of the certificate in use, in seconds since 1970",
            LABELS,
        )?;
        let expiry = self.time(
            "credential_expiry_timestamp_seconds",
            "Expiry of the credential in use, in seconds since 1970",
            LABELS,
        )?;
        for (name, credential) in credentials {
            if let Some(id) = &credential.in_use {
                info.with_label_values(&[name, id]).set(1);
            }
            if let Some(from) = credential.valid_from {
                start.with_label_values(&[name]).set(seconds(from));
            }
            if let Some(until) = credential.valid_until {
                expiry.with_label_values(&[name]).set(seconds(until));
            }
        }
        Ok(())
    }

    fn connection(&self, status: &Status) -> prometheus::Result<()> {
        let connection = &status.connection;
        self.count(
            "tls_handshakes_total",
            "TLS handshakes with the server",
            connection.handshakes,
        )?;
        self.count(
            "connection_failures_total",
            "Failed connections to the server",
            connection.failures,
        )?;
        self.gauge(
            "connection_rejected",
            "1 while the newest client certificate and CAs are rejected and the previous ones are \
              kept",
            &[],
        )?
        .with_label_values(&[] as &[&str])
        .set(i64::from(connection.rejected.is_some()));
        let removed = connection.removed_ca.as_ref();
        self.gauge(
            "server_ca_removed",
            "1 while the server is verified with a CA that is no longer in the CA file",
            &[],
        )?
        .with_label_values(&[] as &[&str])
        .set(i64::from(removed.is_some()));
        let refused = self.time(
            "server_ca_refused_timestamp_seconds",
            "Time from which the removed CA is not trusted, in seconds since 1970, or 0",
            &[],
        )?;
        refused
            .with_label_values(&[] as &[&str])
            .set(removed.map_or(0.0, |removed| seconds(removed.refused_at)));
        Ok(())
    }

    fn calls(&self, status: &Status) -> prometheus::Result<()> {
        let calls = self.counter(
            "calls_total",
            "Calls of the SDK, retries included, by kind (poll, other) and gRPC code",
            &["kind", "code"],
        )?;
        for (kind, outcomes) in status.calls.named() {
            calls.with_label_values(&[kind, "Ok"]);
            for (code, count) in &outcomes.by_code {
                calls.with_label_values(&[kind, code]).inc_by(*count);
            }
        }
        self.count(
            "refusals_total",
            "Calls that the server refused for lack of authentication or permission",
            status.calls.refusals.count,
        )?;
        let last = self.time(
            "last_successful_poll_timestamp_seconds",
            "Time of the last successful poll for tasks, in seconds since 1970",
            &[],
        )?;
        if let Some(success) = status.calls.polls.last_success {
            last.with_label_values(&[] as &[&str]).set(seconds(success));
        }
        Ok(())
    }

    fn gauge(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
        self.registered(IntGaugeVec::new(options(name, help), labels)?)
    }

    fn time(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<GaugeVec> {
        self.registered(GaugeVec::new(options(name, help), labels)?)
    }

    fn counter(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> prometheus::Result<IntCounterVec> {
        self.registered(IntCounterVec::new(options(name, help), labels)?)
    }

    /// Adds a counter without labels.
    ///
    /// # Errors
    /// An error for a duplicate or invalid name.
    pub fn count(&self, name: &str, help: &str, value: u64) -> prometheus::Result<()> {
        let counter = self.counter(name, help, &[])?;
        counter.with_label_values(&[] as &[&str]).inc_by(value);
        Ok(())
    }

    /// Adds a gauge with one value for each value of the label, or with a single value if there is
    /// no label. Times are in seconds since 1970.
    ///
    /// # Errors
    /// An error for a duplicate or invalid name.
    pub fn gauges<'a>(
        &self,
        name: &str,
        help: &str,
        label: Option<&str>,
        values: impl IntoIterator<Item = (Option<&'a str>, f64)>,
    ) -> prometheus::Result<()> {
        let labels: Vec<_> = label.into_iter().collect();
        let gauge = self.time(name, help, &labels)?;
        for (label, value) in values {
            let labels: Vec<_> = label.into_iter().collect();
            gauge.with_label_values(&labels).set(value);
        }
        Ok(())
    }

    /// Adds a counter for each credential.
    ///
    /// # Errors
    /// An error for a duplicate or invalid name.
    pub fn counts(
        &self,
        name: &str,
        help: &str,
        values: impl Iterator<Item = (&'static str, u64)>,
    ) -> prometheus::Result<()> {
        let counter = self.counter(name, help, LABELS)?;
        values.for_each(|(credential, value)| {
            counter.with_label_values(&[credential]).inc_by(value);
        });
        Ok(())
    }

    /// Adds a gauge for each credential, which is 1 for `true` and 0 for `false`.
    ///
    /// # Errors
    /// An error for a duplicate or invalid name.
    pub fn flags(
        &self,
        name: &str,
        help: &str,
        values: impl Iterator<Item = (&'static str, bool)>,
    ) -> prometheus::Result<()> {
        let gauge = self.gauge(name, help, LABELS)?;
        values.for_each(|(credential, value)| {
            gauge.with_label_values(&[credential]).set(i64::from(value));
        });
        Ok(())
    }

    fn registered<C: Collector + Clone + 'static>(&self, family: C) -> prometheus::Result<C> {
        self.registry.register(Box::new(family.clone()))?;
        Ok(family)
    }

    /// All metrics, including that of the log, in the text format of Prometheus.
    ///
    /// # Errors
    /// Those of the encoder.
    pub fn text(&self) -> prometheus::Result<String> {
        self.count(
            "log_lines_dropped_total",
            "Log lines that were dropped because the reader of the log was too slow",
            stderr::dropped(),
        )?;
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

fn options(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace("keyutil")
}

/// Returns a time in seconds since 1970.
pub fn seconds(time: SystemTime) -> f64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_secs_f64()
}

#[cfg(test)]
mod tests;
