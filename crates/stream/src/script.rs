//! The scripts that run inside the server; each is atomic there.

use std::fmt::Write;
use std::sync::LazyLock;

use crate::entry::{EVENT_ID, FIELDS, SEQ};

/// A script and the name the server caches it under.
pub(crate) struct Script {
    pub(crate) code: String,
    pub(crate) hash: String,
}

impl Script {
    fn new(code: String) -> Self {
        let hash = redis::Script::new(&code).get_hash().to_owned();
        Self { code, hash }
    }
}

const IDS: &str = include_str!("scripts/ids.lua");

/// Appends entries behind a mark and moves it.
pub(crate) static APPEND: LazyLock<Script> = LazyLock::new(|| {
    let mut code = IDS.to_owned();
    // `FIELDS` is the one place that names them; Lua counts from 1.
    writeln!(code, "local fields = {{'{}'}}", FIELDS.join("','")).expect("writing to text cannot fail");
    writeln!(code, "local event_id_field, seq_field = {}, {}", EVENT_ID + 1, SEQ + 1)
        .expect("writing to text cannot fail");
    code += include_str!("scripts/append.lua");
    Script::new(code)
});

/// Says what the server has of a producer.
pub(crate) static INSPECT: LazyLock<Script> =
    LazyLock::new(|| Script::new(format!("{IDS}{}", include_str!("scripts/inspect.lua"))));

/// Sets a mark, unless it changed meanwhile.
pub(crate) static ADOPT: LazyLock<Script> =
    LazyLock::new(|| Script::new(format!("{IDS}{}", include_str!("scripts/adopt.lua"))));

/// Looks for events, backwards.
pub(crate) static SCAN: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("scripts/scan.lua").to_owned()));

/// Removes old entries that no group needs.
pub(crate) static TRIM: LazyLock<Script> =
    LazyLock::new(|| Script::new(format!("{IDS}{}", include_str!("scripts/trim.lua"))));

/// Gives a consumer new entries.
pub(crate) static TAKE: LazyLock<Script> =
    LazyLock::new(|| Script::new(format!("{IDS}{}", include_str!("scripts/take.lua"))));

/// Takes over what other consumers left.
pub(crate) static CLAIM: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("scripts/claim.lua").to_owned()));

/// Gives a consumer its unacknowledged entries again.
pub(crate) static OWN: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("scripts/own.lua").to_owned()));

/// Takes back that a consumer was given entries.
pub(crate) static LEAVE: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("scripts/leave.lua").to_owned()));

/// Acknowledges an entry, with its dead letters.
pub(crate) static SETTLE: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("scripts/settle.lua").to_owned()));

/// Takes, prolongs or gives back a lease.
pub(crate) static LEASE: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("scripts/lease.lua").to_owned()));
