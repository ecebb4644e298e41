//! JWTClaimConstraints (RFC 8226 section 8) and EnhancedJWTClaimConstraints (RFC 9118 section 3).

use std::fmt;

use serde_json::{Map, Value};

use super::der::{self, DerError, Reader};

/// Claims every PASSporT carries (RFC 8225 section 5); naming one in mustExclude voids the extension (RFC 9118 section 3 item 3).
const BASE_CLAIMS: [&str; 3] = ["iat", "orig", "dest"];
/// Claims that carry the token's structure and say nothing about the caller.
const STRUCTURAL_CLAIMS: [&str; 3] = ["mky", "div", "opt"];

/// Whether `name` needs no constraint extension to be authorized under VESPER: `iat`, `orig`, `dest`, `mky`, `div`, `opt`.
#[must_use]
pub fn is_baseline_claim(name: &str) -> bool {
    BASE_CLAIMS.contains(&name) || STRUCTURAL_CLAIMS.contains(&name)
}

/// Which of the two extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConstraintKind {
    /// JWTClaimConstraints, RFC 8226.
    Basic,
    /// EnhancedJWTClaimConstraints, RFC 9118.
    Enhanced,
}

/// Why a constraint extension is refused. The certificate then authorizes nothing beyond the base claims and is to be
/// rejected (437): reading on would widen its authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimConstraintsError {
    /// Not the DER of the named SEQUENCE.
    Der(DerError),
    /// None of the optional members is present.
    Empty,
    /// A list is empty (`SIZE (1..MAX)`).
    EmptyList,
    /// A claim name is empty or not ASCII.
    ClaimName,
    /// A permitted value is not UTF-8.
    Utf8,
    /// More than [`ClaimConstraints::MAX_ITEMS`] names and values.
    TooManyItems,
    /// mustExclude in the basic extension, which has none.
    ExcludeInBasic,
    /// The same extension occurs more than once.
    Repeated,
    /// Both extensions in one certificate (RFC 9118 section 6).
    BothKinds,
}

impl fmt::Display for ClaimConstraintsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Der(error) => write!(f, "claim constraints: {error}"),
            Self::Empty => f.write_str("claim constraints without any member"),
            Self::EmptyList => f.write_str("claim constraints with an empty list"),
            Self::ClaimName => f.write_str("claim constraints with an empty or non-ASCII claim name"),
            Self::Utf8 => f.write_str("claim constraints with a value that is not UTF-8"),
            Self::TooManyItems => f.write_str("claim constraints with too many names and values"),
            Self::ExcludeInBasic => f.write_str("JWTClaimConstraints has no mustExclude"),
            Self::Repeated => f.write_str("claim constraints occur more than once"),
            Self::BothKinds => f.write_str("JWTClaimConstraints and EnhancedJWTClaimConstraints in one certificate"),
        }
    }
}

impl std::error::Error for ClaimConstraintsError {}

/// How a set of claims breaks the constraints (R25).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConstraintViolation {
    /// A claim that must be there is missing.
    Missing {
        /// Its name.
        claim: String,
    },
    /// A claim has a value that is not permitted.
    ValueNotPermitted {
        /// Its name.
        claim: String,
    },
    /// A claim that must not be there is present.
    Excluded {
        /// Its name.
        claim: String,
    },
}

impl fmt::Display for ConstraintViolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { claim } => write!(f, "the certificate demands the claim {claim}"),
            Self::ValueNotPermitted { claim } => {
                write!(f, "the certificate does not permit this value of the claim {claim}")
            }
            Self::Excluded { claim } => write!(f, "the certificate excludes the claim {claim}"),
        }
    }
}

impl std::error::Error for ConstraintViolation {}

/// The values a claim may have if it is present.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PermittedValues {
    /// The claim.
    pub claim: String,
    /// The values: a JSON string as it is, any other value as its canonical JSON text.
    pub values: Vec<String>,
}

/// One of the two constraint extensions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimConstraints {
    kind: ConstraintKind,
    must_include: Vec<String>,
    permitted: Vec<PermittedValues>,
    must_exclude: Vec<String>,
}

impl ClaimConstraints {
    /// Most names and values in one extension.
    pub const MAX_ITEMS: usize = 1024;

    /// Constraints to issue.
    ///
    /// # Errors
    /// Whatever would make a reader refuse them.
    pub fn new(
        kind: ConstraintKind,
        must_include: Vec<String>,
        permitted: Vec<PermittedValues>,
        must_exclude: Vec<String>,
    ) -> Result<Self, ClaimConstraintsError> {
        if must_include.is_empty() && permitted.is_empty() && must_exclude.is_empty() {
            return Err(ClaimConstraintsError::Empty);
        }
        if kind == ConstraintKind::Basic && !must_exclude.is_empty() {
            return Err(ClaimConstraintsError::ExcludeInBasic);
        }
        if permitted.iter().any(|entry| entry.values.is_empty()) {
            return Err(ClaimConstraintsError::EmptyList);
        }
        let mut names = must_include.iter().chain(&must_exclude).chain(permitted.iter().map(|entry| &entry.claim));
        if names.any(|name| !legal_name(name)) {
            return Err(ClaimConstraintsError::ClaimName);
        }
        let values: usize = permitted.iter().map(|entry| 1 + entry.values.len()).sum();
        if must_include.len() + must_exclude.len() + values > Self::MAX_ITEMS {
            return Err(ClaimConstraintsError::TooManyItems);
        }
        Ok(Self { kind, must_include, permitted, must_exclude })
    }

    /// Reads the contents of the extension's OCTET STRING.
    ///
    /// # Errors
    /// Names what is malformed.
    pub fn from_der(kind: ConstraintKind, input: &[u8]) -> Result<Self, ClaimConstraintsError> {
        let fault = ClaimConstraintsError::Der;
        let mut body = Reader::new(der::only(input, der::SEQUENCE).map_err(fault)?);
        let mut budget = Self::MAX_ITEMS;
        let must_include = match body.optional(der::context(0)).map_err(fault)? {
            Some(names) => read_names(names, &mut budget)?,
            None => Vec::new(),
        };
        let permitted = match body.optional(der::context(1)).map_err(fault)? {
            Some(list) => read_permitted(list, &mut budget)?,
            None => Vec::new(),
        };
        let must_exclude = match body.optional(der::context(2)).map_err(fault)? {
            Some(_) if kind == ConstraintKind::Basic => return Err(ClaimConstraintsError::ExcludeInBasic),
            Some(names) => read_names(names, &mut budget)?,
            None => Vec::new(),
        };
        body.finish().map_err(fault)?;
        Self::new(kind, must_include, permitted, must_exclude)
    }

    /// The DER to put into an extension.
    #[must_use]
    pub fn to_der(&self) -> Vec<u8> {
        let mut body = Vec::new();
        if !self.must_include.is_empty() {
            der::write(&mut body, der::context(0), &write_names(&self.must_include));
        }
        if !self.permitted.is_empty() {
            let mut list = Vec::new();
            for entry in &self.permitted {
                let mut content = der::element(der::IA5_STRING, entry.claim.as_bytes());
                let values: Vec<u8> =
                    entry.values.iter().flat_map(|value| der::element(der::UTF8_STRING, value.as_bytes())).collect();
                der::write(&mut content, der::SEQUENCE, &values);
                der::write(&mut list, der::SEQUENCE, &content);
            }
            der::write(&mut body, der::context(1), &der::element(der::SEQUENCE, &list));
        }
        if !self.must_exclude.is_empty() {
            der::write(&mut body, der::context(2), &write_names(&self.must_exclude));
        }
        der::element(der::SEQUENCE, &body)
    }

    /// Which extension it is.
    #[must_use]
    pub fn kind(&self) -> ConstraintKind {
        self.kind
    }

    /// Claims that must be present.
    #[must_use]
    pub fn must_include(&self) -> &[String] {
        &self.must_include
    }

    /// Claims whose values are limited.
    #[must_use]
    pub fn permitted(&self) -> &[PermittedValues] {
        &self.permitted
    }

    /// Claims that must be absent.
    #[must_use]
    pub fn must_exclude(&self) -> &[String] {
        &self.must_exclude
    }

    /// RFC 9118 section 3 item 3: an extension that excludes `iat`, `orig` or `dest` is treated as if it were not there.
    #[must_use]
    pub fn is_void(&self) -> bool {
        self.must_exclude.iter().any(|name| BASE_CLAIMS.contains(&name.as_str()))
    }

    /// Whether the claims of a token conform (RFC 8226 section 8, RFC 9118 section 3). Void constraints accept everything.
    ///
    /// # Errors
    /// The first violation: missing claims, then values, then excluded claims.
    pub fn check(&self, claims: &Map<String, Value>) -> Result<(), ConstraintViolation> {
        if self.is_void() {
            return Ok(());
        }
        if let Some(claim) = self.must_include.iter().find(|name| !claims.contains_key(name.as_str())) {
            return Err(ConstraintViolation::Missing { claim: claim.clone() });
        }
        for entry in &self.permitted {
            if claims.get(&entry.claim).is_some_and(|value| !is_permitted(value, &entry.values)) {
                return Err(ConstraintViolation::ValueNotPermitted { claim: entry.claim.clone() });
            }
        }
        match self.must_exclude.iter().find(|name| claims.contains_key(name.as_str())) {
            Some(claim) => Err(ConstraintViolation::Excluded { claim: claim.clone() }),
            None => Ok(()),
        }
    }

    /// Whether the certificate's holder may assert the claim under VESPER (R13): a baseline claim, or one named in mustInclude or
    /// permittedValues, and not excluded. Conforming is another question, asked by [`check`](Self::check).
    #[must_use]
    pub fn authorizes(&self, name: &str) -> bool {
        if self.is_void() {
            return is_baseline_claim(name);
        }
        let named = || {
            self.must_include.iter().any(|own| own == name) || self.permitted.iter().any(|entry| entry.claim == name)
        };
        !self.must_exclude.iter().any(|own| own == name) && (is_baseline_claim(name) || named())
    }
}

/// How a claim's value is compared with a permitted one: RFC 8226 leaves it open for objects.
fn is_permitted(value: &Value, permitted: &[String]) -> bool {
    if let Value::String(text) = value {
        return permitted.iter().any(|allowed| allowed == text);
    }
    let canonical = canonical_json(value);
    if permitted.contains(&canonical) {
        return true;
    }
    // Authorities differ in whitespace and member order, so structures are compared a second time after canonicalization.
    matches!(value, Value::Object(_) | Value::Array(_))
        && permitted
            .iter()
            .filter_map(|allowed| serde_json::from_str::<Value>(allowed).ok())
            .any(|allowed| canonical_json(&allowed) == canonical)
}

/// JSON with members in lexicographic order and no whitespace (RFC 8225 section 9).
fn canonical_json(value: &Value) -> String {
    match value {
        Value::Object(members) => {
            let mut names: Vec<&String> = members.keys().collect();
            names.sort_unstable();
            let members: Vec<String> = names
                .into_iter()
                .map(|name| format!("{}:{}", Value::String(name.clone()), canonical_json(&members[name.as_str()])))
                .collect();
            format!("{{{}}}", members.join(","))
        }
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(canonical_json).collect();
            format!("[{}]", items.join(","))
        }
        scalar => scalar.to_string(),
    }
}

fn legal_name(name: &str) -> bool {
    !name.is_empty() && name.is_ascii()
}

fn spend(budget: &mut usize) -> Result<(), ClaimConstraintsError> {
    *budget = budget.checked_sub(1).ok_or(ClaimConstraintsError::TooManyItems)?;
    Ok(())
}

fn read_name(octets: &[u8]) -> Result<String, ClaimConstraintsError> {
    std::str::from_utf8(octets)
        .ok()
        .filter(|name| legal_name(name))
        .map(str::to_owned)
        .ok_or(ClaimConstraintsError::ClaimName)
}

/// `JWTClaimNames`.
fn read_names(input: &[u8], budget: &mut usize) -> Result<Vec<String>, ClaimConstraintsError> {
    let fault = ClaimConstraintsError::Der;
    let mut list = Reader::new(der::only(input, der::SEQUENCE).map_err(fault)?);
    let mut names = Vec::new();
    while !list.is_empty() {
        spend(budget)?;
        names.push(read_name(list.contents(der::IA5_STRING).map_err(fault)?)?);
    }
    if names.is_empty() {
        return Err(ClaimConstraintsError::EmptyList);
    }
    Ok(names)
}

/// `JWTClaimPermittedValuesList` and `JWTClaimValuesList`, which share their encoding.
fn read_permitted(input: &[u8], budget: &mut usize) -> Result<Vec<PermittedValues>, ClaimConstraintsError> {
    let fault = ClaimConstraintsError::Der;
    let mut list = Reader::new(der::only(input, der::SEQUENCE).map_err(fault)?);
    let mut permitted = Vec::new();
    while !list.is_empty() {
        spend(budget)?;
        let mut entry = Reader::new(list.contents(der::SEQUENCE).map_err(fault)?);
        let claim = read_name(entry.contents(der::IA5_STRING).map_err(fault)?)?;
        let mut strings = Reader::new(entry.contents(der::SEQUENCE).map_err(fault)?);
        entry.finish().map_err(fault)?;
        let mut values = Vec::new();
        while !strings.is_empty() {
            spend(budget)?;
            let octets = strings.contents(der::UTF8_STRING).map_err(fault)?;
            values.push(String::from_utf8(octets.to_vec()).map_err(|_| ClaimConstraintsError::Utf8)?);
        }
        if values.is_empty() {
            return Err(ClaimConstraintsError::EmptyList);
        }
        permitted.push(PermittedValues { claim, values });
    }
    if permitted.is_empty() {
        return Err(ClaimConstraintsError::EmptyList);
    }
    Ok(permitted)
}

fn write_names(names: &[String]) -> Vec<u8> {
    let list: Vec<u8> = names.iter().flat_map(|name| der::element(der::IA5_STRING, name.as_bytes())).collect();
    der::element(der::SEQUENCE, &list)
}
