//! The PoP binary.

use std::process::ExitCode;

use entrouter_mio::{Options, Shell};

fn main() -> ExitCode {
    entrouter_host::cli::main("entrouter-mio", env!("CARGO_PKG_VERSION"), |request| {
        let options = Options { config_file: Some(request.path), signals: true };
        Shell::bind(request.config, options)?.run()?;
        Ok::<(), Box<dyn std::error::Error>>(())
    })
}
