//! One plugin, run here: what it hears and what it answers.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::Path;
use std::sync::Arc;

use autoweave_usb_device::{Action, Device, Event, Interface, Reading, Reason, SourceName};
use autoweave_usb_plugin::launch::Launch;
use autoweave_usb_plugin::manifest::UsbPermission;
use autoweave_usb_plugin::package::Package;
use autoweave_usb_plugin::protocol::{Verdict, hook};
use autoweave_usb_plugin::worker::{LogLine, Worker};

use super::package::{host, require_signature, unfit};
use crate::cli::{Common, PluginRun};
use crate::commands::print_line;
use crate::exit::Failure;
use crate::plugins::{Copies, DEADLINES};
use crate::{show, stamp, state_dir};

/// The longest line of a file of events, in bytes.
const LINE_BYTES_MAX: u64 = 256 * 1024;

/// Runs the package, and prints what it hears and answers. A failed event is a failed command.
pub fn run(common: &Common, arguments: &PluginRun) -> Result<(), Failure> {
    let loaded = super::super::load(common, None)?;
    // As the loader does: the plugins' user need not reach where the author keeps it.
    let copies = Copies::make(&state_dir::find(None)?)?;
    std::fs::create_dir(copies.path()).map_err(Failure::io)?;
    let package =
        Package::stage(&arguments.directory, &copies.path(), require_signature(&loaded)).map_err(unfit)?;
    let launch = Launch::plan(&package, &host(&loaded)?).map_err(unfit)?;
    let (permissions, hooks) = (&package.manifest.permissions, &package.manifest.hooks);
    let events = match &arguments.event {
        Some(file) => read(file)?,
        None => simulated(&permissions.usb).to_vec(),
    };
    let sink = Box::new(|line: LogLine| {
        let LogLine { level, message, .. } = line;
        let _ = print_line(&format!("   log  {level:?}: {}", show::escape_json(&message)));
    });
    let failed = |fault| Failure::unwell(show::escape_json(&format!("{}: {fault}", package.manifest.name)));
    let mut worker = Worker::start(&launch, DEADLINES, sink).map_err(failed)?;
    print_line(&format!("ready: process {}", worker.id()))?;
    let mut failures = 0;
    for event in events {
        let Event { action, device, .. } = &event;
        let id = show::escape_json(&device.device_id);
        let has_hook = match action {
            Action::Attach => hooks.on_usb_attach.is_some(),
            Action::Detach => hooks.on_usb_detach.is_some(),
        };
        if !has_hook || !permissions.usb.matches(device) {
            let why = if has_hook { "permissions.usb does not ask for it" } else { "it has no hook for it" };
            print_line(&format!("-> {action} {id}: not told, {why}"))?;
            continue;
        }
        print_line(&format!("-> {} {id}", hook(*action)))?;
        match worker.deliver(&event, 1).map_err(failed)? {
            Verdict::Done => print_line("<- done")?,
            Verdict::Failed { error, retry } => {
                failures += 1;
                let then = if retry { "would be told again" } else { "would be given up" };
                print_line(&format!("<- failed, {then}: {}", show::escape_json(&error)))?;
            }
        }
    }
    worker.shut_down().map_err(failed)?;
    print_line("ended")?;
    if failures == 0 { Ok(()) } else { Err(Failure::unwell(format!("{failures} events failed"))) }
}

fn read(file: &Path) -> Result<Vec<Event>, Failure> {
    let shown = file.display();
    let failed = |error: io::Error| Failure::io(format!("{shown}: {error}"));
    let opened: Box<dyn BufRead> = match file.to_str() {
        Some("-") => Box::new(io::stdin().lock()),
        _ => Box::new(BufReader::new(File::open(file).map_err(failed)?)),
    };
    let (mut opened, mut events, mut number) = (opened, Vec::new(), 0);
    loop {
        let mut line = String::new();
        number += 1;
        if opened.by_ref().take(LINE_BYTES_MAX).read_line(&mut line).map_err(failed)? == 0 {
            return Ok(events);
        }
        if line.trim().is_empty() {
            continue;
        }
        let event = serde_json::from_str(&line).map_err(|error| {
            Failure::usage(format!("{shown}:{number}: no event: {error}; write what `events --json` prints"))
        })?;
        events.push(event);
    }
}

/// A device that the plugin hears of comes and goes.
fn simulated(usb: &UsbPermission) -> [Event; 2] {
    let first = |ids: &[u16], otherwise| ids.first().copied().unwrap_or(otherwise);
    let (vendor, product) = (first(&usb.vendor_ids, 0x1209), first(&usb.product_ids, 0x0001));
    let port = "1-1.2".parse().expect("a port as the kernel writes it");
    let mut device = Device::new(
        &Reading::bare(port, 5, vendor, product, Some(0)),
        format!("{vendor:04x}:{product:04x}:TRY-1"),
    );
    (device.product, device.serial_number) = (Some("Simulated device".to_owned()), Some("TRY-1".to_owned()));
    let class = usb.device_classes.first().copied().unwrap_or(0xff);
    device.interfaces = vec![Interface { number: 0, class, subclass: 0, protocol: 0, driver: None }];
    let device = Arc::new(device);
    let event = |(action, seq)| Event {
        seq,
        event_id: stamp::new_event_id(),
        producer: stamp::new_producer(),
        action,
        reason: Reason::Hotplug,
        source: SourceName::Simulate,
        host: stamp::host(None),
        timestamp: stamp::now_ms(),
        edges: 1,
        seqnum: None,
        traceparent: None,
        device: Arc::clone(&device),
    };
    [(Action::Attach, 1), (Action::Detach, 2)].map(event)
}
