//! The task that does what the core asks.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Instant;

use entrouter_host::conn::Conn;
use entrouter_host::datagrams::Sent;
use entrouter_host::pace::{self, BLOCKED_TICK, Pace, ROUNDS};
use entrouter_host::pop::RunError;
use entrouter_proto::{Action, SocketId};
use smol::future::yield_now;

use crate::state::{Pop, State};

/// What the driver does after a turn.
enum Next {
    End,
    /// There is more to do; `true` if the turn achieved something.
    Again(bool),
    Wait(Option<Instant>),
}

/// The driver's task.
pub(crate) async fn drive(pop: Rc<Pop>) -> Result<(), RunError> {
    let mut pace = Pace::default();
    // A UDP socket whose send buffer is full.
    let mut blocked: Option<SocketId> = None;
    loop {
        if let Some(e) = pop.failure() {
            return Err(RunError::Poll(e));
        }
        let called = pop.driver.take();
        let until = match pop.turn(&mut blocked) {
            Next::End => return Ok(()),
            Next::Again(worked) if pace.goes_on(worked || called) => {
                yield_now().await;
                continue;
            }
            Next::Again(_) => Some(Instant::now() + BLOCKED_TICK),
            Next::Wait(until) => {
                pace.waits();
                until
            }
        };
        pop.due_at.set(until);
        poll_fn(|cx| {
            if let Some(socket) = blocked.and_then(|id| pop.udp.get(id.0))
                && socket.poll_writable(cx).is_ready()
            {
                blocked = None;
                return Poll::Ready(());
            }
            pop.driver.poll(cx)
        })
        .await;
    }
}

impl Pop {
    /// One bounded portion of each kind of work.
    fn turn(self: &Rc<Self>, blocked: &mut Option<SocketId>) -> Next {
        let state = &mut *self.state();
        let now = Instant::now();
        let asked = state.life.look(&mut state.core, now);
        if asked.stop {
            return Next::End;
        }
        while let Some((conn, answer)) = state.names.answer(&mut state.core, now) {
            state.resolved(conn, answer);
        }
        if state.core.poll_timeout().is_some_and(|(at, _)| at <= now) {
            state.core.handle_timeout(now);
        }
        let (mut worked, settled) = self.settle(state, now);

        let now = Instant::now();
        let mut sent = None;
        if blocked.is_none() {
            let all = state.outbox.transmit(&mut state.udp, &mut state.core, now);
            if let Sent::Blocked(id) = all {
                *blocked = Some(id);
            }
            sent = Some(all);
            worked |= state.outbox.take_progress();
        }
        state.life.publish(asked, &mut state.core, now);
        if state.life.is_over(sent == Some(Sent::All), now) {
            return Next::End;
        }
        let deadline = pace::deadline(&mut state.core, blocked.is_some(), now);
        let due = deadline.is_some_and(|at| at <= Instant::now());
        if due || !settled || sent == Some(Sent::Share) {
            Next::Again(worked)
        } else {
            Next::Wait(deadline)
        }
    }

    /// Does what the core asks, until it asks for nothing more or the turn's share is used up.
    /// Tells whether there was anything, and whether all is done.
    fn settle(self: &Rc<Self>, state: &mut State, now: Instant) -> (bool, bool) {
        for round in 0..ROUNDS {
            let mut asked = false;
            while let Some(action) = state.core.poll_action() {
                asked = true;
                self.act(state, action, now);
            }
            state.flush(now);
            if !asked {
                return (round > 0, true);
            }
        }
        (true, false)
    }

    fn act(self: &Rc<Self>, state: &mut State, action: Action, now: Instant) {
        match action {
            Action::Connect { conn, target } => self.connect(state, conn, target),
            Action::Write { conn, data } => state.output(conn, |conn| conn.write(data)),
            Action::Shutdown { conn } => state.output(conn, Conn::shutdown),
            Action::GrantRead { conn, bytes } => state.grant(conn, bytes),
            Action::Abort { conn } => state.remove(conn),
            Action::Resolve { peer, target } => {
                state.names.resolve_peer(peer, target, &mut state.core, now);
            }
            Action::StopAccepting => state.listeners.clear(),
            Action::Drained => state.life.drained(now),
        }
    }
}
