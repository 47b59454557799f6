//! Flow frames in and out.

use std::time::{Duration, Instant};

use crate::flow::state::{AckState, Conn, Flow, Role};
use crate::flow::{Flows, MAX_REPLIES, Output, Reply, Use};
use crate::ids::{ConnId, Lane, PeerId, ServiceName};
use crate::wire::flow::{self, Body, Direction, FlowKey, Head, MAX_FLOW_ACK_LEN, ResetCode};
use crate::wire::{Malformed, Reader};

/// What a flow gets in its turn, at least (deficit round robin). Whoever has something left may fill the
/// packet, and owes what that was too much: cut to what is left, each packet would hold two frames.
const QUANTUM: i64 = 1200;
/// Less room than this is not worth a data frame.
const MIN_DATA: usize = 32;

impl Flows {
    /// The flow frames of one symbol, from the neighbour `from`.
    ///
    /// # Errors
    /// [`Malformed`]; the frames before the bad one have been taken.
    pub(crate) fn handle_symbol(
        &mut self,
        now: Instant,
        from: PeerId,
        content: &[u8],
    ) -> Result<(), Malformed> {
        let mut reader = Reader::new(content);
        while let Some((head, body)) = flow::read(&mut reader)? {
            self.handle_frame(now, from, head, body);
        }
        Ok(())
    }

    fn handle_frame(&mut self, now: Instant, from: PeerId, head: Head, body: Body<'_>) {
        let key = &head.key;
        let (ours, our_life, theirs) = match head.direction {
            Direction::ToEgress => (key.egress, key.egress_life, key.ingress),
            Direction::ToIngress => (key.ingress, key.ingress_life, key.egress),
        };
        // There is no transit yet: what is for another node, or in another node's name, is refused.
        if ours != self.local || self.remotes.get(&theirs).is_none_or(|r| r.hop != from) {
            return;
        }
        let role = match head.direction {
            Direction::ToEgress => Role::Egress,
            Direction::ToIngress => Role::Ingress,
        };
        let known = self.by_key.get(key).copied();
        let known = known.filter(|idx| self.flows.get(*idx).is_some_and(|f| f.role == role));
        match known {
            Some(idx) => self.handle_known(now, from, idx, head, body),
            None if our_life == self.life.low32() => self.handle_unknown(now, from, head, body),
            None => self.answer_unknown(from, head, &body),
        }
    }

    fn handle_known(&mut self, now: Instant, from: PeerId, idx: usize, head: Head, body: Body<'_>) {
        let Some(flow) = self.flows.get_mut(idx) else { return };
        flow.opened = true;
        match body {
            Body::Data { offset, fin, data, .. } => self.on_data(now, idx, offset, data, fin),
            Body::Ack { cumulative, credit, fin, ranges } => {
                flow.tx.on_ack(now, cumulative, credit, fin, ranges.as_slice());
                let over = flow.reset_out.as_ref().is_some_and(|r| r.told) && flow.tx.is_drained();
                if over {
                    self.remove(idx);
                    return;
                }
                self.touch(now, idx);
            }
            Body::Reset { code, final_size } => {
                self.reply(from, head, Reply::ResetAck);
                self.on_reset(now, idx, code, final_size);
            }
            Body::ResetAck => {
                if let Some(reset) = &mut flow.reset_out {
                    reset.told = true;
                    reset.due = false;
                    if flow.tx.is_drained() {
                        self.remove(idx);
                    }
                }
            }
            Body::Blocked { .. } => {
                flow.owe_ack(now, true);
                self.touch(now, idx);
            }
        }
    }

    fn on_data(&mut self, now: Instant, idx: usize, offset: u64, data: &[u8], fin: bool) {
        let Some(flow) = self.flows.get_mut(idx) else { return };
        if flow.reset_out.is_some() {
            return;
        }
        if flow.linger_until.is_some() {
            flow.owe_ack(now, true);
            return self.touch(now, idx);
        }
        let Ok(is_new) = flow.rx.receive(now, offset, data, fin) else {
            tracing::debug!(conn = ?flow.conn_id, "the other end broke the rules of its flow");
            self.abort_conn(idx);
            return self.reset(now, idx, ResetCode::ConnectionReset, 0);
        };
        let rtt = self.remotes.get(&flow.remote).map_or(Duration::ZERO, |r| r.rtt);
        // What is left by then is enough for all to begin, whoever grows first.
        let scarce = self.reserved > Use::Growth.limit(self.cap) / 2;
        let growth = flow.rx.wanted_growth(now, rtt, flow.cap, scarce);
        if growth > 0 && self.reserved + growth <= Use::Growth.limit(self.cap) {
            flow.rx.grow(growth);
        }
        let at_once = !is_new || flow.rx.is_complete() || flow.rx.owes_credit();
        flow.owe_ack(now, at_once);
        self.touch(now, idx);
    }

    fn on_reset(&mut self, now: Instant, idx: usize, code: ResetCode, final_size: u64) {
        let Some(flow) = self.flows.get_mut(idx) else { return };
        tracing::debug!(conn = ?flow.conn_id, %code, "reset by the other end");
        if flow.linger_until.is_some() || flow.reset_out.is_some() {
            return self.remove(idx);
        }
        self.counters.flows_reset += 1;
        flow.tx.discard();
        flow.accept_reset(now, final_size);
        self.touch(now, idx);
    }

    fn handle_unknown(&mut self, now: Instant, from: PeerId, head: Head, body: Body<'_>) {
        if let (Body::Reset { .. }, Direction::ToEgress) = (&body, head.direction)
            && let Some(remote) = self.remotes.get_mut(&head.key.ingress)
            && remote.life.is_some_and(|life| life.low32() == head.key.ingress_life)
        {
            // It overtook the open, which must not be served when it comes.
            remote.had.insert(head.key.id);
        }
        let Body::Data { offset, fin, open: Some(service), data } = body else {
            return self.answer_unknown(from, head, &body);
        };
        if head.direction == Direction::ToIngress {
            return self.answer_unknown(from, head, &body);
        }
        let key = head.key;
        let Some(remote) = self.remotes.get_mut(&key.ingress) else { return };
        if remote.life.is_none_or(|life| life.low32() != key.ingress_life) {
            // From a life of the ingress that is over, or that this node has not heard of yet; in
            // the latter case the frame will come again.
            return;
        }
        if remote.had.contains(key.id) {
            self.counters.opens_refused += 1;
            return self.reply(from, head, Reply::Reset(ResetCode::UnknownFlow));
        }
        if self.closing {
            remote.had.insert(key.id);
            return self.reply(from, head, Reply::Reset(ResetCode::ShuttingDown));
        }
        let Ok(service) = ServiceName::new(service) else {
            return self.reply(from, head, Reply::Reset(ResetCode::NoSuchService));
        };
        // Served or refused, this is its only chance: a later frame must not open it in the middle.
        remote.had.insert(key.id);
        let hop = remote.hop;
        if !self.has_room() {
            return self.reply(from, head, Reply::Reset(ResetCode::NoMemory));
        }
        let conn = ConnId::dialled(self.dialled);
        self.dialled += 1;
        let (to, sizes) = (key.ingress, self.sizes);
        let mut flow = Flow::new(now, Role::Egress, to, hop, service.clone(), conn, sizes);
        flow.key = Some(key);
        let idx = self.insert(flow);
        self.by_key.insert(key, idx);
        self.counters.flows_accepted += 1;
        self.outputs.push_back(Output::Dial { conn, service });
        self.on_data(now, idx, offset, data, fin);
    }

    /// To a frame of a flow that is not known, or is no more.
    fn answer_unknown(&mut self, from: PeerId, head: Head, body: &Body<'_>) {
        match body {
            Body::Data { .. } | Body::Blocked { .. } => {
                self.reply(from, head, Reply::Reset(ResetCode::UnknownFlow));
            }
            Body::Reset { .. } => self.reply(from, head, Reply::ResetAck),
            Body::Ack { .. } | Body::ResetAck => {}
        }
    }

    fn reply(&mut self, to: PeerId, head: Head, reply: Reply) {
        let direction = match head.direction {
            Direction::ToEgress => Direction::ToIngress,
            Direction::ToIngress => Direction::ToEgress,
        };
        if let Some(hop) = self.hops.get_mut(to.0)
            && hop.replies.len() < MAX_REPLIES
        {
            hop.replies
                .push_back((Head { key: head.key, direction, marked: false, hops: 0 }, reply));
        }
    }

    /// Whether [`Flows::fill`] may find something for that neighbour and lane.
    pub(crate) fn has(&self, hop: PeerId, lane: Lane) -> bool {
        self.hops.get(hop.0).is_some_and(|hop| {
            (lane == Lane::Control && !hop.replies.is_empty())
                || hop.queues.get(lane as usize).is_some_and(|q| !q.is_empty())
        })
    }

    /// Appends frames of at most `room` bytes in all.
    pub(crate) fn fill(
        &mut self,
        now: Instant,
        hop: PeerId,
        lane: Lane,
        room: usize,
        out: &mut Vec<u8>,
    ) {
        let limit = out.len() + room;
        if lane == Lane::Control {
            self.put_replies(hop, limit, out);
        }
        loop {
            let queue = self.hops.get_mut(hop.0).and_then(|h| h.queues.get_mut(lane as usize));
            let Some(queue) = queue else { return };
            let Some(&idx) = queue.front() else { return };
            let Some(flow) = self.flows.get_mut(idx) else {
                queue.pop_front();
                continue;
            };
            let before = out.len();
            if flow.wants(lane) {
                if flow.deficit <= 0 {
                    flow.deficit += QUANTUM.max(room as i64);
                }
                if flow.deficit <= 0 {
                    queue.rotate_left(1);
                    continue;
                }
                self.put_frames(now, idx, lane, limit, out);
                if out.len() == before {
                    return;
                }
            }
            self.after_turn(now, hop, lane, idx, out.len() - before);
        }
    }

    fn after_turn(&mut self, now: Instant, hop: PeerId, lane: Lane, idx: usize, wrote: usize) {
        let queue = self.hops.get_mut(hop.0).and_then(|h| h.queues.get_mut(lane as usize));
        if let (Some(queue), Some(flow)) = (queue, self.flows.get_mut(idx)) {
            flow.deficit -= wrote as i64;
            if !flow.wants(lane) {
                flow.deficit = 0;
                queue.pop_front();
                if let Some(flag) = flow.queued.get_mut(lane as usize) {
                    *flag = false;
                }
            } else if flow.deficit <= 0 {
                queue.rotate_left(1);
            }
        }
        self.touch(now, idx);
    }

    fn put_replies(&mut self, hop: PeerId, limit: usize, out: &mut Vec<u8>) {
        let Some(hop) = self.hops.get_mut(hop.0) else { return };
        while let Some((head, reply)) = hop.replies.front() {
            if out.len() + flow::head_len(&head.key) + 10 > limit {
                return;
            }
            match reply {
                Reply::Reset(code) => flow::put_reset(out, head, *code, 0),
                Reply::ResetAck => flow::put_reset_ack(out, head),
            }
            hop.replies.pop_front();
        }
    }

    /// The key of a flow; an ingress gives it one when its first frame leaves.
    fn ensure_key(&mut self, idx: usize) -> Option<FlowKey> {
        let flow = self.flows.get_mut(idx)?;
        if flow.key.is_some() {
            return flow.key;
        }
        let remote = self.remotes.get_mut(&flow.remote)?;
        let key = FlowKey {
            ingress: self.local,
            ingress_life: self.life.low32(),
            egress: flow.remote,
            egress_life: remote.life?.low32(),
            id: remote.next_id,
        };
        remote.next_id += 1;
        flow.key = Some(key);
        self.by_key.insert(key, idx);
        Some(key)
    }

    fn put_frames(
        &mut self,
        now: Instant,
        idx: usize,
        lane: Lane,
        limit: usize,
        out: &mut Vec<u8>,
    ) {
        let Some(key) = self.ensure_key(idx) else { return };
        let Some(flow) = self.flows.get_mut(idx) else { return };
        let reserve = if lane == Lane::Control { 0 } else { 256 };
        let owes = flow.ack != AckState::Quiet;
        if owes && out.len() + MAX_FLOW_ACK_LEN + reserve <= limit {
            flow.put_ack(key, out);
        }
        if lane == Lane::Control {
            flow.put_control(key, limit, out);
        } else {
            flow.put_data(now, key, limit, out);
        }
    }
}

impl Flow {
    fn put_control(&mut self, key: FlowKey, limit: usize, out: &mut Vec<u8>) {
        let head = self.head(key);
        let fits = out.len() + flow::head_len(&key) + 10 <= limit;
        if let Some(reset) = self.reset_out.as_mut().filter(|r| r.due && fits) {
            flow::put_reset(out, &head, reset.code, reset.final_size);
            reset.due = false;
        } else if self.blocked_due && fits {
            flow::put_blocked(out, &head, self.tx.next());
            self.blocked_due = false;
        }
    }

    fn put_data(&mut self, now: Instant, key: FlowKey, limit: usize, out: &mut Vec<u8>) {
        let head = self.head(key);
        let service = self.service.clone();
        let open = (self.role == Role::Ingress && !self.opened).then_some(service.as_str());
        let offset = self.tx.next_offset();
        let used = out.len() + flow::data_overhead(&key, offset, open);
        if used + MIN_DATA > limit {
            return;
        }
        match self.tx.take_piece(now, limit - used) {
            Some(piece) => {
                flow::put_data_header(out, &head, piece.offset, piece.fin, open, piece.len);
                self.tx.copy(piece, out);
            }
            None if self.open_due => flow::put_data_header(out, &head, offset, false, open, 0),
            None => return,
        }
        self.open_due = false;
        debug_assert!(self.conn != Conn::Gone || self.reset_out.is_some());
    }
}
