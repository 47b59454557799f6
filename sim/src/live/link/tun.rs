//! A TUN device in each of two namespaces: what the kernel there sends comes out of a file, and what
//! is written to the file the kernel receives.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use tun_rs::{DeviceBuilder, Layer, SyncDevice};

use super::namespace::{NamespaceError, Namespaces};
use super::packet::IpPacket;
use crate::live::forward::{Ends, Received};

/// The device's name in either namespace.
pub(in crate::live) const DEVICE: &str = "line0";
/// Packets that wait for us in the kernel, so that none is dropped before the link's own queue: at
/// 100 Mbit/s more than a second.
const KERNEL_QUEUE: u32 = 10_000;

/// A device could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TunError {
    /// The namespace, or a command in it.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// The device itself.
    #[error("cannot make a TUN device in {name}: {source} (is /dev/net/tun usable here?)")]
    Device {
        /// The namespace.
        name: String,
        /// Why.
        source: io::Error,
    },
}

/// Both devices, up, with an address each.
pub(super) struct TunEnds {
    devices: [SyncDevice; 2],
}

impl TunEnds {
    pub(super) fn new(
        namespaces: &Namespaces,
        addrs: [String; 2],
        mtu: u16,
    ) -> Result<Self, TunError> {
        let [a, b] = addrs;
        Ok(Self { devices: [device(namespaces, 0, &a, mtu)?, device(namespaces, 1, &b, mtu)?] })
    }
}

/// `addr` with its prefix.
fn device(
    namespaces: &Namespaces,
    which: usize,
    addr: &str,
    mtu: u16,
) -> Result<SyncDevice, TunError> {
    let made = namespaces.enter(which, || {
        let device = DeviceBuilder::new()
            .layer(Layer::L3)
            .name(DEVICE)
            .mtu(mtu)
            .tx_queue_len(KERNEL_QUEUE)
            .enable(false)
            .build_sync()?;
        device.set_nonblocking(true)?;
        Ok(device)
    })?;
    let device = made.map_err(|source| {
        let name = namespaces.names()[which].clone();
        TunError::Device { name, source }
    })?;
    namespaces.ip(which, &["link", "set", "lo", "up"])?;
    namespaces.ip(which, &["addr", "add", addr, "dev", DEVICE])?;
    namespaces.ip(which, &["link", "set", DEVICE, "up"])?;
    Ok(device)
}

impl Ends for TunEnds {
    type Packet = IpPacket;

    fn fds(&self) -> [BorrowedFd<'_>; 2] {
        [self.devices[0].as_fd(), self.devices[1].as_fd()]
    }

    fn receive(&self, end: usize, buf: &mut [u8]) -> io::Result<Received<IpPacket>> {
        match self.devices[end].recv(buf) {
            Ok(length) => {
                Ok(IpPacket::new(&buf[..length]).map_or(Received::Ignored, Received::Packet))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Received::Nothing),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(Received::Ignored),
            // The device is gone, or down for good: somebody has taken it away.
            Err(error) => Err(error),
        }
    }

    fn send(&self, end: usize, packet: &IpPacket) -> io::Result<()> {
        self.devices[end].send(packet.bytes()).map(drop)
    }
}
