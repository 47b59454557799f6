//! A gigabyte each way between different shells, over a link that loses every twentieth packet.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Instant;

use entrouter_tests::line::Plan;
use entrouter_tests::on_every;
use entrouter_tests::origin::{accept, listen};
use entrouter_tests::shells::Shell;
use sha2::{Digest, Sha256};

/// Each way, both at once.
const SIZE: u64 = 1_000_000_000;
/// Of that no two blocks are the same.
const BLOCK: usize = 1 << 20;
/// Ethernet's, although loopback would carry more.
const MTU: usize = 1_500;

/// Sends [`SIZE`] bytes of a seed and closes that half; their hash.
fn send(mut stream: &TcpStream, seed: u64) -> io::Result<Vec<u8>> {
    let (mut hash, mut left, mut n) = (Sha256::new(), SIZE, 0_u64);
    let mut block = entrouter_tests::bytes::pattern(seed, BLOCK);
    while left > 0 {
        block[..8].copy_from_slice(&n.to_be_bytes());
        n += 1;
        let piece = &block[..BLOCK.min(usize::try_from(left).unwrap_or(BLOCK))];
        hash.update(piece);
        stream.write_all(piece)?;
        left -= piece.len() as u64;
    }
    stream.shutdown(Shutdown::Write)?;
    Ok(hash.finalize().to_vec())
}

/// Reads to the end: how much, and its hash.
fn receive(mut stream: &TcpStream) -> io::Result<(u64, Vec<u8>)> {
    let (mut hash, mut length, mut buf) = (Sha256::new(), 0, vec![0; BLOCK]);
    loop {
        match stream.read(&mut buf)? {
            0 => return Ok((length, hash.finalize().to_vec())),
            n => {
                hash.update(&buf[..n]);
                length += n as u64;
            }
        }
    }
}

fn two_shells_exchange_a_gigabyte_at_5_percent_loss(pair: [Shell; 2]) {
    let (listener, origin) = listen();
    let mut line = Plan::lossy(origin).mtu(MTU).start(pair);
    let start = Instant::now();
    let client = line.connect();
    let served = accept(&listener);
    let [up, sent_up, down, sent_down] = std::thread::scope(|scope| {
        [
            scope.spawn(|| receive(&served)),
            scope.spawn(|| send(&client, 1).map(|hash| (SIZE, hash))),
            scope.spawn(|| receive(&client)),
            scope.spawn(|| send(&served, 2).map(|hash| (SIZE, hash))),
        ]
        .map(|thread| thread.join().unwrap().unwrap())
    });
    let elapsed = start.elapsed();
    assert_eq!(up, sent_up, "what the origin got");
    assert_eq!(down, sent_down, "what the client got");
    let rate = 2.0 * SIZE as f64 * 8e-6 / elapsed.as_secs_f64();
    let link = line.link.as_ref().unwrap().stats();
    let lost = [link.a_to_b, link.b_to_a].map(|way| way.lost as f64 / way.offered as f64);
    println!("{pair:?}: 2 GB in {elapsed:.1?}, {rate:.0} Mbit/s; lost on the way: {lost:.3?}");
    assert!(lost.iter().all(|lost| (0.045..0.055).contains(lost)), "{lost:?}");
    line.assert_running();
    line.entry.wait_idle();
    line.exit.wait_idle();
}

on_every!(mixed pair: two_shells_exchange_a_gigabyte_at_5_percent_loss);
