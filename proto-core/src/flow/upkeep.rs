//! What follows from a change of a flow: grants, queues, timers, the end.

use std::time::{Duration, Instant};

use crate::flow::send::{AHEAD_IDLE, MIN_GRANT};
use crate::flow::state::{AckState, Conn, LINGER, ROUTE_WAIT, Role, UNREACHABLE_WAIT};
use crate::flow::{Flows, MAX_LINGERING, Output, SELF_HOP, Use};
use crate::ids::Lane;
use crate::wire::flow::{FlowKey, ResetCode};

impl Flows {
    /// Brings everything that depends on a flow's state up to date.
    pub(super) fn touch(&mut self, now: Instant, idx: usize) {
        self.grant(idx);
        self.settle(now, idx);
        self.schedule(now, idx);
    }

    /// Lets the connection be read as far as there is use and memory for it.
    pub(super) fn grant(&mut self, idx: usize) {
        let Some(flow) = self.flows.get_mut(idx) else { return };
        let reading = flow.conn == Conn::Open && flow.reset_in.is_none();
        let wanted = if reading { flow.tx.wanted_grant(flow.cap) } else { 0 };
        let window = if flow.is_live() { flow.rx.window() } else { 0 };
        let holds = window + flow.tx.reserved();
        self.reserved = self.reserved - flow.reserved + holds;
        flow.reserved = holds;
        self.inherited = self.inherited.min(self.reserved + self.live as u64 * AHEAD_IDLE);
        if wanted == 0 {
            return;
        }
        // Where there is no memory for all that it wants, a flow still gets what every flow has:
        // otherwise those in the middle of a transfer would wait for one another for ever.
        let first = wanted.min(AHEAD_IDLE.saturating_sub(flow.tx.reserved()));
        let wanted = if self.reserved + wanted <= Use::Growth.limit(self.cap) {
            wanted
        } else if first == wanted || first >= MIN_GRANT {
            first
        } else {
            self.starved.insert(idx);
            return;
        };
        flow.tx.grant(wanted);
        self.reserved += wanted;
        flow.reserved += wanted;
        let conn = flow.conn_id;
        self.outputs.push_back(Output::GrantRead { conn, bytes: wanted as usize });
    }

    /// Ends what has come to its end.
    pub(super) fn settle(&mut self, now: Instant, idx: usize) {
        let Some(flow) = self.flows.get_mut(idx) else { return };
        if let Some(reset) = &flow.reset_in {
            let told = flow.rx.written() >= reset.final_size;
            if told || flow.conn == Conn::Gone || now >= reset.give_up_at {
                self.abort_conn(idx);
                self.remove(idx);
                return;
            }
        }
        if flow.linger_until.is_none()
            && flow.conn == Conn::Open
            && flow.reset_out.is_none()
            && flow.tx.is_done()
            && flow.rx.is_written()
            && flow.shutdown
        {
            flow.owe_ack(now, false);
            let key = flow.key;
            self.conn_gone(idx);
            self.linger(now, idx, key);
        }
    }

    fn linger(&mut self, now: Instant, idx: usize, key: Option<FlowKey>) {
        let Some(key) = key else { return self.remove(idx) };
        if self.lingering.len() >= MAX_LINGERING
            && let Some((old_key, old)) = self.lingering.pop_front()
            && self.flows.get(old).is_some_and(|f| f.key == Some(old_key))
        {
            self.remove(old);
        }
        self.lingering.push_back((key, idx));
        if let Some(flow) = self.flows.get_mut(idx) {
            flow.rx.discard();
            flow.linger_until = Some(now + LINGER);
        }
        self.grant(idx);
    }

    /// Puts the flow where it will be found: queues of lanes, writers, timers.
    pub(super) fn schedule(&mut self, now: Instant, idx: usize) {
        let Some(flow) = self.flows.get_mut(idx) else { return };
        if flow.conn == Conn::Open && !flow.writing && flow.reset_out.is_none() {
            flow.writing = true;
            self.writers.push_back(idx);
        }
        let hop = match flow.hop {
            Some(SELF_HOP) => Some(&mut self.own_hop),
            Some(hop) => self.hops.get_mut(hop.0),
            None => None,
        };
        if let Some(hop) = hop {
            for (lane, (queue, queued)) in
                Lane::ALL.into_iter().zip(hop.queues.iter_mut().zip(0usize..))
            {
                if flow.wants(lane)
                    && let Some(flag) = flow.queued.get_mut(queued).filter(|q| !**q)
                {
                    *flag = true;
                    queue.push_back(idx);
                }
            }
        }
        if flow.stall_at.is_none() && flow.awaits_other_end() {
            let rtt = self.remotes.get(&flow.remote).map_or(Duration::ZERO, |r| r.rtt);
            // Not at once again if that is over and nothing could be done.
            let patience = flow.patience(rtt);
            let since = flow.tx.progress.unwrap_or(now);
            flow.stall_at = Some((since + patience).max(now + patience / 4));
        }
        let deadline = flow.deadline();
        if deadline != flow.armed {
            if let Some(at) = flow.armed {
                self.timers.remove(&(at, idx));
            }
            if let Some(at) = deadline {
                self.timers.insert((at, idx));
            }
            flow.armed = deadline;
        }
    }

    /// When [`Flows::handle_timeout`] has something to do.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let timer = self.timers.first().map(|(at, _)| *at);
        [timer, self.give_up_at()].into_iter().flatten().min()
    }

    /// Time passed.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.give_up_unreachable(now);
        while let Some(&(at, idx)) = self.timers.first() {
            if at > now {
                break;
            }
            self.timers.pop_first();
            if let Some(flow) = self.flows.get_mut(idx) {
                flow.armed = None;
            }
            self.on_timer(now, idx);
        }
        while let Some((key, idx)) = self.lingering.front().copied() {
            if self.flows.get(idx).is_some_and(|f| f.key == Some(key)) {
                break;
            }
            self.lingering.pop_front();
        }
    }

    fn on_timer(&mut self, now: Instant, idx: usize) {
        let Some(flow) = self.flows.get_mut(idx) else { return };
        if flow.linger_until.is_some_and(|at| at <= now) {
            self.remove(idx);
            return;
        }
        if matches!(flow.ack, AckState::At(at) if at <= now) {
            flow.ack = AckState::Now;
        }
        if flow.reset_out.as_ref().is_some_and(|r| r.give_up_at <= now) {
            self.remove(idx);
            return;
        }
        if let Some(reset) = flow.reset_out.as_mut().filter(|r| !r.told && r.repeat_at <= now) {
            reset.due = true;
            reset.interval *= 2;
            reset.repeat_at = now + reset.interval;
        }
        if flow.look_at.take_if(|at| *at <= now).is_some() {
            flow.look_for_holes(now);
        }
        if flow.stall_at.is_some_and(|at| at <= now) {
            flow.stall_at = None;
            self.on_stall(now, idx);
        }
        self.touch(now, idx);
    }

    /// Nothing may have moved for a while: find out, and repair end to end what no hop holds any
    /// more.
    fn on_stall(&mut self, now: Instant, idx: usize) {
        let Some(flow) = self.flows.get_mut(idx) else { return };
        let Some(remote) = self.remotes.get(&flow.remote) else { return };
        if flow.key.is_none() {
            // A way that is there, but full or losing all it is given, is waited for.
            let since = remote.down_since.map(|down| down.max(flow.created));
            if since.is_some_and(|since| now.saturating_duration_since(since) >= ROUTE_WAIT) {
                tracing::debug!(conn = ?flow.conn_id, "no way to the destination");
                self.abort_conn(idx);
                self.reset(now, idx, ResetCode::Unreachable, 0);
            }
            return;
        }
        if remote.down_since.is_some() {
            return;
        }
        let age = now.saturating_duration_since(flow.created);
        if !flow.opened && flow.role == Role::Ingress && age >= UNREACHABLE_WAIT {
            // There is a way, but whoever is at its end does not take the flow.
            self.abort_conn(idx);
            return self.reset(now, idx, ResetCode::Unreachable, 0);
        }
        let quiet_since = flow.tx.progress.unwrap_or(flow.created);
        let quiet = now.saturating_duration_since(quiet_since);
        if quiet < flow.patience(remote.rtt) {
            return;
        }
        // What the next hop has not acknowledged yet is its tunnel's to repair.
        let held_since = flow.hop.and_then(|hop| self.hops.get(hop.0)).and_then(|h| h.held_since);
        let sent_at = flow.tx.sent_at.unwrap_or(flow.created);
        if held_since.is_some_and(|held| held <= sent_at) {
            return;
        }
        flow.stalls += 1;
        flow.look_for_holes(now);
    }
}
