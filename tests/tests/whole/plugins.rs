//! Plugins: what the daemon tells them, from its journal and from Redis, whoever is killed meanwhile.

pub mod bed;
mod commands;
mod escape;
mod from_journal;
mod from_redis;
