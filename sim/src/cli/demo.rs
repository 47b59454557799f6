//! `entrouter-sim demo`.

use std::process::ExitCode;

use super::{failed, misused, say, stop_on_signal, verdict};
use crate::live::{DemoArgs, DemoOptions, Progress, run};

pub(super) fn demo(args: &DemoArgs) -> ExitCode {
    let options = match DemoOptions::try_from(args) {
        Ok(options) => options,
        Err(error) => return misused(&format!("demo: {error}")),
    };
    // The first signal ends the demo early.
    let stop = match stop_on_signal() {
        Ok(stop) => stop,
        Err(error) => return failed(&format!("demo: cannot watch for signals: {error}")),
    };
    let report = match run(&options, &stop, &mut Progress::stderr()) {
        Ok(report) => report,
        Err(error) => return failed(&format!("demo: {error}")),
    };
    if args.json {
        match serde_json::to_string_pretty(&report) {
            Ok(text) => say(&text),
            Err(error) => return failed(&error),
        }
        if let Some(verdict) = report.verdict() {
            eprintln!("entrouter-sim: demo: {verdict}");
        }
    } else {
        say(&report.to_string());
    }
    verdict(report.exact)
}
