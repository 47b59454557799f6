//! The PoP binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    entrouter_host::pop::main::<entrouter_mio::MioLoop>("entrouter-mio", env!("CARGO_PKG_VERSION"))
}
