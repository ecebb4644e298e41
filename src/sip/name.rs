//! Header field names: recognised without allocation by length, three octets and one compare (H-1, H-3, H-11).

macro_rules! names {
    ($($variant:ident = $text:literal,)*) => {
        /// A header field name this program knows by itself; compact and long form are one name (H-3).
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        #[allow(missing_docs)] // the variants are the registered names
        pub enum Name {
            /// Any other token: kept raw (H-8).
            Other,
            $($variant,)*
        }

        /// The names and their long forms.
        const LONG: &[(&[u8], Name)] = &[$(($text.as_bytes(), Name::$variant),)*];

        impl Name {
            /// The long form with its customary capitals; empty for [`Name::Other`].
            pub fn as_str(self) -> &'static str {
                match self {
                    Self::Other => "",
                    $(Self::$variant => $text,)*
                }
            }
        }
    };
}

names! {
    Via = "Via",
    From = "From",
    To = "To",
    CallId = "Call-ID",
    CSeq = "CSeq",
    MaxForwards = "Max-Forwards",
    Route = "Route",
    RecordRoute = "Record-Route",
    Contact = "Contact",
    ContentLength = "Content-Length",
    ContentType = "Content-Type",
    ContentEncoding = "Content-Encoding",
    ContentDisposition = "Content-Disposition",
    Identity = "Identity",
    Date = "Date",
    PAssertedIdentity = "P-Asserted-Identity",
    PPreferredIdentity = "P-Preferred-Identity",
    ProxyRequire = "Proxy-Require",
    Require = "Require",
    Supported = "Supported",
    Unsupported = "Unsupported",
    Expires = "Expires",
    MinExpires = "Min-Expires",
    Reason = "Reason",
    Timestamp = "Timestamp",
    Authorization = "Authorization",
    ProxyAuthorization = "Proxy-Authorization",
    WwwAuthenticate = "WWW-Authenticate",
    ProxyAuthenticate = "Proxy-Authenticate",
    Allow = "Allow",
    AllowEvents = "Allow-Events",
    Accept = "Accept",
    AcceptContact = "Accept-Contact",
    RejectContact = "Reject-Contact",
    RequestDisposition = "Request-Disposition",
    ReferTo = "Refer-To",
    ReferredBy = "Referred-By",
    Replaces = "Replaces",
    Event = "Event",
    SubscriptionState = "Subscription-State",
    SessionExpires = "Session-Expires",
    MinSe = "Min-SE",
    MaxBreadth = "Max-Breadth",
    Privacy = "Privacy",
    HistoryInfo = "History-Info",
    Diversion = "Diversion",
    Path = "Path",
    ServiceRoute = "Service-Route",
    CallInfo = "Call-Info",
    Warning = "Warning",
    RetryAfter = "Retry-After",
    RSeq = "RSeq",
    RAck = "RAck",
    UserAgent = "User-Agent",
    Server = "Server",
    Subject = "Subject",
    ResourcePriority = "Resource-Priority",
    Organization = "Organization",
    InReplyTo = "In-Reply-To",
    AlertInfo = "Alert-Info",
    ErrorInfo = "Error-Info",
    FeatureCaps = "Feature-Caps",
}

/// One more than the largest discriminant; sets of names fit a `u64`.
pub(crate) const COUNT: usize = LONG.len() + 1;
const _: () = assert!(COUNT <= 64);

/// Longest name that is recognised in one step.
const WINDOW: usize = 24;

/// A long form as three words in lower case, with the bits in which a name in any case may differ from it.
#[derive(Clone, Copy)]
struct Slot {
    name: Name,
    len: u8,
    words: [u64; 3],
    /// Clear: case bits of letters, and octets behind the name.
    mask: [u64; 3],
}

/// Each long form in its [`slot`]; the multipliers were searched so that no two names share one.
static TABLE: [Slot; 256] = table();

const fn slot(len: usize, first: u8, middle: u8, last: u8) -> u8 {
    let (first, middle, last) = (first | 0x20, middle | 0x20, last | 0x20);
    (len as u8)
        .wrapping_mul(246)
        .wrapping_add(first.wrapping_mul(120))
        .wrapping_add(last.wrapping_mul(91))
        .wrapping_add(middle)
}

#[allow(clippy::indexing_slicing)] // evaluated by the compiler, which checks the bounds
const fn table() -> [Slot; 256] {
    // An empty slot matches nothing: its mask keeps every bit and no name begins with 0.
    let mut t = [Slot { name: Name::Other, len: 0, words: [0; 3], mask: [u64::MAX; 3] }; 256];
    let mut i = 0;
    while i < LONG.len() {
        let (text, name) = LONG[i];
        assert!(text.len() < WINDOW, "a header name is too long for the window");
        let at = slot(text.len(), text[0], text[text.len() / 2], text[text.len() - 1]) as usize;
        assert!(matches!(t[at].name, Name::Other), "two header names share a slot: search other multipliers");
        let mut entry = Slot { name, len: text.len() as u8, words: [0; 3], mask: [0; 3] };
        let mut j = 0;
        while j < text.len() {
            let lower = text[j].to_ascii_lowercase();
            let mask = if lower.is_ascii_lowercase() { 0xdf } else { 0xff };
            entry.words[j / 8] |= (lower as u64) << (8 * (j % 8));
            entry.mask[j / 8] |= mask << (8 * (j % 8));
            j += 1;
        }
        t[at] = entry;
        i += 1;
    }
    t
}

/// Position of the first `:` in eight octets.
#[inline(always)]
fn colon_in(word: u64) -> Option<usize> {
    const LOW: u64 = 0x0101_0101_0101_0101;
    let differs = word ^ (LOW * b':' as u64);
    let zeros = differs.wrapping_sub(LOW) & !differs & (LOW << 7);
    (zeros != 0).then_some((zeros.trailing_zeros() / 8) as usize)
}

impl Name {
    /// The name written in these octets, long or compact, in any case.
    #[allow(clippy::indexing_slicing)] // 256 entries, the index is an octet
    pub fn new(text: &[u8]) -> Self {
        let (first, last) = match text {
            [letter] => return Self::compact(*letter),
            [first, .., last] => (*first, *last),
            [] => return Self::Other,
        };
        let middle = text.get(text.len() / 2).copied().unwrap_or_default();
        let name = TABLE[slot(text.len(), first, middle, last) as usize].name;
        if name.as_str().as_bytes().eq_ignore_ascii_case(text) { name } else { Self::Other }
    }

    /// The known name that begins `line` and is followed by its colon at once, with the position of the colon. `None` for
    /// everything else, be it well formed or not: the hot way through, not the whole grammar.
    #[allow(clippy::indexing_slicing)] // constant indices; 256 entries under an octet; `len` is below WINDOW
    #[inline]
    pub(crate) fn known_at(line: &[u8]) -> Option<(Self, usize)> {
        let window: &[u8; WINDOW] = line.first_chunk()?;
        let (chunks, _) = window.as_chunks::<8>();
        let words = [u64::from_le_bytes(chunks[0]), u64::from_le_bytes(chunks[1]), u64::from_le_bytes(chunks[2])];
        let len = match (colon_in(words[0]), colon_in(words[1]), colon_in(words[2])) {
            (Some(n), _, _) => n,
            (_, Some(n), _) => n + 8,
            (_, _, n) => n? + 16,
        };
        if len < 2 {
            return if len == 1 { Some((Self::compact(window[0]), 1)) } else { None }
                .filter(|(n, _)| *n != Self::Other);
        }
        let entry = &TABLE[slot(len, window[0], window[len / 2], window[len - 1]) as usize];
        let differs = (words[0] ^ entry.words[0]) & entry.mask[0]
            | (words[1] ^ entry.words[1]) & entry.mask[1]
            | (words[2] ^ entry.words[2]) & entry.mask[2];
        // A name that is only the beginning of this one differs in the octet that is the colon here, unless it is as long.
        (differs == 0 && usize::from(entry.len) == len).then_some((entry.name, len))
    }

    /// The registered one-letter forms (H-3). `n` (Identity-Info) was withdrawn by RFC 8224.
    fn compact(letter: u8) -> Self {
        match letter | 0x20 {
            b'a' => Self::AcceptContact,
            b'b' => Self::ReferredBy,
            b'c' => Self::ContentType,
            b'd' => Self::RequestDisposition,
            b'e' => Self::ContentEncoding,
            b'f' => Self::From,
            b'i' => Self::CallId,
            b'j' => Self::RejectContact,
            b'k' => Self::Supported,
            b'l' => Self::ContentLength,
            b'm' => Self::Contact,
            b'o' => Self::Event,
            b'r' => Self::ReferTo,
            b's' => Self::Subject,
            b't' => Self::To,
            b'u' => Self::AllowEvents,
            b'v' => Self::Via,
            b'x' => Self::SessionExpires,
            b'y' => Self::Identity,
            _ => Self::Other,
        }
    }

    /// The value is a `#` list whose elements may be joined by commas (H-4). Unknown headers are never split.
    pub fn is_list(self) -> bool {
        matches!(
            self,
            Self::Via
                | Self::Route
                | Self::RecordRoute
                | Self::Path
                | Self::ServiceRoute
                | Self::Contact
                | Self::Supported
                | Self::Require
                | Self::ProxyRequire
                | Self::Unsupported
                | Self::Allow
                | Self::Accept
                | Self::AcceptContact
                | Self::RejectContact
                | Self::RequestDisposition
                | Self::AllowEvents
                | Self::CallInfo
                | Self::AlertInfo
                | Self::ErrorInfo
                | Self::Warning
                | Self::HistoryInfo
                | Self::Diversion
                | Self::Reason
                | Self::PAssertedIdentity
                | Self::PPreferredIdentity
                | Self::InReplyTo
                | Self::ResourcePriority
                | Self::Identity
                | Self::FeatureCaps
                | Self::ContentEncoding
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h3_every_name_in_any_case() {
        for (text, name) in LONG {
            assert_eq!(Name::new(text), *name);
            assert_eq!(Name::new(&text.to_ascii_uppercase()), *name);
            assert_eq!(Name::new(&text.to_ascii_lowercase()), *name);
            assert_eq!(name.as_str().as_bytes(), *text);
        }
        assert_eq!(LONG.len() + 1, COUNT);
    }

    #[test]
    fn the_hot_way_and_the_plain_one_agree() {
        let others = ["X-Unknown", "Content_Length", "Call\rID", "V\u{131}a", "n", "Fro", "Contact-Length", "", "Via "];
        let texts = LONG.iter().map(|(text, _)| text.to_vec()).chain(others.iter().map(|t| t.as_bytes().to_vec()));
        for text in texts {
            for text in [text.clone(), text.to_ascii_lowercase(), text.to_ascii_uppercase()] {
                let line = [&text[..], b": a value that fills the window:"].concat();
                let name = Name::new(&text);
                let expected = (name != Name::Other).then_some((name, text.len()));
                assert_eq!(Name::known_at(&line), expected, "{}", String::from_utf8_lossy(&line));
            }
        }
        assert_eq!(Name::known_at(b"Via: too short"), None);
    }

    #[test]
    fn h3_compact_forms() {
        let table = "aAccept-Contact bReferred-By cContent-Type dRequest-Disposition eContent-Encoding fFrom oEvent \
                     iCall-ID jReject-Contact kSupported lContent-Length mContact yIdentity rRefer-To sSubject tTo \
                     uAllow-Events vVia xSession-Expires";
        for entry in table.split(' ') {
            let (letter, long) = entry.split_at(1);
            assert_eq!(Name::new(letter.as_bytes()), Name::new(long.as_bytes()), "{entry}");
            assert_eq!(Name::new(letter.to_uppercase().as_bytes()).as_str(), long);
        }
        assert_eq!(Name::new(b"n"), Name::Other);
    }

    #[test]
    fn lookalikes_are_other() {
        // A dotless i, an escape, octets that only `| 0x20` makes equal.
        for text in ["V\u{131}a", "C%6Fntact", "Call\rID", "Vi\u{1}", "", "From ", "Content_Length", "CSeq\0", "\u{16}"]
        {
            assert_eq!(Name::new(text.as_bytes()), Name::Other, "{text:?}");
        }
    }
}
