//! Asking a daemon how it is, without a runtime: for the `health` command.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use thiserror::Error;

/// More than any daemon says of itself.
const ANSWER_BYTES_MAX: u64 = 256 * 1024;

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum AskError {
    /// Nobody listens there, or the answer did not come in time.
    #[error(
        "no answer from http://{address}/health: {source}; is the daemon running with monitoring.enabled?"
    )]
    Unreachable {
        /// Who was asked.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody else listens there.
    #[error("what listens on {address} does not speak HTTP")]
    NotHttp {
        /// Who was asked.
        address: SocketAddr,
    },
}

/// The status and the body of `GET /health` from the daemon that is bound to `address`, within `timeout`.
///
/// # Errors
/// See [`AskError`].
pub fn ask_health(address: SocketAddr, timeout: Duration) -> Result<(u16, String), AskError> {
    let address = reachable(address);
    let answer = exchange(address, timeout).map_err(|source| AskError::Unreachable { address, source })?;
    parse(&answer).ok_or(AskError::NotHttp { address })
}

/// A daemon bound to every address is asked through this machine's own.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}

fn exchange(address: SocketAddr, timeout: Duration) -> io::Result<String> {
    let deadline = Instant::now() + timeout;
    let left = || {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::Error::from(io::ErrorKind::TimedOut)) } else { Ok(Some(left)) }
    };
    let mut stream = TcpStream::connect_timeout(&address, timeout)?;
    stream.set_write_timeout(left()?)?;
    // HTTP/1.0: the answer is neither chunked nor followed by another.
    stream.write_all(format!("GET /health HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    loop {
        stream.set_read_timeout(left()?)?;
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(count) => answer.extend_from_slice(&piece[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // What a timeout is called on a socket.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::ErrorKind::TimedOut.into());
            }
            Err(error) => return Err(error),
        }
        if answer.len() as u64 > ANSWER_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer does not end"));
        }
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn parse(answer: &str) -> Option<(u16, String)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok()?;
    Some((status, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_its_status_and_its_body() {
        let answer = "HTTP/1.0 503 Service Unavailable\r\ncontent-length: 2\r\n\r\n{}";
        assert_eq!(parse(answer), Some((503, "{}".to_owned())));
        for garbage in
            ["", "SSH-2.0-OpenSSH\r\n\r\n", "HTTP/1.1 \r\n\r\n", "HTTP/1.1 2é0 OK\r\n\r\n", "HTTP/1.1 200 OK"]
        {
            assert_eq!(parse(garbage), None, "{garbage:?}");
        }
    }

    #[test]
    fn a_daemon_on_every_address_is_asked_on_this_machine() {
        for (bound, asked) in
            [("0.0.0.0:8080", "127.0.0.1:8080"), ("[::]:1", "[::1]:1"), ("192.0.2.1:5", "192.0.2.1:5")]
        {
            assert_eq!(reachable(bound.parse().unwrap()), asked.parse().unwrap());
        }
    }
}
