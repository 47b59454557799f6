//! The seam to the pure parts of `entrouter-proto` that serve the host: configuration and the
//! content of admin answers.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use entrouter_proto::Config;
use entrouter_proto::admin::{self, AdminRequest};

use crate::admin::{Handler, HttpAnswer};
use crate::status_cell::StatusCell;

/// How long an admin request waits for the event loop.
const PATIENCE: Duration = Duration::from_secs(1);

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: {source} (give the path of a configuration by --config FILE)", .path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The file says what it must not: one line per error.
    #[error("{0}")]
    Invalid(String),
}

/// Reads and validates the configuration in the file `path`.
///
/// # Errors
/// [`ConfigError`], one line per thing that is wrong.
pub fn load_config(path: &Path) -> Result<Config, ConfigError> {
    let text = std::fs::read(path)
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    parse_config(&path.display().to_string(), &text)
}

/// Whether a reloaded configuration names sockets or secrets that are only taken up at start. The
/// certificate may come from other files, but whether there is one decides what the sockets speak.
#[must_use]
pub fn needs_restart(old: &Config, new: &Config) -> bool {
    let fixed = |c: &Config| {
        let l = &c.listen;
        (
            l.relay_addr,
            l.tcp_addr,
            l.quic_addr,
            l.admin_addr,
            l.admin_token.clone(),
            l.tls.is_some(),
        )
    };
    fixed(old) != fixed(new) || old.edges != new.edges
}

fn parse_config(file_name: &str, text: &[u8]) -> Result<Config, ConfigError> {
    Config::parse(file_name, text).map_err(|errors| ConfigError::Invalid(errors.to_string()))
}

/// Answers admin requests from the snapshots that the event loop publishes in `cell`.
#[must_use]
pub fn admin_handler(config: &Config, cell: Arc<StatusCell>) -> Handler {
    let token = config.listen.admin_token.clone();
    Arc::new(move |request| {
        let request = AdminRequest {
            method: &request.method,
            path: &request.path,
            authorization: request.authorization.as_deref(),
        };
        let answer = admin::answer(request, token.as_ref(), &|| cell.get(PATIENCE));
        HttpAnswer {
            code: answer.code,
            content_type: answer.content_type,
            headers: answer.headers,
            body: answer.body.into_bytes(),
            head_only: answer.head_only,
        }
    })
}
