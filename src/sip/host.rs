//! `host` of RFC 3261 25.1, with the IPv6 grammar of RFC 5954 (K-7).

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::text::{self, Malformed};

/// A host. Addresses are compared by value, names without case.
#[derive(Debug, Clone, Copy)]
pub enum Host<'a> {
    /// A name, as received.
    Name(&'a [u8]),
    /// An IPv4 address.
    V4(Ipv4Addr),
    /// An IPv6 reference, without its brackets.
    V6(Ipv6Addr),
}

impl<'a> Host<'a> {
    /// Reads a whole host: name, IPv4 address or bracketed IPv6 address (K-7). A bare IPv6 address is malformed.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        match Self::leading(bytes)? {
            (host, len) if len == bytes.len() => Ok(host),
            _ => Err(Malformed),
        }
    }

    /// Reads the host at the beginning of `bytes`; it ends at the first octet that can not belong to it. Gives its length too.
    pub(crate) fn leading(bytes: &'a [u8]) -> Result<(Self, usize), Malformed> {
        if bytes.first() == Some(&b'[') {
            let close = memchr::memchr(b']', bytes).ok_or(Malformed)?;
            let address = v6(text::span(bytes, 1, close)).ok_or(Malformed)?;
            return Ok((Self::V6(address), close + 1));
        }
        if let Some((address, len)) = leading_v4(bytes)
            && !bytes.get(len).is_some_and(|&b| text::is_host_byte(b))
        {
            return Ok((Self::V4(address), len));
        }
        let len = leading_name(bytes).ok_or(Malformed)?;
        Ok((Self::Name(text::span(bytes, 0, len)), len))
    }

    /// The address, unless this is a name.
    pub fn ip(self) -> Option<IpAddr> {
        match self {
            Self::Name(_) => None,
            Self::V4(v4) => Some(IpAddr::V4(v4)),
            Self::V6(v6) => Some(IpAddr::V6(v6)),
        }
    }
}

impl PartialEq for Host<'_> {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Name(a), Self::Name(b)) => a.eq_ignore_ascii_case(b),
            (Self::V4(a), Self::V4(b)) => a == b,
            (Self::V6(a), Self::V6(b)) => a == b,
            _ => false,
        }
    }
}

impl Eq for Host<'_> {}

/// The address in a Via `received` parameter, which comes with and without brackets (RFC 5118 4.5).
pub fn received_address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes {
        [b'[', inner @ .., b']'] => v6(inner).map(IpAddr::V6),
        _ => v4(bytes).map(IpAddr::V4).or_else(|| v6(bytes).map(IpAddr::V6)),
    }
}

/// Length of the name at the beginning: labels of letters, digits, hyphens and (tolerated) underscores, none empty, none with a
/// hyphen at either end, the last one without a digit in front (that could only be an address); one dot may end it.
fn leading_name(bytes: &[u8]) -> Option<usize> {
    let (mut before, mut label_start) = (b'.', b'0');
    let mut len = 0;
    while let Some(&b) = bytes.get(len).filter(|&&b| text::is_host_byte(b)) {
        if before == b'.' {
            label_start = b;
        }
        if matches!((before, b), (b'.', b'.' | b'-') | (b'-', b'.')) {
            return None;
        }
        before = b;
        len += 1;
    }
    (before != b'-' && !label_start.is_ascii_digit()).then_some(len)
}

fn v4(bytes: &[u8]) -> Option<Ipv4Addr> {
    leading_v4(bytes).filter(|(_, len)| *len == bytes.len()).map(|(address, _)| address)
}

/// The dotted quad at the beginning, and its length.
fn leading_v4(bytes: &[u8]) -> Option<(Ipv4Addr, usize)> {
    let (mut address, mut octet, mut digits, mut dots) = (0u32, 0u32, 0u8, 0u8);
    let mut len = 0;
    for &b in bytes {
        match b {
            b'0'..=b'9' => {
                octet = octet * 10 + u32::from(b - b'0');
                digits += 1;
                if digits > 3 || octet > 255 {
                    return None;
                }
            }
            b'.' if digits > 0 && dots < 3 => {
                address = address << 8 | octet;
                (octet, digits, dots) = (0, 0, dots + 1);
            }
            _ => break,
        }
        len += 1;
    }
    (dots == 3 && digits > 0).then(|| (Ipv4Addr::from_bits(address << 8 | octet), len))
}

fn v6(bytes: &[u8]) -> Option<Ipv6Addr> {
    let text = std::str::from_utf8(bytes).ok()?;
    text.parse().ok().or_else(|| {
        // The ABNF of RFC 3261 wrongly produced a third colon before an embedded IPv4 address (RFC 5118 4.10).
        let (head, tail) = text.split_once(":::")?;
        v4(tail.as_bytes())?;
        format!("{head}::{tail}").parse().ok()
    })
}

/// The host as it is to be written: the canonical two-colon form where the historic one was read (RFC 5118 4.10).
pub(crate) fn repaired(host: &[u8]) -> Cow<'_, [u8]> {
    match host {
        [b'[', inner @ .., b']'] if memchr::memmem::find(inner, b":::").is_some() => match v6(inner) {
            Some(address) => Cow::Owned(format!("[{address}]").into_bytes()),
            None => Cow::Borrowed(host),
        },
        _ => Cow::Borrowed(host),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k7_hosts() {
        assert_eq!(Host::parse(b"192.0.2.1"), Ok(Host::V4(Ipv4Addr::new(192, 0, 2, 1))));
        let v6 = Host::V6("2001:db8::10:5070".parse().unwrap());
        assert_eq!(Host::parse(b"[2001:db8::10:5070]"), Ok(v6));
        assert_eq!(Host::parse(b"[2001:0DB8:0::0010:5070]"), Ok(v6));
        assert!(Host::parse(b"[2001:db8:::192.0.2.1]").is_ok());
        assert!(Host::parse(b"[::ffff:192.0.2.1]").is_ok());
        assert_eq!(Host::parse(b"Example.COM"), Ok(Host::Name(b"example.com")));
        for name in ["a", "a.b.", "my_host.local", "x-1.y", "1a.b", "host5"] {
            assert!(matches!(Host::parse(name.as_bytes()), Ok(Host::Name(_))), "{name}");
        }
        for bad in [
            "",
            ".",
            "a..b",
            "-a",
            "a-.b",
            "256.0.2.1",
            "1.2.3",
            "1.2.3.4.5",
            "a.1",
            "2001:db8::1",
            "[fe80::1%eth0]",
            "[]",
            "a b",
        ] {
            assert_eq!(Host::parse(bad.as_bytes()), Err(Malformed), "{bad}");
        }
    }

    #[test]
    fn received_with_and_without_brackets() {
        assert_eq!(received_address(b"[2001:db8::1]"), received_address(b"2001:db8::1"));
        assert_eq!(received_address(b"192.0.2.9"), "192.0.2.9".parse().ok());
        assert_eq!(received_address(b""), None);
    }

    #[test]
    fn the_third_colon_is_never_written() {
        assert_eq!(repaired(b"[2001:db8:::192.0.2.1]").as_ref(), b"[2001:db8::c000:201]");
        assert_eq!(repaired(b"[2001:db8::1]").as_ref(), b"[2001:db8::1]");
    }
}
