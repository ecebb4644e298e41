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

/// Slot of each long form under [`slot`]; the multipliers were searched so that no two names share one.
static TABLE: [Option<(&[u8], Name)>; 256] = table();

const fn slot(len: usize, first: u8, middle: u8, last: u8) -> u8 {
    let (first, middle, last) = (first | 0x20, middle | 0x20, last | 0x20);
    (len as u8)
        .wrapping_mul(246)
        .wrapping_add(first.wrapping_mul(120))
        .wrapping_add(last.wrapping_mul(91))
        .wrapping_add(middle)
}

#[allow(clippy::indexing_slicing)] // evaluated by the compiler, which checks the bounds
const fn table() -> [Option<(&'static [u8], Name)>; 256] {
    let mut t = [None; 256];
    let mut i = 0;
    while i < LONG.len() {
        let (text, _) = LONG[i];
        let at = slot(text.len(), text[0], text[text.len() / 2], text[text.len() - 1]) as usize;
        assert!(t[at].is_none(), "two header names share a slot: search other multipliers");
        t[at] = Some(LONG[i]);
        i += 1;
    }
    t
}

impl Name {
    /// The name written in these octets, long or compact, in any case.
    #[allow(clippy::indexing_slicing)] // 256 entries, the index is an octet
    #[inline]
    pub fn new(text: &[u8]) -> Self {
        let (first, last) = match text {
            [letter] => return Self::compact(*letter),
            [first, .., last] => (*first, *last),
            [] => return Self::Other,
        };
        let middle = text.get(text.len() / 2).copied().unwrap_or_default();
        match TABLE[slot(text.len(), first, middle, last) as usize] {
            Some((long, name)) if long.eq_ignore_ascii_case(text) => name,
            _ => Self::Other,
        }
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
