//! TLS, with a certificate authority of the test's own.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;

use autoweave_usb_stream::{Endpoint, Failure, probe};

use crate::bed::{Bed, assert_once};
use crate::sentinel::Sentinel;
use crate::server::{Server, free_ports, until};

const INNER: &str = "AUTOWEAVE_TLS_INNER";

fn openssl(dir: &Path, line: &str) {
    let output = Command::new("openssl").args(line.split(' ')).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The roots are read from the environment, so the test runs itself again with another one.
#[test]
fn the_certificate_is_checked() {
    if std::env::var_os(INNER).is_some() {
        return publish_over_tls();
    }
    let dir = tempfile::tempdir().unwrap();
    let subject = "-nodes -newkey ec -pkeyopt ec_paramgen_curve:P-256 -subj";
    openssl(dir.path(), &format!("req -x509 {subject} /CN=root -keyout root.key -out root.pem -days 2"));
    openssl(dir.path(), &format!("req {subject} /CN=localhost -keyout server.key -out server.csr"));
    std::fs::write(dir.path().join("names"), "subjectAltName=DNS:localhost").unwrap();
    openssl(
        dir.path(),
        "x509 -req -in server.csr -CA root.pem -CAkey root.key -CAcreateserial -out server.pem -days 2 -extfile names",
    );
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["encrypted::the_certificate_is_checked", "--exact", "--nocapture"])
        .env(INNER, dir.path())
        .env("SSL_CERT_FILE", dir.path().join("root.pem"))
        .env_remove("SSL_CERT_DIR")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn publish_over_tls() {
    let dir = std::env::var(INNER).unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let file = |name: &str| format!("{dir}/{name}");
    let server = Server::start(&[
        "--tls-port",
        &port.to_string(),
        "--tls-cert-file",
        &file("server.pem"),
        "--tls-key-file",
        &file("server.key"),
        "--tls-ca-cert-file",
        &file("root.pem"),
        "--tls-auth-clients",
        "no",
    ]);
    let mut bed = Bed::new("a");
    bed.add(3000);
    let mut settings = server.settings();
    settings.endpoint = Endpoint::Tcp { host: "localhost".to_owned(), port, tls: true };
    let publisher = bed.publish(settings.clone());
    bed.until_level(&publisher);
    assert_once(&mut server.connection(), "a", 1, 3000);
    settings.endpoint = Endpoint::Tcp { host: "127.0.0.1".to_owned(), port, tls: true };
    let failure = probe(&settings);
    assert!(matches!(&failure, Err(Failure::Unreachable(why)) if why.contains("certificate")), "{failure:?}");
    let [sentinel] = free_ports();
    let encrypted = format!(
        "port 0\ntls-port {sentinel}\ntls-replication yes\ntls-cert-file {}\ntls-key-file {}\n\
         tls-ca-cert-file {}\ntls-auth-clients no\nsentinel resolve-hostnames yes\n",
        file("server.pem"),
        file("server.key"),
        file("root.pem"),
    );
    for (names, fits) in [("", false), ("sentinel announce-hostnames yes\n", true)] {
        let _sentinel =
            Sentinel::start(sentinel, &format!("localhost {port}"), &format!("{encrypted}{names}"));
        until("the sentinel listens", || TcpStream::connect(("127.0.0.1", sentinel)).is_ok());
        let (sentinels, master) = (vec![("localhost".to_owned(), sentinel)], "mymaster".to_owned());
        settings.endpoint = Endpoint::Sentinel { sentinels, master, tls: true };
        match probe(&settings) {
            Ok(findings) => assert_eq!((findings.address, fits), (format!("localhost:{port}"), true)),
            Err(failure) => {
                let why = failure.to_string();
                assert!(
                    !fits && why.contains(&format!("names 127.0.0.1:{port}")) && why.contains("certificate"),
                    "{why}"
                );
            }
        }
    }
}
