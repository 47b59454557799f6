//! How full the queues and tables of the flows are.

use crate::flow::closed::MAX_ABOVE;
use crate::flow::remote::MAX_REMOTES;
use crate::flow::state::Flow;
use crate::flow::{
    Flows, INITIAL_WINDOW, MAX_LINGERING, MAX_OUTPUTS, MAX_REPLIES, MAX_RESETTING, Use, send,
};
use crate::ids::PeerId;
use crate::status::Table;

/// What one flow may have waiting for the shell: a dial, an abort, and grants, which come in steps of
/// 8 KiB, the first of any size, and are 256 KiB ahead of the shell at most.
const OUTPUTS_OF_A_FLOW: u64 = 2 + 1 + send::AHEAD_BULK / send::MIN_GRANT;

impl Flows {
    /// Flows with a connection: each has at least its first window reserved.
    fn most_live(&self) -> u64 {
        Use::Flow.limit(self.cap).max(self.inherited) / INITIAL_WINDOW
    }

    /// All flows, together with those that linger and those that are being reset.
    pub(super) fn most_flows(&self) -> usize {
        self.most_live() as usize + MAX_LINGERING + MAX_RESETTING
    }

    /// As many as there can be now, counting those that were there when a limit was lowered.
    pub(crate) fn bound(&self) -> usize {
        self.most_flows().max(self.inherited_flows)
    }

    /// Shows every table to `visit`; see [`Node::tables`](crate::Node::tables).
    pub(crate) fn tables(&self, visit: &mut dyn FnMut(Table)) {
        let most = self.bound() as u64;
        let (reserved, cap) = (self.reserved, self.cap.max(self.inherited));
        visit(Table { name: "flow_memory", peer: None, len: reserved, bound: cap });
        let mut node = |name, len: usize, bound: u64| {
            visit(Table { name, peer: None, len: len as u64, bound });
        };
        node("flows", self.flows.len(), most);
        node("flows_live", self.live, self.most_live());
        node("flows_lingering", self.lingering.len(), MAX_LINGERING as u64);
        node("flow_keys", self.by_key.len(), most);
        node("flow_connections", self.by_conn.len(), most);
        node("flow_timers", self.timers.len(), most);
        node("flow_writers", self.writers.len(), most);
        node("flows_starved", self.starved.len(), most);
        let outputs = MAX_OUTPUTS as u64 + OUTPUTS_OF_A_FLOW * self.most_live();
        node("flow_outputs", self.outputs.len(), outputs);

        // Of each flow's own tables the fullest, so that one beyond its bound is never hidden.
        let mut greatest = |name, of: fn(&Flow) -> (u64, u64)| {
            let all = self.flows.iter().map(|(_, flow)| of(flow));
            let fullest = all.max_by_key(|(len, bound)| (len.saturating_sub(*bound), *len));
            let (len, bound) = fullest.unwrap_or((0, 1));
            visit(Table { name, peer: None, len, bound });
        };
        greatest("flow_window", |f| (f.rx.window(), f.cap));
        greatest("flow_unacknowledged", |f| (f.tx.reserved(), f.cap));
        greatest("flow_ranges_in", |f| (f.rx.ranges() as u64, f.rx.most_ranges() as u64));
        greatest("flow_ranges_out", |f| (f.tx.ranges() as u64, send::MAX_RANGES as u64));

        let had = self.remotes.values().map(|remote| remote.had.len()).max().unwrap_or(0);
        visit(Table { name: "closed_ids", peer: None, len: had as u64, bound: MAX_ABOVE as u64 });
        let remotes = self.remotes() as u64;
        visit(Table { name: "remotes", peer: None, len: remotes, bound: MAX_REMOTES as u64 });
        for (at, hop) in self.hops.iter().enumerate() {
            let mut peer = |name, len: usize, bound: u64| {
                visit(Table { name, peer: Some(PeerId(at)), len: len as u64, bound });
            };
            peer("control_replies", hop.replies.len(), MAX_REPLIES as u64);
            let longest = hop.queues.iter().map(|queue| queue.len()).max().unwrap_or(0);
            peer("flows_waiting", longest, most);
        }
    }
}
