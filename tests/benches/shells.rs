//! What the shells cost, side by side: two PoPs as processes on loopback, nothing between them, for each
//! pair of shells.
//!
//! ```sh
//! cargo bench -p entrouter-tests --bench shells
//! ```
//!
//! - **throughput** of one connection, from the origin to the client and the other way, every byte
//!   compared, on the processors that client and origin use, too;
//! - **processor time** of both PoPs, user and system, per GB of that;
//! - **added latency**: round trips of 64 bytes, one at a time, through the PoPs, less the same over a
//!   TCP connection straight to the origin;
//! - **idle**: processor time of two PoPs that are connected, probe each other at the default interval
//!   and carry nothing.
//!
//! The pairs take turns within each round, so that whatever else the machine does meets all of them;
//! printed are medians of the rounds. The machine should have nothing else to do.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use entrouter_tests::bytes::pattern;
use entrouter_tests::line::{Line, Plan};
use entrouter_tests::origin::Origin;
use entrouter_tests::pop::Pop;
use entrouter_tests::shells::{Shell, named};
use entrouter_tests::{client, on_every, process};

/// Of the first, the others are told as multiples.
const PAIRS: [&str; 4] = on_every!(pair);

/// How much is measured.
struct Size {
    rounds: usize,
    /// Of a transfer.
    bytes: u64,
    /// Before the first round: the tunnel learns what the path carries.
    warm_up: u64,
    round_trips: usize,
    idle: Duration,
}

const FULL: Size = Size {
    rounds: 7,
    bytes: 1_000_000_000,
    warm_up: 200_000_000,
    round_trips: 5_000,
    idle: Duration::from_secs(20),
};

/// To see that it works.
const SMOKE: Size = Size {
    rounds: 1,
    bytes: 5_000_000,
    warm_up: 1_000_000,
    round_trips: 50,
    idle: Duration::from_millis(200),
};

/// The default of `mesh.probe_interval_ms`.
const PROBE_INTERVAL_MS: u64 = 500;
const PING: usize = 64;
const BLOCK: usize = 1 << 20;

/// What a connection asks the origin for.
#[derive(Clone, Copy, PartialEq)]
enum Ask {
    Down = b'd' as isize,
    Up = b'u' as isize,
    Echo = b'e' as isize,
}

/// The stream of a transfer is this block, over and over.
fn block() -> Vec<u8> {
    pattern(1, BLOCK)
}

fn send(mut stream: &TcpStream, mut bytes: u64) -> io::Result<()> {
    let block = block();
    while bytes > 0 {
        let piece = &block[..BLOCK.min(bytes as usize)];
        stream.write_all(piece)?;
        bytes -= piece.len() as u64;
    }
    Ok(())
}

/// Reads so many bytes and compares them.
fn receive(mut stream: &TcpStream, bytes: u64) -> io::Result<()> {
    let (block, mut buf) = (block(), vec![0; BLOCK]);
    let mut done = 0;
    while done < bytes {
        let at = (done % BLOCK as u64) as usize;
        let most = (BLOCK - at).min((bytes - done) as usize);
        let n = stream.read(&mut buf[..most])?;
        assert!(n > 0, "the end after {done} of {bytes} bytes");
        assert!(buf[..n] == block[at..at + n], "other bytes than were sent");
        done += n as u64;
    }
    Ok(())
}

/// Serves each [`Ask`]; what is asked for and how many bytes of it come first.
fn origin() -> Origin {
    Origin::start(|mut stream| {
        stream.set_nodelay(true)?;
        let mut head = [0; 9];
        stream.read_exact(&mut head)?;
        let bytes = u64::from_be_bytes(head[1..].try_into().expect("8 bytes"));
        match head[0] {
            ask if ask == Ask::Down as u8 => send(&stream, bytes)?,
            ask if ask == Ask::Up as u8 => {
                receive(&stream, bytes)?;
                stream.write_all(b"!")?;
            }
            _ => {
                let mut ping = [0; PING];
                while stream.read_exact(&mut ping).is_ok() {
                    stream.write_all(&ping)?;
                }
            }
        }
        stream.shutdown(Shutdown::Write)
    })
}

fn ask(mut stream: &TcpStream, what: Ask, bytes: u64) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut head = vec![what as u8];
    head.extend(bytes.to_be_bytes());
    stream.write_all(&head)
}

/// How long a transfer takes.
fn transfer(stream: &TcpStream, way: Ask, bytes: u64) -> io::Result<Duration> {
    let start = Instant::now();
    ask(stream, way, bytes)?;
    if way == Ask::Down {
        receive(stream, bytes)?;
    } else {
        send(stream, bytes)?;
        let mut reader = stream;
        reader.read_exact(&mut [0])?;
    }
    Ok(start.elapsed())
}

/// Round trips one after the other, in microseconds: the median and the 99th percentile.
fn round_trips(mut stream: &TcpStream, times: usize) -> io::Result<[f64; 2]> {
    ask(stream, Ask::Echo, 0)?;
    let (question, mut answer) = ([7; PING], [0; PING]);
    let mut taken = Vec::with_capacity(times);
    for _ in 0..times {
        let start = Instant::now();
        stream.write_all(&question)?;
        stream.read_exact(&mut answer)?;
        taken.push(start.elapsed().as_secs_f64() * 1e6);
        assert!(answer == question, "another answer than the question");
    }
    taken.sort_by(f64::total_cmp);
    Ok([taken[times / 2], taken[times * 99 / 100]])
}

/// What was found about one pair, a value for each round.
#[derive(Default)]
struct Found {
    down_mbps: Vec<f64>,
    up_mbps: Vec<f64>,
    /// Of the entry and of the exit, in seconds per GB that crosses them.
    down_cpu: [Vec<f64>; 2],
    up_cpu: [Vec<f64>; 2],
    added_p50_us: Vec<f64>,
    added_p99_us: Vec<f64>,
    /// In thousandths of one processor.
    idle: [Vec<f64>; 2],
}

fn pops(line: &Line) -> [&Pop; 2] {
    [&line.entry, &line.exit]
}

fn cpu(line: &Line) -> [f64; 2] {
    pops(line).map(|pop| process::running_time(pop.pid()).unwrap_or_default().as_secs_f64())
}

impl Found {
    fn bulk(&mut self, line: &Line, way: Ask, bytes: u64) -> io::Result<()> {
        let before = cpu(line);
        let elapsed = transfer(&line.connect(), way, bytes)?;
        line.entry.wait_idle();
        line.exit.wait_idle();
        let after = cpu(line);
        let (mbps, cpu) = match way {
            Ask::Down => (&mut self.down_mbps, &mut self.down_cpu),
            _ => (&mut self.up_mbps, &mut self.up_cpu),
        };
        mbps.push(bytes as f64 * 8e-6 / elapsed.as_secs_f64());
        for ((cpu, before), after) in cpu.iter_mut().zip(before).zip(after) {
            cpu.push((after - before) / (bytes as f64 * 1e-9));
        }
        Ok(())
    }

    fn ping(&mut self, line: &Line, origin: &Origin, times: usize) -> io::Result<()> {
        let [straight_p50, straight_p99] = round_trips(&client::connect(origin.addr()), times)?;
        let [p50, p99] = round_trips(&line.connect(), times)?;
        self.added_p50_us.push(p50 - straight_p50);
        self.added_p99_us.push(p99 - straight_p99);
        Ok(())
    }
}

fn measure(size: &Size) -> io::Result<Vec<Found>> {
    let origin = origin();
    let start = |pair| {
        let plan = Plan::direct(origin.addr()).probe_interval_ms(PROBE_INTERVAL_MS);
        plan.start(named::<[Shell; 2]>(pair))
    };
    let lines = PAIRS.map(start);
    let mut found: Vec<_> = PAIRS.iter().map(|_| Found::default()).collect();
    for line in &lines {
        for way in [Ask::Down, Ask::Up] {
            transfer(&line.connect(), way, size.warm_up)?;
        }
    }
    for round in 1..=size.rounds {
        for ((line, found), pair) in lines.iter().zip(&mut found).zip(PAIRS) {
            eprintln!("round {round} of {}: {pair}", size.rounds);
            found.bulk(line, Ask::Down, size.bytes)?;
            found.bulk(line, Ask::Up, size.bytes)?;
            found.ping(line, &origin, size.round_trips)?;
        }
    }
    eprintln!("idle for {:?}", size.idle);
    for line in &lines {
        line.entry.wait_idle();
        line.exit.wait_idle();
    }
    let before = lines.each_ref().map(cpu);
    // The passage of time itself is what is measured here.
    std::thread::sleep(size.idle);
    let after = lines.each_ref().map(cpu);
    for ((found, before), after) in found.iter_mut().zip(before).zip(after) {
        for ((idle, before), after) in found.idle.iter_mut().zip(before).zip(after) {
            idle.push((after - before) / size.idle.as_secs_f64() * 1e3);
        }
    }
    Ok(found)
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// Of the sums of both PoPs, round by round.
fn both([entry, exit]: &[Vec<f64>; 2]) -> Vec<f64> {
    entry.iter().zip(exit).map(|(entry, exit)| entry + exit).collect()
}

/// A name, what it is made of, and digits after the point.
type Row = (&'static str, fn(&Found) -> Vec<f64>, usize);

const ROWS: [Row; 12] = [
    ("download, Mbit/s", |found| found.down_mbps.clone(), 0),
    ("upload, Mbit/s", |found| found.up_mbps.clone(), 0),
    ("download, CPU s per GB, both PoPs", |found| both(&found.down_cpu), 2),
    ("  entry", |found| found.down_cpu[0].clone(), 2),
    ("  exit", |found| found.down_cpu[1].clone(), 2),
    ("upload, CPU s per GB, both PoPs", |found| both(&found.up_cpu), 2),
    ("  entry", |found| found.up_cpu[0].clone(), 2),
    ("  exit", |found| found.up_cpu[1].clone(), 2),
    ("added to a round trip, p50, us", |found| found.added_p50_us.clone(), 0),
    ("added to a round trip, p99, us", |found| found.added_p99_us.clone(), 0),
    ("idle entry, 1/1000 of a CPU", |found| found.idle[0].clone(), 2),
    ("idle exit, 1/1000 of a CPU", |found| found.idle[1].clone(), 2),
];

/// Medians, and what they are of the first pair's.
fn table(found: &[Found]) -> String {
    let mut text = format!("| {:<34} |", "entry_exit");
    for pair in PAIRS {
        let _ = write!(text, " {pair:>16} |");
    }
    let _ = write!(text, "\n|{:-<36}|", "");
    for _ in PAIRS {
        let _ = write!(text, "{:->17}:|", "");
    }
    for (name, values, digits) in ROWS {
        let _ = write!(text, "\n| {name:<34} |");
        let first = found.first().map_or(0.0, |first| median(&values(first)));
        for found in found {
            let value = median(&values(found));
            let _ = write!(text, " {value:>8.digits$} (x{:.2}) |", value / first);
        }
    }
    text
}

fn machine() -> String {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let rustc = Command::new("rustc").arg("--version").output().map(|output| output.stdout);
    format!(
        "{cpus} CPUs ({}), Linux {}, {}",
        model.map_or("unknown", |(_, model)| model),
        read("/proc/sys/kernel/osrelease").trim(),
        String::from_utf8_lossy(&rustc.unwrap_or_default()).trim()
    )
}

fn main() -> io::Result<()> {
    // `cargo bench` says so; `cargo test` does not, and "cargo bench -- --test" takes it back.
    let flags: Vec<_> = std::env::args().skip(1).collect();
    let is_there = |flag: &str| flags.iter().any(|it| it == flag);
    if is_there("--list") {
        return Ok(());
    }
    let full = is_there("--bench") && !is_there("--test");
    let found = measure(if full { &FULL } else { &SMOKE })?;
    if full {
        println!("{}\n\n{}", machine(), table(&found));
    }
    Ok(())
}
