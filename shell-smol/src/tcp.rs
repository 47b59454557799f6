//! The tasks of listeners, dials and connections.

use std::future::poll_fn;
use std::io;
use std::net::TcpStream;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use async_io::{Async, Timer};
use entrouter_host::accept::{ACCEPTS, Client};
use entrouter_host::conn::{Conn, Readiness, Step};
use entrouter_host::core::Core;
use entrouter_host::dial::{Dial, Progress};
use entrouter_host::pace::WRITES;
use entrouter_host::resolve::Answer;
use entrouter_proto::config::HostPort;
use entrouter_proto::{ConnId, ListenerId, TcpEvent};
use smol::Task;
use smol::channel::{Receiver, Sender, bounded};
use smol::future::{or, yield_now};

use crate::state::{Pop, State};

/// A connection that the core knows. Dropping it closes its socket and ends its task.
pub(crate) enum Entry {
    /// Its socket is its task's as long as it does not stand.
    Dial {
        _task: Option<Task<()>>,
        answer: Sender<Answer>,
    },
    Open(Open),
}

/// A connection that stands.
pub(crate) struct Open {
    conn: Conn,
    socket: Async<Arc<TcpStream>>,
    /// Of its task, once that has run.
    waker: Option<Waker>,
    _task: Option<Task<()>>,
}

const READABLE: Readiness =
    Readiness { readable: true, writable: false, end: false, broken: false };
const WRITABLE: Readiness =
    Readiness { readable: false, writable: true, end: false, broken: false };

impl Open {
    /// Does what there is to do, within bounds, and then waits for more. Also tells whether there
    /// was anything.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut [u8],
        core: &mut Core,
        now: Instant,
    ) -> (Step, bool) {
        match &mut self.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            None => self.waker = Some(cx.waker().clone()),
        }
        let mut worked = false;
        for _ in 0..2 {
            if self.hear(cx, core, now) == Step::Over {
                return (Step::Over, true);
            }
            if !self.conn.wants_read() && !self.conn.wants_write() {
                return (Step::Idle, worked);
            }
            worked = true;
            if self.conn.wants_write() && self.conn.flush(core, now) == Step::Over
                || self.conn.read(buf, core, now) == Step::Over
            {
                return (Step::Over, true);
            }
        }
        (Step::More, true)
    }

    /// Asks the reactor for what the connection waits for, and for nothing else: bytes that may not
    /// be read yet would wake the task for nothing.
    fn hear(&mut self, cx: &mut Context<'_>, core: &mut Core, now: Instant) -> Step {
        if self.conn.awaits_bytes()
            && self.socket.poll_readable(cx).is_ready()
            && self.conn.ready(READABLE, core, now) == Step::Over
        {
            return Step::Over;
        }
        if self.conn.awaits_room() && self.socket.poll_writable(cx).is_ready() {
            return self.conn.ready(WRITABLE, core, now);
        }
        Step::Idle
    }

    fn wake(&self) {
        // A task that has not run yet will do so anyway.
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }
}

/// The task of a connection that stands.
async fn serve(pop: Rc<Pop>, id: ConnId) {
    poll_fn(|cx| {
        let state = &mut *pop.state();
        let Some(Entry::Open(open)) = state.conns.get_mut(&id) else { return Poll::Ready(()) };
        let (step, worked) = open.poll(cx, &mut state.buf, &mut state.core, Instant::now());
        if worked {
            pop.driver.ring();
        }
        match step {
            Step::Idle => Poll::Pending,
            Step::More => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Step::Over => {
                state.remove(id);
                Poll::Ready(())
            }
        }
    })
    .await;
}

/// What a listener's task does after a portion of clients.
enum Accepted {
    /// There may be more.
    Some,
    /// There is none.
    All,
    /// Nothing more can be accepted until then.
    Full(Instant),
    /// The listener is closed.
    Closed,
}

/// The task of listener `n`.
pub(crate) async fn accept(pop: Rc<Pop>, n: usize) {
    loop {
        match pop.accept(n) {
            Accepted::Some => yield_now().await,
            Accepted::Full(until) => pop.gate_opens(n, until).await,
            Accepted::Closed => return,
            Accepted::All => {
                let readable = poll_fn(|cx| match pop.state().listeners.get(n) {
                    Some(listener) => listener.socket.poll_readable(cx),
                    None => Poll::Ready(Ok(())),
                });
                if let Err(e) = readable.await {
                    return pop.fail(e);
                }
            }
        }
    }
}

impl Pop {
    fn accept(self: &Rc<Self>, n: usize) -> Accepted {
        let state = &mut *self.state();
        let now = Instant::now();
        for _ in 0..ACCEPTS {
            if !state.gate.is_open(now) {
                return Accepted::Full(state.gate.closed_until().unwrap_or(now));
            }
            let Some(listener) = state.listeners.get(n) else { return Accepted::Closed };
            match state.gate.accept(listener.socket.get_ref(), now) {
                Ok(Client { stream, remote, local }) => {
                    match Async::new_nonblocking(Arc::clone(&stream)) {
                        Ok(socket) => {
                            let conn = state.gate.admit();
                            let task = self.spawn(serve(Rc::clone(self), conn));
                            if let Err(e) = state.open(conn, stream, socket, task) {
                                state.gate.close(now, &e);
                                continue;
                            }
                            let listener = ListenerId(n);
                            let accepted = TcpEvent::Accepted { conn, listener, remote, local };
                            state.core.handle_tcp(now, accepted);
                            self.driver.ring();
                        }
                        Err(e) => state.gate.close(now, &e),
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Accepted::All,
                Err(_) => {}
            }
        }
        Accepted::Some
    }

    /// Waits until a descriptor is free, or the pause is over.
    async fn gate_opens(&self, n: usize, until: Instant) {
        let opened = self.state().listeners.get(n).map(|listener| Rc::clone(&listener.opened));
        let Some(opened) = opened else { return };
        or(poll_fn(|cx| opened.poll(cx)), async {
            Timer::at(until).await;
        })
        .await;
        opened.take();
    }

    /// [`Action::Connect`](entrouter_proto::Action::Connect).
    pub(crate) fn connect(self: &Rc<Self>, state: &mut State, id: ConnId, target: HostPort) {
        let known = state.names.resolve_origin(id, &target);
        let (answer, answers) = bounded(1);
        if let Some(known) = known {
            // There is room for one.
            let _ = answer.try_send(known);
        }
        let dial = Dial::new(id, target, Instant::now());
        let task = self.spawn(connect_and_serve(Rc::clone(self), dial, answers));
        state.conns.insert(id, Entry::Dial { _task: task, answer });
    }
}

/// The task of a connection to an origin.
async fn connect_and_serve(pop: Rc<Pop>, mut dial: Dial, answers: Receiver<Answer>) {
    let id = dial.id;
    let connected = dialled(&mut dial, &answers).await;
    let now = Instant::now();
    let opened = connected.and_then(|(stream, socket)| {
        let state = &mut *pop.state();
        let task = match state.conns.remove(&id) {
            Some(Entry::Dial { _task: task, .. }) => task,
            _ => None,
        };
        state.open(id, stream, socket, task)
    });
    pop.driver.ring();
    match opened {
        Ok(()) => {
            pop.state().core.handle_tcp(now, TcpEvent::Connected { conn: id });
            serve(pop, id).await;
        }
        Err(e) => {
            let state = &mut *pop.state();
            state.remove(id);
            state.names.unreachable(id, &dial.target, &e, &mut state.core, now);
        }
    }
}

type Connected = (Arc<TcpStream>, Async<Arc<TcpStream>>);

/// Tries one address after the other.
async fn dialled(dial: &mut Dial, answers: &Receiver<Answer>) -> io::Result<Connected> {
    let mut progress = match until(dial.ends(), answers.recv()).await {
        Some(Ok(answer)) => dial.start(answer, Instant::now()),
        _ => dial.next(Instant::now()),
    };
    let mut socket = None;
    loop {
        progress = match (progress, &socket) {
            (Progress::Attempt(stream), _) => match Async::new_nonblocking(stream) {
                Ok(new) => {
                    socket = Some(new);
                    Progress::Waiting
                }
                Err(e) => dial.give_up(e, Instant::now()),
            },
            (Progress::Waiting, Some(attempt)) => {
                match until(dial.ends(), attempt.writable()).await {
                    Some(Ok(())) => dial.ready(Instant::now()),
                    Some(Err(e)) => dial.give_up(e, Instant::now()),
                    None => dial.next(Instant::now()),
                }
            }
            (Progress::Connected(stream), _) => {
                return match socket {
                    Some(socket) => Ok((stream, socket)),
                    None => Async::new_nonblocking(Arc::clone(&stream)).map(|new| (stream, new)),
                };
            }
            (Progress::Waiting, None) => dial.next(Instant::now()),
            (Progress::Failed(e), _) => return Err(e),
        };
    }
}

/// What `future` comes to, unless it is later than `at`.
async fn until<T>(at: Instant, future: impl Future<Output = T>) -> Option<T> {
    or(async { Some(future.await) }, async {
        Timer::at(at).await;
        None
    })
    .await
}

impl State {
    /// Takes up a connection that stands.
    fn open(
        &mut self,
        id: ConnId,
        stream: Arc<TcpStream>,
        socket: Async<Arc<TcpStream>>,
        task: Option<Task<()>>,
    ) -> io::Result<()> {
        if let Some(hangups) = &mut self.hangups {
            hangups.watch(&stream, id)?;
        }
        let conn = Conn::new(id, stream);
        self.conns.insert(id, Entry::Open(Open { conn, socket, waker: None, _task: task }));
        Ok(())
    }

    /// [`Action::GrantRead`](entrouter_proto::Action::GrantRead): the connection's task reads.
    pub(crate) fn grant(&mut self, id: ConnId, bytes: usize) {
        // Else it ended before the core could know.
        if let Some(Entry::Open(open)) = self.conns.get_mut(&id) {
            open.conn.grant(bytes);
            open.wake();
        }
    }

    /// Gives a connection something to write, or its end.
    pub(crate) fn output(&mut self, id: ConnId, change: impl FnOnce(&mut Conn)) {
        if let Some(Entry::Open(open)) = self.conns.get_mut(&id) {
            change(&mut open.conn);
            if self.writers.last() != Some(&id) {
                self.writers.push(id);
            }
        }
    }

    /// Writes what sockets take at once, so that the core hears of it in the same turn; their tasks
    /// wait for the rest.
    pub(crate) fn flush(&mut self, now: Instant) {
        let mut writers = std::mem::take(&mut self.writers);
        for (n, id) in writers.drain(..).enumerate() {
            let Some(Entry::Open(open)) = self.conns.get_mut(&id) else { continue };
            let at_once = n < WRITES && open.conn.wants_write();
            if at_once && open.conn.flush(&mut self.core, now) == Step::Over {
                self.remove(id);
            } else if open.conn.has_output() {
                open.wake();
            }
        }
        self.writers = writers;
    }

    /// Tells a connection what happened to its socket.
    pub(crate) fn hear(&mut self, id: ConnId, what: Readiness, now: Instant) {
        let Some(Entry::Open(open)) = self.conns.get_mut(&id) else { return };
        match open.conn.ready(what, &mut self.core, now) {
            Step::Over => self.remove(id),
            Step::Idle | Step::More => open.wake(),
        }
    }

    /// The name of an origin is resolved, or is not to be.
    pub(crate) fn resolved(&mut self, id: ConnId, answer: Answer) {
        // Else it was aborted, or took too long.
        if let Some(Entry::Dial { answer: to, .. }) = self.conns.get(&id) {
            let _ = to.try_send(answer);
        }
    }

    /// Closes a connection, or gives up making it. That resets it, because `SO_LINGER` is 0 until it
    /// has ended well.
    pub(crate) fn remove(&mut self, id: ConnId) {
        if self.conns.remove(&id).is_some() && self.gate.closed_until().is_some() {
            // A descriptor is free again.
            self.gate.open();
            for listener in &self.listeners {
                listener.opened.ring();
            }
        }
    }
}
