//! Distinguished names as they compare (RFC 5280 section 7.1): by attribute, without regard to string type, case and runs of spaces. A CRL
//! that speaks for many issuers may spell a name otherwise than their certificates do.

use super::der::{self, Reader};

const SET: u8 = 0x31;
const UTF8_STRING: u8 = der::UTF8_STRING;
const PRINTABLE_STRING: u8 = 0x13;
const TELETEX_STRING: u8 = 0x14;
const BMP_STRING: u8 = 0x1e;

/// The one spelling of a Name (its DER, outer SEQUENCE included). What can not be taken apart is left as it is, and equals only itself.
pub(crate) fn canonical(raw: &[u8]) -> Box<[u8]> {
    read(raw).map_or_else(|| raw.into(), Vec::into_boxed_slice)
}

fn read(raw: &[u8]) -> Option<Vec<u8>> {
    let mut names = Reader::new(der::only(raw, der::SEQUENCE).ok()?);
    let mut out = Vec::new();
    while !names.is_empty() {
        let mut set = Reader::new(names.contents(SET).ok()?);
        let mut attributes = Vec::new();
        while !set.is_empty() {
            attributes.push(attribute(set.contents(der::SEQUENCE).ok()?)?);
        }
        attributes.sort();
        der::write(&mut out, SET, &attributes.concat());
    }
    Some(der::element(der::SEQUENCE, &out))
}

fn attribute(contents: &[u8]) -> Option<Vec<u8>> {
    let mut fields = Reader::new(contents);
    let kind = fields.read().ok().filter(|field| field.tag == der::OBJECT_IDENTIFIER)?;
    let value = fields.read().ok()?;
    fields.finish().ok()?;
    let mut out = kind.raw.to_vec();
    match text(value.tag, value.value) {
        Some(text) => {
            let words: Vec<&str> = text.split_whitespace().collect();
            der::write(&mut out, UTF8_STRING, words.join(" ").to_lowercase().as_bytes());
        }
        None => out.extend_from_slice(value.raw),
    }
    Some(der::element(der::SEQUENCE, &out))
}

fn text(tag: u8, value: &[u8]) -> Option<String> {
    match tag {
        UTF8_STRING | PRINTABLE_STRING | der::IA5_STRING => std::str::from_utf8(value).ok().map(str::to_owned),
        TELETEX_STRING => Some(value.iter().map(|octet| char::from(*octet)).collect()),
        BMP_STRING => {
            let units: Vec<u16> = value.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect();
            value.len().is_multiple_of(2).then(|| String::from_utf16(&units).ok())?
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(attributes: &[(u8, &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        for (tag, value) in attributes {
            let mut pair = der::element(der::OBJECT_IDENTIFIER, &[0x55, 4, 10]);
            der::write(&mut pair, *tag, value);
            der::write(&mut out, SET, &der::element(der::SEQUENCE, &pair));
        }
        der::element(der::SEQUENCE, &out)
    }

    #[test]
    fn spellings_of_a_name_are_one() {
        let plain = canonical(&name(&[(UTF8_STRING, b"STI-PA CRL")]));
        for same in [
            name(&[(PRINTABLE_STRING, b"STI-PA CRL")]),
            name(&[(PRINTABLE_STRING, b" sti-pa  crl ")]),
            name(&[(TELETEX_STRING, b"STI-PA CRL")]),
            name(&[(BMP_STRING, b"\0S\0T\0I\0-\0P\0A\0 \0C\0R\0L")]),
        ] {
            assert_eq!(canonical(&same), plain);
        }
        for other in [
            name(&[(UTF8_STRING, b"STI-PACRL")]),
            name(&[(UTF8_STRING, b"STI-PA CRL"), (UTF8_STRING, b"STI-PA CRL")]),
            name(&[(der::OCTET_STRING, b"STI-PA CRL")]),
            name(&[]),
        ] {
            assert_ne!(canonical(&other), plain);
        }
        assert_eq!(*canonical(b"junk"), *b"junk");
    }
}
