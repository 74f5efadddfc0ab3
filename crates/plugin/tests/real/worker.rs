use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use autoweave_usb_plugin::protocol::{Level, Verdict};
use autoweave_usb_plugin::worker::{Deadlines, Idle, WorkerFault};
use nix::sys::wait::{WaitPidFlag, waitpid};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

use crate::escape;
use crate::support::{DEADLINES, Plugin, attach, directory, group, until};

fn failed(error: &str, retry: bool) -> Verdict {
    Verdict::Failed { error: error.to_owned(), retry }
}

/// Starts it, and hands it one event.
fn first(plugin: &Plugin) -> Result<Verdict, WorkerFault> {
    plugin.start()?.deliver(&attach(1), 1)
}

#[test]
fn a_node_plugin_is_called() {
    let plugin = Plugin::new(
        "index.js",
        "exports.attach = async (event, { log, delivery }) => {
            console.log('printed', event.device.vendor_id); process.stdout.write('direct\\n');
            log('info', `heard ${event.event_id} ${delivery}`);
            if (event.seq === 2) throw Object.assign(new Error('no'), { retry: false });
         }; exports.detach = () => {};",
    );
    let mut worker = plugin.start().unwrap();
    assert_eq!(worker.deliver(&attach(1), 3).unwrap(), Verdict::Done);
    let Verdict::Failed { error, retry: false } = worker.deliver(&attach(2), 1).unwrap() else { panic!() };
    assert!(error.starts_with("Error: no"), "{error}");
    worker.shut_down().unwrap();
    let logged = plugin.logged();
    for line in ["printed 046d", "direct", "heard E1 3"] {
        assert!(logged.contains(&line.to_owned()), "{line} in {logged:?}");
    }
    let log = plugin.log.lock().unwrap();
    let heard = log.iter().find(|line| line.message == "heard E1 3").unwrap();
    assert_eq!((heard.level, heard.event_id.as_deref()), (Level::Info, Some("E1")));
}

#[test]
fn a_python_plugin_is_called() {
    let plugin = Plugin::new(
        "main.py",
        "import subprocess\nclass Final(Exception): retry = False\nasync def attach(event, context):\n  \
         print('printed', event['device']['vendor_id'])\n  subprocess.run(['echo', 'child'])\n  \
         context['log']('warn', 'heard')\n  if event['seq'] == 2: raise Final('no')\ndef detach(event, context): pass\n",
    );
    let mut worker = plugin.start().unwrap();
    assert_eq!(worker.deliver(&attach(1), 1).unwrap(), Verdict::Done, "{:?}", plugin.logged());
    let Verdict::Failed { error, retry: false } = worker.deliver(&attach(2), 1).unwrap() else { panic!() };
    assert!(error.contains("Final: no"), "{error}");
    worker.shut_down().unwrap();
    for line in ["printed 046d", "child", "heard"] {
        assert!(plugin.logged().contains(&line.to_owned()), "{line} in {:?}", plugin.logged());
    }
}

#[test]
fn a_python_function_need_not_take_what_it_does_not_want() {
    for hook in
        ["def attach(event): print(event['seq'])", "def attach(): pass", "def attach(*all): all[1]['id']"]
    {
        let plugin = Plugin::new("main.py", &format!("{hook}\ndef detach(): pass"));
        assert_eq!(first(&plugin).unwrap(), Verdict::Done, "{hook}: {:?}", plugin.logged());
    }
}

#[test]
fn a_missing_function_is_told_at_the_start() {
    let plugin = Plugin::new("index.mjs", "export function attach() {}");
    let Err(WorkerFault::Exited(_)) = plugin.start() else { panic!() };
    assert!(
        plugin.logged().iter().any(|line| line.contains("exports no function detach")),
        "{:?}",
        plugin.logged()
    );
    let plugin = Plugin::new("main.py", "def attach(event, context): pass");
    let Err(WorkerFault::Exited(exit)) = plugin.start() else { panic!() };
    assert!(exit.to_string().contains("has no function detach"), "{exit}");
}

#[test]
fn an_executable_speaks_the_protocol_itself() {
    let plugin =
        Plugin::shell("ready; while hear; do case $line in *shutdown*) exit 0;; *) ok;; esac; done; exit 1");
    let mut worker = plugin.start().unwrap();
    for number in 1..=100 {
        assert_eq!(worker.deliver(&attach(number), 1).unwrap(), Verdict::Done);
    }
    worker.shut_down().unwrap();
}

#[test]
fn what_a_plugin_says_of_an_event_is_passed_on() {
    let plugin = Plugin::shell(
        r#"ready; hear; echo '{"type":"done","id":"E1","ok":false,"error":"busy"}'; hear
           echo '{"type":"done","id":"E2","ok":false,"error":"never","retry":false}'; hear"#,
    );
    let mut worker = plugin.start().unwrap();
    assert_eq!(worker.deliver(&attach(1), 1).unwrap(), failed("busy", true));
    assert_eq!(worker.deliver(&attach(2), 1).unwrap(), failed("never", false));
}

#[test]
fn a_hanging_plugin_costs_its_deadline_and_its_process_group() {
    let deadlines = Deadlines { event: Duration::from_millis(300), ..DEADLINES };
    let plugin = Plugin::shell("ready; hear; sleep 1000 & sleep 1000");
    let mut worker = plugin.start_with(deadlines).unwrap();
    let (id, begun) = (worker.id(), Instant::now());
    let fault = worker.deliver(&attach(1), 1).unwrap_err();
    assert_eq!(fault.to_string(), "no `done` within 300 ms");
    assert!(begun.elapsed() < Duration::from_secs(3));
    assert!(group(id).len() >= 3, "sh and two sleeps");
    drop(worker);
    until("the group is gone", || group(id).is_empty());
    let plugin = Plugin::shell("sleep 1000");
    let never =
        plugin.start_with(Deadlines { ready: Duration::from_millis(300), ..DEADLINES }).err().unwrap();
    assert_eq!(never.to_string(), "no `ready` within 300 ms");
}

#[test]
fn shutdown_is_asked_for_and_then_done() {
    let deadlines = Deadlines { shutdown: Duration::from_millis(300), ..DEADLINES };
    let plugin = Plugin::shell("trap '' TERM; ready; while true; do hear; sleep 1000; done");
    let worker = plugin.start_with(deadlines).unwrap();
    let id = worker.id();
    assert_eq!(worker.shut_down().unwrap_err().to_string(), "no `end` within 300 ms");
    until("the group is gone", || group(id).is_empty());
    let plugin = Plugin::shell("ready; hear; exit 3");
    assert_eq!(plugin.start().unwrap().shut_down().unwrap_err().to_string(), "it ended: with code 3");
}

#[test]
fn a_crash_is_told_with_its_last_words() {
    let plugin = Plugin::shell("ready; hear; echo oh no >&2; kill -9 $$");
    assert_eq!(first(&plugin).unwrap_err().to_string(), "it ended: by signal 9, its last words: oh no");
    let plugin = Plugin::shell("ready; hear; printf '{\"type\":\"do'; exit 0");
    assert_eq!(first(&plugin).unwrap_err().to_string(), "it ended: with code 0");
    // A child that holds the pipes open does not hide the end.
    let plugin = Plugin::shell("ready; hear; sleep 1000 & exit 5");
    assert_eq!(first(&plugin).unwrap_err().to_string(), "it ended: with code 5");
}

#[test]
fn half_a_line_is_no_answer() {
    let deadlines = Deadlines { event: Duration::from_millis(300), ..DEADLINES };
    let plugin = Plugin::shell("ready; hear; printf '{\"type\":\"done\",\"id\":\"E1\",\"ok\":true}'; hear");
    let fault = plugin.start_with(deadlines).unwrap().deliver(&attach(1), 1).unwrap_err();
    assert_eq!(fault.to_string(), "no `done` within 300 ms");
}

#[test]
fn garbage_and_floods_end_the_worker() {
    let cases = [
        ("ready; hear; echo garbage; hear", "it broke the protocol: expected value"),
        ("ready; hear; yes", "it broke the protocol"),
        (
            "ready; hear; head -c 70000 /dev/zero; hear",
            "it broke the protocol: a line of more than 65536 bytes",
        ),
        (
            "ready; hear; while :; do echo '{\"type\":\"log\",\"message\":\"'$line$line$line'\"}'; done",
            "it broke the protocol",
        ),
        (
            "ready; hear; yes '{\"type\":\"log\",\"message\":\"mmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmm\"}'",
            "it wrote more than 1048576 bytes in a second",
        ),
        (
            "hear; echo '{\"type\":\"ready\",\"protocol\":2}'; hear",
            "it broke the protocol: it speaks protocol 2",
        ),
        ("hear; echo '{\"type\":\"done\",\"id\":\"E1\",\"ok\":true}'; sleep 1000", "no `ready`"),
        ("exec >&-; sleep 1000", "it closed its standard output"),
    ];
    for (code, expected) in cases {
        let deadlines = Deadlines { ready: Duration::from_secs(1), ..DEADLINES };
        let plugin = Plugin::shell(code);
        let fault =
            plugin.start_with(deadlines).and_then(|mut worker| worker.deliver(&attach(1), 1)).unwrap_err();
        assert!(fault.to_string().starts_with(expected), "{code}: {fault}");
    }
}

#[test]
fn a_second_answer_changes_nothing() {
    let plugin = Plugin::shell("ready; hear; ok; ok; hear; ok; hear");
    let mut worker = plugin.start().unwrap();
    assert_eq!(worker.deliver(&attach(1), 1).unwrap(), Verdict::Done);
    assert_eq!(worker.deliver(&attach(2), 1).unwrap(), Verdict::Done);
    assert!(plugin.logged().iter().any(|line| line.contains("`done` for \"E1\", which it does not have")));
}

#[test]
fn what_is_too_much_for_the_log_is_counted() {
    let plugin = Plugin::shell("ready; hear; yes >&2 & while hear; do :; done");
    let deadlines = Deadlines { event: Duration::from_millis(2500), ..DEADLINES };
    let fault = plugin.start_with(deadlines).unwrap().deliver(&attach(1), 1).unwrap_err();
    assert_eq!(fault.to_string(), "no `done` within 2500 ms");
    let logged = plugin.logged();
    assert!(logged.len() < 400, "{}", logged.len());
    assert!(logged.iter().any(|line| line.ends_with("lines were left out")));
}

#[test]
fn an_idle_worker_wakes_and_its_end_is_noticed() {
    let (reader, writer) = std::io::pipe().unwrap();
    let plugin = Plugin::shell("ready; echo idle >&2; sleep 0.3; exit 7");
    let mut worker = plugin.start().unwrap();
    std::io::Write::write_all(&mut &writer, b"x").unwrap();
    assert!(matches!(worker.idle(reader.as_fd(), None), Idle::Woken));
    std::io::Read::read_exact(&mut &reader, &mut [0]).unwrap();
    let Idle::Ended(WorkerFault::Exited(exit)) = worker.idle(reader.as_fd(), None) else { panic!() };
    assert_eq!(exit.to_string(), "with code 7, its last words: idle");
}

#[test]
fn a_plugin_that_never_reads_does_not_hold_up_the_loader() {
    let deadlines = Deadlines { event: Duration::from_millis(300), ..DEADLINES };
    let plugin = Plugin::shell("ready; sleep 1000");
    let mut event = attach(1);
    event.host = "h".repeat(1 << 20);
    let fault = plugin.start_with(deadlines).unwrap().deliver(&event, 1).unwrap_err();
    assert_eq!(fault.to_string(), "no `done` within 300 ms");
}

#[test]
fn memory_ends_at_its_limit() {
    let code = "def attach(event, context):\n  x = bytearray(50 << 20) if event['seq'] == 1 else bytearray(300 << 20)\ndef detach(e, c): pass\n";
    let plugin = Plugin::with("main.py", code, r#"{"memory": {"max_heap_mb": 100}}"#);
    let mut worker = plugin.start().unwrap();
    assert_eq!(worker.deliver(&attach(1), 1).unwrap(), Verdict::Done);
    let Verdict::Failed { error, .. } = worker.deliver(&attach(2), 1).unwrap() else { panic!() };
    assert!(error.contains("MemoryError"), "{error}");
    let code = "exports.attach = (event) => { const kept = []; while (true) kept.push(new Array(1e5).fill(1.5)); }; exports.detach = () => {}";
    let plugin = Plugin::with("index.js", code, r#"{"memory": {"max_heap_mb": 32}}"#);
    let fault = first(&plugin).unwrap_err();
    assert!(matches!(fault, WorkerFault::Exited(_)), "{fault}");
}

#[test]
fn what_the_limit_of_data_does_not_count_is_refused() {
    let (_place, path) = escape::place();
    let tries = r#""memfd": lambda: os.memfd_create("x"), "secret": lambda: call(447, 0), "shared": lambda: mapped(0x21),
        "validated": lambda: mapped(0x23), "growing": lambda: mapped(0x122), "private": lambda: mapped(0x22, 1 << 20),"#;
    for identity in escape::identities() {
        let plugin = escape::hostile_as(identity, &path, r#"{"memory": {"max_heap_mb": 32}}"#, tries);
        let refused = Err(libc::EPERM);
        escape::check(
            &escape::tried(&plugin, &plugin.launch),
            &[
                ("memfd", refused),
                ("secret", refused),
                ("shared", refused),
                ("validated", refused),
                ("growing", refused),
                ("private", Ok(())),
            ],
        );
    }
}

#[test]
fn plugins_go_before_the_daemon_where_memory_runs_out() {
    let plugin = Plugin::shell("ready; sleep 1000 & hear");
    let worker = plugin.start().unwrap();
    until("both run", || running(worker.id(), "sh") == 1 && running(worker.id(), "sleep") == 1);
    for process in
        group(worker.id()).iter().filter(|process| ["sh", "sleep"].contains(&name(process).as_str()))
    {
        let score = std::fs::read_to_string(process.join("oom_score_adj")).unwrap();
        assert_eq!(score.trim(), "1000", "{}", name(process));
    }
}

fn name(process: &Path) -> String {
    std::fs::read_to_string(process.join("comm")).unwrap_or_default().trim().to_owned()
}

/// How many of the group run a program of this name.
fn running(id: u32, program: &str) -> usize {
    // A plugin's script has the name of its entry.
    group(id).iter().filter(|process| name(process).replace("run", "sh") == program).count()
}

#[test]
fn a_fork_bomb_stays_small_and_goes_with_its_worker() {
    let plugin =
        Plugin::shell("ready; hear; i=0; while [ $i -lt 500 ]; do sleep 1000 & i=$((i+1)); done; hear");
    let deadlines = Deadlines { event: Duration::from_secs(2), ..DEADLINES };
    let mut worker = plugin.start_with(deadlines).unwrap();
    let id = worker.id();
    assert!(worker.deliver(&attach(1), 1).is_err());
    assert!(group(id).len() < 100, "{}", group(id).len());
    drop(worker);
    until("the group is gone", || group(id).is_empty());
}

#[test]
fn nothing_is_left_of_a_worker_that_cannot_be_watched() {
    let plugin = Plugin::shell("ready; hear");
    // As where no descriptor is left, but for this thread alone.
    let rules = [(libc::SYS_pidfd_open, vec![])].into();
    let arch = std::env::consts::ARCH.try_into().unwrap();
    let refused = SeccompAction::Errno(libc::EMFILE.unsigned_abs());
    let filter: BpfProgram =
        SeccompFilter::new(rules, SeccompAction::Allow, refused, arch).unwrap().try_into().unwrap();
    let start = move || {
        seccompiler::apply_filter(&filter).unwrap();
        plugin.start().err().unwrap()
    };
    let fault = std::thread::spawn(start).join().unwrap();
    assert!(matches!(fault, WorkerFault::Start(_)), "{fault}");
    assert_eq!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Err(nix::errno::Errno::ECHILD));
}

#[test]
fn a_worker_and_what_it_started_end_with_a_loader_that_is_killed() {
    const AS_LOADER: &str = "AUTOWEAVE_AS_LOADER";
    if std::env::var_os(AS_LOADER).is_some() {
        return as_loader();
    }
    let place = directory();
    let mut loader = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "worker::a_worker_and_what_it_started_end_with_a_loader_that_is_killed",
            "--nocapture",
        ])
        .envs([("TMPDIR", place.path()), (AS_LOADER, Path::new("1"))])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(loader.stdout.take().unwrap()).lines().map_while(Result::ok);
    let id = lines.find_map(|line| line.strip_prefix("worker ")?.parse().ok()).unwrap();
    until("it has started something", || running(id, "sh") == 1 && running(id, "sleep") == 1);
    loader.kill().unwrap();
    loader.wait().unwrap();
    until("all of it is gone", || group(id).is_empty());
}

/// What the test before starts, and kills.
fn as_loader() {
    let plugin = Plugin::shell("ready; sleep 1000 & while hear; do ok; done");
    let worker = plugin.start().unwrap();
    println!("\nworker {}", worker.id());
    std::io::stdin().read_line(&mut String::new()).unwrap();
}
