//! Journal to Redis Streams (Redis 6.2 or later, Valkey): every event once and in order, however often the
//! connection, the server or this process fails.
//!
//! # Invariants
//!
//! - An event is appended, and the producer's mark moved, by one atomic script. The script refuses a gap and
//!   skips what the mark says is there: sending anything twice is harmless, so every failure is answered by
//!   asking the server for the mark and going on from it.
//! - On every connect and every [`Settings::interval`] the mark is compared with the journal and with the stream.
//!   A server that is behind gets from the journal what is still kept; a stream that has events which the journal
//!   never wrote stops the publisher until it is given another producer id.
//! - Nothing is dropped: shaping makes events wait in the journal, an outage as well.
//! - One thread owns the connection. Every wait on it ends after a stated time.
//!
//! # Sentinel and cluster
//!
//! Every connect finds the server anew ([`Endpoint`]): the master that a sentinel names, or the node that the
//! stream's slot is moved to. All keys of a stream are in one slot, so one connection serves a cluster as it does a
//! plain server. A failover or a move that shows on an open connection, as an end or as `READONLY`, `MOVED`, `ASK`,
//! `TRYAGAIN` or `CLUSTERDOWN`, is a failure like any other. What the new master lacks, it gets from the journal.
//!
//! # Keys (persisted; `aw:hotplug` stands for [`Settings::stream`])
//!
//! | key | type | what |
//! |---|---|---|
//! | `aw:hotplug` | stream | one entry per event, see [`FIELDS`] |
//! | `{aw:hotplug}:seq` | hash | the marks: producer → `seq event_id entry_id` of its last entry |
//! | `{aw:hotplug}:dead` | stream | dead letters of all groups, about the newest 10,000: an entry's fields, `error deliveries plugin` |
//! | `{aw:hotplug}:lease:GROUP` | string | who of the plugin loaders of a group is active; expires |
//!
//! A mark with the event id `-` was set by the publisher itself: what came before its `seq` is no longer kept.
//!
//! An ACL user needs `+@connection +@scripting +@stream +@read +hset +hdel +info` on `~aw:hotplug` and
//! `~{aw:hotplug}:seq`; one that consumes also `+get +set +del` on `~{aw:hotplug}:lease:*` and `~{aw:hotplug}:dead`.

mod settings;

mod entry;
mod mark;

mod failure;
mod link;
mod locate;
mod script;
mod server;

mod backoff;
mod control;
mod notice;
mod publisher;
mod report;
mod rows;
mod send;
mod shape;
mod sync;
mod trim;
mod worker;

mod consumer;
mod probe;
mod read;

pub use backoff::Backoff;
pub use consumer::{
    Consumer, ConsumerListener, ConsumerNotice, Cursor, Deliveries, Delivery, EntryId, Fence, Lease, Letter,
    Member, Settlements, Sharing, Verdict, connected_in_stream, dead_letters_file,
};
pub use entry::{FIELDS, FieldError, entry, event};
pub use failure::Failure;
pub use notice::{Acknowledged, Listener, Notice, State, Status};
pub use probe::{Findings, Group, probe};
pub use publisher::Publisher;
pub use read::{Entry, GroupReader, StreamReader, create_group};
pub use settings::{Endpoint, Password, Secret, Settings};
