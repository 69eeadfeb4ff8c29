//! All errors in the settings, and how their messages name a setting.

use std::{fmt, path::Path};

use crate::{
    credentials::reload::LoadError,
    diagnosis::{Class, Diagnose, Diagnosis, Step},
};

/// All errors in the arguments and in the files that they name.
#[derive(Debug)]
pub struct SettingsErrors {
    names: Names,
    all: Vec<Diagnosis>,
}

impl SettingsErrors {
    /// An empty list, whose messages name settings by flags or by fields.
    pub fn naming(names: Names) -> Self {
        Self {
            names,
            all: Vec::new(),
        }
    }

    fn push(&mut self, diagnosis: Diagnosis) {
        self.all.push(self.names.diagnosis(diagnosis));
    }

    /// Adds an error in the arguments.
    pub fn add(&mut self, problem: impl Into<String>) {
        self.push(Diagnosis {
            step: Step::Configuration,
            class: Class::Usage,
            cause: problem.into(),
            hint: None,
        });
    }

    /// Returns the value, or adds the error.
    pub fn note<T>(&mut self, result: Result<T, String>) -> Option<T> {
        result.map_err(|problem| self.add(problem)).ok()
    }

    /// Returns the value, or adds the diagnosis of the error.
    pub fn note_error<T>(&mut self, result: Result<T, impl Diagnose>) -> Option<T> {
        let noted = result.map_err(|error| self.push(error.diagnosis()));
        noted.ok()
    }

    /// Returns the value, or adds the diagnosis of the error. The message about an unreadable file
    /// begins with the setting that names the file.
    pub fn note_loaded<T>(
        &mut self,
        files: &[(&str, &Path)],
        result: Result<T, LoadError>,
    ) -> Option<T> {
        let failure = match result {
            Ok(loaded) => return Some(loaded),
            Err(failure) => failure,
        };
        let mut diagnosis = failure.diagnosis();
        if let LoadError::Read { path, .. } = &failure
            && let Some((setting, _)) = files.iter().find(|(_, file)| file == path)
        {
            diagnosis.cause = format!("{setting}: {}", diagnosis.cause);
        }
        self.push(diagnosis);
        None
    }

    /// The errors, in the order in which they were found.
    pub fn all(&self) -> &[Diagnosis] {
        &self.all
    }

    /// `Ok` if the list is empty.
    ///
    /// # Errors
    /// The list itself, if it is not empty.
    pub fn into_result(self) -> Result<(), Self> {
        if self.all.is_empty() {
            Ok(())
        } else {
            Err(self)
        }
    }
}

impl fmt::Display for SettingsErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.all[..] {
            [one] => f.write_str(&one.cause),
            all => {
                write!(f, "the settings have {} errors", all.len())?;
                for problem in all {
                    write!(f, "\n  - {}", problem.cause)?;
                    if let Some(hint) = &problem.hint {
                        write!(f, "\n    hint: {hint}")?;
                    }
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for SettingsErrors {}

impl Diagnose for SettingsErrors {
    /// One diagnosis for all errors. Its class is [`Class::Usage`] if one of the errors has that
    /// class, and otherwise the class of the first error.
    fn diagnosis(&self) -> Diagnosis {
        let first = self
            .all
            .iter()
            .find(|problem| problem.class == Class::Usage)
            .or(self.all.first());
        Diagnosis {
            step: first.map_or(Step::Configuration, |first| first.step),
            class: first.map_or(Class::Usage, |first| first.class),
            cause: self.to_string(),
            hint: match &self.all[..] {
                [one] => one.hint.clone(),
                // The text has each hint below its error.
                _ => None,
            },
        }
    }
}

/// How error messages name a setting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Names {
    /// By flag and variable: clap has parsed the settings.
    Flags,
    /// By field of [`ConnectArgs`](super::ConnectArgs): a program has filled the struct.
    #[default]
    Fields,
}

/// Flag, variable and field of each setting.
const SETTINGS: [(&str, &str, &str); 20] = [
    ("address", "TEMPORAL_ADDRESS", "address"),
    ("namespace", "TEMPORAL_NAMESPACE", "namespace"),
    (
        "tls-cert-path",
        "TEMPORAL_TLS_CLIENT_CERT_PATH",
        "tls_cert_path",
    ),
    (
        "tls-key-path",
        "TEMPORAL_TLS_CLIENT_KEY_PATH",
        "tls_key_path",
    ),
    (
        "tls-ca-path",
        "TEMPORAL_TLS_SERVER_CA_CERT_PATH",
        "tls_ca_path",
    ),
    ("tls-crl-path", "KEYUTIL_TLS_CRL_PATH", "tls_crl_path"),
    ("distrust-after", "KEYUTIL_DISTRUST_AFTER", "distrust_after"),
    (
        "tls-server-name",
        "TEMPORAL_TLS_SERVER_NAME",
        "tls_server_name",
    ),
    (
        "connect-timeout",
        "KEYUTIL_CONNECT_TIMEOUT",
        "connect_timeout",
    ),
    ("no-proxy", "KEYUTIL_NO_PROXY", "no_proxy"),
    ("api-key", "TEMPORAL_API_KEY", "token.api_key"),
    ("token-file", "KEYUTIL_TOKEN_FILE", "token.token_file"),
    (
        "signing-key",
        "KEYUTIL_SIGNING_KEY_PATH",
        "token.signing_key",
    ),
    (
        "permissions",
        "KEYUTIL_PERMISSIONS",
        "token.claims.permissions",
    ),
    (
        "permissions-claim",
        "KEYUTIL_PERMISSIONS_CLAIM",
        "token.claims.permissions_claim",
    ),
    ("audience", "KEYUTIL_AUDIENCE", "token.claims.audience"),
    ("subject", "KEYUTIL_SUBJECT", "token.claims.subject"),
    ("kid", "KEYUTIL_KID", "token.claims.kid"),
    (
        "token-lifetime",
        "KEYUTIL_TOKEN_LIFETIME",
        "token.claims.token_lifetime",
    ),
    ("tls", "TEMPORAL_TLS", "tls"),
];

impl Names {
    /// Rewrites a message that names flags, so that it uses these names.
    pub(super) fn apply(self, message: &str) -> String {
        let mut message = message.to_owned();
        if self == Self::Flags {
            return message;
        }
        for (flag, variable, field) in SETTINGS {
            for written in [
                format!("`--{flag}` ({variable})"),
                format!("`--{flag}`"),
                format!("`--{flag}="),
            ] {
                let named = match written.ends_with('=') {
                    true => format!("`{field}="),
                    false => format!("`{field}`"),
                };
                message = message.replace(&written, &named);
            }
        }
        message
    }

    fn diagnosis(self, diagnosis: Diagnosis) -> Diagnosis {
        Diagnosis {
            cause: self.apply(&diagnosis.cause),
            hint: diagnosis.hint.map(|hint| self.apply(&hint)),
            ..diagnosis
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::{Args, Command};

    use super::*;
    use crate::settings::ConnectArgs;

    #[test]
    fn every_flag_that_a_message_may_name_has_a_field() {
        let command = ConnectArgs::augment_args(Command::new("test"));
        for argument in command.get_arguments() {
            let flag = argument.get_long().unwrap();
            let variable = argument.get_env().unwrap().to_str().unwrap();
            let message = format!("`--{flag}` ({variable}) and `--{flag}`");
            let named = Names::Fields.apply(&message);
            // No value of this enumeration can be wrong.
            if flag != "grpc-compression" {
                assert!(!named.contains("--") && !named.contains("_PATH"), "{named}");
            }
            assert_eq!(Names::Flags.apply(&message), message);
        }
        assert_eq!(
            Names::Fields.apply("`--tls=false` contradicts"),
            "`tls=false` contradicts"
        );
    }
}
