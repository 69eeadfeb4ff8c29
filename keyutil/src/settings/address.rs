//! `--address`.

use tokio_rustls::rustls::pki_types::ServerName;

use crate::base::redact::without_user;

/// `--address`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) host: String,
    pub(super) port: u16,
    /// What the scheme says of TLS, if there is one.
    pub(super) tls: Option<bool>,
}

impl Address {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let refused = |reason: &str| {
            Err(format!(
                "`--address` must be `host:port`, as in `localhost:7233`, and {reason}: `{}`",
                without_user(text)
            ))
        };
        let (tls, rest) = match text.split_once("://") {
            Some(("https", rest)) => (Some(true), rest),
            Some(("http", rest)) => (Some(false), rest),
            Some(_) => return refused("the only schemes are `https` and `http`"),
            None => (None, text),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        // The last colon may be one of the address.
        let Some((host, port)) = rest.rsplit_once(':').filter(|_| !rest.ends_with(']')) else {
            return refused("the port is missing");
        };
        let host = match (host.strip_prefix('['), host.contains(':')) {
            (Some(bracketed), _) => match bracketed.strip_suffix(']') {
                Some(inside) if inside.parse::<std::net::Ipv6Addr>().is_ok() => inside,
                _ => return refused("there is no IPv6 address in the brackets"),
            },
            (None, true) => {
                return refused("an IPv6 address is put in brackets, as in `[::1]:7233`");
            }
            (None, false) => host,
        };
        if ServerName::try_from(host).is_err() {
            return refused("the host is neither a name nor an IP address");
        }
        match port.parse() {
            // Rust takes a sign for part of a number.
            _ if port.starts_with('+') => refused("the port is no number from 1 to 65535"),
            Ok(0) | Err(_) => refused("the port is no number from 1 to 65535"),
            Ok(port) => Ok(Self {
                host: host.to_owned(),
                port,
                tls,
            }),
        }
    }

    /// By its name alone; what the name resolves to is checked again when it is dialled.
    pub(super) fn looks_like_loopback(&self) -> bool {
        match self.host.parse::<std::net::IpAddr>() {
            Ok(address) => address.is_loopback(),
            Err(_) => {
                let name = self.host.to_ascii_lowercase();
                name == "localhost" || name.ends_with(".localhost")
            }
        }
    }
}
