//! Bytes in bulk: what the core costs above the cipher. See the crate's docs for how to run it.

use std::time::{Duration, Instant};

use criterion::{Criterion, SamplingMode, Throughput};
use entrouter_benches::{Floor, Pump};

/// Application bytes in an iteration.
const BYTES: u64 = 16 << 20;
/// Iterations of each for the ratio, in turn, so that whatever else the machine does meets both.
const ROUNDS: usize = 31;
/// Makes a pump that has come to rest.
type Make = fn() -> Pump;

const PUMPS: [(&str, Make); 2] = [("node_pump", Pump::warm), ("node_pump_lossy", Pump::lossy)];

fn bulk(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("bulk");
    group.throughput(Throughput::Bytes(BYTES)).sampling_mode(SamplingMode::Flat).sample_size(30);
    let mut floor = Floor::new();
    group.bench_function("floor", |bencher| bencher.iter(|| floor.run(BYTES)));
    for (name, make) in PUMPS {
        let mut pump = make();
        group.bench_function(name, |bencher| bencher.iter(|| pump.transfer(BYTES)));
    }
    group.finish();
}

/// The median of the ratios of neighbouring iterations, and the quartiles around it.
fn ratio(mut pump: Pump) -> [f64; 3] {
    let mut floor = Floor::new();
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
        for (name, make) in PUMPS {
            let [low, median, high] = ratio(make());
            println!("{name} takes {median:.2} x floor (quartiles {low:.2} and {high:.2})");
        }
    }
}
