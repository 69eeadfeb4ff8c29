//! The files in a server's state folder.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::json;

use super::config::ServerConfig;
use super::settings::ServerSettings;

/// What a server process is started with.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) config: PathBuf,
    pub(super) log: PathBuf,
}

impl Files {
    /// Makes the folder and writes the configuration.
    pub(super) fn write(settings: &ServerSettings) -> Result<Self, FilesError> {
        let folder = &settings.state_dir;
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(|source| FilesError::Folder {
                path: folder.clone(),
                source,
            })?;

        // Must exist once it is configured. An entry is a list of values with constraints.
        let dynamic_config = folder.join("dynamicconfig.yaml");
        let entries: BTreeMap<_, _> = settings
            .dynamic_config
            .iter()
            .map(|(key, value)| (key, json!([{ "value": value }])))
            .collect();
        replace(&dynamic_config, &entries)?;
        let config = folder.join("server.yaml");
        replace(&config, &ServerConfig::new(settings, &dynamic_config))?;
        Ok(Self {
            config,
            log: folder.join("temporal-server.log"),
        })
    }

    /// The log, opened for the server to append to.
    pub(super) fn open_log(&self) -> Result<File, FilesError> {
        OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&self.log)
            .map_err(|source| FilesError::Write {
                path: self.log.clone(),
                source,
            })
    }
}

/// Why the state folder is not as it should be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FilesError {
    /// The folder could not be made.
    #[error("failed to make the server's state folder `{}`; choose one that is writable", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A path in the settings is not UTF-8.
    #[error("failed to encode `{}`; use paths that are valid UTF-8", path.display())]
    Encode {
        /// The file to be written.
        path: PathBuf,
        /// What cannot be encoded.
        source: serde_json::Error,
    },
    /// A file could not be written.
    #[error("failed to write `{}`; is there room, and is the folder ours?", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Removed first, because a mode counts only for a file that is made.
fn replace(path: &Path, content: &impl Serialize) -> Result<(), FilesError> {
    let bytes = serde_json::to_vec_pretty(content).map_err(|source| FilesError::Encode {
        path: path.to_owned(),
        source,
    })?;
    let removed = match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    };
    removed
        .and_then(|()| {
            OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(path)
        })
        .and_then(|mut file| file.write_all(&bytes))
        .map_err(|source| FilesError::Write {
            path: path.to_owned(),
            source,
        })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use serde_json::Value;

    use super::*;
    use crate::server::ServerPorts;

    #[test]
    fn the_files_are_ours_alone_and_can_be_written_again() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("made/on the way");
        let mut settings = ServerSettings::plain(ServerPorts::starting_at(100), folder.clone());
        Files::write(&settings).unwrap();
        settings
            .dynamic_config
            .insert("frontend.keepAliveMaxConnectionAge".into(), json!("10s"));
        let files = Files::write(&settings).unwrap();

        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let dynamic_config = folder.join("dynamicconfig.yaml");
        assert_eq!(mode(&folder), 0o700);
        assert_eq!(mode(&files.config), 0o600);
        assert_eq!(mode(&dynamic_config), 0o600);
        let entries: Value = serde_json::from_slice(&fs::read(dynamic_config).unwrap()).unwrap();
        assert_eq!(
            entries,
            json!({ "frontend.keepAliveMaxConnectionAge": [{ "value": "10s" }] })
        );
    }
}
