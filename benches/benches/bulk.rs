//! Bytes in bulk: what the core costs above the cipher. See the crate's docs for how to run it.

use std::time::{Duration, Instant};

use criterion::{Criterion, SamplingMode, Throughput};
use entrouter_benches::{Floor, Pump};

/// Application bytes in an iteration.
const BYTES: u64 = 16 << 20;
/// Iterations of each for the ratio, in turn, so that whatever else the machine does meets both.
const ROUNDS: usize = 31;

fn bulk(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("bulk");
    group.throughput(Throughput::Bytes(BYTES)).sampling_mode(SamplingMode::Flat).sample_size(30);
    let mut floor = Floor::new();
    group.bench_function("floor", |bencher| bencher.iter(|| floor.run(BYTES)));
    let mut pump = Pump::warm();
    group.bench_function("node_pump", |bencher| bencher.iter(|| pump.transfer(BYTES)));
    group.finish();
}

/// The median of the ratios of neighbouring iterations, and the quartiles around it.
fn ratio() -> [f64; 3] {
    let mut floor = Floor::new();
    let mut pump = Pump::warm();
    let mut ratios: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let below = time(|| floor.run(BYTES));
            let whole = time(|| pump.transfer(BYTES));
            whole.as_secs_f64() / below.as_secs_f64()
        })
        .collect();
    ratios.sort_by(f64::total_cmp);
    [ROUNDS / 4, ROUNDS / 2, ROUNDS * 3 / 4].map(|at| ratios[at])
}

fn time(run: impl FnOnce()) -> Duration {
    let start = Instant::now();
    run();
    start.elapsed()
}

fn main() {
    // Nothing is drawn, and `gnuplot` is not looked for.
    let mut criterion = Criterion::default().without_plots().configure_from_args();
    bulk(&mut criterion);
    criterion.final_summary();
    // Given by `cargo bench`; with another flag beside it nothing is to be measured.
    let flags: Vec<_> = std::env::args().skip(1).filter(|arg| arg.starts_with('-')).collect();
    if flags == ["--bench"] {
        let [low, median, high] = ratio();
        println!("node_pump takes {median:.2} x floor (quartiles {low:.2} and {high:.2})");
    }
}
