//! Nodes are named on the wire by the hashes of their names: no two of them may have the same.

use std::collections::BTreeMap;

use crate::ids::{NodeHash, NodeId};

/// Two nodes have the same name on the wire.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("node ids {0} and {1} have the same hash on the wire: rename one of them")]
pub(crate) struct Collision(pub NodeId, pub NodeId);

/// Checks that these names, which may repeat, are told apart on the wire.
///
/// # Errors
/// [`Collision`] with the first two that are not.
pub(crate) fn tell_apart<'a>(names: impl Iterator<Item = &'a NodeId>) -> Result<(), Collision> {
    let mut known: BTreeMap<NodeHash, &NodeId> = BTreeMap::new();
    for name in names {
        let other = *known.entry(name.hash32()).or_insert(name);
        if other != name {
            return Err(Collision(other.clone(), name.clone()));
        }
    }
    Ok(())
}
