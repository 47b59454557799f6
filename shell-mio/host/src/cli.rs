//! The command line of both shells.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use argh::FromArgs;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use entrouter_proto::Config;

use crate::connect::ConnectArgs;
use crate::pop::Connect;
use crate::{certs, entropy, glue, logging};

/// Exit code for a command line or a configuration that cannot be used.
const USAGE: u8 = 2;

/// Relays TCP connections between points of presence over lossy networks.
#[derive(FromArgs, Debug)]
struct Args {
    /// path of the configuration; without a command, the same as `run --config FILE`
    #[argh(option, arg_name = "FILE")]
    config: Option<PathBuf>,

    /// error, warn, info, debug, trace or a filter of the `tracing` kind; default RUST_LOG or info
    #[argh(option, arg_name = "LEVEL")]
    log: Option<String>,

    /// print the version
    #[argh(switch)]
    version: bool,

    #[argh(subcommand)]
    command: Option<Command>,
}

#[derive(FromArgs, Debug)]
#[argh(subcommand)]
enum Command {
    Run(Run),
    Check(Check),
    Genkey(Genkey),
    Connect(ConnectArgs),
}

/// run the PoP until SIGTERM or Ctrl-C (again to stop at once); SIGHUP reloads the configuration
/// and the certificate
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "run")]
struct Run {
    /// path of the configuration
    #[argh(option, arg_name = "FILE")]
    config: PathBuf,

    /// as above
    #[argh(option, arg_name = "LEVEL")]
    log: Option<String>,
}

/// validate a configuration and show what it means
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "check")]
struct Check {
    /// path of the configuration
    #[argh(option, arg_name = "FILE")]
    config: PathBuf,
}

/// print a new shared_key
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "genkey")]
struct Genkey {}

/// What a shell is asked to run.
#[derive(Debug)]
pub enum Request {
    /// A PoP.
    Run {
        /// The validated configuration.
        config: Box<Config>,
        /// Its file, for SIGHUP.
        path: PathBuf,
    },
    /// A connector.
    Connect(Connect),
}

/// The whole of a shell's `main`: carries out the command line of the process; `run` runs the
/// event loop until the end.
///
/// Exit codes: 0 success, 1 the PoP could not start or go on, 2 the command line or the
/// configuration cannot be used.
pub fn main<E: Display>(
    name: &str,
    version: &str,
    run: impl FnOnce(Request) -> Result<(), E>,
) -> ExitCode {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    let Ok(args) = args.into_iter().map(|a| a.into_string()).collect::<Result<Vec<_>, _>>() else {
        eprintln!("{name}: arguments must be UTF-8");
        return ExitCode::from(USAGE);
    };
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let args = match Args::from_args(&[name], &args) {
        Ok(args) => args,
        Err(early) if early.status.is_ok() => {
            println!("{}", early.output.trim_end());
            return ExitCode::SUCCESS;
        }
        Err(early) => {
            eprintln!("{}", early.output.trim_end());
            eprintln!("Run {name} --help for more information.");
            return ExitCode::from(USAGE);
        }
    };
    if args.version {
        println!("{name} {version}");
        return ExitCode::SUCCESS;
    }
    match (args.command, args.config) {
        (Some(Command::Run(cmd)), None) => {
            run_command(name, cmd.config, cmd.log.or(args.log).as_deref(), run)
        }
        (None, Some(config)) => run_command(name, config, args.log.as_deref(), run),
        (Some(Command::Check(cmd)), None) => check(name, &cmd.config),
        (Some(Command::Genkey(Genkey {})), None) => genkey(name),
        (Some(Command::Connect(cmd)), None) => connect_command(name, cmd, args.log, run),
        (Some(_), Some(_)) => {
            eprintln!("{name}: put --config after the command");
            ExitCode::from(USAGE)
        }
        (None, None) => {
            // The help text that argh makes, as an error.
            let help = Args::from_args(&[name], &["--help"]);
            eprintln!("{name}: a command or --config FILE is needed\n");
            if let Err(early) = help {
                eprintln!("{}", early.output.trim_end());
            }
            ExitCode::from(USAGE)
        }
    }
}

fn run_command<E: Display>(
    name: &str,
    path: PathBuf,
    log: Option<&str>,
    run: impl FnOnce(Request) -> Result<(), E>,
) -> ExitCode {
    if let Err(e) = logging::init(log) {
        return fail(name, e, USAGE);
    }
    let config = match glue::load_config(&path) {
        Ok(config) => config,
        Err(e) => return fail(name, e, USAGE),
    };
    for notice in config.notices() {
        tracing::warn!("{notice}");
    }
    match run(Request::Run { config: Box::new(config), path }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => fail(name, e, 1),
    }
}

fn connect_command<E: Display>(
    name: &str,
    mut cmd: ConnectArgs,
    log: Option<String>,
    run: impl FnOnce(Request) -> Result<(), E>,
) -> ExitCode {
    if let Err(e) = logging::init(cmd.log.take().or(log).as_deref()) {
        return fail(name, e, USAGE);
    }
    let connect = match cmd.resolve() {
        Ok(connect) => connect,
        Err(e) => return fail(name, e, USAGE),
    };
    match run(Request::Connect(connect)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => fail(name, e, 1),
    }
}

fn check(name: &str, path: &Path) -> ExitCode {
    let config = match glue::load_config(path) {
        Ok(config) => config,
        Err(e) => return fail(name, e, USAGE),
    };
    // One that would be made at start is not made here.
    let identity = match config.listen.tls.as_ref().map(certs::load).transpose() {
        Ok(identity) => identity,
        Err(e) => return fail(name, e, USAGE),
    };
    println!("{}", config.summary().trim_end());
    for notice in config.notices() {
        println!("note: {notice}");
    }
    if let Some(identity) = identity {
        println!("note: certificate {}", certs::print(&identity));
        if let Some(remark) = certs::remark(&identity, entropy::unix_now()) {
            println!("note: {remark}");
        }
    }
    ExitCode::SUCCESS
}

fn genkey(name: &str) -> ExitCode {
    match entropy::seed() {
        Ok(key) => {
            println!("{}", STANDARD.encode(key));
            ExitCode::SUCCESS
        }
        Err(e) => fail(name, e, 1),
    }
}

/// Every line says which program speaks, for a log that several share.
fn fail(name: &str, error: impl Display, code: u8) -> ExitCode {
    for line in error.to_string().lines() {
        eprintln!("{name}: {line}");
    }
    ExitCode::from(code)
}
