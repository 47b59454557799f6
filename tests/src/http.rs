//! As much of HTTP as the admin API needs.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// `GET path`: the status code and the body. Fails if there is no answer within a few seconds.
pub fn get(addr: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let timeout = Duration::from_secs(3);
    let mut stream = TcpStream::connect_timeout(&addr, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let wrong = || io::Error::new(io::ErrorKind::InvalidData, format!("no HTTP: {answer:?}"));
    let code = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(wrong)?;
    let (_, body) = answer.split_once("\r\n\r\n").ok_or_else(wrong)?;
    Ok((code, body.to_owned()))
}
