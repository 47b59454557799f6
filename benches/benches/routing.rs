//! What a change of the mesh costs each node: one Dijkstra, and all of a recomputation.

use std::time::Instant;

use criterion::Criterion;
use entrouter_proto::bench::Mesh;

const NODES: usize = 500;
const LINKS: usize = 2_000;

fn routing(criterion: &mut Criterion) {
    let mut mesh = Mesh::random(NODES, LINKS, 1, Instant::now());
    let mut group = criterion.benchmark_group("routing");
    group.bench_function("dijkstra_500_nodes_2000_links", |bencher| {
        bencher.iter(|| assert_eq!(mesh.dijkstra(), NODES));
    });
    let name = format!("recompute_500_nodes_2000_links_{}_neighbours", mesh.neighbours());
    group.bench_function(name, |bencher| {
        bencher.iter(|| assert_eq!(mesh.recompute(), NODES - 1));
    });
    group.finish();
}

fn main() {
    // Nothing is drawn, and `gnuplot` is not looked for.
    let mut criterion = Criterion::default().without_plots().configure_from_args();
    routing(&mut criterion);
    criterion.final_summary();
}
