//! What every shell must pass, with this one.

use entrouter_smol as shell;

const NAME: &str = "entrouter-smol";
const BINARY: &str = env!("CARGO_BIN_EXE_entrouter-smol");

#[path = "../../shell-mio/host/tests/every_shell/command_line.rs"]
mod command_line;
#[path = "../../shell-mio/host/tests/every_shell/two_pops.rs"]
mod two_pops;
