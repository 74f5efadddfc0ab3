//! Reads a Redis URL into the keys it stands for.
//!
//! `redis://[USER[:PASSWORD]@]HOST[:PORT][/DB]`, `rediss://…` (the same over TLS) and
//! `unix:///PATH[?db=DB&user=USER&pass=PASSWORD]`, percent-encoded, as redis-cli and the client libraries
//! read them. Errors quote no part of the URL: it may hold a password.

use std::net::Ipv6Addr;

use super::model::Secret;

/// The highest database number: Redis keeps it in a C `int` (redis `config.c`, `databases`).
pub const REDIS_DB_MAX: u32 = 2_147_483_647;

/// What a host may be, as in "expected …".
pub const HOST_EXPECTED: &str = "a host name, an IP address or the absolute path of a Unix socket";

/// RFC 1035, 2.3.4.
const HOST_BYTES_MAX: usize = 255;

const PORT: u16 = 6379;

/// A Redis URL taken apart. `None`: the URL does not say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisUrl {
    /// Host name, IP address without brackets, or path of a Unix socket.
    pub host: String,
    /// Never 0.
    pub port: u16,
    /// Whether the scheme is `rediss`.
    pub tls: bool,
    /// The ACL user.
    pub username: Option<String>,
    /// The password.
    pub password: Option<Secret>,
    /// The database.
    pub db: Option<u32>,
}

/// Takes `url` apart.
///
/// # Errors
/// What is wrong with it, without quoting it.
pub fn parse(url: &str) -> Result<RedisUrl, String> {
    match url.split_once("://") {
        Some(("redis", rest)) => tcp(rest, false),
        Some(("rediss", rest)) => tcp(rest, true),
        Some(("unix", rest)) => unix(rest),
        _ => Err("the URL must begin with `redis://`, `rediss://` or `unix://`".to_owned()),
    }
}

/// Checks the name or address of a TCP host; does not quote it, since a URL with a password may stand there
/// by mistake.
///
/// # Errors
/// What is wrong and the mend.
pub fn check_host(host: &str) -> Result<(), String> {
    let numeric = host.split_once('%').map_or(host, |(address, _zone)| address);
    if host.is_empty() {
        Err("the host is empty".to_owned())
    } else if host.contains("://") || host.contains('@') {
        Err("expected a host name, found a URL: that goes into `redis.url` or `REDIS_URL`".to_owned())
    } else if host.contains(':') && numeric.parse::<Ipv6Addr>().is_err() {
        Err("a host name has no `:`; the port goes into `redis.port`, an IPv6 address has no brackets"
            .to_owned())
    } else if host.len() > HOST_BYTES_MAX || host.contains(|c: char| c.is_whitespace() || c == '/') {
        Err(format!("expected {HOST_EXPECTED}"))
    } else {
        Ok(())
    }
}

fn tcp(rest: &str, tls: bool) -> Result<RedisUrl, String> {
    if rest.contains(['?', '#']) {
        return Err("the URL has a `?` or `#` part, which has no meaning here; \
                    in a password write them as `%3F` and `%23`"
            .to_owned());
    }
    let (authority, db) = rest.split_once('/').unwrap_or((rest, ""));
    let (user_info, address) = match authority.rsplit_once('@') {
        Some((user_info, address)) => (Some(user_info), address),
        None => (None, authority),
    };
    let (host, port) = split_address(address, PORT).ok_or(
        "the URL's port must be an integer from 1 to 65535; in a password write `:`, `/` and `@` as `%3A`, \
         `%2F` and `%40`",
    )?;
    check_host(host).map_err(|message| format!("in the URL: {message}"))?;
    let (username, password) = match user_info.map(|info| info.split_once(':').unwrap_or((info, ""))) {
        Some((username, password)) => (decode(username)?, decode(password)?),
        None => (None, None),
    };
    let db = if db.is_empty() { None } else { Some(parse_db(db)?) };
    Ok(RedisUrl { host: host.to_owned(), port, tls, username, password: password.map(Secret::new), db })
}

fn unix(rest: &str) -> Result<RedisUrl, String> {
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let host = decode(path)?.filter(|path| path.starts_with('/'));
    let host = host.ok_or("a `unix://` URL needs an absolute path, as in `unix:///run/redis.sock`")?;
    let mut url = RedisUrl { host, port: PORT, tls: false, username: None, password: None, db: None };
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        match parameter.split_once('=') {
            Some(("db", db)) => url.db = Some(parse_db(db)?),
            Some(("user", user)) => url.username = decode(user)?,
            Some(("pass", password)) => url.password = decode(password)?.map(Secret::new),
            _ => return Err("a `unix://` URL takes only the parameters `db`, `user` and `pass`".to_owned()),
        }
    }
    Ok(url)
}

/// Host and port of `HOST[:PORT]`, where an IPv6 address has brackets; `None`: the port is none from 1 to 65535.
pub fn split_address(address: &str, default_port: u16) -> Option<(&str, u16)> {
    let (host, port) = match address.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, port)) => (host, port),
        None => address.split_at(address.find(':').unwrap_or(address.len())),
    };
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => Some(default_port),
        Some("") => Some(default_port),
        Some(port) => port.parse().ok().filter(|port| *port != 0),
        None => None,
    };
    Some((host, port?))
}

fn parse_db(text: &str) -> Result<u32, String> {
    let db = text.parse().ok().filter(|db| *db <= REDIS_DB_MAX);
    db.ok_or_else(|| format!("the URL's database must be an integer from 0 to {REDIS_DB_MAX}"))
}

/// Percent-decodes `text`; `None` when it is empty.
fn decode(text: &str) -> Result<Option<String>, String> {
    let bad = || "the URL has a `%` that two hex digits do not follow, or that is not UTF-8".to_owned();
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let (digits, after) = rest.split_first_chunk::<2>().ok_or_else(bad)?;
        let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
        let (high, low) = digit(digits[0]).zip(digit(digits[1])).ok_or_else(bad)?;
        bytes.push(high << 4 | low);
        rest = after;
    }
    let decoded = String::from_utf8(bytes).map_err(|_| bad())?;
    if decoded.chars().any(char::is_control) {
        return Err("the URL holds a control character".to_owned());
    }
    Ok(Some(decoded).filter(|decoded| !decoded.is_empty()))
}
