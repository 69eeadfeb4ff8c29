//! Wrong credentials, each tried for real, and what the server says to them.

use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use keyutil::{
    ConnectArgs, ConnectError,
    connect::{self, PendingConnection},
    explain::{KeySetCheck, Refusal, Sent, TokenVerdict},
    settings::Settings,
    token::{ClaimsTemplate, Permission, Role, SigningKey, UnverifiedToken, signing_key},
};
use keyutil_cli::{
    files::{self, Mode},
    keys::{keyring::read_signing_key, verify::verify},
    pki::{Authority, AuthorityRequest, LeafRequest, Party, Purpose, Validity},
};
use secrecy::{ExposeSecret, SecretString};
use temporalio_common::protos::temporal::api::workflowservice::v1::{
    DescribeNamespaceRequest, workflow_service_client::WorkflowServiceClient,
};
use tonic::{Request, Status, service::interceptor::InterceptedService};

use crate::stack::{AUDIENCE, Stack};

/// One wrong credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// No client certificate.
    NoCertificate,
    /// A client certificate of a CA that the server does not trust.
    UnknownAuthority,
    /// A client certificate, and no token.
    NoToken,
    /// A token past its `exp`.
    Expired,
    /// A token for another namespace.
    OtherNamespace,
    /// A token with the role `worker` and nothing else.
    WorkerRole,
    /// A token signed by a key that is not in the key set.
    UnpublishedKey,
    /// A token for another audience.
    WrongAudience,
}

impl Wrong {
    /// All of them, in the order of the demo.
    pub const ALL: [Self; 8] = [
        Self::NoCertificate,
        Self::UnknownAuthority,
        Self::NoToken,
        Self::Expired,
        Self::OtherNamespace,
        Self::WorkerRole,
        Self::UnpublishedKey,
        Self::WrongAudience,
    ];

    /// What is tried, in words.
    pub fn description(self) -> &'static str {
        match self {
            Self::NoCertificate => "no client certificate",
            Self::UnknownAuthority => "client certificate of an unknown CA",
            Self::NoToken => "no token",
            Self::Expired => "expired token",
            Self::OtherNamespace => "token for another namespace",
            Self::WorkerRole => "token with the role `worker` alone",
            Self::UnpublishedKey => "token signed by an unpublished key",
            Self::WrongAudience => "token for a wrong audience",
        }
    }
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Refused {
    /// The alert or status, as the server gave it.
    pub answer: String,
    /// Why, in words.
    pub because: String,
}

/// Tries a call that takes permission with one wrong credential and everything else right.
///
/// # Errors
/// When the call succeeds, or fails in another way than by a refusal.
pub async fn attempt(stack: &Stack, wrong: Wrong) -> anyhow::Result<Refused> {
    match wrong {
        Wrong::NoCertificate => {
            let mut args = stack.connect_args(Party::Worker);
            args.tls_cert_path = None;
            args.tls_key_path = None;
            certificate_refusal(&args).await
        }
        Wrong::UnknownAuthority => certificate_refusal(&stranger(stack)?).await,
        Wrong::NoToken => token_refusal(stack, None).await,
        _ => token_refusal(stack, Some(wrong_token(stack, wrong)?)).await,
    }
}

async fn certificate_refusal(args: &ConnectArgs) -> anyhow::Result<Refused> {
    match open(args)?.session().probe().await {
        Err(ConnectError::ClientCertificate {
            presented, source, ..
        }) => Ok(Refused {
            answer: source.to_string(),
            because: if presented == "none" {
                "no certificate was presented, and this server asks for one".to_owned()
            } else {
                format!("the server does not accept the one that was presented: {presented}")
            },
        }),
        Err(other) => Err(other).context("failed otherwise than by a refusal of the certificate"),
        Ok(()) => bail!("the server accepted it"),
    }
}

async fn token_refusal(stack: &Stack, token: Option<SecretString>) -> anyhow::Result<Refused> {
    let opened = open(&stack.connect_args(Party::Worker))?;
    match send(&opened, stack.namespace(), token.as_ref()).await {
        Ok(()) => bail!("the server accepted it"),
        Err(status) if status.code() == tonic::Code::PermissionDenied => {
            let raw = token.as_ref().map(ExposeSecret::expose_secret);
            let read = raw.map(UnverifiedToken::parse).transpose()?;
            let key_set = stack.keyring().jwks()?.document();
            let by_the_key_set = raw
                .and_then(|raw| verify(raw, &key_set, None).err())
                .and_then(|error| error.key_set_diagnosis());
            let refusal = Refusal {
                token: read.as_ref().map_or(Sent::Nothing, Sent::Token),
                namespace: stack.namespace(),
                needed: Role::Read,
                key_set: match &by_the_key_set {
                    Some(refuses) => KeySetCheck::Refuses(refuses),
                    None => KeySetCheck::Verifies,
                },
                key_is_new: false,
                audience: Some(AUDIENCE),
                verdict: TokenVerdict::Unknown,
            };
            Ok(Refused {
                answer: format!("{:?}: {}", status.code(), status.message()),
                because: refusal.explain(SystemTime::now()).to_string(),
            })
        }
        Err(other) => Err(other).context("failed otherwise than by a refusal of the token"),
    }
}

/// Sends exactly this token. The connection's own interceptor would keep an expired one back.
async fn send(
    opened: &PendingConnection,
    namespace: &str,
    token: Option<&SecretString>,
) -> Result<(), Status> {
    let header = match token {
        Some(token) => {
            let header = format!("Bearer {}", token.expose_secret());
            Some(
                header
                    .parse()
                    .map_err(|_| Status::internal("the token makes no header"))?,
            )
        }
        None => None,
    };
    let interceptor = move |mut request: Request<()>| {
        if let Some(header) = header.clone() {
            request.metadata_mut().insert("authorization", header);
        }
        Ok(request)
    };
    let channel = InterceptedService::new(opened.session().channel().clone(), interceptor);
    let request = DescribeNamespaceRequest {
        namespace: namespace.to_owned(),
        ..Default::default()
    };
    let mut service = WorkflowServiceClient::new(channel);
    service.describe_namespace(request).await.map(drop)
}

fn open(args: &ConnectArgs) -> anyhow::Result<PendingConnection> {
    Ok(connect::open(Settings::new(args, "sandbox")?)?)
}

/// The worker's arguments, with a certificate that some other CA made for it.
fn stranger(stack: &Stack) -> anyhow::Result<ConnectArgs> {
    let validity = Validity::from_now(Duration::from_secs(3600))?;
    let authority = Authority::generate(&AuthorityRequest {
        name: "unknown",
        validity,
    })?;
    let leaf = authority.issue(&LeafRequest {
        common_name: "worker",
        names: &[],
        purpose: Purpose::Client,
        validity,
    })?;
    let folder = stack.guard().folder().join("stranger");
    let (certificate, key) = (folder.join("tls.crt"), folder.join("tls.key"));
    files::replace(&certificate, leaf.certificate_pem.as_bytes(), Mode::Public)?;
    files::replace(&key, leaf.key_pem.expose_secret().as_bytes(), Mode::Private)?;
    let mut args = stack.connect_args(Party::Worker);
    args.tls_cert_path = Some(certificate);
    args.tls_key_path = Some(key);
    Ok(args)
}

fn wrong_token(stack: &Stack, wrong: Wrong) -> anyhow::Result<SecretString> {
    let mut template = ClaimsTemplate {
        kid: None,
        subject: "sandbox".to_owned(),
        permissions_claim: Default::default(),
        audience: Some(AUDIENCE.to_owned()),
        permissions: vec![Permission::write(stack.namespace())],
        lifetime: Duration::from_secs(300),
    };
    let mut now = SystemTime::now();
    let mut signing_key = read_signing_key(&stack.keyring().current_path())?;
    match wrong {
        Wrong::Expired => now -= Duration::from_secs(3600),
        Wrong::OtherNamespace => template.permissions = vec![Permission::write("another")],
        Wrong::WorkerRole => {
            template.permissions = vec![Permission {
                namespace: stack.namespace().to_owned(),
                role: Role::Worker,
            }];
        }
        Wrong::UnpublishedKey => {
            let pem = signing_key::generate_pem()?;
            signing_key = SigningKey::from_pem(pem.expose_secret().as_bytes())?;
        }
        Wrong::WrongAudience => template.audience = Some("another".to_owned()),
        Wrong::NoCertificate | Wrong::UnknownAuthority | Wrong::NoToken => {}
    }
    Ok(signing_key.mint(&template.at(now))?)
}

/// The same call with everything right: without it the refusals would prove nothing.
///
/// # Errors
/// When it is refused.
pub async fn control(stack: &Stack) -> anyhow::Result<()> {
    let opened = open(&stack.connect_args(Party::Worker))?;
    opened
        .session()
        .probe()
        .await
        .context("the right credentials were refused")
}
