//! What the tasks share.

use std::cell::{Cell, RefCell, RefMut};
use std::collections::BTreeMap;
use std::io;
use std::net::{TcpListener, UdpSocket};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Instant;

use async_io::Async;
use entrouter_host::accept::Gate;
use entrouter_host::conn::{READ_BUFFER, Readiness};
use entrouter_host::core::Core;
use entrouter_host::datagrams::{Datagrams, Outbox};
use entrouter_host::hangups::Hangups;
use entrouter_host::life::Life;
use entrouter_host::names::Names;
use entrouter_proto::ConnId;
use smol::{LocalExecutor, Task};

use crate::bell::Bell;
use crate::tcp::Entry;

/// A running PoP, as its tasks see it.
pub(crate) struct Pop {
    /// Lent to whoever has the turn; never while waiting.
    state: RefCell<State>,
    /// Rung whenever the core was told something.
    pub(crate) driver: Bell,
    /// When the driver wants to be rung, if nobody does so before.
    pub(crate) due_at: Cell<Option<Instant>>,
    pub(crate) udp: Vec<Async<Arc<UdpSocket>>>,
    /// Not owned: its tasks own us.
    executor: Weak<LocalExecutor<'static>>,
    /// Why it cannot go on.
    failed: Cell<Option<io::Error>>,
}

pub(crate) struct State {
    pub(crate) core: Core,
    pub(crate) life: Life,
    pub(crate) names: Names,
    pub(crate) udp: Vec<Datagrams>,
    pub(crate) outbox: Outbox,
    pub(crate) gate: Gate,
    pub(crate) listeners: Vec<Listener>,
    pub(crate) conns: BTreeMap<ConnId, Entry>,
    /// Connections that were given something to write since the last [`State::flush`].
    pub(crate) writers: Vec<ConnId>,
    pub(crate) hangups: Option<Hangups<ConnId>>,
    pub(crate) buf: Box<[u8]>,
}

pub(crate) struct Listener {
    pub(crate) socket: Async<TcpListener>,
    /// Rung when the gate opens before its time.
    pub(crate) opened: Rc<Bell>,
}

impl Pop {
    pub(crate) fn new(
        state: State,
        udp: Vec<Async<Arc<UdpSocket>>>,
        executor: Weak<LocalExecutor<'static>>,
    ) -> Self {
        Self {
            state: RefCell::new(state),
            driver: Bell::default(),
            due_at: Cell::default(),
            udp,
            executor,
            failed: Cell::new(None),
        }
    }

    pub(crate) fn state(&self) -> RefMut<'_, State> {
        self.state.borrow_mut()
    }

    pub(crate) fn listeners(&self) -> usize {
        self.state().listeners.len()
    }

    /// Starts a task; none once the loop has ended.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + 'static) -> Option<Task<()>> {
        self.executor.upgrade().map(|executor| executor.spawn(task))
    }

    /// Sockets can no longer be waited for.
    pub(crate) fn fail(&self, e: io::Error) {
        self.failed.set(Some(e));
        self.driver.ring();
    }

    pub(crate) fn failure(&self) -> Option<io::Error> {
        self.failed.take()
    }
}

impl State {
    pub(crate) fn new(
        core: Core,
        life: Life,
        names: Names,
        udp: Vec<Datagrams>,
        listeners: Vec<Async<TcpListener>>,
        hangups: Option<Hangups<ConnId>>,
    ) -> Self {
        let listeners = listeners.into_iter();
        Self {
            core,
            life,
            names,
            udp,
            outbox: Outbox::default(),
            gate: Gate::default(),
            listeners: listeners.map(|socket| Listener { socket, opened: Rc::default() }).collect(),
            conns: BTreeMap::new(),
            writers: Vec::new(),
            hangups,
            buf: vec![0; READ_BUFFER].into_boxed_slice(),
        }
    }

    /// Reads a batch of UDP socket `n` into the core. `false` if there was none.
    pub(crate) fn receive(&mut self, n: usize, now: Instant) -> bool {
        self.udp.get_mut(n).is_some_and(|udp| udp.receive(&mut self.core, now))
    }

    /// Tells connections that ended or broke.
    pub(crate) fn hear_hangups(&mut self, now: Instant) {
        let Some(mut hangups) = self.hangups.take() else { return };
        while hangups.take(|id, what| self.hear(id, what, now)) {}
        self.hangups = Some(hangups);
    }

    /// Tells all connections the same.
    pub(crate) fn hear_all(&mut self, what: Readiness, now: Instant) {
        let ids: Vec<_> = self.conns.keys().copied().collect();
        for id in ids {
            self.hear(id, what, now);
        }
    }
}
