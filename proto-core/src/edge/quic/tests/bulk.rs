//! Long transfers over long, lossy paths.

use std::sync::Arc;
use std::time::Duration;

use quinn_proto::TransportConfig;

use super::world::{Path, World, pattern};
use crate::edge::quic::congestion::Follow;
use crate::edge::quic::setup::PACKET_THRESHOLD;

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A client that can fill such a path.
fn able() -> TransportConfig {
    let mut config = TransportConfig::default();
    config
        .stream_receive_window((16u32 << 20).into())
        .send_window(32 << 20)
        .packet_threshold(PACKET_THRESHOLD)
        .congestion_controller_factory(Arc::new(Follow));
    config
}

/// Mbit/s towards the origin and back of so many bytes.
fn rates(seed: u64, path: Path, len: usize) -> [f64; 2] {
    let mut world = World::new(seed, path);
    world.echo = false;
    let n = world.client_with(able(), "entrouter");
    world.connect(n);
    assert!(world.run(secs(30), |w| w.clients[n].connected.is_some()));
    let data = pattern(seed, len);
    let mbps = |took: Duration| len as f64 * 8e-6 / took.as_secs_f64();
    let began = world.now;
    let stream = world.clients[n].open(&data, true);
    assert!(world.run(secs(600), |w| w.origins.values().any(|o| o.eof_received)), "stuck");
    let up = mbps(world.now - began);
    assert!(world.origin().incoming == data);
    let began = world.now;
    world.origin().outgoing.extend(&data);
    world.origin().close_when_sent = true;
    world.drive_all();
    assert!(world.run(secs(600), |w| w.clients[n].streams[&stream].is_over()), "stuck");
    let down = mbps(world.now - began);
    assert!(world.stream(n, stream).incoming == data);
    world.check_tables();
    println!("{up:.1} Mbit/s up, {down:.1} down");
    [up, down]
}

#[test]
fn a_hundred_megabytes_pass_where_it_is_far_and_lossy() {
    let path = Path { rate: Some(100.0), ..Path::lossy(135, 0.02) };
    let [up, down] = rates(1, path, 100_000_000);
    assert!(up > 40.0 && down > 50.0, "{up:.1} up, {down:.1} down");
}

#[test]
fn much_loss_and_reordering_slow_a_transfer_and_do_not_stop_it() {
    let jitter = Duration::from_millis(10);
    let path = Path { rate: Some(50.0), jitter, ..Path::lossy(40, 0.1) };
    let [up, down] = rates(2, path, 20_000_000);
    assert!(up > 10.0 && down > 10.0, "{up:.1} up, {down:.1} down");
}
