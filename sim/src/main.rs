//! `entrouter-sim`: the simulator and the live demo of Entrouter Line.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use argh::FromArgs;

/// Simulated links and the live demo of Entrouter Line.
#[derive(FromArgs, Debug)]
struct Args {
    #[argh(subcommand)]
    command: Command,
}

#[derive(FromArgs, Debug)]
#[argh(subcommand)]
enum Command {
    #[cfg(feature = "live")]
    Demo(entrouter_sim::live::DemoArgs),
}

/// Flags that cannot be followed.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let args: Vec<String> =
        std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned()).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let args = match Args::from_args(&["entrouter-sim"], &args) {
        Ok(args) => args,
        // Help was asked for.
        Err(exit) if exit.status.is_ok() => {
            println!("{}", exit.output.trim_end());
            return ExitCode::SUCCESS;
        }
        Err(exit) => {
            let words: Vec<&str> = exit.output.split_whitespace().collect();
            eprintln!("entrouter-sim: {} (see --help)", words.join(" "));
            return ExitCode::from(USAGE);
        }
    };
    match args.command {
        #[cfg(feature = "live")]
        Command::Demo(args) => demo(&args),
    }
}

#[cfg(feature = "live")]
fn demo(args: &entrouter_sim::live::DemoArgs) -> ExitCode {
    use std::io::Write;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    use entrouter_sim::live::{DemoOptions, Progress, run};
    use signal_hook::consts::{SIGINT, SIGTERM};
    use signal_hook::flag;

    let options = match DemoOptions::try_from(args) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("entrouter-sim demo: {error}");
            return ExitCode::from(USAGE);
        }
    };
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // The first one ends the demo early, the second one the process: in this order, because the
        // handlers run in theirs.
        let registered =
            flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&stop))
                .and_then(|_| flag::register(signal, Arc::clone(&stop)));
        if let Err(error) = registered {
            eprintln!("entrouter-sim demo: cannot watch for signals: {error}");
            return ExitCode::FAILURE;
        }
    }
    let report = match run(&options, &stop, &mut Progress::stderr()) {
        Ok(report) => report,
        Err(error) => {
            eprintln!("entrouter-sim demo: {error}");
            return ExitCode::FAILURE;
        }
    };
    let text = if args.json {
        serde_json::to_string_pretty(&report).unwrap_or_else(|error| format!("\"{error}\""))
    } else {
        report.to_string()
    };
    // A reader that went away (`| head`) does not change what the demo found out.
    let _ = writeln!(std::io::stdout(), "{text}");
    if args.json
        && let Some(verdict) = report.verdict()
    {
        eprintln!("entrouter-sim demo: {verdict}");
    }
    if report.exact { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
