//! The origin: an echo of 64-byte messages, a source and a sink of bulk data, on plain TCP.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rand_core::RngCore;

use super::bulk::{self, Hello, Timelines};
use super::stage::{Connection, Stage};
use super::workload::PING_BYTES;
use crate::seed::Seed;

/// What a bulk connection of the origin needs to know.
#[derive(Debug, Clone)]
pub(super) struct BulkPlan {
    pub(super) seed: Seed,
    /// How long to send.
    pub(super) duration: Duration,
    pub(super) timelines: Arc<Timelines>,
}

/// Listens on two ports of one address until [`Stage::close`].
#[derive(Debug)]
pub(super) struct Origin {
    pub(super) ping_addr: SocketAddr,
    pub(super) bulk_addr: SocketAddr,
    accepting: [JoinHandle<()>; 2],
}

impl Origin {
    pub(super) fn start(stage: &Arc<Stage>, at: Ipv4Addr, plan: &BulkPlan) -> io::Result<Self> {
        let (ping_addr, ping) = listen(stage, at, "ping", |_, connection| echo(connection))?;
        let plan = plan.clone();
        let (bulk_addr, bulk) = listen(stage, at, "bulk", move |stage, connection| {
            serve_bulk(stage, connection, &plan)
        })?;
        Ok(Self { ping_addr, bulk_addr, accepting: [ping, bulk] })
    }

    /// Waits for all its threads; call after [`Stage::close`].
    pub(super) fn join(self) {
        for thread in self.accepting {
            // A panic was printed where it happened.
            let _ = thread.join();
        }
    }
}

/// One thread accepts, and starts one for each connection.
fn listen(
    stage: &Arc<Stage>,
    at: Ipv4Addr,
    what: &'static str,
    serve: impl Fn(&Stage, &mut Connection) -> io::Result<()> + Send + Sync + 'static,
) -> io::Result<(SocketAddr, JoinHandle<()>)> {
    let listener = stage.listen((at, 0).into())?;
    let addr = listener.local_addr()?;
    let stage = Arc::clone(stage);
    let thread = std::thread::Builder::new().name(format!("origin {what}")).spawn(move || {
        std::thread::scope(|scope| {
            let (stage, serve) = (&stage, &serve);
            while !stage.is_closed() {
                match listener.accept() {
                    Ok((stream, _)) => {
                        scope.spawn(move || accepted(stage, what, stream, serve));
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => {
                        stage.fail(format!("the origin cannot accept {what} connections: {error}"));
                        return;
                    }
                }
            }
        });
    })?;
    Ok((addr, thread))
}

fn accepted(
    stage: &Arc<Stage>,
    what: &str,
    stream: TcpStream,
    serve: &impl Fn(&Stage, &mut Connection) -> io::Result<()>,
) {
    let served =
        Connection::origin(stage, stream).and_then(|mut connection| serve(stage, &mut connection));
    if let Err(error) = served {
        stage.fail(format!("a {what} connection broke at the origin: {error}"));
    }
}

fn echo(connection: &mut Connection) -> io::Result<()> {
    let mut number = [0; 8];
    if !connection.fill(&mut number)? {
        return Ok(());
    }
    connection.set_number(u64::from_be_bytes(number));
    let mut message = [0; PING_BYTES];
    while connection.fill(&mut message)? {
        connection.write_all(&message)?;
    }
    connection.finish_sending()
}

fn serve_bulk(stage: &Stage, connection: &mut Connection, plan: &BulkPlan) -> io::Result<()> {
    let Some(hello) = Hello::read(connection)? else {
        return Ok(());
    };
    connection.set_number(hello.number);
    if hello.wants_data {
        let mut data = plan.seed.child("origin").stream(&hello.number.to_string());
        bulk::send(stage, connection, Instant::now() + plan.duration, |buf| data.fill_bytes(buf))?;
        connection.finish_sending()?;
        // The client has finished, too; its FIN shows that half-close crossed the mesh.
        connection.fill(&mut [0]).map(drop)
    } else {
        let digest = bulk::receive(stage, connection, &plan.timelines.up)?;
        connection.write_all(&digest)?;
        connection.finish_sending()
    }
}
