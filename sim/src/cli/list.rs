//! `entrouter-sim list`.

use std::process::ExitCode;

use argh::FromArgs;

use super::say;
use crate::scenario;

/// List the built-in scenarios and their cases.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "list")]
pub(super) struct Args {}

pub(super) fn list(_: &Args) -> ExitCode {
    let listings = scenario::names();
    let width = listings.iter().map(|listing| listing.name.len()).max().unwrap_or(0);
    for listing in listings {
        say(&format!("{:<width$}  {}", listing.name, listing.title));
    }
    ExitCode::SUCCESS
}
