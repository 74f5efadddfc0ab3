//! USB devices as resources of a Kubernetes node, by the kubelet's device plugin API `v1beta1`
//! (k8s.io/kubelet, `pkg/apis/deviceplugin/v1beta1/api.proto`).
//!
//! - [`Inventory`] says which devices belong to which resource, under which id; it does no I/O. [`Memory`] is
//!   the file that has the ids from one run to the next.
//! - [`Server`] tells the kubelet and answers it, on a thread of its own: a socket a resource, made anew and
//!   registered again whenever the kubelet starts or ceases to watch.
//! - [`api`] is the messages.
//!
//! What a slow kubelet has not been told yet is only ever the newest list.
#![cfg(target_os = "linux")]

mod allocation;
pub mod api;
mod directory;
mod error;
mod identity;
mod inventory;
mod kubelet;
mod memory;
mod plugin;
mod server;
mod service;
mod watchers;

pub use error::Error;
pub use identity::Named;
pub use inventory::{Entry, Inventory, Listing, Place, Remembered};
pub use memory::Memory;
pub use server::{Resource, Server};
