//! Signals as readable file descriptors, so that an event loop can wait for them.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use signal_hook::SigId;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::low_level::{pipe, unregister};

/// A signal handler could not be installed.
#[derive(Debug, thiserror::Error)]
#[error("cannot watch for signals: {0} (is the limit of open files reached? see `ulimit -n`)")]
pub struct SignalError(#[from] io::Error);

/// Watches SIGTERM and SIGINT (end) and SIGHUP (reload) until dropped.
///
/// Each signal writes a byte into a socket pair, from the signal handler.
#[derive(Debug)]
pub struct Signals {
    end: UnixStream,
    reload: UnixStream,
    ids: Vec<SigId>,
}

impl Signals {
    /// Installs the handlers. A second instance in one process sees every signal, too.
    ///
    /// # Errors
    /// [`SignalError`] if file descriptors ran out.
    pub fn install() -> Result<Self, SignalError> {
        let (end, end_tx) = UnixStream::pair()?;
        let (reload, reload_tx) = UnixStream::pair()?;
        end.set_nonblocking(true)?;
        reload.set_nonblocking(true)?;
        let mut signals = Self { end, reload, ids: Vec::with_capacity(3) };
        for (signal, to) in [(SIGTERM, &end_tx), (SIGINT, &end_tx), (SIGHUP, &reload_tx)] {
            signals.ids.push(pipe::register(signal, to.try_clone()?)?);
        }
        Ok(signals)
    }

    /// Readable once SIGTERM or SIGINT came.
    #[must_use]
    pub fn end_fd(&self) -> BorrowedFd<'_> {
        self.end.as_fd()
    }

    /// Readable once SIGHUP came.
    #[must_use]
    pub fn reload_fd(&self) -> BorrowedFd<'_> {
        self.reload.as_fd()
    }

    /// Whether SIGTERM or SIGINT came since the last call.
    #[must_use]
    pub fn take_end(&mut self) -> bool {
        drain(&mut self.end)
    }

    /// Whether SIGHUP came since the last call.
    #[must_use]
    pub fn take_reload(&mut self) -> bool {
        drain(&mut self.reload)
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for id in self.ids.drain(..) {
            unregister(id);
        }
    }
}

/// Reads until nothing is left, which an edge-triggered event loop needs.
fn drain(stream: &mut UnixStream) -> bool {
    let mut seen = false;
    let mut buf = [0; 64];
    loop {
        match stream.read(&mut buf) {
            Ok(0) => return seen,
            Ok(_) => seen = true,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return seen,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_seen_once() {
        let mut signals = Signals::install().unwrap();
        assert!(!signals.take_reload());
        signal_hook::low_level::raise(SIGHUP).unwrap();
        assert!(signals.take_reload());
        assert!(!signals.take_reload());
        assert!(!signals.take_end());
        signal_hook::low_level::raise(SIGTERM).unwrap();
        assert!(signals.take_end());
        assert!(!signals.take_end());
    }
}
