//! JWS compact serialization (RFC 7515 section 7.1) as PASSporT uses it: protected header only, ES256 (RFC 8225 sections 4, 6, 7).
//!
//! A signature is always computed over the octets as received ([`Jws::signing_input`]); nothing is re-serialized for a full form.
use super::claims::ClaimsError;
use super::json::{Any, Fault};
use super::{Config, ppt::Ppt};
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use base64::{DecodeSliceError, Engine as _};
use serde::de::DeserializeSeed;
use serde_json::Value;
use std::fmt;

/// Octets of an ES256 signature, r then s (RFC 7518 section 3.4).
pub const SIGNATURE_LEN: usize = 64;

/// A part of a token, for errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment {
    /// The JOSE header.
    Header,
    /// The claims.
    Payload,
    /// The signature.
    Signature,
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Header => "header",
            Self::Payload => "payload",
            Self::Signature => "signature",
        })
    }
}

/// Why a text is not a token, or one of its segments can not be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JwsError {
    /// Longer than [`Config::max_token`], or its payload than [`Config::max_payload`].
    TooLong {
        /// Octets received.
        octets: usize,
        /// The limit that was passed.
        limit: usize,
    },
    /// Not three segments, or an empty one where the form asks for content.
    Segments,
    /// A segment is not base64url.
    Base64(Segment),
    /// The signature has not the 64 octets of ES256 (as a DER-encoded one, P-2).
    SignatureLength {
        /// Octets received.
        octets: usize,
    },
}

impl fmt::Display for JwsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { octets, limit } => write!(f, "token of {octets} octets, at most {limit} are read"),
            Self::Segments => f.write_str("token has not the three segments header.payload.signature"),
            Self::Base64(segment) => write!(f, "{segment} segment is not base64url"),
            Self::SignatureLength { octets } => {
                write!(f, "signature has {octets} octets, an ES256 signature has {SIGNATURE_LEN}")
            }
        }
    }
}

impl std::error::Error for JwsError {}

/// A token as the Identity header field carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token<'a> {
    /// `header.payload.signature`.
    Full(Jws<'a>),
    /// `..signature` (P-15): header and claims are to be rebuilt from the message.
    Compact {
        /// The base64url text of the signature.
        signature: &'a [u8],
    },
}

/// The segments of a full form, as received: base64url text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Jws<'a> {
    /// `header.payload`: what the signature covers.
    pub signing_input: &'a [u8],
    /// The protected header.
    pub header: &'a [u8],
    /// The claims.
    pub payload: &'a [u8],
    /// The signature.
    pub signature: &'a [u8],
}

impl<'a> Token<'a> {
    /// Splits at the dots; nothing is decoded.
    ///
    /// # Errors
    /// [`JwsError::TooLong`] and [`JwsError::Segments`].
    pub fn parse(token: &'a [u8], config: &Config) -> Result<Self, JwsError> {
        let too_long = |octets, limit| if octets > limit { Err(JwsError::TooLong { octets, limit }) } else { Ok(()) };
        too_long(token.len(), config.max_token)?;
        let first = memchr::memchr(b'.', token).ok_or(JwsError::Segments)?;
        let (header, rest) = (&token[..first], &token[first + 1..]);
        let second = memchr::memchr(b'.', rest).ok_or(JwsError::Segments)?;
        let (payload, signature) = (&rest[..second], &rest[second + 1..]);
        if signature.is_empty() || memchr::memchr(b'.', signature).is_some() || header.is_empty() != payload.is_empty()
        {
            return Err(JwsError::Segments);
        }
        if header.is_empty() {
            return Ok(Self::Compact { signature });
        }
        too_long(payload.len(), config.max_payload)?;
        let signing_input = &token[..first + 1 + second];
        Ok(Self::Full(Jws { signing_input, header, payload, signature }))
    }

    /// The base64url text of the signature, in either form.
    pub fn signature(&self) -> &'a [u8] {
        match self {
            Self::Full(jws) => jws.signature,
            Self::Compact { signature } => signature,
        }
    }
}

impl Jws<'_> {
    /// Decodes the payload into `buffer`, which is cleared first and may be used again and again.
    ///
    /// # Errors
    /// [`JwsError::Base64`].
    pub fn decode_payload<'b>(&self, buffer: &'b mut Vec<u8>) -> Result<&'b [u8], JwsError> {
        decode(self.payload, Segment::Payload, buffer)?;
        Ok(buffer)
    }

    /// Decodes the protected header into `buffer`, which is emptied first. Gives its JSON text.
    ///
    /// # Errors
    /// [`JwsError::Base64`].
    pub fn decode_header<'b>(&self, buffer: &'b mut Vec<u8>) -> Result<&'b [u8], JwsError> {
        decode(self.header, Segment::Header, buffer)?;
        Ok(buffer)
    }
}

/// Decodes an ES256 signature segment.
///
/// # Errors
/// [`JwsError::Base64`], [`JwsError::SignatureLength`].
pub fn decode_signature(segment: &[u8]) -> Result<[u8; SIGNATURE_LEN], JwsError> {
    // The engine asks for room for whole groups of four characters.
    let mut buffer = [0; SIGNATURE_LEN + 2];
    match URL_SAFE_NO_PAD.decode_slice(segment, &mut buffer) {
        Ok(octets) => signature_from(buffer.get(..octets).unwrap_or_default()),
        Err(_) => {
            let mut buffer = Vec::new();
            decode(segment, Segment::Signature, &mut buffer)?;
            signature_from(&buffer)
        }
    }
}

fn signature_from(octets: &[u8]) -> Result<[u8; SIGNATURE_LEN], JwsError> {
    octets.try_into().map_err(|_| JwsError::SignatureLength { octets: octets.len() })
}

/// Base64url without padding; the alphabet of plain base64 and padding are tolerated, since the grammar of RFC 8224 section 4 has
/// them. The signature covers the text, not what it decodes to, so this opens no second encoding of a signed token.
fn decode(segment: &[u8], name: Segment, buffer: &mut Vec<u8>) -> Result<(), JwsError> {
    buffer.clear();
    buffer.resize(base64::decoded_len_estimate(segment.len()), 0);
    let written = match URL_SAFE_NO_PAD.decode_slice(segment, buffer) {
        Ok(written) => Ok(written),
        Err(DecodeSliceError::DecodeError(_)) if segment.iter().any(|octet| matches!(octet, b'+' | b'/' | b'=')) => {
            let end = segment.iter().rposition(|octet| *octet != b'=').map_or(0, |last| last + 1);
            let plain = |octet: &u8| match octet {
                b'+' => b'-',
                b'/' => b'_',
                other => *other,
            };
            let text: Vec<u8> = segment[..end].iter().map(plain).collect();
            URL_SAFE_NO_PAD.decode_slice(text, buffer)
        }
        Err(error) => Err(error),
    };
    match written {
        Ok(written) => {
            buffer.truncate(written);
            Ok(())
        }
        Err(_) => Err(JwsError::Base64(name)),
    }
}

/// Appends the base64url text of `octets`, without padding.
pub fn encode(octets: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    // 4/3 rounded up; saturating is of no concern for octets that already are in memory.
    out.resize(start + (octets.len() * 4).div_ceil(3), 0);
    let written = URL_SAFE_NO_PAD.encode_slice(octets, &mut out[start..]).unwrap_or(0);
    out.truncate(start + written);
}

/// Appends the base64url text of a part of the buffer itself, without padding.
pub fn encode_within(buffer: &mut Vec<u8>, part: std::ops::Range<usize>) {
    let start = buffer.len();
    buffer.resize(start + (part.len() * 4).div_ceil(3), 0);
    let (octets, out) = buffer.split_at_mut(start);
    let written = octets.get(part).and_then(|octets| URL_SAFE_NO_PAD.encode_slice(octets, out).ok()).unwrap_or(0);
    buffer.truncate(start + written);
}

/// Why a protected header is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderError {
    /// The segment is no base64url.
    Jws(JwsError),
    /// Not a JSON object, or one with a repeated member name.
    Json(ClaimsError),
    /// A member is missing.
    Missing(&'static str),
    /// A member has the wrong type.
    Malformed(&'static str),
    /// `crit` names extensions that have to be understood (RFC 7515 section 4.1.11); none is.
    Critical,
    /// `typ` is not `passport` (P-1).
    Type,
    /// `x5c` has no entries or more than [`Config::max_certificates`].
    Certificates {
        /// Entries received.
        count: usize,
    },
    /// A certificate, or all together, are longer than the limits.
    CertificateTooLong {
        /// The limit that was passed.
        limit: usize,
    },
    /// An entry of `x5c` is not standard base64 with padding (RFC 7515 section 4.1.6).
    CertificateBase64 {
        /// Place in `x5c`, leaf = 0.
        index: usize,
    },
}

impl fmt::Display for HeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Jws(error) => error.fmt(f),
            Self::Json(error) => write!(f, "protected header: {error}"),
            Self::Missing(member) => write!(f, "protected header lacks {member}"),
            Self::Malformed(member) => write!(f, "protected header member {member} is malformed"),
            Self::Critical => f.write_str("protected header has critical extensions"),
            Self::Type => f.write_str("typ is not passport"),
            Self::Certificates { count } => write!(f, "x5c has {count} entries"),
            Self::CertificateTooLong { limit } => write!(f, "x5c is longer than {limit} octets"),
            Self::CertificateBase64 { index } => write!(f, "x5c entry {index} is not base64"),
        }
    }
}

impl std::error::Error for HeaderError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Jws(error) => Some(error),
            Self::Json(error) => Some(error),
            _ => None,
        }
    }
}

/// A decoded protected header. Owned: it is read once per certificate, then found again by its base64url text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProtectedHeader {
    /// Signature algorithm as named by the signer; whether it is acceptable is for the verifier to say.
    pub alg: String,
    /// Media type of the token.
    pub typ: Option<String>,
    /// Extension.
    pub ppt: Option<String>,
    /// Certificates as DER, leaf first; empty when there is no `x5c`.
    pub x5c: Vec<Vec<u8>>,
    /// Where the chain can be fetched.
    pub x5u: Option<String>,
}

impl ProtectedHeader {
    /// Decodes the base64url text of a protected header.
    ///
    /// # Errors
    /// [`HeaderError`]; a member this program does not know is ignored, unless `crit` is there.
    pub fn parse(segment: &[u8], config: &Config) -> Result<Self, HeaderError> {
        let mut json = Vec::new();
        decode(segment, Segment::Header, &mut json).map_err(HeaderError::Jws)?;
        let fault = Fault::default();
        let mut deserializer = serde_json::Deserializer::from_slice(&json);
        let any = Any::within(&fault, config, 0);
        let read = any.deserialize(&mut deserializer).and_then(|value| deserializer.end().map(|()| value));
        let mut members = match read {
            Ok(Value::Object(members)) => members,
            Ok(_) => return Err(HeaderError::Json(ClaimsError::NotJson { column: 1 })),
            Err(error) => return Err(HeaderError::Json(fault.into_error(&error))),
        };
        if members.contains_key("crit") {
            return Err(HeaderError::Critical);
        }
        let mut text = |name: &'static str| match members.remove(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(HeaderError::Malformed(name)),
        };
        let alg = text("alg")?.ok_or(HeaderError::Missing("alg"))?;
        let (typ, ppt, x5u) = (text("typ")?, text("ppt")?, text("x5u")?);
        let x5c = match members.remove("x5c") {
            None => Vec::new(),
            Some(Value::Array(entries)) => certificates(&entries, config)?,
            Some(_) => return Err(HeaderError::Malformed("x5c")),
        };
        Ok(Self { alg, typ, ppt, x5c, x5u })
    }

    /// Refuses what is no PASSporT, as an RTU token (P-1).
    ///
    /// # Errors
    /// [`HeaderError::Type`].
    pub fn require_passport(&self) -> Result<(), HeaderError> {
        if self.typ.as_deref() == Some("passport") { Ok(()) } else { Err(HeaderError::Type) }
    }

    /// The extension, when this program supports it.
    pub fn supported_ppt(&self) -> Option<Ppt> {
        Ppt::from_name(self.ppt.as_deref())
    }
}

fn certificates(entries: &[Value], config: &Config) -> Result<Vec<Vec<u8>>, HeaderError> {
    if entries.is_empty() || entries.len() > config.max_certificates {
        return Err(HeaderError::Certificates { count: entries.len() });
    }
    let mut total = 0;
    let mut chain = Vec::with_capacity(entries.len());
    for (index, entry) in entries.iter().enumerate() {
        let text = entry.as_str().ok_or(HeaderError::Malformed("x5c"))?;
        total += text.len();
        if total > config.max_x5c {
            return Err(HeaderError::CertificateTooLong { limit: config.max_x5c });
        }
        let der = STANDARD.decode(text).map_err(|_| HeaderError::CertificateBase64 { index })?;
        if der.len() > config.max_certificate {
            return Err(HeaderError::CertificateTooLong { limit: config.max_certificate });
        }
        chain.push(der);
    }
    Ok(chain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(json: &str) -> Vec<u8> {
        let mut out = Vec::new();
        encode(json.as_bytes(), &mut out);
        out
    }

    #[test]
    fn p15_forms_are_told_apart() {
        let config = Config::default();
        assert!(matches!(Token::parse(b"a.b.c", &config), Ok(Token::Full(jws)) if jws.signing_input == b"a.b"));
        assert_eq!(Token::parse(b"..c", &config), Ok(Token::Compact { signature: b"c" }));
        for bad in ["", "a", "a.b", "a.b.", ".b.c", "a..c", "a.b.c.d", "..", "..c.d", "a.b.c."] {
            assert_eq!(Token::parse(bad.as_bytes(), &config), Err(JwsError::Segments), "{bad}");
        }
        let short = Config { max_token: 4, ..config };
        assert_eq!(Token::parse(b"a.b.c", &short), Err(JwsError::TooLong { octets: 5, limit: 4 }));
    }

    #[test]
    fn header_members() {
        let config = Config::default();
        let header = |json: &str| ProtectedHeader::parse(&encoded(json), &config);
        let good = header(r#"{"x5u":"https://a.example/","typ":"passport","alg":"ES256","kid":{"a":1}}"#);
        assert_eq!(good.as_ref().map(|header| header.require_passport()), Ok(Ok(())));
        assert_eq!(header(r#"{"alg":"ES256","alg":"ES256"}"#), Err(HeaderError::Json(ClaimsError::DuplicateMember)));
        assert_eq!(
            header(r#"{"alg":"ES256","kid":{"a":1,"a":2}}"#),
            Err(HeaderError::Json(ClaimsError::DuplicateMember)),
            "P-21 holds in every object scope"
        );
        assert_eq!(header(r#"{"typ":"passport"}"#), Err(HeaderError::Missing("alg")));
        assert_eq!(header(r#"{"alg":1}"#), Err(HeaderError::Malformed("alg")));
        assert_eq!(header(r#"{"alg":"ES256","crit":["exp"]}"#), Err(HeaderError::Critical));
        assert_eq!(header(r#"{"alg":"ES256","x5c":[]}"#), Err(HeaderError::Certificates { count: 0 }));
        assert_eq!(header(r#"{"alg":"ES256","x5c":["-_8="]}"#), Err(HeaderError::CertificateBase64 { index: 0 }));
        assert_eq!(header(r#"{"alg":"ES256","x5c":["AA"]}"#), Err(HeaderError::CertificateBase64 { index: 0 }));
        assert!(matches!(header(r#"{"alg":"ES256"} x"#), Err(HeaderError::Json(ClaimsError::NotJson { .. }))));
        let jwt = header(r#"{"alg":"ES256","typ":"JWT"}"#);
        assert_eq!(jwt.map(|header| header.require_passport()), Ok(Err(HeaderError::Type)));
    }

    #[test]
    fn plain_base64_is_tolerated_in_segments() {
        let mut buffer = Vec::new();
        for text in ["-_8", "+/8", "+/8=", "-_8="] {
            assert_eq!(decode(text.as_bytes(), Segment::Payload, &mut buffer), Ok(()), "{text}");
            assert_eq!(buffer, [0xfb, 0xff]);
        }
        assert_eq!(decode(b"-_8 ", Segment::Payload, &mut buffer), Err(JwsError::Base64(Segment::Payload)));
        assert_eq!(decode(b"-_9", Segment::Payload, &mut buffer), Err(JwsError::Base64(Segment::Payload)));
    }

    #[test]
    fn p2_signature_length() {
        for octets in [0_usize, 1, 63, 64, 65, 72] {
            let mut text = Vec::new();
            encode(&vec![7; octets], &mut text);
            let expected = if octets == 64 { Ok([7; 64]) } else { Err(JwsError::SignatureLength { octets }) };
            assert_eq!(decode_signature(&text), expected);
        }
    }
}
