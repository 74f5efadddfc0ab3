//! A connection to the server, on which every wait ends.

use std::fs;
use std::time::Duration;

use redis::{
    Client, Cmd, Connection, ConnectionAddr, ConnectionInfo, FromRedisValue, IntoConnectionInfo,
    RedisConnectionInfo, RedisError, ServerErrorKind, ToRedisArgs, Value,
};

use crate::failure::Failure;
use crate::script::Script;
use crate::settings::{Password, Settings};

/// How long connecting may take, per address of the host.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the server may take to answer, or to take what is sent.
pub(crate) const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);

/// An open connection. After an error of [`Link::send`] or [`Link::receive`] it must be dropped: answers would no
/// longer belong to their questions.
pub(crate) struct Link {
    connection: Connection,
    /// Where it leads.
    address: ConnectionAddr,
    /// How long each wait may take.
    limit: Duration,
}

/// The server's answer to one command.
pub(crate) enum Answer {
    Value(Value),
    /// The script is not in the server's cache.
    NoScript,
    Refused(Failure),
}

impl Link {
    /// Connects, and each wait is bounded by `limit` from then on.
    pub(crate) fn open(
        address: ConnectionAddr,
        connect_timeout: Duration,
        limit: Duration,
    ) -> Result<Self, Failure> {
        // Another crate of the process may have chosen a provider already; either will do.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::open(connection_info(&address)?)?;
        let connection = client.get_connection_with_timeout(connect_timeout)?;
        let mut link = Self { connection, address, limit };
        link.limit_waits(limit)?;
        Ok(link)
    }

    /// Connects to a server, with the user and the database.
    pub(crate) fn enter(address: ConnectionAddr, settings: &Settings) -> Result<Self, Failure> {
        let mut link = Self::open(address, CONNECT_TIMEOUT, RESPONSE_TIMEOUT)?;
        link.log_in(settings)?;
        if settings.db != 0 {
            link.query::<()>(redis::cmd("SELECT").arg(settings.db))?;
        }
        Ok(link)
    }

    /// Where it leads.
    pub(crate) fn address(&self) -> &ConnectionAddr {
        &self.address
    }

    pub(crate) fn log_in(&mut self, settings: &Settings) -> Result<(), Failure> {
        let password = password(settings)?;
        if settings.username.is_none() && password.is_none() {
            return Ok(());
        }
        let mut command = redis::cmd("AUTH");
        command.arg(settings.username.as_deref()).arg(password.unwrap_or_default());
        self.query::<()>(&command).map_err(|failure| match failure {
            Failure::Refused(text) => Failure::AuthRefused(text),
            other => other,
        })
    }

    /// Bounds each wait from now on; never zero.
    pub(crate) fn limit_waits(&mut self, limit: Duration) -> Result<(), Failure> {
        self.limit = limit.max(Duration::from_millis(1));
        self.connection.set_read_timeout(Some(self.limit))?;
        Ok(self.connection.set_write_timeout(Some(self.limit))?)
    }

    pub(crate) fn send(&mut self, packed: &[u8]) -> Result<(), Failure> {
        self.connection.send_packed_command(packed).map_err(|error| self.broken(error))
    }

    pub(crate) fn receive(&mut self) -> Result<Answer, Failure> {
        let answer = self.connection.recv_response().map_err(|error| self.broken(error))?;
        Ok(match answer {
            Value::ServerError(error) if error.kind() == Some(ServerErrorKind::NoScript) => Answer::NoScript,
            Value::ServerError(error) => Answer::Refused(Failure::of_answer(&error)),
            value => Answer::Value(value),
        })
    }

    pub(crate) fn query<T: FromRedisValue>(&mut self, command: &Cmd) -> Result<T, Failure> {
        self.send(&command.get_packed_command())?;
        match self.receive()? {
            Answer::Value(value) => decode(value),
            Answer::NoScript => Err(Failure::Refused("NOSCRIPT".to_owned())),
            Answer::Refused(failure) => Err(failure),
        }
    }

    /// Calls a script, sending its text where the server does not know it.
    pub(crate) fn call<T: FromRedisValue>(
        &mut self,
        script: &Script,
        keys: &[impl ToRedisArgs],
        args: &[impl ToRedisArgs],
    ) -> Result<T, Failure> {
        let mut command = redis::cmd("EVALSHA");
        command.arg(&script.hash).arg(keys.len()).arg(keys).arg(args);
        self.send(&command.get_packed_command())?;
        match self.receive()? {
            Answer::Value(value) => decode(value),
            Answer::Refused(failure) => Err(failure),
            Answer::NoScript => {
                let mut command = redis::cmd("EVAL");
                command.arg(&script.code).arg(keys.len()).arg(keys).arg(args);
                self.query(&command)
            }
        }
    }

    /// Puts a script into the server's cache.
    pub(crate) fn load(&mut self, script: &Script) -> Result<(), Failure> {
        self.query::<String>(redis::cmd("SCRIPT").arg("LOAD").arg(&script.code)).map(drop)
    }

    /// The system's words for a wait that ended, "resource temporarily unavailable", name the wrong trouble.
    fn broken(&self, error: RedisError) -> Failure {
        if !error.is_timeout() {
            return error.into();
        }
        let limit = match self.limit.as_millis() {
            ms if ms % 1000 == 0 => format!("{} s", ms / 1000),
            ms => format!("{ms} ms"),
        };
        Failure::Unreachable(format!("no answer within {limit}"))
    }
}

pub(crate) fn decode<T: FromRedisValue>(value: Value) -> Result<T, Failure> {
    redis::from_redis_value(value).map_err(|error| Failure::Refused(format!("an unexpected answer: {error}")))
}

fn connection_info(address: &ConnectionAddr) -> Result<ConnectionInfo, Failure> {
    // The client library would log in itself, but keeps what the server says against it to itself.
    let redis = RedisConnectionInfo::default().set_skip_set_lib_name();
    let tcp = redis::io::tcp::TcpSettings::default().set_nodelay(true);
    Ok(address.clone().into_connection_info()?.set_redis_settings(redis).set_tcp_settings(tcp))
}

fn password(settings: &Settings) -> Result<Option<String>, Failure> {
    match &settings.password {
        None => Ok(None),
        Some(Password::Inline(secret)) => Ok(Some(secret.expose().to_owned())),
        Some(Password::File(path)) => {
            let text = fs::read_to_string(path)
                .map_err(|error| Failure::PasswordFile(format!("{}: {error}", path.display())))?;
            Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()))
        }
    }
}
