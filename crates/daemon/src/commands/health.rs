//! Asks the daemon how it is, over HTTP. For health checks of containers, which then need no curl.

use std::time::Duration;

use crate::cli::Common;
use crate::exit::Failure;
use crate::http::ask_health;

/// A daemon that takes longer is as good as dead to whoever asks.
const TIMEOUT: Duration = Duration::from_secs(5);

pub fn run(common: &Common) -> Result<(), Failure> {
    let config = super::load(common, None)?.config;
    let address = config.monitoring.http.ok_or_else(|| {
        Failure::unwell(
            "the daemon serves no HTTP: monitoring.enabled is false, so its health cannot be asked for",
        )
    })?;
    let (status, body) = ask_health(address, TIMEOUT).map_err(Failure::unwell)?;
    super::print_json_text(body.trim_end())?;
    if status == 200 { Ok(()) } else { Err(Failure::unwell(format!("the daemon on {address} is not well"))) }
}
