//! Word of ends and resets, and of nothing else: for loops whose own waiting would also be told of
//! bytes that must not be read yet.
//!
//! A connection whose grant is used up is not read, however many bytes wait in it; that its other
//! side has reset it must be noticed nevertheless. A loop that can only wait for "readable" would
//! be woken by the bytes, again and again. So all connections stand in an `epoll` set of their own,
//! edge-triggered and without `EPOLLIN`, and the loop waits for that set's descriptor. Where there
//! is no `epoll`, [`Hangups::new`] gives none, and the loop has to look from time to time
//! ([`PEEK_EVERY`], [`PERHAPS`]).

use std::io;
use std::net::TcpStream;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use crate::conn::Readiness;

/// How often a loop without [`Hangups`] tells its connections [`PERHAPS`].
pub const PEEK_EVERY: Duration = Duration::from_millis(250);

/// What makes a connection look for itself.
pub const PERHAPS: Readiness =
    Readiness { readable: true, writable: false, end: true, broken: true };

#[cfg(target_os = "linux")]
pub use of_epoll::Hangups;

#[cfg(target_os = "linux")]
mod of_epoll {
    use std::collections::HashMap;
    use std::fmt;
    use std::mem::MaybeUninit;
    use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

    use rustix::event::{Timespec, epoll};

    use super::*;

    /// Events taken at a time.
    const EVENTS: usize = 64;

    /// The connections that are watched; `K` is what their loop calls them.
    pub struct Hangups<K> {
        epoll: OwnedFd,
        /// By descriptor. One that was closed is no longer watched, and is overwritten when it is
        /// used anew: there are never more than descriptors.
        keys: HashMap<RawFd, K>,
    }

    impl<K> fmt::Debug for Hangups<K> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("Hangups").field("epoll", &self.epoll).finish_non_exhaustive()
        }
    }

    impl<K: Copy> Hangups<K> {
        /// An empty set; `None` if this system knows no such thing.
        ///
        /// # Errors
        /// If file descriptors ran out.
        pub fn new() -> io::Result<Option<Self>> {
            let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
            Ok(Some(Self { epoll, keys: HashMap::new() }))
        }

        /// Readable when [`Self::take`] has something to tell.
        #[must_use]
        pub fn fd(&self) -> BorrowedFd<'_> {
            self.epoll.as_fd()
        }

        /// Watches a connection until it is closed.
        ///
        /// # Errors
        /// As `epoll_ctl(2)`.
        pub fn watch(&mut self, stream: &TcpStream, key: K) -> io::Result<()> {
            let fd = stream.as_raw_fd();
            let data = epoll::EventData::new_u64(u64::from(fd.unsigned_abs()));
            let flags = epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
            epoll::add(&self.epoll, stream, data, flags)?;
            self.keys.insert(fd, key);
            Ok(())
        }

        /// Tells what happened since the last call, at most some of it. `true` if there may be more.
        pub fn take(&mut self, mut tell: impl FnMut(K, Readiness)) -> bool {
            let mut events = [const { MaybeUninit::uninit() }; EVENTS];
            let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
            let Ok((events, _)) = epoll::wait(&self.epoll, &mut events[..], Some(&at_once)) else {
                return false;
            };
            for event in &*events {
                let fd = RawFd::try_from(event.data.u64());
                let Some(key) = fd.ok().and_then(|fd| self.keys.get(&fd)) else { continue };
                let is = |flags| { event.flags }.intersects(flags);
                let what = Readiness {
                    end: is(epoll::EventFlags::RDHUP | epoll::EventFlags::HUP),
                    broken: is(epoll::EventFlags::ERR | epoll::EventFlags::HUP),
                    ..Readiness::default()
                };
                tell(*key, what);
            }
            events.len() >= EVENTS
        }
    }
}

/// What never exists here.
#[cfg(not(target_os = "linux"))]
#[derive(Debug)]
pub struct Hangups<K> {
    never: std::convert::Infallible,
    key: std::marker::PhantomData<K>,
}

#[cfg(not(target_os = "linux"))]
impl<K: Copy> Hangups<K> {
    /// `None`: this system knows no such thing.
    ///
    /// # Errors
    /// Never.
    pub fn new() -> io::Result<Option<Self>> {
        Ok(None)
    }

    /// Readable when [`Self::take`] has something to tell.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        match self.never {}
    }

    /// Watches a connection until it is closed.
    ///
    /// # Errors
    /// Never.
    pub fn watch(&mut self, _stream: &TcpStream, _key: K) -> io::Result<()> {
        match self.never {}
    }

    /// Tells what happened since the last call, at most some of it. `true` if there may be more.
    pub fn take(&mut self, _tell: impl FnMut(K, Readiness)) -> bool {
        match self.never {}
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::io::Write;
    use std::net::{Shutdown, TcpListener};
    use std::time::Instant;

    use socket2::SockRef;

    use super::*;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    fn next(hangups: &mut Hangups<u8>, within: Duration) -> Option<(u8, Readiness)> {
        let end = Instant::now() + within;
        let mut told = None;
        while told.is_none() && Instant::now() < end {
            hangups.take(|key, what| told = Some((key, what)));
        }
        told
    }

    #[test]
    fn bytes_are_not_told_but_ends_and_resets_behind_them_are() {
        let mut hangups = Hangups::new().unwrap().unwrap();
        let ((mut ending, first), (mut breaking, second)) = (pair(), pair());
        hangups.watch(&first, 1).unwrap();
        hangups.watch(&second, 2).unwrap();
        ending.write_all(b"bytes").unwrap();
        breaking.write_all(b"bytes").unwrap();
        assert_eq!(next(&mut hangups, Duration::from_millis(20)), None);
        ending.shutdown(Shutdown::Write).unwrap();
        let (key, what) = next(&mut hangups, Duration::from_secs(30)).unwrap();
        assert_eq!((key, what.end, what.broken), (1, true, false));
        SockRef::from(&breaking).set_linger(Some(Duration::ZERO)).unwrap();
        drop(breaking);
        let (key, what) = next(&mut hangups, Duration::from_secs(30)).unwrap();
        assert_eq!((key, what.broken), (2, true));
        assert_eq!(next(&mut hangups, Duration::from_millis(20)), None, "each is told once");
    }
}
