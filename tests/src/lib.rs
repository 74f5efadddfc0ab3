//! Whole-program tests live in `tests/`, measurements in `src/bin/bench.rs`; this library is empty.
