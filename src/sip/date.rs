//! The Date header: RFC 1123 with `GMT` (RFC 3261 20.17).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Unix seconds of an RFC 1123 date. Any other zone or form is `None`: it is unusable, never repaired.
pub fn parse(value: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(value).ok()?;
    // httpdate reads the two obsolete forms of HTTP as well; only the fixed-length one is SIP.
    if text.len() != 29 || !text.ends_with(" GMT") {
        return None;
    }
    let time = httpdate::parse_http_date(text).ok()?;
    time.duration_since(UNIX_EPOCH).ok().map(|d| d.as_secs())
}

/// Appends the date of these Unix seconds, such as `Sat, 13 Nov 2010 23:29:00 GMT`. Years beyond 9999 are cut to 9999.
pub fn write(unix_seconds: u64, out: &mut Vec<u8>) {
    use std::io::Write;
    const LAST: u64 = 253_402_300_799;
    let time: SystemTime = UNIX_EPOCH + Duration::from_secs(unix_seconds.min(LAST));
    let _ = write!(out, "{}", httpdate::HttpDate::from(time)); // writing to a Vec can not fail
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways() {
        assert_eq!(parse(b"Sat, 13 Nov 2010 23:29:00 GMT"), Some(1_289_690_940));
        for seconds in [0, 1_289_690_940, 4_102_444_800] {
            let mut out = Vec::new();
            write(seconds, &mut out);
            assert_eq!(parse(&out), Some(seconds));
        }
        let mut out = Vec::new();
        write(u64::MAX, &mut out);
        assert_eq!(out, b"Fri, 31 Dec 9999 23:59:59 GMT");
    }

    #[test]
    fn anything_else_is_unusable() {
        for bad in [
            "",
            "Fri, 01 Jan 2010 16:00:00 EST",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
            "Sat, 13 Nov 2010 23:29:00 gmt",
            "Sat, 32 Nov 2010 23:29:00 GMT",
            "Sat, 13 Nov 2010 23:29:00 +0000",
        ] {
            assert_eq!(parse(bad.as_bytes()), None, "{bad}");
        }
    }
}
