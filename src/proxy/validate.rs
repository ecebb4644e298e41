//! Request validation (RFC 3261 16.3; sip-proxy V-4 to V-8). Syntax (V-1) is `sip`'s business.

use super::admission::priority::is_service_sos;
use super::loop_check;
use super::{Config, Route};
use crate::sip::{Message, Method, Name, Refusal, Scheme, Uri};

/// What a valid request is.
#[derive(Debug, PartialEq, Eq)]
pub enum Valid {
    /// To be routed.
    Proxy,
    /// OPTIONS meant for this element: answered here, whatever its Max-Forwards (V-5).
    OptionsToSelf,
}

/// Why a request is answered with an error.
#[derive(Debug, PartialEq, Eq)]
pub struct Invalid {
    /// Status and phrase.
    pub refusal: Refusal,
    /// A header line for the response, complete with its line end; or nothing.
    pub line: Vec<u8>,
}

impl From<Refusal> for Invalid {
    fn from(refusal: Refusal) -> Self {
        Invalid { refusal, line: Vec::new() }
    }
}

/// Runs the checks in their order; the first failure answers. `hash` is the loop hash of this request.
pub fn validate(config: &Config, request: Message<'_>, hash: u64) -> Result<Valid, Invalid> {
    let uri = Uri::parse(request.request_uri()).map_err(|_| Refusal::new(400, "Bad Request-URI"))?;
    let is_understood = match uri.scheme {
        Scheme::Sip | Scheme::Sips | Scheme::Tel => true,
        Scheme::Urn => is_service_sos(request.request_uri()) && config.routes.iter().any(Route::takes_emergencies),
        Scheme::Other => false,
    };
    if !is_understood {
        return Err(Refusal::new(416, "Unsupported URI Scheme").into()); // V-4
    }
    let to_self = uri.user.is_none() && config.own_listener(uri.host_bytes, uri.port).is_some();
    if to_self && request.method() == Some(Method::Options) {
        return Ok(Valid::OptionsToSelf);
    }
    if request.max_forwards()? == Some(0) {
        return Err(Refusal::new(483, "Too Many Hops").into()); // V-5
    }
    if loop_check::is_loop(config, request, hash) {
        return Err(Refusal::new(482, "Loop Detected").into()); // V-7
    }
    proxy_require(request)?;
    Ok(Valid::Proxy)
}

/// The breadth of this request (L-5, RFC 5393 5.3.3): its Max-Breadth, at most our own limit, which is also the default.
///
/// # Errors
/// 400 if it is no number.
pub fn max_breadth(config: &Config, request: Message<'_>) -> Result<u16, Refusal> {
    let mut breadth = config.max_breadth;
    for field in request.fields_of(Name::MaxBreadth) {
        let value = field.value();
        if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
            return Err(Refusal::new(400, "Bad Max-Breadth"));
        }
        let number = value.iter().fold(0u32, |n, b| n.saturating_mul(10).saturating_add(u32::from(b - b'0')));
        breadth = breadth.min(u16::try_from(number).unwrap_or(u16::MAX));
    }
    Ok(breadth)
}

/// V-8: no option tag is understood here, so each one in Proxy-Require is listed as unsupported. CANCEL is exempt (V-10).
fn proxy_require(request: Message<'_>) -> Result<(), Invalid> {
    if request.method() == Some(Method::Cancel) {
        return Ok(());
    }
    let mut line = Vec::new();
    for tag in request.values(Name::ProxyRequire) {
        line.extend_from_slice(if line.is_empty() { b"Unsupported: " } else { b", " });
        line.extend_from_slice(tag.value);
    }
    if line.is_empty() {
        return Ok(());
    }
    line.extend_from_slice(b"\r\n");
    Err(Invalid { refusal: Refusal::new(420, "Bad Extension"), line })
}
