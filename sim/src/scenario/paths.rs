//! The way between two PoPs over the links as they are at the start.

use std::collections::BTreeMap;
use std::time::Duration;

use super::links::LinkSpec;
use super::{LinkId, PopId};

/// A way from one PoP to another.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Path {
    /// In order; none if both are the same PoP.
    pub links: Vec<LinkId>,
    /// Of all of them together.
    pub rtt: Duration,
}

/// The one of least RTT, and of several with the fewest links; `None` if no links lead there.
pub(super) fn shortest(links: &[LinkSpec], from: PopId, to: PopId) -> Option<Path> {
    // Dijkstra: what is known best of each PoP, and those whose best is final.
    let mut best = BTreeMap::from([(from, Path::default())]);
    let mut done: BTreeMap<PopId, Path> = BTreeMap::new();
    while let Some((at, path)) = best
        .iter()
        .min_by_key(|(pop, path)| (path.rtt, path.links.len(), **pop))
        .map(|(pop, path)| (*pop, path.clone()))
    {
        best.remove(&at);
        if at == to {
            return Some(path);
        }
        for (nth, link) in links.iter().enumerate() {
            let next = match link.ends {
                (a, b) if a == at => b,
                (a, b) if b == at => a,
                _ => continue,
            };
            let rtt = path.rtt + link.rtt;
            let better =
                |known: &Path| (rtt, path.links.len() + 1) < (known.rtt, known.links.len());
            if !done.contains_key(&next) && best.get(&next).is_none_or(better) {
                let links = path.links.iter().copied().chain([LinkId(nth)]).collect();
                best.insert(next, Path { links, rtt });
            }
        }
        done.insert(at, path);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::LinkConfig;

    fn link(a: usize, b: usize, rtt_ms: u64) -> LinkSpec {
        let config = LinkConfig::default();
        let rtt = Duration::from_millis(rtt_ms);
        LinkSpec { ends: (PopId(a), PopId(b)), forth: config.clone(), back: config, rtt }
    }

    #[test]
    fn the_way_is_the_one_of_least_rtt_in_either_direction() {
        let links = [link(0, 1, 50), link(2, 1, 80), link(0, 2, 200), link(3, 4, 1)];
        let way = |a, b| shortest(&links, PopId(a), PopId(b));
        let over = Path { links: vec![LinkId(0), LinkId(1)], rtt: Duration::from_millis(130) };
        let back = Path { links: vec![LinkId(1), LinkId(0)], ..over.clone() };
        assert_eq!((way(0, 2), way(2, 0)), (Some(over), Some(back)));
        assert_eq!(way(1, 1), Some(Path::default()));
        assert_eq!(way(0, 3), None);
    }

    #[test]
    fn of_ways_of_one_rtt_that_with_fewest_links_is_it() {
        let links = [link(0, 1, 10), link(1, 2, 10), link(0, 2, 20)];
        assert_eq!(shortest(&links, PopId(0), PopId(2)).unwrap().links, [LinkId(2)]);
    }
}
