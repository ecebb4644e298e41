//! Certificate lint: what a profile asks of a certificate on its own. Each rule is one function; each profile is one list of rules.

use std::fmt;

use x509_parser::{
    asn1_rs::FromDer,
    certificate::X509Certificate,
    extensions::{ParsedExtension, X509Extension},
};

use super::certificate::Certificate;

mod shaken;
mod structure;
mod vesper;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Worth knowing.
    Notice,
    /// Against a recommendation, or a frequent cause of trouble.
    Warning,
    /// Against a requirement.
    Error,
}

impl Level {
    /// `notice`, `warning` or `error`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Notice => "notice",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a certificate is held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// ATIS-1000080 as checked by public lints.
    Shaken,
    /// draft-wendt-stir-vesper-07 section 4.3.
    Vesper,
}

impl Profile {
    /// The profile a certificate's content speaks for: numbers in the TNAuthList, or embedded SCTs, mean VESPER.
    #[must_use]
    pub fn of(certificate: &Certificate) -> Self {
        let numbers = matches!(certificate.tn_auth_list(), Some(Ok(list)) if list.has_tn_entry());
        if !certificate.is_ca() && (numbers || certificate.scts().is_some()) { Self::Vesper } else { Self::Shaken }
    }

    /// `shaken` or `vesper`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Shaken => "shaken",
            Self::Vesper => "vesper",
        }
    }
}

/// One thing a rule has to say about a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Stable name of the rule.
    pub id: &'static str,
    /// How much it matters.
    pub level: Level,
    /// What is the matter.
    pub sentence: String,
}

/// Holds `certificate` against `profile`: findings in the order of the rules, none for a clean certificate.
#[must_use]
pub fn lint(certificate: &Certificate, profile: Profile) -> Vec<Finding> {
    // A `Certificate` exists only because these octets could be read.
    let Ok((_, parsed)) = X509Certificate::from_der(certificate.der()) else {
        return Vec::new();
    };
    let subject = Subject { certificate, parsed: &parsed };
    let profile = match profile {
        Profile::Shaken => shaken::RULES,
        Profile::Vesper => vesper::RULES,
    };
    let rules = structure::RULES.iter().chain(profile);
    rules
        .filter_map(|rule| (rule.check)(&subject).map(|sentence| Finding { id: rule.id, level: rule.level, sentence }))
        .collect()
}

/// A rule: silent, or one sentence.
struct Rule {
    id: &'static str,
    level: Level,
    check: fn(&Subject<'_>) -> Option<String>,
}

const fn error(id: &'static str, check: fn(&Subject<'_>) -> Option<String>) -> Rule {
    Rule { id, level: Level::Error, check }
}

const fn warning(id: &'static str, check: fn(&Subject<'_>) -> Option<String>) -> Rule {
    Rule { id, level: Level::Warning, check }
}

const fn notice(id: &'static str, check: fn(&Subject<'_>) -> Option<String>) -> Rule {
    Rule { id, level: Level::Notice, check }
}

/// `sentence` when `broken`.
fn when(broken: bool, sentence: &str) -> Option<String> {
    broken.then(|| sentence.to_owned())
}

/// The certificate under examination.
struct Subject<'a> {
    certificate: &'a Certificate,
    parsed: &'a X509Certificate<'a>,
}

impl<'a> Subject<'a> {
    fn is_root(&self) -> bool {
        self.is_ca() && self.certificate.is_self_issued()
    }

    fn is_ca(&self) -> bool {
        self.certificate.is_ca()
    }

    /// The first extension whose parsed form `pick` accepts, with its criticality.
    fn extension<T>(&self, pick: impl Fn(&'a ParsedExtension<'a>) -> Option<T>) -> Option<(bool, T)> {
        let extensions: &'a [X509Extension<'a>] = self.parsed.extensions();
        extensions
            .iter()
            .find_map(|extension| pick(extension.parsed_extension()).map(|value| (extension.critical, value)))
    }

    fn critical(&self, oid: &super::oid::Oid) -> bool {
        self.parsed.extensions().iter().any(|extension| extension.oid.as_bytes() == oid.der && extension.critical)
    }
}
