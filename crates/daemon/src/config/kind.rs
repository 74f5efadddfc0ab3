//! The kinds of value a key can have, and how each is read.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use toml::de::DeValue;

use super::model::{Chain, Password, Secret, Selector, SourceName};
use super::raw::{Raw, shown};
use super::redis_url::{self, RedisUrl, check_host};
use super::resources;

const TEXT_BYTES_MAX: usize = 255;
/// Linux's `PATH_MAX`.
const PATH_BYTES_MAX: usize = 4096;
/// Enough for a password, a token or a URL that holds either.
const SECRET_BYTES_MAX: usize = 4096;
/// A connect asks all of them if it must; deployments have three or five.
const SENTINELS_MAX: usize = 16;
/// Redis' `REDIS_SENTINEL_PORT`.
const SENTINEL_PORT: u16 = 26379;

/// The kind and range of a key's value.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// `true` or `false`.
    Bool,
    /// An integer in a range, in `unit`s (empty: a plain number).
    Whole {
        /// The least value allowed.
        min: u32,
        /// The greatest value allowed.
        max: u32,
        /// What is counted.
        unit: &'static str,
    },
    /// One of these words, in any case.
    Choice(&'static [&'static str]),
    /// Any line of text; may be empty.
    Text,
    /// The name of a Redis key or consumer.
    Name,
    /// Where a server is.
    Host,
    /// An IP address.
    Address,
    /// A path; may be empty.
    Path,
    /// A password.
    Secret,
    /// What clients have to show.
    Token,
    /// The path of a file that holds a password or a token.
    SecretFile,
    /// A Redis URL.
    Url,
    /// Where Redis sentinels are.
    Sentinels,
    /// The URL of an HTTP server; may be empty.
    Http,
    /// USB ids or classes up to `max`.
    Ids {
        /// The greatest value allowed.
        max: u32,
    },
    /// `auto`, or sources in order.
    Chain,
    /// Names of plugins.
    Names,
    /// DNS names.
    HostNames,
    /// Resources of a Kubernetes node, and which devices each is made of.
    Resources,
}

/// A checked value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// [`Kind::Bool`].
    Bool(bool),
    /// [`Kind::Whole`].
    Whole(u32),
    /// [`Kind::Choice`], [`Kind::Text`], [`Kind::Name`], [`Kind::Host`], [`Kind::Http`] or
    /// [`Kind::Path`].
    Text(String),
    /// [`Kind::Address`].
    Address(IpAddr),
    /// [`Kind::Secret`], [`Kind::Token`] or [`Kind::SecretFile`]; `None` when empty.
    Password(Option<Password>),
    /// [`Kind::Url`]; `None` when empty.
    Url(Option<RedisUrl>),
    /// [`Kind::Sentinels`]: hosts and ports.
    Sentinels(Vec<(String, u16)>),
    /// [`Kind::Ids`], sorted, without repeats.
    Ids(Vec<u32>),
    /// [`Kind::Chain`].
    Chain(Chain),
    /// [`Kind::Names`] or [`Kind::HostNames`].
    Names(Vec<String>),
    /// [`Kind::Resources`].
    Resources(BTreeMap<String, Selector>),
}

/// Whether `url` names an HTTP server, as far as that can be seen without asking it.
pub fn is_http_url(url: &str) -> bool {
    let host = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    host.is_some_and(|host| {
        !host.starts_with(['/', ':']) && !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_graphic())
    })
}

/// Whether `text` can be shown in a header as it is: at most 255 ASCII characters without spaces.
pub fn is_token(text: &str) -> bool {
    text.len() <= TEXT_BYTES_MAX && text.bytes().all(|byte| byte.is_ascii_graphic())
}

impl Kind {
    /// What is allowed, as in "expected …".
    pub fn expected(self) -> String {
        match self {
            Self::Bool => "`true` or `false`".to_owned(),
            Self::Whole { min, max, unit: "" } => format!("an integer from {min} to {max}"),
            Self::Whole { min, max, unit } => format!("an integer from {min} to {max} ({unit})"),
            Self::Choice(words) => format!("one of `{}`", words.join("`, `")),
            Self::Text => format!("a string of at most {TEXT_BYTES_MAX} bytes"),
            Self::Name => format!("a name of 1 to {TEXT_BYTES_MAX} bytes without spaces and braces"),
            Self::Host => redis_url::HOST_EXPECTED.to_owned(),
            Self::Address => "an IP address".to_owned(),
            Self::Path | Self::SecretFile => format!("a path of at most {PATH_BYTES_MAX} bytes"),
            Self::Secret => format!("a string of at most {SECRET_BYTES_MAX} bytes"),
            Self::Token => format!("at most {TEXT_BYTES_MAX} ASCII characters without spaces"),
            Self::Url => "a URL `redis://…`, `rediss://…` or `unix://…`".to_owned(),
            Self::Sentinels => format!("a list of at most {SENTINELS_MAX} strings `HOST:PORT`"),
            Self::Http => "a URL `http://…` or `https://…`".to_owned(),
            Self::Ids { max } => format!("a list of integers from 0 to {max} or hex strings"),
            Self::Chain => {
                let names = SourceName::ALL.map(|(name, _)| name).join("`, `");
                format!("`auto` or a list of some of `{names}`, each once")
            }
            Self::Names => "a list of names".to_owned(),
            Self::HostNames => "a list of host names without ports".to_owned(),
            Self::Resources => resources::EXPECTED.to_owned(),
        }
    }

    /// Reads and checks `raw`.
    ///
    /// # Errors
    /// What is wrong and what is allowed; never quotes a password or a URL.
    pub fn parse(self, raw: Raw<'_>) -> Result<Value, String> {
        match self {
            Self::Bool => self.boolean(raw).map(Value::Bool),
            Self::Whole { min, max, .. } => self.whole(raw, min, max).map(Value::Whole),
            Self::Choice(words) => self.choice(raw, words).map(Value::Text),
            Self::Text => self.text(raw, TEXT_BYTES_MAX).map(Value::Text),
            Self::Path => self.text(raw, PATH_BYTES_MAX).map(Value::Text),
            Self::Name => self.name(raw).map(Value::Text),
            Self::Host => self.host(raw).map(Value::Text),
            Self::Address => {
                let text = self.text(raw, TEXT_BYTES_MAX)?;
                let mend = "expected an IP address such as `127.0.0.1`, `0.0.0.0` or `::1`";
                text.parse().map(Value::Address).map_err(|_| mend.to_owned())
            }
            Self::Secret => {
                let secret = self.text(raw, SECRET_BYTES_MAX)?;
                let secret = Some(secret).filter(|secret| !secret.is_empty()).map(Secret::new);
                Ok(Value::Password(secret.map(Password::Inline)))
            }
            Self::Token => {
                let token = self.text(raw, TEXT_BYTES_MAX)?;
                if !is_token(&token) {
                    return Err(format!("expected {}", self.expected()));
                }
                let token = Some(token).filter(|token| !token.is_empty()).map(Secret::new);
                Ok(Value::Password(token.map(Password::Inline)))
            }
            Self::SecretFile => {
                let path = self.text(raw, PATH_BYTES_MAX)?;
                let path = Some(path).filter(|path| !path.is_empty()).map(PathBuf::from);
                Ok(Value::Password(path.map(Password::File)))
            }
            Self::Http => {
                let url = self.text(raw, SECRET_BYTES_MAX)?;
                let is_url = url.is_empty() || is_http_url(&url);
                if is_url { Ok(Value::Text(url)) } else { Err(format!("expected {}", self.expected())) }
            }
            Self::Url => match self.text(raw, SECRET_BYTES_MAX)?.as_str() {
                "" => Ok(Value::Url(None)),
                url => redis_url::parse(url).map(Some).map(Value::Url),
            },
            Self::Sentinels => self.sentinels(raw).map(Value::Sentinels),
            Self::Ids { max } => self.ids(raw, max).map(Value::Ids),
            Self::Chain => self.chain(raw).map(Value::Chain),
            Self::Names => self.names(raw).map(Value::Names),
            Self::HostNames => self.host_names(raw).map(Value::Names),
            Self::Resources => resources::parse(raw).map(Value::Resources),
        }
    }

    /// What to say of a value of another kind.
    fn mismatch(self, raw: Raw<'_>) -> String {
        format!("expected {}, found {}", self.expected(), raw.found())
    }

    fn boolean(self, raw: Raw<'_>) -> Result<bool, String> {
        match raw {
            Raw::Text("true") | Raw::Toml(DeValue::Boolean(true)) => Ok(true),
            Raw::Text("false") | Raw::Toml(DeValue::Boolean(false)) => Ok(false),
            _ => Err(self.mismatch(raw)),
        }
    }

    fn whole(self, raw: Raw<'_>, min: u32, max: u32) -> Result<u32, String> {
        let number = raw.integer().ok_or_else(|| self.mismatch(raw))?;
        let in_range = u32::try_from(number).ok().filter(|number| (min..=max).contains(number));
        in_range.ok_or_else(|| format!("{number} is out of range, expected {}", self.expected()))
    }

    fn text(self, raw: Raw<'_>, bytes_max: usize) -> Result<String, String> {
        let text = raw.string().ok_or_else(|| self.mismatch(raw))?;
        if text.len() > bytes_max {
            return Err(format!("{} bytes are too long, expected {}", text.len(), self.expected()));
        }
        if text.chars().any(char::is_control) {
            return Err("a control character (such as a line break) is not allowed".to_owned());
        }
        Ok(text.to_owned())
    }

    fn choice(self, raw: Raw<'_>, words: &[&'static str]) -> Result<String, String> {
        let text = raw.string().ok_or_else(|| self.mismatch(raw))?;
        match words.iter().find(|word| word.eq_ignore_ascii_case(text)) {
            Some(word) => Ok((*word).to_owned()),
            None => Err(format!("`{}` is not allowed, expected {}", shown(text), self.expected())),
        }
    }

    fn name(self, raw: Raw<'_>) -> Result<String, String> {
        let name = self.text(raw, TEXT_BYTES_MAX)?;
        // Braces would move the stream's `{…}:seq` and `{…}:dead` to another slot of a Redis cluster.
        let bad = |c: char| c.is_whitespace() || c == '{' || c == '}';
        if name.is_empty() || name.contains(bad) {
            return Err(format!("expected {}", self.expected()));
        }
        Ok(name)
    }

    fn host(self, raw: Raw<'_>) -> Result<String, String> {
        let host = self.text(raw, PATH_BYTES_MAX)?;
        if !host.starts_with('/') {
            check_host(&host)?;
        }
        Ok(host)
    }

    fn ids(self, raw: Raw<'_>, max: u32) -> Result<Vec<u32>, String> {
        let items = raw.items().ok_or_else(|| self.mismatch(raw))?;
        let read = |item: Raw<'_>| {
            let number = item.id().ok_or_else(|| match item.string() {
                Some(text) => format!("`{}` is not an id, expected {}", shown(text), self.expected()),
                None => format!("expected {}, found {} in it", self.expected(), item.found()),
            })?;
            let in_range = u32::try_from(number).ok().filter(|number| *number <= max);
            in_range.ok_or_else(|| format!("{number} is out of range, expected {}", self.expected()))
        };
        let mut ids = items.into_iter().map(read).collect::<Result<Vec<u32>, String>>()?;
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }

    fn names(self, raw: Raw<'_>) -> Result<Vec<String>, String> {
        let items = raw.items().ok_or_else(|| self.mismatch(raw))?;
        let name = |item: Raw<'_>| item.string().map(str::to_owned).ok_or_else(|| self.mismatch(item));
        items.into_iter().map(name).collect()
    }

    /// Does not quote what is wrong: it may be a URL with a password.
    fn sentinels(self, raw: Raw<'_>) -> Result<Vec<(String, u16)>, String> {
        let address = |name: &String| {
            let (host, port) = redis_url::split_address(name, SENTINEL_PORT)?;
            check_host(host).is_ok().then(|| (host.to_owned(), port))
        };
        let addresses: Option<Vec<_>> = self.names(raw)?.iter().map(address).collect();
        let addresses = addresses.filter(|addresses| addresses.len() <= SENTINELS_MAX);
        addresses.ok_or_else(|| format!("expected {}", self.expected()))
    }

    fn host_names(self, raw: Raw<'_>) -> Result<Vec<String>, String> {
        let names = self.names(raw)?;
        // Others are in no `Host` that a browser or a proxy sends for a name.
        let is_inside = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        let is_name =
            |name: &String| (1..=TEXT_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_inside);
        match names.iter().find(|name| !is_name(name)) {
            None => Ok(names),
            Some(other) => {
                Err(format!("`{}` is not a host name, expected {}", shown(other), self.expected()))
            }
        }
    }

    fn chain(self, raw: Raw<'_>) -> Result<Chain, String> {
        if raw.string() == Some("auto") {
            return Ok(Chain::Auto);
        }
        let items = match raw {
            Raw::Toml(DeValue::String(list)) => Raw::Text(list).items(),
            _ => raw.items(),
        };
        let items = items.ok_or_else(|| self.mismatch(raw))?;
        let mut chain = Vec::new();
        for item in &items {
            let name = item.string().ok_or_else(|| self.mismatch(*item))?;
            let known = SourceName::ALL.iter().find(|(known, _)| *known == name);
            let (_, source) = known
                .ok_or_else(|| format!("`{}` is not a source, expected {}", shown(name), self.expected()))?;
            if chain.contains(source) {
                return Err(format!("`{name}` is there twice, expected {}", self.expected()));
            }
            chain.push(*source);
        }
        if chain.is_empty() {
            return Err(format!("the list is empty, expected {}", self.expected()));
        }
        Ok(Chain::Only(chain))
    }
}
