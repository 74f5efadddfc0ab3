//! QEMU: the machine, what it is connected to, and its end.

use std::fs;
use std::io::{self, Read as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::packages::Unpacked;
use super::session::Session;
use crate::step::command;
use crate::tools::text;

/// As timeout(1) has it.
const TIMED_OUT: i32 = 124;
const NO_STATUS: i32 = 125;

const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What of the kernel's log is shown when something went wrong.
const CONSOLE_LINES: usize = 40;

/// Without the waits and checks that have no meaning on an emulated machine. `lpj` is what calibrating gives.
const KERNEL: &str = "console=ttyS0 quiet panic=-1 nokaslr mitigations=off no_timer_check tsc=reliable \
                      lpj=10000000 random.trust_cpu=on cryptomgr.notests audit=0 apparmor=0 nowatchdog numa=off";

/// The ports that the guest has besides the console. Through `qmp` it asks QEMU to plug devices.
const OUT: &str = "out";
const ERR: &str = "err";
const STATUS: &str = "status";
const QMP: &str = "qmp";

/// A machine that is switched on for one command.
pub struct Guest {
    /// From its start to the command's end.
    pub timeout: Duration,
    /// An image for `/dev/vda`.
    pub disk: Option<PathBuf>,
}

impl Guest {
    /// Starts it, runs the command of these words, and returns its exit status; 124 when it took too long, 125 when
    /// the guest ended without one. Output goes where ours goes.
    ///
    /// # Errors
    /// QEMU or what it needs is missing, or the files it takes cannot be written.
    pub fn run(&self, words: &[String]) -> Result<i32, String> {
        let unpacked = Unpacked::find()?;
        let directory = Directory::make()?;
        let session = Session::write(&directory.path, &unpacked, words)?;
        let copies = [copy(&directory.path, OUT, io::stdout())?, copy(&directory.path, ERR, io::stderr())?];
        let status = read_status(&directory.path)?;
        let mut qemu = self.command(&directory.path, &unpacked, &session)?;
        let mut qemu = Running(qemu.spawn().map_err(|error| format!("qemu-system-x86_64: {error}"))?);
        let in_time = qemu.wait(self.timeout)?;
        drop(qemu);
        if !in_time {
            eprintln!("the guest was ended after {} s", self.timeout.as_secs());
            directory.show_console();
            return Ok(TIMED_OUT);
        }
        // The listeners hear nothing when QEMU did not get so far as to connect.
        if let Ok(status) = status.recv_timeout(Duration::from_secs(1)) {
            for copy in copies {
                copy.join().map_err(|_| "copying the guest's output panicked")?;
            }
            return Ok(status);
        }
        eprintln!("the guest ended without a status");
        directory.show_console();
        Ok(NO_STATUS)
    }

    fn command(&self, directory: &Path, unpacked: &Unpacked, session: &Session) -> Result<Command, String> {
        // Not outliving us is for whoever ends `cargo xtask` with a signal.
        let mut qemu = command(&["setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64"]);
        let kernel_line = format!("{KERNEL} session={}", text(&directory.join("session"))?);
        qemu.args([
            "-accel",
            "tcg,thread=multi,tb-size=512",
            "-cpu",
            "Nehalem,-vmx",
            "-smp",
            "2",
            "-m",
            "1536",
        ])
        .args(["-machine", "q35,smm=off,sata=off", "-bios", "qboot.rom", "-no-reboot"])
        .args(["-nodefaults", "-no-user-config", "-display", "none"])
        .arg("-kernel")
        .arg(&unpacked.kernel)
        .arg("-initrd")
        .arg(&session.initramfs)
        .args(["-append", &kernel_line])
        .args(["-object", "rng-random,id=random,filename=/dev/urandom"])
        .args(["-fsdev", "local,id=host,path=/,security_model=none,readonly=on,multidevs=remap"])
        .args(["-device", "virtio-9p-pci,fsdev=host,mount_tag=host"])
        .args(["-device", "virtio-serial-pci", "-audiodev", "none,id=sound"]);
        let console = format!("file,id=console,path={}", text(&directory.join("console"))?);
        qemu.args(["-chardev", &console, "-serial", "chardev:console"]);
        // Its own monitor is the other end of the guest's port.
        let monitor = directory.join(QMP);
        let listening = format!("socket,id=monitor,path={},server=on,wait=off", text(&monitor)?);
        qemu.args(["-chardev", &listening, "-mon", "chardev=monitor,mode=control"]);
        for name in [OUT, ERR, STATUS, QMP] {
            let port = format!("socket,id={name},path={}", text(&directory.join(name))?);
            qemu.args(["-chardev", &port, "-device", &format!("virtserialport,chardev={name},name={name}")]);
        }
        for controller in 0..4 {
            qemu.args(["-device", &format!("qemu-xhci,id=xhci{controller},p2=15,p3=15")]);
        }
        if let Some(disk) = &self.disk {
            qemu.args(["-drive", &format!("file={},format=raw,if=virtio,cache=writeback", text(disk)?)]);
        }
        qemu.stdin(Stdio::null()).stdout(Stdio::null());
        Ok(qemu)
    }
}

/// Ended when it is dropped.
struct Running(Child);

impl Running {
    /// Whether it ended within `timeout`.
    fn wait(&mut self, timeout: Duration) -> Result<bool, String> {
        let deadline = Instant::now() + timeout;
        while self.0.try_wait().map_err(|error| format!("qemu-system-x86_64: {error}"))?.is_none() {
            if Instant::now() > deadline {
                return Ok(false);
            }
            thread::sleep(LOOK_AGAIN);
        }
        Ok(true)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended already unless something went wrong.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Gone with its contents when it is dropped.
struct Directory {
    path: PathBuf,
}

impl Directory {
    fn make() -> Result<Self, String> {
        let path = std::env::temp_dir().join(format!("autoweave-guest-{}", std::process::id()));
        // Of a process that had our id, and was killed.
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Self { path })
    }

    fn show_console(&self) {
        let log = fs::read(self.path.join("console")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        for line in &lines[lines.len().saturating_sub(CONSOLE_LINES)..] {
            eprintln!("  {line}");
        }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

fn listen(directory: &Path, name: &str) -> Result<UnixListener, String> {
    let path = directory.join(name);
    UnixListener::bind(&path).map_err(|error| format!("{}: {error}", path.display()))
}

/// Copies what the guest writes into its port `name`.
fn copy(
    directory: &Path,
    name: &str,
    mut to: impl io::Write + Send + 'static,
) -> Result<JoinHandle<()>, String> {
    let listener = listen(directory, name)?;
    Ok(thread::spawn(move || {
        // Nobody reads our output any more: the guest may go on without.
        let _ = listener.accept().and_then(|(mut port, _)| io::copy(&mut port, &mut to));
    }))
}

fn read_status(directory: &Path) -> Result<Receiver<i32>, String> {
    let listener = listen(directory, STATUS)?;
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut text = String::new();
        let read = listener.accept().and_then(|(mut port, _)| port.read_to_string(&mut text));
        if let (Ok(_), Ok(status)) = (read, text.trim().parse()) {
            // Whoever waited for it has given up.
            let _ = sender.send(status);
        }
    });
    Ok(receiver)
}
