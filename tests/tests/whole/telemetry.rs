//! Traces, metrics and logs, as a collector gets them.

mod collector;
mod outages;
mod traces;
