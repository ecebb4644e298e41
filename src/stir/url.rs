//! The `x5u` URL: a small strict reader, since its host is compared with the certificate (R26) and asked over the network.
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Why a URL is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UrlError {
    /// Another scheme than https.
    Scheme,
    /// A user part before the host.
    UserInfo,
    /// Neither a host name in A-label form nor an IP address: empty, percent-encoded, other letters than LDH.
    Host,
    /// A port that is no number from 1 to 65535.
    Port,
    /// White space, control, backslash or non-ASCII octets.
    Octet,
    /// A query or fragment: not fetched (ATIS-1000074).
    QueryOrFragment,
    /// A port other than 443 and 8443: not fetched, unless the policy allows it.
    PortNotAllowed,
}

impl fmt::Display for UrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Scheme => "URL is not https",
            Self::UserInfo => "URL has a user part",
            Self::Host => "URL has no readable host",
            Self::Port => "URL has a bad port",
            Self::Octet => "URL has octets that do not belong there",
            Self::QueryOrFragment => "URL has a query or fragment",
            Self::PortNotAllowed => "URL has a port that is not allowed",
        })
    }
}

impl std::error::Error for UrlError {}

/// A readable `https` URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpsUrl<'a> {
    /// Host as written, without a trailing dot: a name, or an address (IPv6 in brackets). Some real certificates lie at addresses.
    pub host: &'a str,
    /// Port, 443 when none is written.
    pub port: u16,
    /// Path, query and fragment.
    pub rest: &'a str,
}

impl<'a> HttpsUrl<'a> {
    /// Reads `https://host[:port][/path][?query][#fragment]`.
    ///
    /// # Errors
    /// [`UrlError`].
    pub fn parse(url: &'a str) -> Result<Self, UrlError> {
        if url.bytes().any(|octet| !octet.is_ascii_graphic() || matches!(octet, b'\\' | b'"' | b'<' | b'>')) {
            return Err(UrlError::Octet);
        }
        let after = url.get(..8).filter(|scheme| scheme.eq_ignore_ascii_case("https://")).and(url.get(8..));
        let after = after.ok_or(UrlError::Scheme)?;
        let (authority, rest) = after.split_at(after.find(['/', '?', '#']).unwrap_or(after.len()));
        if authority.contains('@') {
            return Err(UrlError::UserInfo);
        }
        let host_end = authority.find(']').map_or(0, |bracket| bracket + 1);
        let colon = authority.get(host_end..).and_then(|tail| tail.find(':')).map(|at| at + host_end);
        let (host, port) = match colon.map(|at| authority.split_at(at)) {
            Some((host, port)) => (host, read_port(port.strip_prefix(':').unwrap_or(port))?),
            None => (authority, 443),
        };
        let host = host.strip_suffix('.').unwrap_or(host);
        if !is_host_name(host) && !is_address(host) {
            return Err(UrlError::Host);
        }
        Ok(Self { host, port, rest })
    }

    /// Whether this URL may be asked for a certificate (ATIS-1000074: ports 443 and 8443, no query, no fragment).
    ///
    /// # Errors
    /// [`UrlError::QueryOrFragment`], [`UrlError::PortNotAllowed`].
    pub fn fetchable(&self, allow_any_port: bool) -> Result<(), UrlError> {
        if self.rest.contains(['?', '#']) {
            return Err(UrlError::QueryOrFragment);
        }
        if allow_any_port || matches!(self.port, 443 | 8443) { Ok(()) } else { Err(UrlError::PortNotAllowed) }
    }

    /// Whether a dNSName of a certificate is exactly this host: without case, without trailing dot; a wildcard never matches, nor
    /// does an address (R26).
    pub fn is_host(&self, dns_name: &str) -> bool {
        !is_address(self.host) && same_host(self.host, dns_name)
    }
}

/// Host names compare without case and trailing dot; wildcards match nothing.
fn same_host(host: &str, dns_name: &str) -> bool {
    dns_name.strip_suffix('.').unwrap_or(dns_name).eq_ignore_ascii_case(host)
}

/// Whether one of these dNSNames is the domain of a URI in canonical form (RFC 8224 8.4, RFC 5922 7.2): what stands behind the scheme
/// and the user part, if there is one.
pub(super) fn is_domain_named(dns_names: &[String], uri: &str) -> bool {
    let rest = uri.split_once(':').map_or(uri, |(_, rest)| rest);
    let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    dns_names.iter().any(|name| same_host(host, name))
}

fn read_port(text: &str) -> Result<u16, UrlError> {
    let digits = !text.is_empty() && text.bytes().all(|octet| octet.is_ascii_digit());
    text.parse().ok().filter(|port| digits && *port != 0).ok_or(UrlError::Port)
}

/// An IPv4 address, or an IPv6 address in brackets.
fn is_address(host: &str) -> bool {
    match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(v6) => v6.parse::<Ipv6Addr>().is_ok(),
        None => host.parse::<Ipv4Addr>().is_ok(),
    }
}

/// Labels of letters, digits and hyphens; not an IPv4 address, which has a number for its last label.
fn is_host_name(host: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|octet| octet.is_ascii_alphanumeric() || octet == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last_is_number = host.rsplit('.').next().is_some_and(|last| last.bytes().all(|octet| octet.is_ascii_digit()));
    host.len() <= 253 && host.split('.').all(label) && !last_is_number
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r26_host_comparison() {
        for (url, name, same) in [
            ("https://sti.example.com/a.pem", "sti.example.com", true),
            ("HTTPS://STI.Example.COM/a.pem", "sti.example.com", true),
            ("https://sti.example.com./a.pem", "sti.example.com", true),
            ("https://sti.example.com/a.pem", "STI.example.com.", true),
            ("https://sti.example.com:8443/a.pem", "sti.example.com", true),
            ("https://xn--bcher-kva.example/", "xn--bcher-kva.example", true),
            ("https://sti.example.com/a.pem", "example.com", false),
            ("https://example.com/a.pem", "*.com", false),
            ("https://sti.example.com/a.pem", "*.example.com", false),
            ("https://evil.example/sti.example.com", "sti.example.com", false),
            ("https://sti.example.com.evil.example/", "sti.example.com", false),
            ("https://evilsti.example.com/", "sti.example.com", false),
            ("https://xn--bcher-kva.example/", "bücher.example", false),
        ] {
            let parsed = HttpsUrl::parse(url).unwrap_or_else(|error| panic!("{url}: {error}"));
            assert_eq!(parsed.is_host(name), same, "{url} and {name}");
        }
    }

    #[test]
    fn refused() {
        for (url, error) in [
            ("http://a.example/", UrlError::Scheme),
            ("https:/a.example/", UrlError::Scheme),
            ("", UrlError::Scheme),
            ("https://a.example@evil.example/", UrlError::UserInfo),
            ("https://@a.example/", UrlError::UserInfo),
            ("https:///a", UrlError::Host),
            ("https://./a", UrlError::Host),
            ("https://a..example/", UrlError::Host),
            ("https://a%2eexample/", UrlError::Host),
            ("https://192.0.2.300/", UrlError::Host),
            ("https://[2001:db8::1/", UrlError::Port),
            ("https://[example]/", UrlError::Host),
            ("https://a.example::80/", UrlError::Port),
            ("https://-a.example/", UrlError::Host),
            ("https://a_b.example/", UrlError::Host),
            ("https://*.example/", UrlError::Host),
            ("https://a.example:/", UrlError::Port),
            ("https://a.example:0/", UrlError::Port),
            ("https://a.example:65536/", UrlError::Port),
            ("https://a.example:+80/", UrlError::Port),
            ("https://a.example:80:80/", UrlError::Port),
            ("https://a.example\\@evil.example/", UrlError::Octet),
            ("https://b\u{fc}cher.example/", UrlError::Octet),
            ("https://a.example/ x", UrlError::Octet),
        ] {
            assert_eq!(HttpsUrl::parse(url), Err(error), "{url}");
        }
    }

    #[test]
    fn an_address_is_a_host_that_no_certificate_names() {
        for (url, host, port) in [
            ("https://192.0.2.1/c.pem", "192.0.2.1", 443),
            ("https://192.0.2.1:8443/c.pem", "192.0.2.1", 8443),
            ("https://[2001:db8::1]/c.pem", "[2001:db8::1]", 443),
            ("https://[2001:db8::1]:8443/c.pem", "[2001:db8::1]", 8443),
        ] {
            let parsed = HttpsUrl::parse(url).unwrap_or_else(|error| panic!("{url}: {error}"));
            assert_eq!((parsed.host, parsed.port, parsed.is_host(host)), (host, port, false), "{url}");
        }
    }

    #[test]
    fn the_domain_of_a_uri() {
        let names = ["a.example".to_owned()];
        for (uri, is_named) in [
            ("sip:bob@a.example", true),
            ("sip:a.example", true),
            ("sips:bob@A.Example", true),
            ("im:bob@a.example", true),
            ("sip:bob@b.example", false),
            ("sip:a.example@b.example", false),
            ("a.example:bob", false),
            ("sip:", false),
            ("", false),
        ] {
            assert_eq!(is_domain_named(&names, uri), is_named, "{uri}");
        }
    }

    #[test]
    fn what_is_fetched() {
        let fetchable = |url: &str, any| HttpsUrl::parse(url).and_then(|url| url.fetchable(any));
        assert_eq!(fetchable("https://a.example/c.pem", false), Ok(()));
        assert_eq!(fetchable("https://a.example:8443/c.pem", false), Ok(()));
        assert_eq!(fetchable("https://a.example:444/c.pem", false), Err(UrlError::PortNotAllowed));
        assert_eq!(fetchable("https://a.example:444/c.pem", true), Ok(()));
        assert_eq!(fetchable("https://a.example/c.pem?x", true), Err(UrlError::QueryOrFragment));
        assert_eq!(fetchable("https://a.example#x", true), Err(UrlError::QueryOrFragment));
    }
}
