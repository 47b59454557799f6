//! The PoP binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    entrouter_host::pop::main::<entrouter_smol::SmolLoop>(
        "entrouter-smol",
        env!("CARGO_PKG_VERSION"),
    )
}
