//! Log lines on stderr.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// The filter that was asked for is not one.
#[derive(Debug, thiserror::Error)]
#[error(
    "log level `{filter}` is not understood ({why}): use error, warn, info, debug or trace, or a \
     filter such as `info,entrouter_proto=debug`"
)]
pub struct BadFilter {
    filter: String,
    why: String,
}

/// Sends log lines of this process to stderr: at `level` if given, else as the environment
/// variable `RUST_LOG` says, else at `info`. Colours only on a terminal.
///
/// A second call in one process changes nothing.
///
/// # Errors
/// [`BadFilter`] if the level, or `RUST_LOG`, is not a filter.
pub fn init(level: Option<&str>) -> Result<(), BadFilter> {
    let filter = match level {
        Some(level) => level.to_owned(),
        None => std::env::var("RUST_LOG").ok().filter(|s| !s.is_empty()).unwrap_or("info".into()),
    };
    let parsed = EnvFilter::try_new(&filter)
        .map_err(|why| BadFilter { filter: filter.clone(), why: why.to_string() })?;
    // A bare word that is no level is taken for a target by the parser: `--log inof` would be
    // silent for ever.
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let bare = filter.bytes().all(|b| b.is_ascii_alphanumeric());
    if bare && !LEVELS.contains(&filter.to_ascii_lowercase().as_str()) {
        return Err(BadFilter { filter, why: "no such level".to_owned() });
    }
    // Fails only if a subscriber is already there, which is then whoever's wish it was.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(parsed)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .try_init();
    Ok(())
}
