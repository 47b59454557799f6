//! Meshes that a file describes in a line or two: PoPs by their number, links by chance.

use std::collections::BTreeMap;

use rand_chacha::ChaCha8Rng;
use rand_core::RngCore;
use toml::{Table, Value};

use super::error::Problem;
use super::raw::{RawMesh, read};
use super::values::At;
use super::{MAX_POPS, Pop};
use crate::seed::Seed;

/// Tables of [[pop]] for `pops = N`: n0, n1, …
pub(super) fn numbered(pops: u64) -> Result<Vec<Table>, Problem> {
    let pops = At("").count("pops", pops, 2..=MAX_POPS as u64, "PoPs")?;
    let table = |n| Table::from_iter([("name".to_owned(), Value::from(format!("n{n}")))]);
    Ok((0..pops).map(table).collect())
}

/// Adds what `[mesh]` asks for to the tables `[links.A-B]`: a ring through all PoPs in an order by
/// chance, so that they are connected, then pairs by chance as long as both ends want more links.
/// Pairs that the file links itself stay as they are, and count.
pub(super) fn link_up(
    pops: &[Pop],
    mesh: Table,
    links: &mut BTreeMap<String, Table>,
) -> Result<(), Problem> {
    let raw: RawMesh = read("mesh", mesh)?;
    let at = At("mesh");
    let most = pops.len() as u64 - 1;
    let degree = at.count("degree", raw.degree, 1..=most, "links of each PoP")? as usize;
    let [least, greatest] = raw.rtt_ms;
    let greatest = at.number("rtt_ms", greatest, 0.0..=60_000.0, "milliseconds")?;
    let least = at.number("rtt_ms", least, 0.0..=greatest, "milliseconds, the least one first")?;
    let mut draws = Seed::new(raw.seed).stream("mesh");
    let mut mesh = Mesh { pops, links, degrees: vec![0; pops.len()] };
    mesh.count_present();
    let mut order: Vec<usize> = (0..pops.len()).collect();
    shuffle(&mut draws, &mut order);
    let next = order.iter().skip(1).chain(order.first());
    let ring: Vec<_> = order.iter().copied().zip(next.copied()).collect();
    let mut pairs: Vec<_> = (0..pops.len()).flat_map(|b| (0..b).map(move |a| (a, b))).collect();
    shuffle(&mut draws, &mut pairs);
    let ring_len = ring.len();
    for (nth, (a, b)) in ring.into_iter().chain(pairs).enumerate() {
        // Drawn for each pair, so that a link more in the file changes no other one.
        let share = (draws.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
        let rtt_us = ((least + share * (greatest - least)) * 1e3).round();
        if nth < ring_len || (mesh.degrees[a] < degree && mesh.degrees[b] < degree) {
            mesh.join(a, b, rtt_us / 1e3);
        }
    }
    Ok(())
}

fn shuffle<T>(draws: &mut ChaCha8Rng, items: &mut [T]) {
    for last in (1..items.len()).rev() {
        items.swap(last, (draws.next_u64() % (last as u64 + 1)) as usize);
    }
}

struct Mesh<'a> {
    pops: &'a [Pop],
    links: &'a mut BTreeMap<String, Table>,
    degrees: Vec<usize>,
}

impl Mesh<'_> {
    fn name(&self, a: usize, b: usize) -> String {
        format!("{}-{}", self.pops[a].name, self.pops[b].name)
    }

    fn is_joined(&self, a: usize, b: usize) -> bool {
        self.links.contains_key(&self.name(a, b)) || self.links.contains_key(&self.name(b, a))
    }

    fn count_present(&mut self) {
        for b in 0..self.pops.len() {
            for a in 0..b {
                if self.is_joined(a, b) {
                    self.degrees[a] += 1;
                    self.degrees[b] += 1;
                }
            }
        }
    }

    fn join(&mut self, a: usize, b: usize, rtt_ms: f64) {
        // Of two PoPs a ring is one link.
        if a == b || self.is_joined(a, b) {
            return;
        }
        let table = Table::from_iter([("rtt_ms".to_owned(), Value::from(rtt_ms))]);
        self.links.insert(self.name(a.min(b), a.max(b)), table);
        self.degrees[a] += 1;
        self.degrees[b] += 1;
    }
}
