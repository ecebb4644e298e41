//! `nameConstraints` (RFC 5280 section 4.2.1.10), as far as STI paths need it: subtrees of dNSNames.

use super::der::{self, DerError, Reader};

/// GeneralName `dNSName [2] IA5String`, IMPLICIT.
const DNS_NAME: u8 = 0x82;

/// The constraints one CA puts on what is below it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NameConstraints {
    permitted: Vec<String>,
    excluded: Vec<String>,
    /// Something else than plain dNSName subtrees; what is not understood must not be ignored.
    other_forms: bool,
}

impl NameConstraints {
    /// Reads the contents of the extension's OCTET STRING.
    pub(crate) fn from_der(input: &[u8]) -> Result<Self, DerError> {
        let mut constraints = Self::default();
        let mut body = Reader::new(der::only(input, der::SEQUENCE)?);
        let permitted = body.optional(der::context(0))?;
        let excluded = body.optional(der::context(1))?;
        body.finish()?;
        // An empty extension is not in the grammar; it constrains nothing anybody could name.
        constraints.other_forms = permitted.is_none() && excluded.is_none();
        for (subtrees, permits) in [(permitted, true), (excluded, false)] {
            let mut subtrees = Reader::new(subtrees.unwrap_or_default());
            while !subtrees.is_empty() {
                let mut subtree = Reader::new(subtrees.contents(der::SEQUENCE)?);
                let base = subtree.read()?;
                let name = std::str::from_utf8(base.value).ok().filter(|name| name.is_ascii());
                match (base.tag, name, subtree.is_empty(), permits) {
                    (DNS_NAME, Some(name), true, true) => constraints.permitted.push(name.to_ascii_lowercase()),
                    (DNS_NAME, Some(name), true, false) => constraints.excluded.push(name.to_ascii_lowercase()),
                    _ => constraints.other_forms = true,
                }
            }
        }
        Ok(constraints)
    }

    /// Whether certificates with these dNSNames may stand below; never when there are constraints of another form.
    pub(crate) fn allow<'a>(&self, mut names: impl Iterator<Item = &'a String>) -> bool {
        !self.other_forms && names.all(|name| self.allows(name))
    }

    fn allows(&self, name: &str) -> bool {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let inside = |tree: &String| is_inside(&name, tree);
        (self.permitted.is_empty() || self.permitted.iter().any(inside)) && !self.excluded.iter().any(inside)
    }
}

/// The tree's own name, or one with labels added on the left.
fn is_inside(name: &str, tree: &str) -> bool {
    match name.strip_suffix(tree) {
        Some(head) => head.is_empty() || tree.is_empty() || tree.starts_with('.') || head.ends_with('.'),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_understood_forbids_everything() {
        let allow = |der: &[u8]| NameConstraints::from_der(der).map(|constraints| constraints.allow([].into_iter()));
        let dns = der::element(DNS_NAME, b"a.example");
        let wrap =
            |subtree: &[u8]| der::element(der::SEQUENCE, &der::element(0xa0, &der::element(der::SEQUENCE, subtree)));
        assert_eq!(allow(&wrap(&dns)), Ok(true));
        assert_eq!(allow(&der::element(der::SEQUENCE, &[])), Ok(false));
        // A minimum, which RFC 5280 does not use.
        assert_eq!(allow(&wrap(&[&dns[..], &[0x80, 1, 1]].concat())), Ok(false));
        assert_eq!(allow(&wrap(&der::element(0x86, b"sip:a.example"))), Ok(false));
        assert_eq!(allow(&wrap(&der::element(DNS_NAME, &[0xff]))), Ok(false));
        assert!(allow(&[0x30, 0x02, 0xa2, 0x00]).is_err());
    }
}
