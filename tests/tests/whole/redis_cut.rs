//! Connections that are cut at a chosen byte of a chosen command or of the answer to it, with more commands behind.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread;

use autoweave_usb_testbus::{Bus, Device};

use crate::harness::{PATIENCE, StateDir, last_seq};
use crate::redis_server::{Server, compare, start, start_at, url, wait_until_published};

/// Where a connection ends.
#[derive(Clone, Copy, Debug)]
struct Cut {
    command: Nth,
    within: Within,
}

#[derive(Clone, Copy, Debug)]
enum Within {
    /// The server gets this many quarters of the command, and no more.
    Request(usize),
    /// The server has done the command and `more` behind it; of the answers the daemon gets all before, and this many
    /// quarters of the one to the command.
    Reply { quarters: usize, more: usize },
}

/// A command by its number in the connection, from 0.
#[derive(Clone, Copy, Debug)]
enum Nth {
    Any(usize),
    /// Of those that append events.
    Append(usize),
}

/// A command that appends carries two dozen fields and more; the others have a few words.
const APPEND_WORDS: usize = 20;

/// Commands that append in one pipeline of a publisher that has [`BACKLOG`] events to send.
const PIPELINE: usize = 10;

/// Events that wait before each cut: enough for a pipeline, and few enough that a socket holds them.
const BACKLOG: u64 = 100;

/// Between the daemon and Redis, one connection at a time.
struct Proxy {
    orders: Sender<Cut>,
    done: Receiver<()>,
    whole: Arc<Mutex<Option<UnixStream>>>,
}

impl Proxy {
    fn start(socket: &Path, server: PathBuf) -> Self {
        let listener = UnixListener::bind(socket).unwrap();
        let (orders, ordered) = mpsc::channel();
        let (tell, done) = mpsc::channel();
        let whole = Arc::new(Mutex::new(None));
        let connected = whole.clone();
        // It ends with the process: nothing waits for it.
        thread::spawn(move || {
            let accept = || (listener.accept().unwrap().0, UnixStream::connect(&server).unwrap());
            for cut in ordered {
                let (client, server) = accept();
                pass(client, server, Some(cut)).unwrap();
                tell.send(()).unwrap();
                let (client, server) = accept();
                *connected.lock().unwrap() = Some(client.try_clone().unwrap());
                let _ = pass(client, server, None);
            }
        });
        Self { orders, done, whole }
    }

    /// Ends the connection that nothing was cut from. Nobody gets through until [`Self::cut`].
    fn close(&self) {
        if let Some(client) = self.whole.lock().unwrap().take() {
            client.shutdown(Shutdown::Both).unwrap();
        }
    }

    /// Lets the next connection through up to its cut, and the one after it for good.
    fn cut(&self, cut: Cut) {
        self.orders.send(cut).unwrap();
        let never = |_| panic!("nothing came to be cut: {cut:?}");
        self.done.recv_timeout(PATIENCE).unwrap_or_else(never);
    }
}

/// Passes one command and its answer on at a time until the cut. Both connections end with it.
fn pass(client: UnixStream, server: UnixStream, cut: Option<Cut>) -> io::Result<()> {
    let (mut to_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    let (mut from_client, mut from_server) = (BufReader::new(client), BufReader::new(server));
    let (mut commands, mut appends) = (0, 0);
    loop {
        let (command, words) = read_command(&mut from_client)?;
        let is_append = words > APPEND_WORDS;
        let is_here = cut.is_some_and(|cut| match cut.command {
            Nth::Any(number) => number == commands,
            Nth::Append(number) => is_append && number == appends,
        });
        commands += 1;
        appends += usize::from(is_append);
        let Some(cut) = cut.filter(|_| is_here) else {
            to_server.write_all(&command)?;
            to_client.write_all(&read_reply(&mut from_server)?)?;
            continue;
        };
        // The daemon has to be done with sending, or it would not read what it was answered before.
        let behind = if is_append { appends..PIPELINE } else { 0..0 };
        let rest: Vec<_> = behind.map(|_| read_command(&mut from_client)).collect::<io::Result<_>>()?;
        return match cut.within {
            Within::Request(quarters) => to_server.write_all(&command[..command.len() * quarters / 4]),
            Within::Reply { quarters, more } => {
                to_server.write_all(&command)?;
                let reply = read_reply(&mut from_server)?;
                assert!(!is_append || reply.windows(2).any(|word| word == b"ok"), "it was done: {cut:?}");
                for (command, _) in &rest[..more] {
                    to_server.write_all(command)?;
                    read_reply(&mut from_server)?;
                }
                to_client.write_all(&reply[..reply.len() * quarters / 4])
            }
        };
    }
}

/// A command as its bytes, and how many words it has (RESP: an array of bulk strings).
fn read_command(from: &mut impl BufRead) -> io::Result<(Vec<u8>, usize)> {
    let mut bytes = Vec::new();
    let words = read_head(from, &mut bytes)?.1;
    for _ in 0..words {
        read_value(from, &mut bytes)?;
    }
    Ok((bytes, words))
}

fn read_reply(from: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    read_value(from, &mut bytes)?;
    Ok(bytes)
}

/// Appends the bytes of one value of the protocol, with all that is in it.
fn read_value(from: &mut impl BufRead, bytes: &mut Vec<u8>) -> io::Result<()> {
    match read_head(from, bytes)? {
        (b'$', length) => {
            let line_end = 2;
            from.take((length + line_end) as u64).read_to_end(bytes)?;
        }
        (b'*', count) => {
            for _ in 0..count {
                read_value(from, bytes)?;
            }
        }
        _ => {}
    }
    Ok(())
}

/// Appends a value's first line; returns its type and the number in it, 0 where there is none.
fn read_head(from: &mut impl BufRead, bytes: &mut Vec<u8>) -> io::Result<(u8, usize)> {
    let begin = bytes.len();
    if from.read_until(b'\n', bytes)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let number = String::from_utf8_lossy(&bytes[begin + 1..]).trim().parse().unwrap_or(0);
    Ok((bytes[begin], number))
}

fn cuts() -> Vec<Cut> {
    let of_append = |number| {
        let requests = (1..4).map(Within::Request);
        // Done, and the daemon does not know, or hears half of it.
        let replies = (0..4).map(|quarters| Within::Reply { quarters, more: 0 });
        let amid_more = [0, 2].map(|quarters| Within::Reply { quarters, more: 3 });
        let all = requests.chain(replies).chain(amid_more);
        all.map(move |within| Cut { command: Nth::Append(number), within })
    };
    // What the server is, and where its mark stands.
    let of_greeting = |number| {
        let both = [Within::Request(2), Within::Reply { quarters: 2, more: 0 }];
        both.map(|within| Cut { command: Nth::Any(number), within })
    };
    (0..3).flat_map(of_greeting).chain((0..2).flat_map(of_append)).collect()
}

#[test]
fn connections_cut_within_a_pipeline_neither_lose_nor_repeat() {
    let mut bus = Bus::enter().unwrap();
    let ports: Vec<String> = (1..=10).map(|port| format!("1-{port}")).collect();
    for (number, port) in (0..).zip(&ports) {
        bus.plug_silent(port, &Device::numbered(number)).unwrap();
    }
    let ports: Vec<&str> = ports.iter().map(String::as_str).collect();
    let server = Server::start();
    let state = StateDir::new();
    // Redis has the scripts before anything is cut: a call of one that it lacks does nothing.
    let daemon = start(&bus, &state, &server);
    wait_until_published(&daemon, &state, &server);
    daemon.stop();

    let socket = state.path().join("proxy.sock");
    let proxy = Proxy::start(&socket, server.socket());
    let redis = [("REDIS_URL", &*url(&socket)), ("AUTOWEAVE_USB__PERFORMANCE__BATCH_SIZE", "10")];
    let daemon = start_at(&bus, &state, &redis);
    for cut in cuts() {
        proxy.close();
        let before = last_seq(&state);
        bus.cycle(&ports, 5).unwrap();
        daemon.wait_until("they wait in the journal", || last_seq(&state) >= before + BACKLOG);
        proxy.cut(cut);
        daemon.wait_until("all is published", || server.length() == last_seq(&state));
    }
    wait_until_published(&daemon, &state, &server);
    let log = daemon.stop();
    assert!(log.contains("Redis cannot be reached"), "{log}");
    compare(&state, &server);
}
