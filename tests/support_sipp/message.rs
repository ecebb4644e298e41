//! SIP messages as the judge reads them: with code of its own, so that a fault of the proxy's parser can not hide itself.

use std::time::Duration;

/// One message as a party sent or received it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// On that party's clock.
    pub at: Duration,
    pub sent: bool,
    pub bytes: Vec<u8>,
}

const COMPACT: &[(&str, &str)] = &[
    ("v", "Via"),
    ("f", "From"),
    ("t", "To"),
    ("i", "Call-ID"),
    ("m", "Contact"),
    ("l", "Content-Length"),
    ("c", "Content-Type"),
    ("k", "Supported"),
    ("s", "Subject"),
    ("x", "Session-Expires"),
    ("y", "Identity"),
];

impl Seen {
    fn head(&self) -> String {
        let end = find(&self.bytes, b"\r\n\r\n").unwrap_or(self.bytes.len());
        String::from_utf8_lossy(&self.bytes[..end]).replace("\r\n ", " ").replace("\r\n\t", " ")
    }

    pub fn body(&self) -> &[u8] {
        find(&self.bytes, b"\r\n\r\n").map_or(&[], |end| &self.bytes[end + 4..])
    }

    pub fn start_line(&self) -> String {
        self.head().lines().next().unwrap_or_default().to_owned()
    }

    pub fn status(&self) -> Option<u16> {
        self.start_line().strip_prefix("SIP/2.0 ")?.get(..3)?.parse().ok()
    }

    /// Method of a request, or the method of the CSeq of a response.
    pub fn method(&self) -> String {
        if self.status().is_some() {
            self.value("CSeq").and_then(|v| v.split_whitespace().nth(1).map(str::to_owned)).unwrap_or_default()
        } else {
            self.start_line().split(' ').next().unwrap_or_default().to_owned()
        }
    }

    /// The fields in their order: names in long form, values trimmed and unfolded.
    pub fn fields(&self) -> Vec<(String, String)> {
        let head = self.head();
        let fields = head.lines().skip(1).filter_map(|line| line.split_once(':'));
        fields
            .map(|(name, value)| {
                let name = name.trim();
                let long = COMPACT.iter().find(|(short, _)| short.eq_ignore_ascii_case(name)).map_or(name, |(_, l)| l);
                (long.to_owned(), value.trim().to_owned())
            })
            .collect()
    }

    /// Values of every field of this name.
    pub fn field_values(&self, name: &str) -> Vec<String> {
        self.fields().into_iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
    }

    /// The list elements of every field of this name: split at commas outside quotes and angle brackets.
    pub fn elements(&self, name: &str) -> Vec<String> {
        self.field_values(name).iter().flat_map(|value| split(value)).collect()
    }

    pub fn value(&self, name: &str) -> Option<String> {
        self.field_values(name).into_iter().next()
    }

    pub fn call_id(&self) -> String {
        self.value("Call-ID").unwrap_or_default()
    }

    pub fn cseq_number(&self) -> String {
        self.value("CSeq").and_then(|v| v.split_whitespace().next().map(str::to_owned)).unwrap_or_default()
    }
}

fn split(value: &str) -> Vec<String> {
    let (mut parts, mut quoted, mut depth) = (vec![String::new()], false, 0);
    for c in value.chars() {
        match c {
            '"' => quoted = !quoted,
            '<' if !quoted => depth += 1,
            '>' if !quoted => depth -= 1,
            ',' if !quoted && depth == 0 => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        parts.last_mut().expect("never empty").push(c);
    }
    parts.into_iter().map(|part| part.trim().to_owned()).collect()
}

pub fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|w| w == needle)
}

/// Reads a message file of SIPp (`-trace_msg`): a line of dashes with the time, a line with direction and length, an empty line, the octets.
/// A message that SIPp was told to lose leaves only a remark there.
pub fn read_sipp_trace(file: &[u8]) -> Vec<Seen> {
    const RULE: &[u8] = b"----------------------------------------------- ";
    let (mut out, mut rest) = (Vec::new(), file);
    while let Some(at) = find(rest, RULE) {
        let entry = &rest[at + RULE.len()..];
        let (Some(first), Some(gap)) = (find(entry, b"\n"), find(entry, b"\n\n")) else { break };
        let time = String::from_utf8_lossy(&entry[..first]).into_owned();
        let title = String::from_utf8_lossy(&entry[first..gap]).into_owned();
        let length = title.split(|c: char| !c.is_ascii_digit()).rfind(|word| !word.is_empty());
        let length = length.and_then(|n| n.parse::<usize>().ok()).unwrap_or(0);
        let body = &entry[gap + 2..];
        let bytes = body[..length.min(body.len())].to_vec();
        rest = &body[bytes.len()..];
        if title.contains(" message sent ") || title.contains(" message received ") {
            out.push(Seen { at: time_of_day(&time), sent: title.contains(" sent "), bytes });
        }
    }
    out
}

/// `2026-11-21 02:01:13.598011` within its day.
fn time_of_day(text: &str) -> Duration {
    let clock = text.split_whitespace().nth(1).unwrap_or_default();
    let parts: Vec<f64> = clock.split(':').filter_map(|part| part.parse().ok()).collect();
    match parts[..] {
        [hours, minutes, seconds] => Duration::from_secs_f64(hours * 3600.0 + minutes * 60.0 + seconds),
        _ => Duration::ZERO,
    }
}
