//! `entrouter-sim link`.

use std::process::ExitCode;

use super::{failed, misused, say, stop_on_signal};
use crate::live::link::{LinkArgs, LinkOptions, run};

pub(super) fn link(args: &LinkArgs) -> ExitCode {
    let options = match LinkOptions::try_from(args) {
        Ok(options) => options,
        Err(error) => return misused(&format!("link: {error}")),
    };
    let stop = match stop_on_signal() {
        Ok(stop) => stop,
        Err(error) => return failed(&format!("link: cannot watch for signals: {error}")),
    };
    let aside = |text: &str| if args.json { eprintln!("{text}") } else { say(text) };
    let report = match run(&options, &stop, &aside) {
        Ok(report) => report,
        Err(error) => return failed(&format!("link: {error}")),
    };
    if args.json {
        match serde_json::to_string_pretty(&report) {
            Ok(text) => say(&text),
            Err(error) => return failed(&error),
        }
    } else {
        say(&format!("\n{report}"));
    }
    ExitCode::SUCCESS
}
