//! Destination → next hop. At this stage every destination is a neighbour.

use std::collections::BTreeMap;

use crate::ids::{NodeHash, NodeId, PeerId};

/// A node to which no way leads.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no route to {0}: only configured peers can be destinations")]
pub(crate) struct NoRoute(pub NodeId);

/// Two nodes have the same name on the wire.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("node ids {0} and {1} have the same hash on the wire: rename one of them")]
pub(crate) struct Collision(pub NodeId, pub NodeId);

/// The table.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    neighbours: BTreeMap<NodeHash, (PeerId, NodeId)>,
}

impl Routes {
    /// Adds a neighbour.
    ///
    /// # Errors
    /// [`Collision`] if another node has its hash.
    pub(crate) fn add(&mut self, peer: PeerId, id: &NodeId) -> Result<(), Collision> {
        if let Some((_, other)) = self.neighbours.get(&id.hash32())
            && other != id
        {
            return Err(Collision(other.clone(), id.clone()));
        }
        self.neighbours.insert(id.hash32(), (peer, id.clone()));
        Ok(())
    }

    /// Whether a way leads there.
    ///
    /// # Errors
    /// [`NoRoute`] if none does.
    pub(crate) fn to(&self, dest: &NodeId) -> Result<PeerId, NoRoute> {
        match self.neighbours.get(&dest.hash32()) {
            Some((peer, id)) if id == dest => Ok(*peer),
            _ => Err(NoRoute(dest.clone())),
        }
    }
}
