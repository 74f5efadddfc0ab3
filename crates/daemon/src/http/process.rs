//! What the system says of this process, under the names of Prometheus' conventions
//! (<https://prometheus.io/docs/instrumenting/writing_clientlibs/#process-metrics>). Nothing where there is no `/proc`.

use super::text::Text;

#[cfg(not(target_os = "linux"))]
pub(super) fn render(_: &mut Text) {}

#[cfg(target_os = "linux")]
pub(super) use linux::render;

#[cfg(target_os = "linux")]
mod linux {
    use std::fs;
    use std::sync::OnceLock;

    use nix::sys::resource::{Resource, getrlimit};
    use nix::unistd::{SysconfVar, sysconf};

    use super::Text;

    /// As `/proc/self/stat` has it, proc_pid_stat(5).
    #[derive(Debug, PartialEq, Eq)]
    struct Stat {
        /// Of all threads, in user and in kernel mode, in clock ticks.
        cpu_ticks: u64,
        /// After the boot, in clock ticks.
        started_ticks: u64,
        virtual_bytes: u64,
        resident_pages: u64,
    }

    pub(in super::super) fn render(text: &mut Text) {
        if let Some(stat) = fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(Stat::parse) {
            stat.render(text);
        }
        // The directory that is read is open, too.
        if let Ok(files) = fs::read_dir("/proc/self/fd") {
            let open = files.count().saturating_sub(1);
            text.single("process_open_fds", "gauge", "Number of open file descriptors.", open);
        }
        if let Ok((soft, _)) = getrlimit(Resource::RLIMIT_NOFILE) {
            text.single("process_max_fds", "gauge", "Maximum number of open file descriptors.", soft);
        }
    }

    impl Stat {
        fn parse(text: &str) -> Option<Self> {
            // The second field is the program's name in parentheses, and may have spaces and parentheses in it.
            let (_, rest) = text.rsplit_once(") ")?;
            let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
            // The manual counts from 1, and `rest` begins with its third.
            let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
            Some(Self {
                cpu_ticks: field(14)?.checked_add(field(15)?)?,
                started_ticks: field(22)?,
                virtual_bytes: field(23)?,
                resident_pages: field(24)?,
            })
        }

        fn render(&self, text: &mut Text) {
            let bytes = system(SysconfVar::PAGE_SIZE).map(|page| self.resident_pages.saturating_mul(page));
            if let Some(bytes) = bytes {
                let help = "Resident memory size in bytes.";
                text.single("process_resident_memory_bytes", "gauge", help, bytes);
            }
            let help = "Virtual memory size in bytes.";
            text.single("process_virtual_memory_bytes", "gauge", help, self.virtual_bytes);
            let Some(per_second) = system(SysconfVar::CLK_TCK) else { return };
            let help = "Total user and system CPU time spent in seconds.";
            let cpu = seconds(self.cpu_ticks, per_second);
            text.single("process_cpu_seconds_total", "counter", help, cpu);
            if let Some(booted) = booted() {
                let started = self.started_ticks.saturating_add(booted.saturating_mul(per_second));
                let help = "Start time of the process since unix epoch in seconds.";
                text.single("process_start_time_seconds", "gauge", help, seconds(started, per_second));
            }
        }
    }

    /// As text, exact to two digits: whoever reads a number as floating point decides about the rest.
    fn seconds(ticks: u64, per_second: u64) -> String {
        let hundredths = u128::from(ticks % per_second) * 100 / u128::from(per_second);
        format!("{}.{hundredths:02}", ticks / per_second)
    }

    fn system(value: SysconfVar) -> Option<u64> {
        sysconf(value).ok().flatten().and_then(|value| u64::try_from(value).ok()).filter(|value| *value > 0)
    }

    /// When the machine did, in seconds since the Unix epoch: `btime`, proc_stat(5). Once, as that file is long.
    fn booted() -> Option<u64> {
        static BOOTED: OnceLock<Option<u64>> = OnceLock::new();
        let read = || {
            let text = fs::read_to_string("/proc/stat").ok()?;
            text.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
        };
        *BOOTED.get_or_init(read)
    }

    #[cfg(test)]
    mod tests {
        use std::time::{SystemTime, UNIX_EPOCH};

        use super::*;

        #[test]
        fn the_line_is_read_whatever_the_program_is_called() {
            let line = "42 (a) b (c) S 1 42 42 0 -1 4194560 1 0 0 0 250 31 0 0 20 0 9 0 712345 104857600 2560 18446744073709551615";
            let stat = Stat {
                cpu_ticks: 281,
                started_ticks: 712_345,
                virtual_bytes: 104_857_600,
                resident_pages: 2560,
            };
            assert_eq!(Stat::parse(line), Some(stat));
            for short in ["", "42 (a)", "42 (a) S 1 2 3"] {
                assert_eq!(Stat::parse(short), None, "{short:?}");
            }
            assert_eq!((seconds(281, 100), seconds(712_345, 1024)), ("2.81".to_owned(), "695.64".to_owned()));
        }

        #[test]
        fn this_process_is_told_of() {
            let mut text = Text::default();
            render(&mut text);
            let value = |name: &str| -> f64 {
                let found = text.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
                found.unwrap_or_else(|| panic!("{name} is not in {}", text.0)).parse().unwrap()
            };
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
            let started = value("process_start_time_seconds");
            assert!((now - 3600.0..=now + 2.0).contains(&started), "{started} is not before {now}");
            assert!(value("process_resident_memory_bytes") > 100_000.0);
            assert!(value("process_virtual_memory_bytes") > value("process_resident_memory_bytes"));
            assert!(value("process_cpu_seconds_total") >= 0.0);
            assert!((3.0..=value("process_max_fds")).contains(&value("process_open_fds")));
        }
    }
}
