//! What authors and operators do with plugins.

mod dead;
mod list;
mod new;
mod package;
mod try_out;

use crate::cli::{Common, Plugins};
use crate::exit::Failure;

pub fn run(common: &Common, command: &Plugins) -> Result<(), Failure> {
    match command {
        Plugins::New { name, lang } => new::run(name, *lang),
        Plugins::Check { directory } => package::run(common, directory),
        Plugins::Run(arguments) => try_out::run(common, arguments),
        Plugins::List { json } => list::run(common, *json),
        Plugins::Dead { redis, json, state_dir } => dead::run(common, *redis, *json, state_dir.as_deref()),
    }
}
