//! `oc`, `oc-algo`, `oc-validity` and `oc-seq` of a Via value (RFC 7339 4).

use std::ops::Range;
use std::time::Duration;

use crate::sip::next_comma;
use crate::sip::text::{contains, push_decimal};
use crate::sip::{Message, Name, Patch, Via};

/// How much is to be withheld is said as a percentage or as a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Algorithm {
    /// RFC 7339 6: `oc` percent of requests are withheld.
    #[default]
    Loss,
    /// RFC 7415: at most `oc` requests per second are sent.
    Rate,
}

impl Algorithm {
    fn token(self) -> &'static [u8] {
        match self {
            Algorithm::Loss => b"loss",
            Algorithm::Rate => b"rate",
        }
    }
}

/// What a client says it can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// It knows [`Algorithm::Rate`]; loss is mandatory (O-1).
    pub rate: bool,
}

/// What a server asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feedback {
    /// Percent, or requests per second.
    pub value: u32,
    /// Which of them.
    pub algorithm: Algorithm,
    /// For how long; zero ends it.
    pub validity: Duration,
    /// The larger is the newer: before the decimal point, and five digits behind it.
    pub sequence: (u64, u32),
}

/// `oc-validity` where none is written (RFC 7339 4.3).
const DEFAULT_VALIDITY: Duration = Duration::from_millis(500);
/// Digits of `oc-seq` behind its point (RFC 7339 9).
const SEQUENCE_DIGITS: usize = 5;
/// What our Via carries towards a neighbour that is to answer with its load.
pub const OFFER: &[u8] = b";oc;oc-algo=\"loss,rate\"";

/// Reads what a client offers: a bare `oc`.
pub fn offer(via: Via<'_>) -> Option<Offer> {
    via.params().find("oc").filter(|oc| oc.value.is_none())?;
    let algorithms = via.params().find("oc-algo").and_then(|p| p.value).unwrap_or_default();
    Some(Offer { rate: names(algorithms, Algorithm::Rate) })
}

/// Reads what a server asks for; `None` too if it can not be made sense of.
pub fn feedback(via: Via<'_>) -> Option<Feedback> {
    let value = number(via.params().find("oc")?.value?, 9)? as u32;
    let algorithm = match via.params().find("oc-algo").and_then(|p| p.value) {
        Some(token) if names(token, Algorithm::Rate) => Algorithm::Rate,
        Some(token) if !names(token, Algorithm::Loss) => return None,
        _ => Algorithm::Loss,
    };
    if algorithm == Algorithm::Loss && value > 100 {
        return None;
    }
    let validity = match via.params().find("oc-validity").and_then(|p| p.value) {
        Some(millis) => Duration::from_millis(number(millis, 9)?),
        None => DEFAULT_VALIDITY,
    };
    let sequence = via.params().find("oc-seq")?.value?;
    let dot = memchr::memchr(b'.', sequence)?;
    let fraction = sequence.get(dot + 1..)?;
    // A number with a decimal point (RFC 7339 4.4): .5 is more than .45.
    let scale = 10u32.pow((SEQUENCE_DIGITS - fraction.len().min(SEQUENCE_DIGITS)) as u32);
    let (whole, part) = (number(sequence.get(..dot)?, 12)?, number(fraction, SEQUENCE_DIGITS)? as u32 * scale);
    Some(Feedback { value, algorithm, validity, sequence: (whole, part) })
}

/// Appends `;oc=…` and what belongs to it.
pub fn write(feedback: &Feedback, out: &mut Vec<u8>) {
    out.extend_from_slice(b";oc=");
    push_decimal(out, feedback.value);
    out.extend_from_slice(b";oc-algo=\"");
    out.extend_from_slice(feedback.algorithm.token());
    out.extend_from_slice(b"\";oc-validity=");
    push_decimal(out, u32::try_from(feedback.validity.as_millis()).unwrap_or(u32::MAX));
    out.extend_from_slice(b";oc-seq=");
    out.extend_from_slice(feedback.sequence.0.to_string().as_bytes());
    out.push(b'.');
    let _ = std::io::Write::write_fmt(out, format_args!("{:05}", feedback.sequence.1)); // a Vec takes everything
}

/// Edits the Via values of a response behind the first `skip`: the next one tells `ours` if there is something to tell; what others
/// wrote of their load goes from all of them (O-6).
pub fn rewrite(response: Message<'_>, skip: usize, ours: Option<&Feedback>, patch: &mut Patch) {
    if !response.fields_of(Name::Via).any(|field| contains(field.value(), b"oc")) {
        return; // nearly always
    }
    for (place, value) in response.values(Name::Via).enumerate().skip(skip) {
        let is_first = place == skip;
        let Ok(via) = Via::parse(value.value) else { continue };
        let told = ours.filter(|_| is_first);
        if told.is_none() && !has_feedback(via) {
            continue;
        }
        for range in oc_ranges(via) {
            patch.remove(value.range.start + range.start..value.range.start + range.end);
        }
        if let Some(told) = told {
            patch.insert_with(value.range.start + via.range().end, |out| write(told, out));
        }
    }
}

/// The same for a response of our own, which stands in `bytes` from `start`: its top Via is the client's.
pub fn mark(bytes: &mut Vec<u8>, start: usize, ours: &Feedback) {
    const LINE: &[u8] = b"\r\nVia: ";
    let Some(at) = bytes.get(start..).and_then(|response| memchr::memmem::find(response, LINE)) else { return };
    let line = start + at + LINE.len();
    let rest = bytes.get(line..).unwrap_or_default();
    let rest = rest.get(..memchr::memchr(b'\r', rest).unwrap_or(rest.len())).unwrap_or_default();
    let end = next_comma(rest, 0, false).unwrap_or(rest.len());
    let value = rest.get(..end).unwrap_or_default().trim_ascii_end();
    let Ok(via) = Via::parse(value) else { return };
    let mut marked = Vec::with_capacity(value.len() + 64);
    let mut kept = 0;
    for range in oc_ranges(via) {
        marked.extend_from_slice(value.get(kept..range.start).unwrap_or_default());
        kept = range.end;
    }
    marked.extend_from_slice(value.get(kept..).unwrap_or_default());
    write(ours, &mut marked);
    let length = value.len();
    bytes.splice(line..line + length, marked);
}

/// Somebody wrote load into it, and not only the offer that was there before.
fn has_feedback(via: Via<'_>) -> bool {
    via.params().any(|p| p.is("oc") && p.value.is_some() || p.is("oc-validity") || p.is("oc-seq"))
}

fn oc_ranges(via: Via<'_>) -> impl Iterator<Item = Range<usize>> {
    let is_oc = |name: &[u8]| {
        [&b"oc"[..], b"oc-algo", b"oc-validity", b"oc-seq"].iter().any(|known| name.eq_ignore_ascii_case(known))
    };
    via.params().filter(move |p| is_oc(p.name)).map(|p| p.range)
}

/// A list of algorithms, quoted or not, names this one.
fn names(list: &[u8], algorithm: Algorithm) -> bool {
    let list = list.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(list);
    list.split(|octet| *octet == b',').any(|name| name.trim_ascii().eq_ignore_ascii_case(algorithm.token()))
}

fn number(text: &[u8], digits: usize) -> Option<u64> {
    let text = std::str::from_utf8(text).ok().filter(|t| !t.is_empty() && t.len() <= digits)?;
    if text.bytes().all(|octet| octet.is_ascii_digit()) { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::{Framing, Index, Limits, parse};

    fn read(parameters: &str) -> (Option<Offer>, Option<Feedback>) {
        let text = format!("SIP/2.0/UDP h;branch=z9hG4bKx{parameters}");
        let via = Via::parse(text.as_bytes()).unwrap();
        (offer(via), feedback(via))
    }

    #[test]
    fn o1_offers() {
        assert_eq!(read("").0, None);
        assert_eq!(read(";oc").0, Some(Offer { rate: false }));
        assert_eq!(read(";oc;oc-algo=\"loss\"").0, Some(Offer { rate: false }));
        assert_eq!(read(";OC;oc-algo=\"loss, Rate\"").0, Some(Offer { rate: true }));
        assert_eq!(read(";oc=5;oc-algo=\"loss\"").0, None);
        assert_eq!(read(std::str::from_utf8(OFFER).unwrap()).0, Some(Offer { rate: true }));
    }

    #[test]
    fn o1_feedback_and_its_limits() {
        // RFC 7339 4.5 and 7415 3.4 examples.
        let seen = read(";oc=20;oc-algo=\"loss\";oc-validity=500;oc-seq=1282321615.782").1.unwrap();
        let expected = Feedback {
            value: 20,
            algorithm: Algorithm::Loss,
            validity: Duration::from_millis(500),
            sequence: (1_282_321_615, 78_200),
        };
        assert_eq!(seen, expected);
        let rate = read(";oc=150;oc-algo=\"rate\";oc-validity=1000;oc-seq=1282321615.782").1.unwrap();
        assert_eq!((rate.value, rate.algorithm), (150, Algorithm::Rate));
        assert_eq!(
            read(";oc=7;oc-seq=1.2").1.map(|f| (f.algorithm, f.validity)),
            Some((Algorithm::Loss, DEFAULT_VALIDITY))
        );
        assert_eq!(read(";oc=0;oc-validity=0;oc-seq=1.2").1.map(|f| f.validity), Some(Duration::ZERO));
        for bad in [
            ";oc;oc-seq=1.2",
            ";oc=101;oc-seq=1.2",
            ";oc=-1;oc-seq=1.2",
            ";oc=5",
            ";oc=5;oc-seq=12",
            ";oc=5;oc-seq=1.123456",
            ";oc=5;oc-seq=1234567890123.1",
            ";oc=5;oc-seq=1.2;oc-validity=x",
            ";oc=5;oc-seq=1.2;oc-algo=\"other\"",
            ";oc=99999999999;oc-algo=\"rate\";oc-seq=1.2",
        ] {
            assert_eq!(read(bad).1, None, "{bad}");
        }
        let mut out = Vec::new();
        write(&expected, &mut out);
        assert_eq!(read(std::str::from_utf8(&out).unwrap()).1, Some(expected));
    }

    #[test]
    fn o2_sequences_are_decimal_fractions() {
        let sequence = |text: &str| read(&format!(";oc=5;oc-seq={text}")).1.unwrap().sequence;
        assert!(sequence("7.5") > sequence("7.45") && sequence("7.9") > sequence("7.10"));
        assert_eq!(sequence("7.1"), sequence("7.10000"));
        let mut earlier = (0, 0);
        for part in [0, 5, 45, 450, 99_999] {
            let mut out = Vec::new();
            let (algorithm, validity) = (Algorithm::Loss, DEFAULT_VALIDITY);
            write(&Feedback { value: 5, algorithm, validity, sequence: (7, part) }, &mut out);
            let read = read(std::str::from_utf8(&out).unwrap()).1.unwrap().sequence;
            assert!(read == (7, part) && read > earlier, "{read:?}");
            earlier = read;
        }
    }

    fn rewritten(vias: &str, ours: Option<&Feedback>) -> String {
        let text = format!("SIP/2.0 200 OK\r\n{vias}\r\nContent-Length: 0\r\n\r\n");
        let mut index = Index::new();
        let response = parse(text.as_bytes(), &mut index, Framing::Datagram, &Limits::default()).unwrap();
        let mut patch = Patch::new();
        rewrite(response, 1, ours, &mut patch);
        let mut out = Vec::new();
        patch.write(text.as_bytes(), &mut out);
        String::from_utf8(out).unwrap().split("\r\n").nth(2).unwrap().to_owned()
    }

    #[test]
    fn o6_the_load_of_others_is_not_passed_on() {
        let top = "Via: SIP/2.0/UDP us;oc=5;oc-seq=1.1\r\n";
        let under = |rest: &str| rewritten(&format!("{top}Via: SIP/2.0/UDP c;branch=z9hG4bKoc{rest}"), None);
        assert_eq!(under(""), "Via: SIP/2.0/UDP c;branch=z9hG4bKoc");
        assert_eq!(under(";oc;oc-algo=\"loss\""), "Via: SIP/2.0/UDP c;branch=z9hG4bKoc;oc;oc-algo=\"loss\"");
        assert_eq!(under(";oc=9;oc-algo=\"loss\";oc-validity=1;x;oc-seq=1.1"), "Via: SIP/2.0/UDP c;branch=z9hG4bKoc;x");
        assert_eq!(under(", SIP/2.0/UDP d;oc-seq=3.3"), "Via: SIP/2.0/UDP c;branch=z9hG4bKoc, SIP/2.0/UDP d");
    }

    #[test]
    fn o5_our_load_takes_the_place_of_the_offer() {
        let ours = Feedback { value: 10, algorithm: Algorithm::Loss, validity: DEFAULT_VALIDITY, sequence: (5, 6) };
        let vias =
            "Via: SIP/2.0/UDP us\r\nVia: SIP/2.0/UDP c;oc;branch=z9hG4bKx;oc-algo=\"loss,rate\", SIP/2.0/UDP d;oc";
        assert_eq!(
            rewritten(vias, Some(&ours)),
            "Via: SIP/2.0/UDP c;branch=z9hG4bKx;oc=10;oc-algo=\"loss\";oc-validity=500;oc-seq=5.00006, SIP/2.0/UDP d;oc"
        );
    }
}
