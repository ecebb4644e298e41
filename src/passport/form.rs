//! Whether JSON is in the form of RFC 8225 section 9: no white space, members in the order of the code points of their names, integers
//! without fraction and exponent. How strings are escaped the RFC leaves open, so it does not matter here.

/// Deepest nesting that is looked into; what is deeper is not in that form. The readers of tokens stop at 128 too.
const MAX_DEPTH: usize = 128;

/// Whether `json`, which is valid JSON, is in that form. One pass, bounded in depth, without allocation for names without escapes.
pub fn is_deterministic(json: &[u8]) -> bool {
    let mut reader = Reader { rest: json };
    reader.value(MAX_DEPTH).is_some() && reader.rest.is_empty()
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, octet: u8) -> Option<()> {
        self.rest = self.rest.strip_prefix(&[octet])?;
        Some(())
    }

    fn value(&mut self, depth: usize) -> Option<()> {
        let depth = depth.checked_sub(1)?;
        match self.rest.first()? {
            b'{' => self.object(depth),
            b'[' => self.array(depth),
            b'"' => self.text().map(drop),
            b't' => self.word(b"true"),
            b'f' => self.word(b"false"),
            b'n' => self.word(b"null"),
            _ => self.integer(),
        }
    }

    fn word(&mut self, word: &[u8]) -> Option<()> {
        self.rest = self.rest.strip_prefix(word)?;
        Some(())
    }

    /// Only `0` begins with a zero, and there is no `-0`.
    fn integer(&mut self) -> Option<()> {
        let digits = self.rest.strip_prefix(b"-").unwrap_or(self.rest);
        let is_negative = digits.len() < self.rest.len();
        let end = digits.iter().position(|octet| !octet.is_ascii_digit()).unwrap_or(digits.len());
        let (number, after) = digits.split_at(end);
        let is_plain = match number {
            [] => false,
            [b'0'] => !is_negative,
            [b'0', ..] => false,
            _ => true,
        };
        self.rest = after;
        is_plain.then_some(())
    }

    /// The octets between the quotation marks.
    fn text(&mut self) -> Option<&'a [u8]> {
        self.take(b'"')?;
        let text = self.rest;
        let mut at = 0;
        loop {
            at += memchr::memchr2(b'"', b'\\', text.get(at..)?)?;
            if text.get(at) == Some(&b'"') {
                self.rest = text.get(at + 1..)?;
                return text.get(..at);
            }
            at += 2;
        }
    }

    fn array(&mut self, depth: usize) -> Option<()> {
        self.take(b'[')?;
        if self.take(b']').is_some() {
            return Some(());
        }
        loop {
            self.value(depth)?;
            if self.take(b']').is_some() {
                return Some(());
            }
            self.take(b',')?;
        }
    }

    fn object(&mut self, depth: usize) -> Option<()> {
        self.take(b'{')?;
        if self.take(b'}').is_some() {
            return Some(());
        }
        let mut before = None;
        loop {
            let name = unescaped(self.text()?)?;
            if before.is_some_and(|before| before >= name) {
                return None;
            }
            before = Some(name);
            self.take(b':')?;
            self.value(depth)?;
            if self.take(b'}').is_some() {
                return Some(());
            }
            self.take(b',')?;
        }
    }
}

/// A member name. The order of UTF-8 octets is the order of code points.
fn unescaped(text: &[u8]) -> Option<std::borrow::Cow<'_, [u8]>> {
    if memchr::memchr(b'\\', text).is_none() {
        return Some(text.into());
    }
    let quoted = [b"\"", text, b"\""].concat();
    let name: String = serde_json::from_slice(&quoted).ok()?;
    Some(name.into_bytes().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p14_the_form_of_rfc_8225_section_9() {
        for good in [
            r#"{"dest":{"tn":["12155551213"]},"iat":1443208345,"orig":{"tn":"12155551212"}}"#,
            r#"{"alg":"ES256","typ":"passport","x5u":"https:\/\/a.example\/c.pem"}"#,
            r#"{"a":-1,"b":[],"c":{},"d":[0,true,false,null],"\u00e9":"\"}{","é2":1}"#,
            r#"[]"#,
        ] {
            assert!(is_deterministic(good.as_bytes()), "{good}");
        }
        for bad in [
            r#"{"iat":1, "orig":2}"#,
            r#"{"iat" :1}"#,
            r#"{ "iat":1}"#,
            "{\"iat\":1}\n",
            r#"{"orig":1,"iat":2}"#,
            r#"{"a":{"c":1,"b":2}}"#,
            r#"{"a":[{"c":1,"b":2}]}"#,
            r#"{"a":1,"a":2}"#,
            r#"{"\u0062":1,"a":2}"#,
            r#"{"iat":1.0}"#,
            r#"{"iat":1e9}"#,
            r#"{"iat":-0}"#,
            "",
            "{",
            "\"a",
            "\"a\\",
        ] {
            assert!(!is_deterministic(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |depth: usize| [b"[".repeat(depth), b"]".repeat(depth)].concat();
        assert!(is_deterministic(&nested(MAX_DEPTH)));
        assert!(!is_deterministic(&nested(MAX_DEPTH + 1)));
        assert!(!is_deterministic(&nested(1_000_000)));
    }
}
