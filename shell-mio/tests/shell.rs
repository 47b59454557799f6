//! What every shell must pass, with this one.

use entrouter_mio as shell;

const NAME: &str = "entrouter-mio";
const BINARY: &str = env!("CARGO_BIN_EXE_entrouter-mio");

#[path = "../host/tests/every_shell/command_line.rs"]
mod command_line;
#[path = "../host/tests/every_shell/two_pops.rs"]
mod two_pops;
