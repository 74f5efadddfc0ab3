//! A real server on a real journal, asked over real sockets.

mod client;
mod fixture;
mod hostile;
mod many;
mod routes;
mod streams;
