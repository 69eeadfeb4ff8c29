//! The interceptor that adds the token to every call.

use std::{
    sync::{Arc, OnceLock},
    time::SystemTime,
};

use tonic::{Request, Status, service::Interceptor};

use crate::{
    base::chain,
    credentials::{Credential, TokenSource},
    transport::LocalCause,
};

/// Adds `authorization: Bearer <token>` to each call, if there is a token source.
///
/// Each call gets the token that is current when it is sent. If the call has a `TokenExpiry` among
/// its extensions, the interceptor records there when that token expires.
#[derive(Clone, Debug)]
pub struct AuthInterceptor {
    source: Option<TokenSource>,
}

impl AuthInterceptor {
    /// Makes an interceptor with this token source.
    pub fn new(source: Option<TokenSource>) -> Self {
        Self { source }
    }

    /// The token source.
    pub fn source(&self) -> Option<&TokenSource> {
        self.source.as_ref()
    }
}

impl Interceptor for AuthInterceptor {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let Some(source) = &self.source else {
            return Ok(request);
        };
        // `Unavailable`, because the SDK retries it: the token source may recover.
        let token = source.token(SystemTime::now()).map_err(|error| {
            let reason = format!(
                "the call was not sent, because there is no valid token: {}",
                chain(&error)
            );
            LocalCause::NotSent.mark(Status::unavailable(reason))
        })?;
        if let Some(expiry) = request.extensions().get::<TokenExpiry>()
            && let Some(at) = token.expires_at()
        {
            // Each call has its own expiry, which is set once.
            let _ = expiry.0.set(at);
        }
        let header = token.header().clone();
        request.metadata_mut().insert("authorization", header);
        Ok(request)
    }
}

/// The expiry of the token of one call. Clones belong to the same call.
#[derive(Clone, Debug, Default)]
pub(crate) struct TokenExpiry(Arc<OnceLock<SystemTime>>);

impl TokenExpiry {
    /// The expiry, if it has passed.
    pub(crate) fn passed(&self, now: SystemTime) -> Option<SystemTime> {
        self.0.get().copied().filter(|at| *at <= now)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::credentials::Token;

    /// A JWT whose only claim is `exp`.
    fn expiring(at: SystemTime) -> String {
        use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
        let seconds = crate::token::claims::seconds(at);
        let claims = BASE64_URL_SAFE_NO_PAD.encode(format!(r#"{{"exp":{seconds}}}"#));
        format!("e30.{claims}.e30")
    }

    #[test]
    fn the_header_is_set_and_sensitive() {
        let token = Token::parse_api_key("opaque", SystemTime::now()).unwrap();
        let mut interceptor = AuthInterceptor::new(Some(TokenSource::Fixed(token)));
        let request = interceptor.call(Request::new(())).unwrap();
        let header = request.metadata().get("authorization").unwrap();
        assert_eq!(header, "Bearer opaque");
        assert!(header.is_sensitive());
    }

    #[test]
    fn a_call_learns_when_its_token_expires() {
        let now = SystemTime::now();
        let token = Token::parse(&expiring(now + Duration::from_secs(60)), now).unwrap();
        let mut request = Request::new(());
        let expiry = TokenExpiry::default();
        request.extensions_mut().insert(expiry.clone());
        AuthInterceptor::new(Some(TokenSource::Fixed(token)))
            .call(request)
            .unwrap();
        let passed = |seconds| expiry.passed(now + Duration::from_secs(seconds));
        assert_eq!(passed(58), None);
        assert!(passed(61).is_some());
    }

    #[test]
    fn without_a_source_nothing_is_sent() {
        let request = AuthInterceptor::new(None).call(Request::new(())).unwrap();
        assert!(request.metadata().is_empty());
    }

    #[test]
    fn an_expired_token_stops_the_call_with_the_reason() {
        let long_ago = SystemTime::now() - Duration::from_secs(3600);
        let raw = expiring(SystemTime::now() - Duration::from_secs(60));
        let token = Token::parse(&raw, long_ago).unwrap();
        let mut interceptor = AuthInterceptor::new(Some(TokenSource::Fixed(token)));
        let status = interceptor.call(Request::new(())).unwrap_err();
        assert_eq!(status.code(), tonic::Code::Unavailable);
        assert_eq!(LocalCause::of(&status), Some(LocalCause::NotSent));
        assert!(status.message().contains("expired at"), "{status}");
        assert!(!format!("{status:?}").contains(&raw));
    }
}
