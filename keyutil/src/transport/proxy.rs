//! HTTP proxies that tunnel connections to the server (`CONNECT`, RFC 9110 section 9.3.6).

use std::{fmt, io, net::SocketAddr, sync::Arc};

use http::{HeaderValue, Uri};
use hyper_util::client::proxy::matcher::Matcher;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::error::ConnectorError;
use crate::base::text::{printable, shortened};

/// An HTTP proxy.
#[derive(Clone, Debug)]
pub struct Proxy {
    host: String,
    port: u16,
    /// `Proxy-Authorization`. Marked as sensitive, so that `Debug` leaves it out.
    authorization: Option<HeaderValue>,
}

impl Proxy {
    /// The proxy for `target` (`host:port`), by the values of `HTTPS_PROXY` and `NO_PROXY`.
    ///
    /// # Errors
    /// The reason why the URL of the proxy is unusable. It does not repeat the URL, which may
    /// contain a password.
    pub fn of(target: &str, proxy: &str, no_proxy: &str) -> Result<Option<Self>, String> {
        let refused = || Err("it must be a URL such as `http://proxy.example:3128`".to_owned());
        let uri: Uri = match format!("https://{target}").parse() {
            Ok(uri) => uri,
            Err(_) => return Ok(None),
        };
        let Some(found) = Matcher::builder().https(proxy).build().intercept(&uri) else {
            return refused();
        };
        if found.uri().scheme_str() != Some("http") {
            return Err(
                "its scheme must be `http`: TLS to the proxy and SOCKS are not supported"
                    .to_owned(),
            );
        }
        let port = uri.port_u16();
        let entries: Vec<_> = no_proxy
            .split([',', ' '])
            .filter_map(|entry| applies(entry, port))
            .collect();
        // The matcher applies `*` to names only.
        let no = Matcher::builder().https(proxy).no(entries.join(","));
        if entries.contains(&"*") || no.build().intercept(&uri).is_none() {
            return Ok(None);
        }
        let Some(host) = found.uri().host().filter(|host| !host.is_empty()) else {
            return refused();
        };
        Ok(Some(Self {
            host: host.trim_matches(['[', ']']).to_owned(),
            port: found.uri().port_u16().unwrap_or(80),
            authorization: found.basic_auth().cloned(),
        }))
    }

    pub(super) fn host(&self) -> &str {
        &self.host
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Requests a tunnel to the target, `host:port`. The proxy resolves the host.
    pub(super) async fn tunnel(
        &self,
        tcp: &mut TcpStream,
        address: SocketAddr,
        target: &str,
    ) -> Result<(), ConnectorError> {
        let failed = |source| ConnectorError::Connect {
            address,
            source: Arc::new(source),
        };
        let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n").into_bytes();
        if let Some(authorization) = &self.authorization {
            request.extend_from_slice(b"Proxy-Authorization: ");
            request.extend_from_slice(authorization.as_bytes());
            request.extend_from_slice(b"\r\n");
        }
        request.extend_from_slice(b"\r\n");
        tcp.write_all(&request).await.map_err(failed)?;
        // Byte by byte, because the bytes after the head come from the server.
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if head.len() == LONGEST_HEAD {
                return Err(failed(io::Error::other(
                    "the answer of the proxy has more than 16 KiB of headers",
                )));
            }
            head.push(tcp.read_u8().await.map_err(failed)?);
        }
        let head = String::from_utf8_lossy(&head);
        let status = head.lines().next().unwrap_or_default();
        let code = status
            .strip_prefix("HTTP/1.")
            .and_then(|rest| rest.split(' ').nth(1)?.parse().ok());
        match code {
            Some(200..=299) => Ok(()),
            code => Err(ConnectorError::ProxyAnswer {
                status: shortened(&printable(status), 100),
                code: code.unwrap_or_default(),
            }),
        }
    }
}

/// `host:port`, without user and password.
impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// The longest head of an answer, in bytes.
const LONGEST_HEAD: usize = 16 << 10;

/// Converts an entry of `NO_PROXY` for the matcher, which follows curl and supports neither ports
/// nor `*.`. Returns `None` if the entry has a port other than this one.
fn applies(entry: &str, port: Option<u16>) -> Option<&str> {
    let entry = entry
        .strip_prefix('*')
        .filter(|rest| rest.starts_with('.'))
        .unwrap_or(entry);
    let Some((host, of_entry)) = entry.rsplit_once(':') else {
        return Some(entry);
    };
    // If this holds, the entry is an IPv6 address without a port.
    if host.contains(':') && !host.ends_with(']') {
        return Some(entry);
    }
    let matches = of_entry.parse().ok() == port;
    matches.then(|| host.trim_matches(['[', ']']))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROXY: &str = "http://user:pass%40word@proxy.example:3128";

    #[test]
    fn no_proxy_names_hosts_suffixes_networks_and_ports() {
        for (no_proxy, target, proxied) in [
            ("", "temporal.example:7233", true),
            ("temporal.example", "temporal.example:7233", false),
            ("example", "temporal.example:7233", false),
            (".example", "temporal.example:7233", false),
            ("*.example", "temporal.example:7233", false),
            (
                "other.example, TEMPORAL.example",
                "temporal.example:7233",
                false,
            ),
            ("poral.example", "temporal.example:7233", true),
            ("*", "temporal.example:7233", false),
            ("*", "10.0.0.1:7233", false),
            ("10.0.0.0/8", "10.0.0.1:7233", false),
            ("10.0.0.1", "10.0.0.1:7233", false),
            ("10.0.0.2,11.0.0.0/8", "10.0.0.1:7233", true),
            ("temporal.example:7233", "temporal.example:7233", false),
            ("temporal.example:443", "temporal.example:7233", true),
            ("fd00::/8", "[fd00::1]:7233", false),
            ("fd00::1", "[fd00::1]:7233", false),
            ("[fd00::1]:7233", "[fd00::1]:7233", false),
            ("[fd00::1]:443", "[fd00::1]:7233", true),
        ] {
            let proxy = Proxy::of(target, PROXY, no_proxy).unwrap();
            assert_eq!(proxy.is_some(), proxied, "{no_proxy} {target}");
        }
    }

    #[test]
    fn a_proxy_is_named_without_its_password() {
        let proxy = Proxy::of("a:1", PROXY, "").unwrap().unwrap();
        assert_eq!(proxy.to_string(), "proxy.example:3128");
        assert!(!format!("{proxy:?}").contains("dXNlcj"), "{proxy:?}");
        let authorization = proxy.authorization.unwrap();
        // `user:pass@word`
        assert_eq!(authorization, "Basic dXNlcjpwYXNzQHdvcmQ=");
        let bare = Proxy::of("a:1", "proxy", "").unwrap().unwrap();
        assert_eq!(
            (bare.to_string(), bare.authorization),
            ("proxy:80".to_owned(), None)
        );
        let v6 = Proxy::of("a:1", "http://[::2]:3128", "").unwrap().unwrap();
        assert_eq!(v6.to_string(), "[::2]:3128");
    }

    #[test]
    fn an_unusable_url_is_refused_and_not_repeated() {
        for (url, words) in [
            ("https://user:secret@proxy:3128", "its scheme"),
            ("socks5://user:secret@proxy:3128", "its scheme"),
            ("ftp://user:secret@proxy:3128", "a URL such as"),
            ("http://user:secret @proxy", "a URL such as"),
        ] {
            let refused = Proxy::of("a:1", url, "").unwrap_err();
            assert!(refused.contains(words), "{refused}");
            assert!(!refused.contains("secret"), "{refused}");
        }
    }
}
