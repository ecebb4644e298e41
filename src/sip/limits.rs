//! Bounds on everything a sender can lengthen, and the few tolerances that are switches.

/// Bounds of the parser. Every one is a setting; the defaults suit a carrier edge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Octets of a whole message.
    pub message: usize,
    /// Octets of the start line and all header lines.
    pub head: usize,
    /// Octets of one header value.
    pub value: usize,
    /// Octets of one Identity value, which may carry a certificate chain or rich call data.
    pub identity_value: usize,
    /// Header fields in a message.
    pub fields: usize,
    /// Continuation lines of one header field.
    pub folds: usize,
    /// Via values in a message.
    pub vias: usize,
    /// Route values, and Record-Route values, in a message.
    pub routes: usize,
    /// Octets of the Request-URI.
    pub uri: usize,
    /// Octets of the user part of the Request-URI.
    pub user: usize,
    /// Milliseconds from the first octet of a message on a stream to its last (F-7).
    pub message_millis: u64,
    /// What is repaired instead of refused.
    pub leniency: Leniency,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message: 65_536,
            head: 32_768,
            value: 8_192,
            identity_value: 16_384,
            fields: 256,
            folds: 64,
            vias: 80,
            routes: 64,
            uri: 2_048,
            user: 256,
            message_millis: 10_000,
            leniency: Leniency::default(),
        }
    }
}

/// Tolerances, off by default; meant for trusted peers. What they let in is put right by `Message::repair` before it leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Leniency {
    /// A bare LF ends a line (F-6). A bare CR never does.
    pub bare_lf: bool,
    /// Runs of SP and HTAB between the parts of the start line and behind it (S-5).
    pub start_line_space: bool,
    /// A Request-URI in angle brackets (S-6).
    pub bracketed_uri: bool,
    /// `?headers` in a Request-URI (S-7).
    pub uri_headers: bool,
    /// A branch that is only the magic cookie, or no token, is matched by the rules of RFC 2543.
    pub bare_cookie: bool,
}

impl Leniency {
    /// Everything on.
    pub const TRUSTED: Self =
        Self { bare_lf: true, start_line_space: true, bracketed_uri: true, uri_headers: true, bare_cookie: true };
}
