//! What can be chosen about provisioning.

use std::path::PathBuf;

use clap::Args;

/// Where the server binary comes from.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Server binary to use instead of having one fetched
    #[arg(long = "server-bin", env = "TEMPORAL_SERVER_BIN", value_name = "FILE")]
    pub binary: Option<PathBuf>,

    /// Folder that keeps server binaries [default: `temporal-sandbox` in the user's cache folder]
    #[arg(long, env = "TEMPORAL_SANDBOX_CACHE", value_name = "FOLDER")]
    pub cache_dir: Option<PathBuf>,

    /// URL below which the releases are
    #[arg(
        long,
        env = "TEMPORAL_SANDBOX_RELEASES",
        value_name = "URL",
        default_value = RELEASES
    )]
    pub release_base_url: String,

    /// Go command that builds the server where the release cannot be reached
    #[arg(long, env = "TEMPORAL_SANDBOX_GO", value_name = "FILE", default_value = GO)]
    pub go: PathBuf,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            binary: None,
            cache_dir: None,
            release_base_url: RELEASES.into(),
            go: GO.into(),
        }
    }
}

const RELEASES: &str = "https://github.com/temporalio/temporal/releases/download";
const GO: &str = "go";
