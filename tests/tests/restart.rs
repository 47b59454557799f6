//! A PoP dies, and comes back.
//!
//! An endpoint's own PoP takes its connections with it. They are then broken, never cut short in a
//! way that looks like an end, and nothing that was asked is asked a second time.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use entrouter_tests::bytes::{assert_same, pattern};
use entrouter_tests::line::{Line, Plan};
use entrouter_tests::origin::Origin;
use entrouter_tests::pop::Pop;
use entrouter_tests::shells::Way;
use entrouter_tests::{client, on_every, wait};

/// After a restart, new connections work within this time.
const BACK: Duration = Duration::from_secs(5);
/// A client that was refused or reset tries again after this time.
const RETRY: Duration = Duration::from_millis(50);
/// When the PoP dies, counted from the beginning of the transfers.
const MOMENTS_MS: [u64; 5] = [0, 15, 60, 200, 500];

/// Id, bytes of the question after this header, bytes of the answer.
fn header(id: u64, asked: usize, answered: usize) -> Vec<u8> {
    [id, asked as u64, answered as u64].into_iter().flat_map(u64::to_be_bytes).collect()
}

/// What an origin saw of the requests, by id.
#[derive(Debug, Default)]
struct Seen {
    times: BTreeMap<u64, u32>,
    /// Questions that ended cleanly before they were whole.
    cut_short: Vec<u64>,
}

fn origin(seen: &Arc<Mutex<Seen>>) -> Origin {
    let seen = Arc::clone(seen);
    Origin::start(move |mut stream| {
        let mut words = [0; 24];
        // Without a whole header there is no request yet.
        stream.read_exact(&mut words)?;
        let word = |n: usize| u64::from_be_bytes(words[n * 8..][..8].try_into().expect("8 bytes"));
        let (id, asked, answered) = (word(0), word(1) as usize, word(2) as usize);
        *seen.lock().unwrap().times.entry(id).or_default() += 1;
        let mut question = Vec::new();
        stream.read_to_end(&mut question)?;
        if question != pattern(id, asked) {
            seen.lock().unwrap().cut_short.push(id);
        }
        stream.write_all(&pattern(!id, answered))?;
        stream.shutdown(Shutdown::Write)
    })
}

/// Clients that ask all the time, and what they met.
struct Clients {
    entry: SocketAddr,
    next_id: AtomicU64,
    over: AtomicBool,
    whole: AtomicU64,
    broken: AtomicU64,
}

impl Clients {
    /// One request on a connection of its own. A broken connection is an error; an answer that ends
    /// short is a failure of the test.
    fn ask(&self, asked: usize, answered: usize, patience: Duration) -> io::Result<()> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let mut question = header(id, asked, answered);
        question.extend(pattern(id, asked));
        let stream = client::try_connect(self.entry, patience)?;
        let answer = client::ask(&stream, &question)?;
        assert_same(&answer, &pattern(!id, answered), &format!("the answer to request {id}"));
        Ok(())
    }

    /// Asks until it is over, never twice under one id.
    fn keep_asking(&self, asked: usize, answered: usize) {
        while !self.over.load(Ordering::Acquire) {
            match self.ask(asked, answered, wait::PATIENCE) {
                Ok(()) => self.whole.fetch_add(1, Ordering::Relaxed),
                Err(e) if client::is_broken(&e) => {
                    std::thread::sleep(RETRY);
                    self.broken.fetch_add(1, Ordering::Relaxed)
                }
                Err(e) => panic!("neither answered nor reset: {e}"),
            };
        }
    }

    /// How long until a new connection works.
    fn time_to_work(&self) -> Duration {
        let start = Instant::now();
        loop {
            let left = (2 * BACK).saturating_sub(start.elapsed()).max(RETRY);
            match self.ask(100, 10_000, left) {
                Ok(()) => return start.elapsed(),
                Err(e) => {
                    let elapsed = start.elapsed();
                    assert!(elapsed < 2 * BACK, "no new connection works after {elapsed:?}: {e}");
                    std::thread::sleep(RETRY);
                }
            }
        }
    }
}

/// Kills the chosen PoP again and again while requests of many sizes are under way.
fn crash_and_return(pair: Way, chosen: impl Fn(&mut Line) -> &mut Pop) {
    let seen = Arc::default();
    let origin = origin(&seen);
    let mut line = Plan::lossy(origin.addr()).start(pair);
    let clients = Clients {
        entry: line.door(),
        next_id: AtomicU64::new(1),
        over: AtomicBool::new(false),
        whole: AtomicU64::new(0),
        broken: AtomicU64::new(0),
    };
    let mut times = Vec::new();
    std::thread::scope(|scope| {
        // Whatever happens, the clients end: else a failure would wait for them for ever.
        struct Over<'a>(&'a AtomicBool);
        impl Drop for Over<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Release);
            }
        }
        let _over = Over(&clients.over);
        for (asked, answered) in
            [(10, 1_000), (10, 100_000), (100_000, 10), (10, 3_000_000), (3_000_000, 1_000)]
        {
            let clients = &clients;
            scope.spawn(move || clients.keep_asking(asked, answered));
        }
        for moment in MOMENTS_MS {
            // The moment of the crash is what is varied here.
            std::thread::sleep(Duration::from_millis(moment));
            chosen(&mut line).restart();
            times.push(clients.time_to_work());
        }
    });
    let (whole, broken) = (clients.whole.into_inner(), clients.broken.into_inner());
    println!("{pair:?}: {whole} answered, {broken} broken; new ones after {times:.0?}");
    assert!(whole > 0 && broken > 0, "the crashes must meet transfers");
    for time in &times {
        assert!(*time <= BACK, "new connections work only after {time:.1?}: {times:.1?}");
    }
    let seen = seen.lock().unwrap();
    let twice: Vec<_> = seen.times.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "requests that reached the origin more than once: {twice:?}");
    assert!(seen.cut_short.is_empty(), "questions cut short: {:?}", seen.cut_short);
    drop(seen);
    line.assert_running();
    line.entry.wait_idle();
    line.exit.wait_idle();
}

fn a_crash_of_the_entry_breaks_connections_but_cuts_none_short_and_runs_no_request_twice(
    pair: Way,
) {
    crash_and_return(pair, |line| &mut line.entry);
}

fn a_crash_of_the_exit_breaks_connections_but_cuts_none_short_and_runs_no_request_twice(pair: Way) {
    crash_and_return(pair, |line| &mut line.exit);
}

on_every!(
    way:
    a_crash_of_the_entry_breaks_connections_but_cuts_none_short_and_runs_no_request_twice,
    a_crash_of_the_exit_breaks_connections_but_cuts_none_short_and_runs_no_request_twice,
);
