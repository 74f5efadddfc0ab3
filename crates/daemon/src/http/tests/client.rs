//! A client written from the specifications, on plain sockets.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

use super::fixture::PATIENCE;

pub struct Client(BufReader<TcpStream>);

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

/// An event of an event stream.
#[derive(Debug, PartialEq, Eq)]
pub struct Message {
    pub id: u64,
    pub event: String,
    pub data: String,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self(BufReader::with_capacity(512, stream))
    }

    pub fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.0.get_mut().write_all(bytes)
    }

    /// Will send no more.
    pub fn finish(&mut self) -> std::io::Result<()> {
        self.0.get_ref().shutdown(Shutdown::Write)
    }

    /// Whether nothing comes within `time`.
    pub fn is_silent(&mut self, time: Duration) -> bool {
        self.0.get_ref().set_read_timeout(Some(time)).unwrap();
        let is_silent = self.0.fill_buf().is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        self.0.get_ref().set_read_timeout(Some(PATIENCE)).unwrap();
        is_silent
    }

    /// What comes until the other side closes, or the connection breaks.
    pub fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("it does not close"),
            _ => rest,
        }
    }

    /// Asks, with `headers` of which each ends with CR LF, and reads the whole answer.
    pub fn get(&mut self, path: &str, headers: &str) -> Answer {
        self.ask("GET", path, headers)
    }

    pub fn ask(&mut self, method: &str, path: &str, headers: &str) -> Answer {
        self.send(format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n").as_bytes())
            .unwrap();
        if method == "HEAD" {
            let (status, headers) = self.head();
            return Answer { status, headers, body: String::new() };
        }
        self.answer()
    }

    /// Reads a whole answer.
    pub fn answer(&mut self) -> Answer {
        let (status, headers) = self.head();
        let mut body = Vec::new();
        if headers.get("transfer-encoding").is_some_and(|encoding| encoding == "chunked") {
            while let Some(chunk) = self.chunk() {
                body.extend(chunk);
            }
        } else {
            body.resize(headers["content-length"].parse().unwrap(), 0);
            self.0.read_exact(&mut body).unwrap();
        }
        Answer { status, headers, body: String::from_utf8(body).unwrap() }
    }

    /// Begins to follow the log. HTTP/1.0, so that the body is the stream itself.
    pub fn follow(mut self, path: &str, headers: &str) -> Result<Self, Answer> {
        self.send(format!("GET {path} HTTP/1.0\r\n{headers}\r\n").as_bytes()).unwrap();
        let (status, headers) = self.head();
        if status != 200 {
            let body = String::from_utf8(self.rest()).unwrap();
            return Err(Answer { status, headers, body });
        }
        assert_eq!(headers["content-type"], "text/event-stream");
        assert_eq!(self.line().unwrap(), "retry: 1000");
        assert_eq!(self.line().unwrap(), "");
        Ok(self)
    }

    /// The next event; `None` at the end of the stream.
    pub fn message(&mut self) -> Option<Message> {
        let mut message = Message { id: 0, event: String::new(), data: String::new() };
        loop {
            match self.line()?.split_once(": ") {
                Some(("id", id)) => message.id = id.parse().unwrap(),
                Some(("event", event)) => message.event = event.to_owned(),
                Some(("data", data)) => message.data.push_str(data),
                Some(("", _comment)) => assert_eq!(self.line().unwrap(), ""),
                Some(other) => panic!("{other:?}"),
                None => return Some(message),
            }
        }
    }

    /// A line without its end; `None` when nothing comes any more.
    pub fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        match self.0.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => Some(line.trim_end_matches(['\r', '\n']).to_owned()),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => None,
            Err(error) => panic!("{error}"),
        }
    }

    fn head(&mut self) -> (u16, BTreeMap<String, String>) {
        let status = self.line().expect("an answer");
        let status = status.split(' ').nth(1).unwrap().parse().unwrap();
        let mut headers = BTreeMap::new();
        loop {
            match self.line().unwrap().split_once(": ") {
                Some((name, value)) => headers.insert(name.to_lowercase(), value.to_owned()),
                None => return (status, headers),
            };
        }
    }

    fn chunk(&mut self) -> Option<Vec<u8>> {
        let length = usize::from_str_radix(&self.line().unwrap(), 16).unwrap();
        let mut chunk = vec![0; length];
        self.0.read_exact(&mut chunk).unwrap();
        assert_eq!(self.line().unwrap(), "");
        (length > 0).then_some(chunk)
    }
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// Checks that it is a problem as RFC 9457 has it, and returns what it says.
    pub fn problem(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{}", self.body);
        assert_eq!(self.headers["content-type"], "application/problem+json");
        let problem = self.json();
        assert_eq!(problem["status"], status);
        assert_eq!(problem["type"], "about:blank");
        assert!(problem["title"].is_string());
        problem["detail"].as_str().unwrap().to_owned()
    }
}
