//! The little DER that is needed where x509-parser has no type for it.

/// Tag, contents, and all octets.
pub type Element<'a> = (u8, &'a [u8], &'a [u8]);

/// Tag, contents and what follows.
pub fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, length], rest) = der.split_first_chunk::<2>()?;
    let (length, rest) = match length {
        0..=0x7f => (usize::from(length), rest),
        0x81 => (usize::from(*rest.first()?), rest.get(1..)?),
        0x82 => (usize::from(*rest.first()?) << 8 | usize::from(*rest.get(1)?), rest.get(2..)?),
        _ => return None,
    };
    let (value, rest) = rest.split_at_checked(length)?;
    Some((tag, value, rest))
}

/// The elements of a constructed value.
pub fn elements(mut der: &[u8]) -> Option<Vec<Element<'_>>> {
    let mut all = Vec::new();
    while !der.is_empty() {
        let (tag, value, rest) = element(der)?;
        all.push((tag, value, &der[..der.len() - rest.len()]));
        der = rest;
    }
    Some(all)
}

/// The contents of the one element with this tag that is there.
pub fn only(der: &[u8], wanted: u8) -> Option<&[u8]> {
    match element(der)? {
        (tag, value, []) if tag == wanted => Some(value),
        _ => None,
    }
}

pub fn write(tag: u8, value: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match value.len() {
        length @ 0..=0x7f => out.push(length as u8),
        length @ 0x80..=0xff => out.extend([0x81, length as u8]),
        length => out.extend([0x82, (length >> 8) as u8, length as u8]),
    }
    out.extend_from_slice(value);
    out
}

/// What a TNAuthList (RFC 8226 section 9) speaks for.
#[derive(Default)]
pub struct Numbers {
    /// A service provider code is among its entries.
    pub has_code: bool,
    /// First number as written, and how many.
    ranges: Vec<(String, u64)>,
}

impl Numbers {
    pub fn read(der: &[u8]) -> Option<Self> {
        let mut read = Self::default();
        for (tag, value, _) in elements(only(der, 0x30)?)? {
            match tag {
                0xa0 => read.has_code |= only(value, 0x16).is_some(),
                0xa1 => {
                    let range = elements(only(value, 0x30)?)?;
                    let [(0x16, start, _), (0x02, count, _)] = range[..] else { return None };
                    let count = count.iter().fold(0u64, |sum, octet| sum << 8 | u64::from(*octet));
                    read.ranges.push((String::from_utf8(start.to_vec()).ok()?, count));
                }
                0xa2 => read.ranges.push((String::from_utf8(only(value, 0x16)?.to_vec()).ok()?, 1)),
                _ => return None,
            }
        }
        Some(read)
    }

    pub fn has_numbers(&self) -> bool {
        !self.ranges.is_empty()
    }

    /// By its numbers alone.
    pub fn covers(&self, number: &str) -> bool {
        self.ranges.iter().any(|(start, count)| {
            let (first, wanted) = (start.parse::<u64>(), number.parse::<u64>());
            let within = first
                .ok()
                .zip(wanted.ok())
                .is_some_and(|(first, wanted)| (first..first.saturating_add(*count)).contains(&wanted));
            start == number || (start.len() == number.len() && within)
        })
    }
}
