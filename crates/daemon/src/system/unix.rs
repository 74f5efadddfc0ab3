use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{geteuid, gethostname};

/// Whether this process works for the whole machine: it is root's.
pub fn is_privileged() -> bool {
    geteuid().is_root()
}

/// The name of this machine.
pub fn host_name() -> Option<String> {
    gethostname().ok().map(|name| name.to_string_lossy().into_owned())
}

/// Lets the process open as many files as are `wanted`, if it may; how many it can open then, if that is known.
pub fn allow_open_files(wanted: u64) -> Option<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    let granted = wanted.min(hard);
    let is_raised = soft < wanted && setrlimit(Resource::RLIMIT_NOFILE, granted, hard).is_ok();
    Some(if is_raised { granted } else { soft })
}
