//! End-to-end tests of Entrouter Line: the real binaries as processes, real sockets on loopback,
//! and a simulated long link between them where a test wants one.
//!
//! ```text
//! client ─TCP─► entry PoP ─UDP─► (link) ─UDP─► exit PoP ─TCP─► origin
//! ```
//!
//! The tests are in `tests/tests/`, this is what they share:
//!
//! - [`shells`]: which shells a test runs against, and how it is made a test of each choice of them.
//! - [`build`]: the shells' binaries, always of the release profile, whatever profile the tests have.
//!   A debug build relays an order of magnitude slower, and the release build is what is shipped.
//! - [`pop`]: one PoP as a process: its configuration, log, status, signals, end.
//! - [`connector`]: a connector as a process; [`aioquic`]: a QUIC client that is not ours.
//! - [`running`]: what processes of both kinds have in common; [`detour`]: what lies before the edge.
//! - [`mod@embed`]: the same for the core's example, which is no shell.
//! - [`mod@line`]: two PoPs and the link between them; [`triangle`]: three PoPs and three links.
//! - [`origin`] and [`client`]: both ends of a connection.
//! - [`web`]: `curl` and an HTTP server: both ends of a connection that are not ours.
//! - [`tls`]: certificates made by `openssl`, and a client of TLS.
//! - [`process`]: memory and processor time of a process, where the system tells.
//! - [`wait`]: waiting for something to become true, with a deadline. Nothing sleeps and hopes.
//!
//! All ports are free ones of 127.0.0.1, so that tests can run at once, as threads of one process
//! (`cargo test`) or each in its own (`cargo nextest run`).
#![forbid(unsafe_code)]

pub mod aioquic;
pub mod build;
pub mod bytes;
pub mod client;
pub mod connector;
pub mod detour;
pub mod embed;
pub mod http;
pub mod line;
pub mod origin;
pub mod pop;
pub mod process;
pub mod running;
pub mod scratch;
pub mod shells;
pub mod tls;
pub mod triangle;
pub mod wait;
pub mod web;

/// Says on the terminal that a test did not test, and why. It still counts as passed: what it needs
/// is not there.
#[macro_export]
macro_rules! skip {
    ($($why:tt)*) => {{
        // Past the capture of the test harness, so that it is seen without `--nocapture`.
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), "SKIPPED: {}", format_args!($($why)*));
        return;
    }};
}
