//! Flow frames in and out.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::flow::state::{AckState, Conn, Flow, Role};
use crate::flow::{Flows, MAX_REPLIES, Output, Reply, Use};
use crate::ids::{ConnId, Lane, PeerId, ServiceName};
use crate::wire::flow::{
    self, Body, Direction, DropReason, FlowKey, Head, MAX_FLOW_ACK_LEN, Opening, ResetCode,
};
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

    /// A frame that is for this node, from the neighbour `from`.
    pub(crate) fn handle_frame(&mut self, now: Instant, from: PeerId, head: Head, body: Body<'_>) {
        let (ours, _) = head.ends();
        if ours != self.local {
            debug_assert!(false, "what is for others is not given to flows");
            return;
        }
        let our_life = match head.direction {
            Direction::ToEgress => head.key.egress_life,
            Direction::ToIngress => head.key.ingress_life,
        };
        let role = match head.direction {
            Direction::ToEgress => Role::Egress,
            Direction::ToIngress => Role::Ingress,
        };
        match self.by_key.get(&(head.key, role)).copied() {
            Some(idx) => self.handle_known(now, from, idx, head, body),
            None if our_life == self.life.low32() => self.handle_unknown(now, from, head, body),
            None => self.answer_unknown(from, head, &body),
        }
    }

    fn handle_known(&mut self, now: Instant, from: PeerId, idx: usize, head: Head, body: Body<'_>) {
        let Some(flow) = self.flows.get_mut(idx) else { return };
        // A relay's word does not tell that the other end has heard of the flow.
        flow.opened |= !matches!(body, Body::Dropped { .. });
        match body {
            Body::Data { offset, fin, data, .. } => {
                flow.marked += if head.marked { data.len() as u64 } else { 0 };
                self.on_data(now, idx, offset, data, fin);
            }
            Body::Ack(ack) => {
                let rtt = self.remotes.get(&flow.remote).map_or(Duration::ZERO, |r| r.rtt);
                if flow.tx.on_ack(now, rtt, &ack) {
                    flow.stalls = 0;
                }
                if !flow.ask_due && flow.tx.is_left_to_ask(flow.ask) {
                    flow.ask += 1;
                    flow.ask_due = true;
                }
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
            Body::Ask { number } => {
                flow.asked = flow.asked.max(number);
                flow.owe_ack(now, true);
                self.touch(now, idx);
            }
            Body::Dropped { offset, len, reason } => {
                self.counters.drops_told += 1;
                match reason {
                    DropReason::Congestion if len == 0 && !flow.opened => flow.open_due = true,
                    DropReason::Congestion => flow.tx.on_drop(offset, offset.saturating_add(len)),
                    // It would be dropped again: look again when there may be a way.
                    DropReason::NoWay => flow.look_soon(now),
                }
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
            remote.had.forbid(head.key.id);
        }
        let Body::Data { offset, fin, open: Some(open), data } = body else {
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
        let Ok(service) = ServiceName::new(open.service) else {
            return self.reply(from, head, Reply::Reset(ResetCode::NoSuchService));
        };
        // Served or refused, this is its only chance: a later frame must not open it in the middle.
        remote.had.insert(key.id);
        let (hop, relayed) = (remote.hop, remote.hops > 1);
        if !self.has_room() {
            return self.reply(from, head, Reply::Reset(ResetCode::NoMemory));
        }
        let conn = ConnId::dialled(self.dialled);
        self.dialled += 1;
        let (to, sizes) = (key.ingress, self.sizes);
        let endpoints = open.endpoints;
        let opening = (service.clone(), endpoints);
        let mut flow = Flow::new(now, Role::Egress, to, hop, opening, conn, sizes);
        flow.key = Some(key);
        flow.tx.set_relayed(relayed);
        let idx = self.insert(flow);
        self.by_key.insert((key, Role::Egress), idx);
        self.counters.flows_accepted += 1;
        self.outputs.push_back(Output::Dial { conn, service, endpoints });
        self.on_data(now, idx, offset, data, fin);
    }

    /// A frame of this node was given back by a tunnel that died: what it said is to be said another way.
    pub(crate) fn take_back(&mut self, now: Instant, head: Head, body: &Body<'_>) {
        let role = match head.direction {
            Direction::ToEgress => Role::Ingress,
            Direction::ToIngress => Role::Egress,
        };
        let known = self.by_key.get(&(head.key, role)).copied();
        let Some((idx, flow)) = known.and_then(|idx| Some((idx, self.flows.get_mut(idx)?))) else {
            let to = self.remotes.get(&head.ends().0).and_then(|remote| remote.hop);
            return match (to, body) {
                (Some(to), Body::ResetAck) => self.put_reply(to, head, Reply::ResetAck),
                (Some(to), Body::Reset { code, .. }) => {
                    self.put_reply(to, head, Reply::Reset(*code));
                }
                _ => {}
            };
        };
        match body {
            Body::Data { offset, fin, data, .. } => {
                flow.tx.give_back(*offset, offset.saturating_add(data.len() as u64), *fin);
                flow.open_due |= data.is_empty() && role == Role::Ingress && !flow.opened;
            }
            Body::Ack(_) => flow.owe_ack(now, true),
            Body::Ask { .. } => flow.ask_due = true,
            Body::Reset { .. } => {
                if let Some(reset) = flow.reset_out.as_mut().filter(|reset| !reset.told) {
                    reset.due = true;
                }
            }
            Body::ResetAck => {
                if let Some(to) = flow.hop {
                    self.put_reply(to, head, Reply::ResetAck);
                }
                return;
            }
            Body::Dropped { .. } => {}
        }
        self.touch(now, idx);
    }

    /// To a frame of a flow that is not known, or is no more.
    fn answer_unknown(&mut self, from: PeerId, head: Head, body: &Body<'_>) {
        match body {
            Body::Data { .. } | Body::Ask { .. } => {
                self.reply(from, head, Reply::Reset(ResetCode::UnknownFlow));
            }
            Body::Reset { .. } => self.reply(from, head, Reply::ResetAck),
            Body::Ack(_) | Body::ResetAck | Body::Dropped { .. } => {}
        }
    }

    /// Answers along the way to the other end; where none is known, the way that the frame came.
    fn reply(&mut self, from: PeerId, head: Head, reply: Reply) {
        let (_, theirs) = head.ends();
        let to = self.remotes.get(&theirs).and_then(|remote| remote.hop).unwrap_or(from);
        self.put_reply(to, Head::new(head.key, head.direction.reversed()), reply);
    }

    /// The tunnel to a neighbour died: what was to be answered over it goes another way.
    pub(crate) fn redirect_replies(&mut self, dead: PeerId) {
        let Some(hop) = self.hops.get_mut(dead.0) else { return };
        for (head, reply) in std::mem::take(&mut hop.replies) {
            let to = self.remotes.get(&head.ends().0).and_then(|remote| remote.hop);
            if let Some(to) = to.filter(|to| *to != dead) {
                self.put_reply(to, head, reply);
            }
        }
    }

    fn put_reply(&mut self, to: PeerId, head: Head, reply: Reply) {
        if let Some(hop) = self.hop_mut(to)
            && hop.replies.len() < MAX_REPLIES
        {
            hop.replies.push_back((Head::new(head.key, head.direction), reply));
        }
    }

    /// Whether [`Flows::fill`] may find something for that neighbour and lane.
    pub(crate) fn has(&self, hop: PeerId, lane: Lane) -> bool {
        self.hop(hop).is_some_and(|hop| {
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
            let queue = self.queue_mut(hop, lane);
            let Some(&idx) = queue.as_ref().and_then(|queue| queue.front()) else { return };
            let Some(flow) = self.flows.get_mut(idx) else {
                self.queue_mut(hop, lane).and_then(VecDeque::pop_front);
                continue;
            };
            let before = out.len();
            if flow.wants(lane) {
                if flow.deficit <= 0 {
                    flow.deficit += QUANTUM.max(room as i64);
                }
                if flow.deficit <= 0 {
                    self.turn(hop, lane);
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
        if let Some(flow) = self.flows.get_mut(idx) {
            flow.deficit -= wrote as i64;
            if !flow.wants(lane) {
                flow.deficit = 0;
                if let Some(flag) = flow.queued.get_mut(lane as usize) {
                    *flag = false;
                }
                self.queue_mut(hop, lane).and_then(VecDeque::pop_front);
            } else if flow.deficit <= 0 {
                self.turn(hop, lane);
            }
        }
        self.touch(now, idx);
    }

    fn queue_mut(&mut self, hop: PeerId, lane: Lane) -> Option<&mut VecDeque<usize>> {
        self.hop_mut(hop).and_then(|hop| hop.queues.get_mut(lane as usize))
    }

    /// It is the next flow's turn.
    fn turn(&mut self, hop: PeerId, lane: Lane) {
        if let Some(queue) = self.queue_mut(hop, lane).filter(|queue| !queue.is_empty()) {
            queue.rotate_left(1);
        }
    }

    /// How many flows have something for that neighbour and lane.
    pub(crate) fn weight(&self, hop: PeerId, lane: Lane) -> usize {
        let queue = self.hop(hop).and_then(|hop| hop.queues.get(lane as usize));
        queue.map_or(0, VecDeque::len)
    }

    fn put_replies(&mut self, hop: PeerId, limit: usize, out: &mut Vec<u8>) {
        let Some(hop) = self.hop_mut(hop) else { return };
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
        self.by_key.insert((key, Role::Ingress), idx);
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
            self.counters.resent_bytes += std::mem::take(&mut flow.tx.resent);
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
        } else if self.ask_due && fits {
            flow::put_ask(out, &head, self.ask);
            self.ask_due = false;
        }
    }

    fn put_data(&mut self, now: Instant, key: FlowKey, limit: usize, out: &mut Vec<u8>) {
        let head = self.head(key);
        let service = self.service.clone();
        let opening = Opening { service: service.as_str(), endpoints: self.endpoints };
        let open = (self.role == Role::Ingress && !self.opened).then_some(opening);
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
