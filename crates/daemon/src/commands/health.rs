//! Asks the daemon how it is, over HTTP. For health checks of containers, which then need no curl.

use std::time::Duration;

use crate::cli::Common;
use crate::exit::Failure;
use crate::http::ask_health;

/// A daemon that takes longer is as good as dead to whoever asks.
const TIMEOUT: Duration = Duration::from_secs(5);

pub fn run(common: &Common) -> Result<(), Failure> {
    let (status, body) = ask(common, Failure::unwell)?;
    super::print_json_text(body.trim_end())?;
    if status == 200 { Ok(()) } else { Err(Failure::unwell("the daemon is not well")) }
}

/// The status and body of the daemon's answer; `failure` is for there being none.
pub fn ask(common: &Common, failure: fn(String) -> Failure) -> Result<(u16, String), Failure> {
    let config = super::load(common, None)?.config;
    let address = config.monitoring.http.ok_or_else(|| {
        let why = "the daemon serves no HTTP: monitoring.enabled is false, so its health cannot be asked for";
        failure(why.to_owned())
    })?;
    if address.port() == 0 {
        return Err(Failure::usage(
            "monitoring.healthcheck_port is 0: the system picked the daemon's port, and only its log says which; \
             set a port to ask for its health",
        ));
    }
    ask_health(address, TIMEOUT).map_err(|error| failure(error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_port_that_the_system_picked_cannot_be_asked() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("usbd.toml");
        fs::write(&file, "[monitoring]\nhealthcheck_port = 0\n").unwrap();
        let failure = run(&Common { config: Some(file), log_level: None, log_format: None }).unwrap_err();
        assert!(failure.to_string().contains("monitoring.healthcheck_port is 0"), "{failure}");
    }
}
