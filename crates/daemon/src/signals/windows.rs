//! Ctrl-C, Ctrl-Break, a closed console and a shutdown, which Windows tells as events of the console.

use std::future::poll_fn;
use std::io;
use std::process;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread;

use tokio::runtime;
use tokio::signal::windows::{
    CtrlBreak, CtrlC, CtrlClose, CtrlShutdown, ctrl_break, ctrl_c, ctrl_close, ctrl_shutdown,
};

use super::Requests;
use crate::exit::Failure;

/// Nothing has to be kept until [`handle`]: before, an event ends the process, which has nothing to finish yet.
pub fn block() -> Result<(), Failure> {
    Ok(())
}

/// Turns the events into requests to stop and calls `wake` after each. A second one ends the process at
/// once: the journal stands that. Windows gives 5 s after a console was closed or before a shutdown.
pub fn handle(wake: impl Fn() + Send + 'static) -> Result<Arc<Requests>, Failure> {
    let requests = Arc::new(Requests::default());
    let asked = requests.clone();
    let stop = move || {
        if asked.is_stop() {
            process::exit(130);
        }
        asked.stop();
        wake();
    };
    on_event(stop).map_err(|error| Failure::unavailable(format!("Ctrl-C cannot be handled: {error}")))?;
    Ok(requests)
}

/// For commands that have nothing to finish: an event ends them with 130.
pub fn exit_when_interrupted() {
    // Otherwise it ends them with another code, which is nearly the same.
    let _ = on_event(|| process::exit(130));
}

fn on_event(mut act: impl FnMut() + Send + 'static) -> io::Result<()> {
    let runtime = runtime::Builder::new_current_thread().build()?;
    let mut events = Events::listen()?;
    let wait = move || {
        runtime.block_on(async {
            loop {
                poll_fn(|context| events.poll(context)).await;
                act();
            }
        })
    };
    thread::Builder::new().name("signals".to_owned()).spawn(wait).map(drop)
}

struct Events {
    interrupt: CtrlC,
    break_: CtrlBreak,
    close: CtrlClose,
    shutdown: CtrlShutdown,
}

impl Events {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: ctrl_c()?,
            break_: ctrl_break()?,
            close: ctrl_close()?,
            shutdown: ctrl_shutdown()?,
        })
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let polled = [
            self.interrupt.poll_recv(context),
            self.break_.poll_recv(context),
            self.close.poll_recv(context),
            self.shutdown.poll_recv(context),
        ];
        if polled.iter().any(Poll::is_ready) { Poll::Ready(()) } else { Poll::Pending }
    }
}
