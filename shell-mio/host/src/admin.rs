//! The admin API's HTTP: what is asked and answered is decided in the core, how bytes come and go
//! is decided here.
//!
//! `tiny_http` supplies HTTP's vocabulary (methods, headers, dates, the rendering of a response),
//! but its server is not used: it sets no timeouts, starts as many threads as there are
//! connections, reads request lines of any length into memory and stops for ever after one failed
//! `accept`. Here a connection carries one request, has 5 s to ask and as long
//! again to take the answer, and at most 16 exist. When all are taken, the
//! oldest that is still asking is cut off for the newcomer: idle or dripping clients cannot keep
//! `/health` from anybody.
//!
//! What remains: somebody who can open connections faster than a healthy client can send its
//! request line (within a millisecond or so) can still push it out. The admin address belongs on
//! loopback or a management network.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::str::FromStr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use tiny_http::{HTTPVersion, Header, Method, Response};

use crate::sockets::{self, BindError};

/// A request, as far as the core wants to know it.
#[expect(missing_debug_implementations, reason = "it may hold the token")]
#[derive(Clone, PartialEq, Eq)]
pub struct HttpRequest {
    /// `GET`, …
    pub method: String,
    /// Path with query, as sent.
    pub path: String,
    /// Value of the header `Authorization`.
    pub authorization: Option<String>,
}

/// An answer, rendered by the core.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpAnswer {
    /// Status code.
    pub code: u16,
    /// Value of the header `Content-Type`.
    pub content_type: &'static str,
    /// Further headers.
    pub headers: Vec<(&'static str, &'static str)>,
    /// Body.
    pub body: Vec<u8>,
    /// Whether only its length is sent.
    pub head_only: bool,
}

impl HttpAnswer {
    fn text(code: u16, body: &str) -> Self {
        Self {
            code,
            content_type: "text/plain; charset=utf-8",
            headers: Vec::new(),
            body: body.into(),
            head_only: false,
        }
    }
}

/// Answers requests; called on several threads at once.
pub type Handler = Arc<dyn Fn(&HttpRequest) -> HttpAnswer + Send + Sync>;

/// The API could not be started.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The address is not to be had.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// No thread.
    #[error("cannot start the admin API: {0} (is a limit of threads or open files reached?)")]
    Start(#[from] io::Error),
}

/// What one admin server may use up.
#[derive(Debug, Clone, Copy)]
struct Limits {
    connections: usize,
    head_bytes: usize,
    head_time: Duration,
}

const LIMITS: Limits =
    Limits { connections: 16, head_bytes: 16 << 10, head_time: Duration::from_secs(5) };

/// After a failed `accept` (out of file descriptors, as a rule).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The admin API on its own threads; dropping it closes its port.
#[derive(Debug)]
pub struct AdminServer {
    addr: SocketAddr,
    stop: UnixStream,
    thread: Option<JoinHandle<()>>,
}

impl AdminServer {
    /// Binds `addr` (the configuration's `listen.admin_addr`) and starts to answer.
    ///
    /// # Errors
    /// [`AdminError`] if the address is not to be had.
    pub fn start(addr: SocketAddr, handler: Handler) -> Result<Self, AdminError> {
        Self::with_limits(addr, handler, LIMITS)
    }

    fn with_limits(addr: SocketAddr, handler: Handler, limits: Limits) -> Result<Self, AdminError> {
        let listener = sockets::tcp_listener("listen.admin_addr", addr)?;
        let addr = listener.local_addr()?;
        let (stop, stopped) = UnixStream::pair()?;
        let server =
            Arc::new(Server { handler, limits, table: Mutex::default(), left: Condvar::new() });
        let thread = std::thread::Builder::new()
            .name("admin".to_owned())
            .spawn(move || server.accept_loop(&listener, &stopped))?;
        Ok(Self { addr, stop, thread: Some(thread) })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for AdminServer {
    fn drop(&mut self) {
        // The thread sees the end of the stream.
        let _ = self.stop.shutdown(Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Server {
    handler: Handler,
    limits: Limits,
    table: Mutex<Table>,
    /// Notified when a connection ends.
    left: Condvar,
}

/// The connections that exist.
#[derive(Default)]
struct Table {
    next: u64,
    open: Vec<Open>,
}

struct Open {
    number: u64,
    /// A second handle by which to cut it off.
    stream: TcpStream,
    /// Whether its request has not come yet.
    asking: bool,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").finish_non_exhaustive()
    }
}

impl Server {
    fn accept_loop(self: Arc<Self>, listener: &TcpListener, stopped: &UnixStream) {
        loop {
            let mut fds =
                [PollFd::new(listener, PollFlags::IN), PollFd::new(stopped, PollFlags::IN)];
            match poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(_) => std::thread::sleep(ACCEPT_PAUSE),
            }
            if !fds[1].revents().is_empty() {
                break;
            }
            match listener.accept() {
                Ok((stream, _)) => self.admit(stream),
                Err(e) if harmless(&e) => {}
                Err(e) => {
                    // Not fatal, and no spin: a descriptor will be free again.
                    tracing::debug!("admin API: accept: {e}");
                    std::thread::sleep(ACCEPT_PAUSE);
                }
            }
        }
        for open in &self.lock().open {
            let _ = open.stream.shutdown(Shutdown::Both);
        }
    }

    /// Gives the connection a thread, or closes it.
    fn admit(self: &Arc<Self>, stream: TcpStream) {
        let Some(number) = self.register(&stream) else { return };
        let server = Arc::clone(self);
        let thread = std::thread::Builder::new().name("admin-client".to_owned()).spawn(move || {
            // Leaves the table even if the handler panics.
            let _seat = Seat { server: &server, number };
            if let Err(e) = server.serve(number, &stream) {
                tracing::trace!("admin API: {e}");
            }
        });
        if let Err(e) = thread {
            tracing::debug!("admin API: no thread for a connection: {e}");
            self.leave(number);
        }
    }

    fn register(&self, stream: &TcpStream) -> Option<u64> {
        stream.set_nonblocking(false).ok()?;
        let handle = stream.try_clone().ok()?;
        let mut table = self.lock();
        if table.open.len() >= self.limits.connections {
            // The oldest first: they are in the order of their arrival.
            if let Some(oldest) = table.open.iter().find(|open| open.asking) {
                let _ = oldest.stream.shutdown(Shutdown::Both);
            }
            let full = |table: &mut Table| table.open.len() >= self.limits.connections;
            table = self
                .left
                .wait_timeout_while(table, Duration::from_secs(1), full)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
            if table.open.len() >= self.limits.connections {
                return None;
            }
        }
        let number = table.next;
        table.next += 1;
        table.open.push(Open { number, stream: handle, asking: true });
        Some(number)
    }

    fn leave(&self, number: u64) {
        self.lock().open.retain(|open| open.number != number);
        self.left.notify_all();
    }

    fn serve(&self, number: u64, stream: &TcpStream) -> io::Result<()> {
        let deadline = Instant::now() + self.limits.head_time;
        let head = read_head(stream, self.limits.head_bytes, deadline)?;
        if let Some(open) = self.lock().open.iter_mut().find(|open| open.number == number) {
            open.asking = false;
        }
        let parsed = head.as_deref().and_then(parse_head);
        let answer = match (&head, &parsed) {
            (None, _) => HttpAnswer::text(431, "the request's head is too large\n"),
            (_, None) => HttpAnswer::text(400, "not an HTTP request\n"),
            (_, Some(request)) => (self.handler)(request),
        };
        let mut bytes = Vec::with_capacity(answer.body.len() + 512);
        render(&mut bytes, answer)?;
        write_all(stream, &bytes, Instant::now() + self.limits.head_time)?;
        // A body that nobody read would turn our close into a reset, which may overtake the answer.
        stream.shutdown(Shutdown::Write)?;
        let deadline = Instant::now() + Duration::from_millis(500);
        let mut rest = [0; 4096];
        for _ in 0..16 {
            if read_until(stream, &mut rest, deadline)? == 0 {
                break;
            }
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Seat<'a> {
    server: &'a Server,
    number: u64,
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.server.leave(self.number);
    }
}

/// Whether `accept` failed for reasons of the one connection only.
fn harmless(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted
    )
}

/// Reads up to the empty line; `None` if there is none within `max` bytes.
fn read_head(stream: &TcpStream, max: usize, deadline: Instant) -> io::Result<Option<Vec<u8>>> {
    let mut head = Vec::new();
    let mut buf = [0; 2048];
    loop {
        let n = read_until(stream, &mut buf, deadline)?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // The end may lie across two reads.
        let from = head.len().saturating_sub(3);
        head.extend_from_slice(&buf[..n]);
        if let Some(end) = head[from..].windows(4).position(|w| w == b"\r\n\r\n") {
            head.truncate(from + end + 2);
            return Ok(Some(head));
        }
        if head.len() > max {
            return Ok(None);
        }
    }
}

fn read_until(mut stream: &TcpStream, buf: &mut [u8], deadline: Instant) -> io::Result<usize> {
    loop {
        stream.set_read_timeout(Some(left(deadline)?))?;
        match stream.read(buf) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

fn write_all(mut stream: &TcpStream, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.set_write_timeout(Some(left(deadline)?))?;
        match stream.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => bytes = &bytes[n..],
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// What is left until `deadline`; never zero, which a socket would take for "for ever".
fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

fn parse_head(head: &[u8]) -> Option<HttpRequest> {
    let mut lines = std::str::from_utf8(head).ok()?.split_terminator("\r\n");
    let mut words = lines.next()?.split(' ');
    let method = Method::from_str(words.next()?).ok()?;
    let path = words.next().filter(|p| !p.is_empty())?;
    let version = words.next()?;
    if !matches!(version, "HTTP/1.0" | "HTTP/1.1") || words.next().is_some() {
        return None;
    }
    let headers = lines.map(|l| Header::from_str(l).ok()).collect::<Option<Vec<_>>>()?;
    let authorization = headers.iter().find(|h| h.field.equiv("Authorization"));
    Some(HttpRequest {
        method: method.to_string(),
        path: path.to_owned(),
        authorization: authorization.map(|h| h.value.to_string()),
    })
}

fn render(to: &mut Vec<u8>, answer: HttpAnswer) -> io::Result<()> {
    let mut response = Response::from_data(answer.body).with_status_code(answer.code);
    let own = [("Server", "entrouter"), ("Content-Type", answer.content_type)];
    for (name, value) in own.into_iter().chain(answer.headers) {
        if let Ok(header) = Header::from_bytes(name, value) {
            response.add_header(header);
        }
    }
    // HTTP/1.0 in the status line: the connection ends after the answer, and nothing is chunked.
    response.raw_print(to, HTTPVersion(1, 0), &[], answer.head_only, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn echo() -> Handler {
        Arc::new(|r| {
            if r.path == "/panic" {
                panic!("asked for");
            }
            HttpAnswer {
                headers: vec![("WWW-Authenticate", "Bearer")],
                head_only: r.method == "HEAD",
                ..HttpAnswer::text(200, &format!("{} {} {:?}", r.method, r.path, r.authorization))
            }
        })
    }

    fn start(connections: usize, head_time: Duration) -> AdminServer {
        let limits = Limits { connections, head_time, ..LIMITS };
        AdminServer::with_limits(SocketAddr::from(([127, 0, 0, 1], 0)), echo(), limits).unwrap()
    }

    fn connect(server: &AdminServer) -> TcpStream {
        let stream = TcpStream::connect(server.addr()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream
    }

    fn ask(server: &AdminServer, request: &str) -> String {
        let mut stream = connect(server);
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn answers_and_closes() {
        let server = start(4, Duration::from_secs(30));
        let answer = ask(
            &server,
            "GET /status?x=1 HTTP/1.1\r\nHost: x\r\nauthorization: Bearer abc\r\n\r\n",
        );
        assert!(answer.starts_with("HTTP/1.0 200 OK\r\n"), "{answer}");
        assert!(answer.contains("\r\nContent-Type: text/plain; charset=utf-8\r\n"), "{answer}");
        assert!(answer.contains("\r\nWWW-Authenticate: Bearer\r\n"), "{answer}");
        assert!(answer.ends_with("\r\n\r\nGET /status?x=1 Some(\"Bearer abc\")"), "{answer}");
        let answer = ask(&server, "HEAD /health HTTP/1.0\r\n\r\n");
        assert!(answer.ends_with("\r\n\r\n"), "{answer}");
        let answer = ask(&server, "POST /x HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello");
        assert!(answer.ends_with("POST /x None"), "{answer}");
    }

    #[test]
    fn rubbish_is_refused_and_does_no_harm() {
        let server = start(4, Duration::from_secs(30));
        for rubbish in [
            "\r\n\r\n",
            "GET\r\n\r\n",
            "GET /  HTTP/1.1\r\n\r\n",
            "GET / HTTP/9.9\r\n\r\n",
            "GET / HTTP/1.1\r\nno colon\r\n\r\n",
        ] {
            let answer = ask(&server, rubbish);
            assert!(answer.starts_with("HTTP/1.0 400 "), "{rubbish:?}: {answer}");
        }
        let mut stream = connect(&server);
        let _ = stream.write_all(b"GET /\xff HTTP/1.1\r\n\r\n");
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        assert!(answer.starts_with("HTTP/1.0 400 "), "{answer}");
        let answer = ask(&server, &format!("GET /{} HTTP/1.1\r\n", "x".repeat(20_000)));
        assert!(answer.starts_with("HTTP/1.0 431 "), "{answer}");
        assert_eq!(ask(&server, "GET /panic HTTP/1.1\r\n\r\n"), "");
        assert!(ask(&server, "GET /health HTTP/1.1\r\n\r\n").starts_with("HTTP/1.0 200 "));
    }

    #[test]
    fn idle_clients_make_room_for_a_new_one() {
        let server = start(4, Duration::from_secs(3600));
        let mut idle: Vec<_> = (0..20).map(|_| connect(&server)).collect();
        for stream in &mut idle {
            let _ = stream.write_all(b"GET /"); // the first ones are cut off already
        }
        assert!(ask(&server, "GET /health HTTP/1.1\r\n\r\n").starts_with("HTTP/1.0 200 "));
    }

    #[test]
    fn a_slow_client_is_cut_off() {
        let server = start(4, Duration::from_millis(50));
        let mut slow = connect(&server);
        slow.write_all(b"GET /").unwrap();
        let mut answer = Vec::new();
        let _ = slow.read_to_end(&mut answer); // an end or a reset, but soon
        assert!(answer.is_empty());
    }

    #[test]
    fn its_port_is_free_after_drop_and_taken_before() {
        let server = start(4, Duration::from_secs(30));
        let addr = server.addr();
        let error = AdminServer::start(addr, echo()).unwrap_err().to_string();
        assert!(error.starts_with(&format!("listen.admin_addr {addr}: address already in use")));
        drop(server);
        AdminServer::start(addr, echo()).unwrap();
    }
}
