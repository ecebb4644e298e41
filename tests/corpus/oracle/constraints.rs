//! JWTClaimConstraints (RFC 8226 section 8) and EnhancedJWTClaimConstraints (RFC 9118 section 3).

use serde_json::Value;
use x509_parser::prelude::X509Certificate;

use super::claims::Claims;
use super::der::{Element, elements, only};
use super::json::canonical;

const BASIC: &str = "1.3.6.1.5.5.7.1.27";
const ENHANCED: &str = "1.3.6.1.5.5.7.1.33";

/// What a certificate says about the claims of its holder.
pub enum Constraints {
    None,
    /// Unreadable, or both extensions at once (RFC 9118 section 6).
    Bad,
    Some(Lists),
}

#[derive(Default)]
pub struct Lists {
    include: Vec<String>,
    permitted: Vec<(String, Vec<String>)>,
    exclude: Vec<String>,
}

impl Constraints {
    pub fn of(leaf: &X509Certificate<'_>) -> Self {
        let is_one = |id: &str| id == BASIC || id == ENHANCED;
        let found: Vec<_> = leaf.extensions().iter().filter(|one| is_one(&one.oid.to_id_string())).collect();
        match found[..] {
            [] => Self::None,
            [one] => match read(one.value, one.oid.to_id_string() == ENHANCED) {
                // RFC 9118 section 3 item 3: as if the extension were not there.
                Some(lists) if lists.exclude.iter().any(|name| is_base(name)) => Self::None,
                Some(lists) => Self::Some(lists),
                None => Self::Bad,
            },
            _ => Self::Bad,
        }
    }

    /// Items 1 to 3.
    pub fn hold(&self, claims: &Claims) -> bool {
        let lists = match self {
            Self::None => return true,
            Self::Bad => return false,
            Self::Some(lists) => lists,
        };
        let permitted = |(name, values): &(String, Vec<String>)| {
            claims.get(name).is_none_or(|value| values.iter().any(|allowed| is_permitted(value, allowed)))
        };
        lists.include.iter().all(|name| claims.get(name).is_some())
            && lists.permitted.iter().all(permitted)
            && lists.exclude.iter().all(|name| claims.get(name).is_none())
    }

    /// R13: VESPER asks that a claim beyond RFC 8225 is named.
    pub fn authorize(&self, name: &str) -> bool {
        let is_structural = is_base(name) || ["mky", "div", "opt"].contains(&name);
        match self {
            Self::None | Self::Bad => is_structural,
            Self::Some(lists) => {
                let is_named = || self.names(name);
                !lists.exclude.iter().any(|own| own == name) && (is_structural || is_named())
            }
        }
    }

    /// Among those that must or may be there.
    pub fn names(&self, name: &str) -> bool {
        match self {
            Self::Some(lists) => {
                lists.include.iter().any(|own| own == name) || lists.permitted.iter().any(|(own, _)| own == name)
            }
            _ => false,
        }
    }
}

fn is_base(name: &str) -> bool {
    ["iat", "orig", "dest"].contains(&name)
}

fn is_permitted(value: &Value, allowed: &str) -> bool {
    match value {
        Value::String(text) => text == allowed,
        Value::Object(_) | Value::Array(_) => {
            let parsed = serde_json::from_str::<Value>(allowed).ok();
            parsed.is_some_and(|parsed| canonical(&parsed) == canonical(value))
        }
        scalar => canonical(scalar) == allowed,
    }
}

fn read(der: &[u8], is_enhanced: bool) -> Option<Lists> {
    let mut lists = Lists::default();
    let mut last = None;
    for (tag, value, _) in elements(only(der, 0x30)?)? {
        (last < Some(tag)).then_some(())?;
        last = Some(tag);
        match tag {
            0xa0 => lists.include = names(value)?,
            0xa1 => {
                for (tag, entry, _) in elements(only(value, 0x30)?)? {
                    let [(0x16, name, _), (0x30, values, _)] = elements(entry)?[..] else { return None };
                    let text = |(tag, value, _): Element<'_>| {
                        (tag == 0x0c).then(|| String::from_utf8(value.to_vec()).ok()).flatten()
                    };
                    let values: Vec<String> = elements(values)?.into_iter().map(text).collect::<Option<_>>()?;
                    (tag == 0x30 && !values.is_empty()).then_some(())?;
                    lists.permitted.push((name_of(name)?, values));
                }
                (!lists.permitted.is_empty()).then_some(())?;
            }
            0xa2 if is_enhanced => lists.exclude = names(value)?,
            _ => return None,
        }
    }
    last.map(|_| lists)
}

fn names(der: &[u8]) -> Option<Vec<String>> {
    let all = elements(only(der, 0x30)?)?;
    let names = all.into_iter().map(|(tag, value, _)| if tag == 0x16 { name_of(value) } else { None });
    names.collect::<Option<Vec<_>>>().filter(|names| !names.is_empty())
}

fn name_of(octets: &[u8]) -> Option<String> {
    let name = String::from_utf8(octets.to_vec()).ok()?;
    (!name.is_empty() && name.is_ascii()).then_some(name)
}
