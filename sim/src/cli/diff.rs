//! `entrouter-sim diff`.

use std::fs::File;
use std::io::BufReader;
use std::process::ExitCode;

use argh::FromArgs;

use super::{misused, say};
use crate::engine;

/// Show where two traces part. Exit code 1 if they do.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "diff")]
pub(super) struct Args {
    /// a file written by `run --trace`
    #[argh(positional)]
    left: String,
    /// another
    #[argh(positional)]
    right: String,
}

pub(super) fn diff(args: &Args) -> ExitCode {
    let open = |path: &str| match File::open(path) {
        Ok(file) => Ok(BufReader::new(file)),
        Err(error) => Err(format!("cannot read {path}: {error}")),
    };
    let found = open(&args.left).and_then(|left| {
        let right = open(&args.right)?;
        engine::diff(left, right).map_err(|error| format!("cannot compare: {error}"))
    });
    let difference = match found {
        Ok(None) => {
            say("the traces are the same");
            return ExitCode::SUCCESS;
        }
        Ok(Some(difference)) => difference,
        Err(error) => return misused(&error),
    };
    say(&format!("the traces part at line {}", difference.line));
    difference.before.iter().for_each(|line| say(&format!("  {line}")));
    let sides = [('-', &args.left, &difference.left), ('+', &args.right, &difference.right)];
    for (sign, path, lines) in sides {
        if lines.is_empty() {
            say(&format!("{sign} ({path} ends here)"));
        }
        lines.iter().for_each(|line| say(&format!("{sign} {line}")));
    }
    ExitCode::FAILURE
}
