//! The command line: what can be asked for, and how it is answered.

#[cfg(all(feature = "live", target_os = "linux"))]
mod ab;
mod chaos;
#[cfg(feature = "compare")]
mod compare;
#[cfg(feature = "live")]
mod demo;
mod diff;
mod jobs;
#[cfg(all(feature = "live", target_os = "linux"))]
mod link;
mod list;
mod report;
mod run;
mod sweep;
mod table;

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use argh::FromArgs;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::scenario::{self, Override, Scenario, ScenarioError};
use crate::stage::RunError;

/// Flags, or a scenario, that cannot be followed.
const USAGE: u8 = 2;

/// A relay fabric under a virtual clock: any loss scenario, reproducible from one number.
#[derive(FromArgs, Debug)]
struct Args {
    #[argh(subcommand)]
    command: Command,
}

#[derive(FromArgs, Debug)]
#[argh(subcommand)]
enum Command {
    Run(run::Args),
    List(list::Args),
    Sweep(sweep::Args),
    Chaos(chaos::Args),
    #[cfg(feature = "compare")]
    Compare(compare::Args),
    Report(report::Args),
    Diff(diff::Args),
    #[cfg(feature = "live")]
    Demo(crate::live::DemoArgs),
    #[cfg(all(feature = "live", target_os = "linux"))]
    Link(crate::live::link::LinkArgs),
    #[cfg(all(feature = "live", target_os = "linux"))]
    Ab(crate::live::ab::AbArgs),
}

/// Does what the arguments (without the program's name) ask for. Exit codes: 0 all is well, 1 it is
/// not, 2 the arguments or the scenario cannot be followed.
#[must_use]
pub fn main(args: &[&str]) -> ExitCode {
    let args = match Args::from_args(&["entrouter-sim"], args) {
        Ok(args) => args,
        // Help was asked for.
        Err(exit) if exit.status.is_ok() => {
            say(exit.output.trim_end());
            return ExitCode::SUCCESS;
        }
        Err(exit) => {
            let words: Vec<&str> = exit.output.split_whitespace().collect();
            return misused(&format!("{} (see --help)", words.join(" ")));
        }
    };
    match args.command {
        Command::Run(args) => run::run(&args),
        Command::List(args) => list::list(&args),
        Command::Sweep(args) => sweep::sweep(&args),
        Command::Chaos(args) => chaos::chaos(&args),
        #[cfg(feature = "compare")]
        Command::Compare(args) => compare::compare(&args),
        Command::Report(args) => report::report(&args),
        Command::Diff(args) => diff::diff(&args),
        #[cfg(feature = "live")]
        Command::Demo(args) => demo::demo(&args),
        #[cfg(all(feature = "live", target_os = "linux"))]
        Command::Link(args) => link::link(&args),
        #[cfg(all(feature = "live", target_os = "linux"))]
        Command::Ab(args) => ab::ab(&args),
    }
}

/// To stdout. A reader that went away (`| head`) does not change what was found out.
fn say(text: &str) {
    if let Err(error) = writeln!(std::io::stdout(), "{text}")
        && error.kind() != std::io::ErrorKind::BrokenPipe
    {
        eprintln!("entrouter-sim: cannot write the answer: {error}");
        std::process::exit(1);
    }
}

fn failed(what: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("entrouter-sim: {what}");
    ExitCode::FAILURE
}

fn misused(what: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("entrouter-sim: {what}");
    ExitCode::from(USAGE)
}

/// A scenario that was loaded and cannot be run, or whose trace cannot be written.
fn unrunnable(scenario: &str, error: &RunError) -> ExitCode {
    let what = format!("{scenario}: {error}");
    if matches!(error, RunError::Trace(_)) { failed(&what) } else { misused(&what) }
}

fn verdict(well: bool) -> ExitCode {
    if well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn load(name: &str, set: &[String]) -> Result<Scenario, ScenarioError> {
    let overrides: Result<Vec<_>, _> = set.iter().map(|text| Override::parse(text)).collect();
    scenario::load(name, &overrides?)
}

/// Is set by the first SIGINT or SIGTERM; the second ends the process.
fn stop_on_signal() -> std::io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // In this order, because the handlers run in theirs.
        flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&stop))?;
        flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
}

/// The `--set` flags, as they are to be given again.
fn again(set: &[String]) -> String {
    set.iter().map(|set| format!(" --set '{set}'")).collect()
}
