//! `entrouter-sim ab`.

use std::process::ExitCode;

use super::{failed, misused, say, stop_on_signal, verdict};
use crate::live::Progress;
use crate::live::ab::{AbArgs, AbOptions, run};

pub(super) fn ab(args: &AbArgs) -> ExitCode {
    let options = match AbOptions::try_from(args) {
        Ok(options) => options,
        Err(error) => return misused(&format!("ab: {error}")),
    };
    let stop = match stop_on_signal() {
        Ok(stop) => stop,
        Err(error) => return failed(&format!("ab: cannot watch for signals: {error}")),
    };
    let report = match run(&options, &stop, &Progress::stderr()) {
        Ok(report) => report,
        Err(error) => return failed(&format!("ab: {error}")),
    };
    if args.json {
        match serde_json::to_string_pretty(&report) {
            Ok(text) => say(&text),
            Err(error) => return failed(&error),
        }
        for failure in &report.failures {
            eprintln!("entrouter-sim: ab: {failure}");
        }
    } else {
        say(&report.to_string());
    }
    verdict(report.exact)
}
