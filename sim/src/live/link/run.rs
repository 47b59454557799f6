//! A live link for whoever wants to put something on it.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::check::check;
use super::options::LinkOptions;
use super::report::LiveLinkReport;
use super::{ADDRS, LiveLink, LiveLinkError};

const LOOK_EVERY: Duration = Duration::from_millis(20);
const CHECK_FOR: Duration = Duration::from_secs(5);

/// Makes the link, says with `say` where it is, and keeps it up until its time is over or `stop` is
/// set.
///
/// # Errors
/// [`LiveLinkError`] if it could not be made.
pub fn run(
    options: &LinkOptions,
    stop: &AtomicBool,
    say: &dyn Fn(&str),
) -> Result<LiveLinkReport, LiveLinkError> {
    let link = LiveLink::start(&options.shape)?;
    let started = Instant::now();
    say(&introduction(&link, options));
    let checked = if options.check {
        let duration = options.duration.unwrap_or(CHECK_FOR);
        Some(check(&link, &options.shape, duration, stop)?)
    } else {
        while !stop.load(Relaxed)
            && !link.has_failed()
            && options.duration.is_none_or(|duration| started.elapsed() < duration)
        {
            std::thread::sleep(LOOK_EVERY);
        }
        None
    };
    let seconds = started.elapsed().as_secs_f64();
    let report =
        LiveLinkReport::new(options.shape, seconds, &link.stats(), link.figures(), checked);
    link.stop()?;
    Ok(report)
}

fn introduction(link: &LiveLink, options: &LinkOptions) -> String {
    let [a, b] = link.names();
    let settings: Vec<String> =
        link.settings().iter().map(|(key, value)| format!("{key}={}", or_unknown(value))).collect();
    let end = match (options.check, options.duration) {
        (true, _) => "packets cross it to see how late they come".to_owned(),
        (false, Some(duration)) => format!("it ends after {duration:?}, or on Ctrl-C"),
        (false, None) => "Ctrl-C ends it".to_owned(),
    };
    format!(
        "link: {}\nA  {}  in namespace {a}\nB  {}  in namespace {b}\n\
         run something in one: ip netns exec {a} COMMAND\nset there: {}\n{end}",
        options.shape,
        ADDRS[0],
        ADDRS[1],
        settings.join(", ")
    )
}

fn or_unknown(value: &str) -> &str {
    if value.is_empty() { "(not there)" } else { value }
}
