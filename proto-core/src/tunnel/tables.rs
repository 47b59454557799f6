//! How full the queues and tables of a tunnel are.

use crate::fec::{BlockReceiver, BlockSender};
use crate::probe::MAX_SLOTS;
use crate::status::Table;
use crate::tunnel::lane::SendLane;
use crate::tunnel::symbols::WINDOW;
use crate::tunnel::{Tunnel, handshake, ledger, receive, resize};

/// Session indices of one tunnel: attempts, answers, the sessions now and before.
pub(crate) const MAX_INDICES: usize = 2 * handshake::MAX_OPEN + 2;
/// Events that one datagram or timeout makes at most; they are taken before the next.
const MAX_EVENTS: usize = 4;

/// What three lanes hold at most.
const MAX_ORPHANS: usize = 3 * WINDOW as usize;

impl Tunnel {
    /// Shows every table to `visit`; see [`Node::tables`](crate::Node::tables). Where there is one for
    /// each lane, the fullest.
    pub(crate) fn tables(&self, visit: &mut dyn FnMut(Table)) {
        let mut show = |name, len: usize, bound: usize| {
            visit(Table { name, peer: Some(self.id), len: len as u64, bound: bound as u64 });
        };
        show("handshakes_open", self.handshakes.attempts.len(), handshake::MAX_OPEN);
        show("handshakes_answered", self.unconfirmed.len(), handshake::MAX_OPEN);
        show("handshake_packets", self.outbox.len(), handshake::MAX_OUTBOX);
        show("tunnel_events", self.events.len(), MAX_EVENTS);
        show("pongs", self.pongs.len(), receive::MAX_PONGS);
        show("mtu_answers", self.mtu_answers.len(), resize::MAX_ANSWERS);
        let sessions = [&self.current, &self.previous].into_iter().flatten();
        let sessions = sessions.chain(self.unconfirmed.iter().map(|(session, _)| session));
        let packets = sessions.map(|session| session.ledger.remembered()).max().unwrap_or(0);
        show("ledger", packets, ledger::MAX_REMEMBERED);

        for (name, of, bound) in SendLane::TABLES {
            show(name, self.lanes.iter().map(of).max().unwrap_or(0), bound);
        }
        for (name, of, bound) in BlockSender::TABLES {
            show(name, self.fec_out.iter().map(of).max().unwrap_or(0), bound);
        }
        for (name, of, bound) in BlockReceiver::TABLES {
            show(name, self.fec_in.iter().map(of).max().unwrap_or(0), bound);
        }
        let orphans = self.orphans.iter().flat_map(|lanes| lanes.iter());
        show("orphans", orphans.map(SendLane::unacked).sum(), MAX_ORPHANS);
        show("silence_slots", self.silence.slots(), MAX_SLOTS);
        let ring = self.fec_in.iter().map(BlockReceiver::kept).max().unwrap_or(0);
        let slots = self.fec_in.iter().map(BlockReceiver::slots).max().unwrap_or(0);
        show("fec_ring", ring, slots);
    }
}
