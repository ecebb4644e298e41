//! What an `x5u` may point at: a URL under the SHAKEN rules, a public address. The URL comes from whoever sent the INVITE, so
//! every fetch is a request forged on a stranger's behalf until these checks have passed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hyper::Uri;
use rustls_pki_types::ServerName;

use super::FetchError;

/// A URL that may be fetched.
#[derive(Debug)]
pub(super) struct Target {
    /// Host and port as they go into the `Host` field.
    pub authority: String,
    /// Host alone: name to resolve or literal address without brackets.
    pub host: String,
    pub port: u16,
    pub path: String,
    pub server_name: ServerName<'static>,
    /// Host in lower case and port: what has one breaker.
    place: String,
}

impl Target {
    pub fn place(&self) -> &str {
        &self.place
    }
}

/// Longest URL that is looked at, in bytes.
const MAX_URL: usize = 2048;

/// Checks an `x5u`: https only, port 443 or 8443 unless `any_port`, no userinfo, query or fragment (ATIS-1000074/80).
pub(super) fn target(x5u: &str, any_port: bool) -> Result<Target, FetchError> {
    if x5u.len() > MAX_URL || x5u.contains(['#', '?', '@', '\\']) || !x5u.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(FetchError::UrlRefused);
    }
    let uri: Uri = x5u.parse().map_err(|_| FetchError::UrlRefused)?;
    match uri.scheme_str() {
        Some("https") => {}
        Some(_) => return Err(FetchError::SchemeRefused),
        None => return Err(FetchError::UrlRefused),
    }
    let authority = uri.authority().ok_or(FetchError::UrlRefused)?;
    let port = match authority.port() {
        Some(port) => port.as_u16(),
        // `host:` and `host:99999` have no readable port but are not the default either.
        None if authority.as_str().len() != authority.host().len() => return Err(FetchError::UrlRefused),
        None => 443,
    };
    if !any_port && port != 443 && port != 8443 {
        return Err(FetchError::PortRefused(port));
    }
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    let server_name = ServerName::try_from(host.clone()).map_err(|_| FetchError::UrlRefused)?;
    let place = format!("{}:{port}", host.trim_end_matches('.').to_ascii_lowercase());
    Ok(Target { authority: authority.as_str().to_owned(), host, port, path: uri.path().to_owned(), server_name, place })
}

/// Whether an address is global unicast: not private, loopback, link-local (the metadata addresses lie there), shared (CGNAT),
/// unique local, multicast, documentation, benchmarking, reserved, or one of the ways to write such a v4 address in v6.
pub(super) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    !(a == 0
        || a >= 240
        || address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_documentation()
        || (a == 100 && (64..128).contains(&b)) // RFC 6598
        || (a == 192 && b == 0 && c == 0) // RFC 6890
        || (a == 192 && b == 88 && c == 99) // RFC 7526
        || (a == 198 && (b & 0xfe) == 18)) // RFC 2544
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let s = address.segments();
    let embedded = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    if s[0] == 0x64 && s[1] == 0xff9b && s[2..6] == [0, 0, 0, 0] {
        return is_public_v4(embedded(s[6], s[7])); // NAT64, RFC 6052
    }
    if s[0] == 0x2002 {
        return is_public_v4(embedded(s[1], s[2])); // 6to4, RFC 3056
    }
    // Global unicast is 2000::/3 today; what lies outside (unspecified, loopback, mapped, ULA, link-local, site-local, multicast)
    // is refused by this one test, and from 2000::/3 the special blocks 2001::/23 (Teredo, ORCHID), 2001:db8::/32, 3fff::/20.
    (s[0] & 0xe000) == 0x2000
        && !(s[0] == 0x2001 && s[1] < 0x0200)
        && !(s[0] == 0x2001 && s[1] == 0x0db8)
        && !(s[0] == 0x3fff && s[1] < 0x1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_https_urls_pass() {
        let fine = target("https://cr.example.com/a/b.pem", false).unwrap();
        assert_eq!((fine.host.as_str(), fine.port, fine.path.as_str()), ("cr.example.com", 443, "/a/b.pem"));
        assert_eq!(target("https://cr.example.com:8443/a", false).unwrap().authority, "cr.example.com:8443");
        assert_eq!(target("https://[2001:db8::1]/a", false).unwrap().host, "2001:db8::1");
        assert!(matches!(target("http://cr.example.com/a", false), Err(FetchError::SchemeRefused)));
        assert!(matches!(target("https://cr.example.com:444/a", false), Err(FetchError::PortRefused(444))));
        assert_eq!(target("https://cr.example.com:444/a", true).unwrap().port, 444);
        for refused in [
            "",
            "/a",
            "cr.example.com",
            "https:///a",
            "https://user@cr.example.com/a",
            "https://cr.example.com/a?b",
            "https://cr.example.com/a#b",
            "https://cr.example.com/a b",
            "https://cr.example.com:99999/a",
            "https://cr.example.com:/a",
        ] {
            assert!(matches!(target(refused, true), Err(FetchError::UrlRefused)), "{refused}");
        }
    }

    #[test]
    fn special_addresses_are_not_public() {
        for private in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "192.0.0.1",
            "192.0.2.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:8.8.8.8",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "2001:db8::1",
            "2001::1",
            "3fff::1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
        ] {
            assert!(!is_public(private.parse().unwrap()), "{private}");
        }
        for public in [
            "8.8.8.8",
            "100.128.0.1",
            "172.32.0.1",
            "2600::1",
            "2001:4860:4860::8888",
            "64:ff9b::808:808",
            "2002:808:808::",
        ] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
    }
}
