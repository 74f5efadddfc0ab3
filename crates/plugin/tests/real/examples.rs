//! The packages in `plugins/`, run as they are but for the places they write and connect to.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use autoweave_usb_device::Action;
use autoweave_usb_plugin::launch::Launch;
use autoweave_usb_plugin::package::Package;
use autoweave_usb_plugin::protocol::Verdict;
use autoweave_usb_plugin::worker::Worker;
use tempfile::TempDir;

use crate::support::{self, DEADLINES, event};

/// A copy of an example in which `changes` are made, started.
fn start(name: &str, changes: &[(&str, &str, &str)]) -> (TempDir, Worker, std::sync::mpsc::Receiver<String>) {
    let copy = support::directory();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugins").join(name);
    let copied = Command::new("cp").arg("-R").arg(source.join(".")).arg(copy.path()).status().unwrap();
    assert!(copied.success());
    fs::set_permissions(copy.path(), fs::Permissions::from_mode(0o755)).unwrap();
    for (file, from, to) in changes {
        let text = fs::read_to_string(copy.path().join(file)).unwrap();
        assert!(text.contains(from), "{from} in {file}");
        fs::write(copy.path().join(file), text.replace(from, to)).unwrap();
    }
    let package = Package::check(copy.path(), false).unwrap();
    let (sender, log) = std::sync::mpsc::channel();
    let sink =
        Box::new(move |line: autoweave_usb_plugin::worker::LogLine| sender.send(line.message).unwrap());
    let worker = Worker::start(&Launch::plan(&package, &support::host()).unwrap(), DEADLINES, sink).unwrap();
    (copy, worker, log)
}

#[test]
fn the_serial_announcer_announces() {
    let (_copy, mut worker, log) = start("serial-announcer", &[]);
    assert_eq!(worker.deliver(&event(1, "1-1.2", Action::Attach), 1).unwrap(), Verdict::Done);
    assert_eq!(log.recv().unwrap(), "046d:c52b is on bus 1, port 1.2; 1 in all");
    assert_eq!(worker.deliver(&event(2, "1-1.2", Action::Detach), 1).unwrap(), Verdict::Done);
    assert_eq!(log.recv().unwrap(), "046d:c52b is gone; 0 in all");
    worker.shut_down().unwrap();
}

#[test]
fn the_storage_desk_files_requests() {
    let desk = support::directory();
    let path = fs::canonicalize(desk.path()).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
    let place = ("/run/autoweave-storage", path.to_str().unwrap());
    let changes = [("desk.sh", place.0, place.1), ("autoweave.plugin.json", place.0, place.1)];
    let (_copy, mut worker, _log) = start("storage-desk", &changes);
    assert_eq!(worker.deliver(&event(1, "3-1.2", Action::Attach), 1).unwrap(), Verdict::Done);
    assert_eq!(fs::read_to_string(path.join("3-1.2")).unwrap(), "046d:c52b\n");
    assert_eq!(worker.deliver(&event(2, "3-1.2", Action::Detach), 1).unwrap(), Verdict::Done);
    assert!(!path.join("3-1.2").exists());
    fs::remove_dir(&path).unwrap();
    let Verdict::Failed { error, retry: true } =
        worker.deliver(&event(3, "3-1.2", Action::Attach), 1).unwrap()
    else {
        panic!()
    };
    assert!(error.starts_with("cannot write to"), "{error}");
    worker.shut_down().unwrap();
}

#[test]
fn the_webhook_notifier_posts() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let changes = [
        ("config.json", "https://hooks.example.com", url.as_str()),
        ("autoweave.plugin.json", "https://hooks.example.com", &url),
    ];
    let (_copy, mut worker, _log) = start("webhook-notifier", &changes);
    let server = std::thread::spawn(move || {
        ["200 OK", "503 Busy", "404 Not Found"].map(|status| {
            let mut stream = BufReader::new(listener.accept().unwrap().0);
            let (mut head, mut length) = (String::new(), 0);
            while !head.ends_with("\r\n\r\n") {
                let start = head.len();
                stream.read_line(&mut head).unwrap();
                if let Some(value) = head[start..].to_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
            }
            let mut body = vec![0; length];
            stream.read_exact(&mut body).unwrap();
            write!(stream.get_mut(), "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                .unwrap();
            (head, String::from_utf8(body).unwrap())
        })
    });
    let mut deliver = |number| worker.deliver(&event(number, "1-1", Action::Attach), 1).unwrap();
    assert_eq!(deliver(1), Verdict::Done);
    assert!(matches!(deliver(2), Verdict::Failed { retry: true, .. }));
    assert!(matches!(deliver(3), Verdict::Failed { retry: false, .. }));
    let (head, body) = &server.join().unwrap()[0];
    assert!(head.to_lowercase().contains("idempotency-key: e1"), "{head}");
    assert!(body.contains(r#""event_id": "E1""#), "{body}");
    worker.shut_down().unwrap();
}
