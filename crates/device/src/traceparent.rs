//! Where a trace began, as it travels with an event: W3C Trace Context, version 00
//! (<https://www.w3.org/TR/trace-context/#traceparent-header>).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A span that others belong to: `00-TRACE_ID-SPAN_ID-FLAGS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Traceparent {
    /// Of the whole trace; not 0.
    pub trace_id: u128,
    /// Of the span that the event was created in; not 0.
    pub span_id: u64,
    /// Whether who began the trace records it.
    pub is_sampled: bool,
}

impl fmt::Display for Traceparent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { trace_id, span_id, is_sampled } = self;
        write!(f, "00-{trace_id:032x}-{span_id:016x}-{:02x}", u8::from(*is_sampled))
    }
}

impl FromStr for Traceparent {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts: Vec<&str> = text.splitn(5, '-').collect();
        let ["00", trace_id, span_id, flags] = parts[..] else { return Err("not 00-TRACE_ID-SPAN_ID-FLAGS") };
        let [trace_id, span_id, flags] =
            [(trace_id, 32), (span_id, 16), (flags, 2)].map(|(part, digits)| number(part, digits));
        match (trace_id, span_id.map(u64::try_from), flags) {
            (Some(trace_id @ 1..), Some(Ok(span_id @ 1..)), Some(flags)) => {
                // Bit 0 is all that version 00 defines for everybody.
                Ok(Self { trace_id, span_id, is_sampled: flags & 1 == 1 })
            }
            _ => Err("ids are lower-case hexadecimal digits and not all 0"),
        }
    }
}

fn number(text: &str, digits: usize) -> Option<u128> {
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let is_number = text.len() == digits && text.bytes().all(is_digit);
    is_number.then(|| u128::from_str_radix(text, 16).ok()).flatten()
}

impl Serialize for Traceparent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Reads one that may be anything: what is none is not worth losing an event for.
pub(crate) fn lenient<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Traceparent>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    Ok(text.and_then(|text| text.parse().ok()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn the_recommendations_example_is_read() {
        let read: Traceparent = EXAMPLE.parse().unwrap();
        assert_eq!(read.span_id, 0x00f0_67aa_0ba9_02b7);
        assert!(read.is_sampled);
        assert_eq!(read.to_string(), EXAMPLE);
    }

    #[test]
    fn what_is_none_is_refused() {
        let zeros = "00-00000000000000000000000000000000-00f067aa0ba902b7-01";
        let no_span = "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01";
        let upper = EXAMPLE.to_uppercase();
        let (longer, signed) = (format!("{EXAMPLE}-"), EXAMPLE.replacen("4b", "+b", 1));
        let version = EXAMPLE.replacen("00", "ff", 1);
        for text in
            ["", "-", "00", "00---", zeros, no_span, &upper, &longer, &signed, &version, &EXAMPLE[1..]]
        {
            assert!(text.parse::<Traceparent>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics_and_what_is_read_is_written_again(text in "(00-)?[0-9a-f]{0,32}-?.{0,40}") {
            if let Ok(read) = text.parse::<Traceparent>() {
                prop_assert_eq!(read.to_string().parse(), Ok(read));
            }
        }

        #[test]
        fn any_survives_the_round_trip(trace_id in 1..=u128::MAX, span_id in 1..=u64::MAX, is_sampled: bool) {
            let traceparent = Traceparent { trace_id, span_id, is_sampled };
            prop_assert_eq!(traceparent.to_string().parse(), Ok(traceparent));
        }
    }
}
