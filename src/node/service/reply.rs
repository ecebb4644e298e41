//! Answers of the service as JSON. Of a verdict they tell code and phrase, never which detail failed.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};

use super::problem::Problem;
use crate::passport::ppt::Ppt;
use crate::stir::authentication::SignError;
use crate::stir::facts::FactsError;
use crate::stir::reason::{self, Code};
use crate::stir::{Disposition, Overall, TokenVerdict, Verdict, Verstat};

/// The answer to a signing request.
pub fn signed(identity: &str) -> Value {
    json!({ "signingResponse": { "identity": identity } })
}

/// What a client is told of a refusal to sign: what it can put right by name, the rest by nothing but that.
pub fn not_signed(error: &FactsError) -> Problem {
    match error {
        FactsError::BadOrigId => Problem::Invalid("origid", "a UUID"),
        FactsError::AboveCeiling => Problem::Forbidden,
        FactsError::Sign(error) => match error {
            SignError::NoOriginator => Problem::Invalid("orig", "a telephone number or URI"),
            SignError::NoDestination => Problem::Invalid("dest", "telephone numbers or URIs"),
            SignError::BadDate | SignError::StaleDate { .. } => Problem::Invalid("iat", "the present time"),
            SignError::NotTelephoneNumber | SignError::NotAuthorized | SignError::Constraint(_) => Problem::Forbidden,
            // The signer can not sign at all; others are of kinds of tokens that are not asked for here.
            _ => Problem::Internal,
        },
    }
}

/// The answer to a verification request, and its name in metrics. `identities` are those that were judged.
pub fn judged(verdict: &Verdict, identities: &[String], is_3gpp: bool) -> (Value, &'static str) {
    let verstat = Verstat::of(verdict);
    let mut response = Map::new();
    response.insert("verstat".into(), verstat.text().into());
    let (name, reason) = match verdict.overall() {
        Overall::Valid { token } => {
            identities.get(token).and_then(|identity| jwt(identity)).into_iter().for_each(|(header, claims)| {
                for claim in ["orig", "dest", "iat", "attest", "origid"] {
                    claims.get(claim).into_iter().for_each(|value| drop(response.insert(claim.into(), value.clone())));
                }
                response.insert("jwt".into(), json!({ "header": header, "claims": claims }));
            });
            ("passed", None)
        }
        Overall::Invalid => ("failed", Some(decisive(verdict))),
        Overall::NoIdentity if verdict.tokens().is_empty() => ("no-identity", Some(Code::UseIdentityHeader)),
        Overall::NoIdentity => ("no-identity", Some(Code::UseSupportedPassport)),
    };
    if let Some(code) = reason {
        response.insert("reasoncode".into(), code.status().into());
        response.insert("reasontext".into(), code.phrase().into());
        response.insert("reasondesc".into(), code.phrase().into());
    }
    if is_3gpp || verdict.tokens().len() > 1 {
        let results: Vec<Value> =
            verdict.tokens().iter().zip(identities).map(|(token, text)| single(token, text)).collect();
        response.insert("verstatValue".into(), verstat.text().into());
        response.insert("verifyResults".into(), results.into());
    }
    (json!({ "verificationResponse": response }), name)
}

/// The code for the whole: the one that the policy would answer a call with, or that of the first bad token.
fn decisive(verdict: &Verdict) -> Code {
    let codes = || verdict.tokens().iter().filter_map(reason::code);
    let rejected = verdict.rejection().and_then(|rejection| codes().find(|code| code.status() == rejection.status));
    rejected.or_else(|| codes().next()).unwrap_or(Code::InvalidIdentityHeader)
}

/// One Identity, by the names of 3GPP.
fn single(token: &TokenVerdict, identity: &str) -> Value {
    let status = match token.disposition {
        Disposition::Valid => "pass",
        Disposition::Invalid(_) => "fail",
        Disposition::Ignored | Disposition::Unchecked => "unchecked",
    };
    let passport = identity.split(';').next().unwrap_or_default().trim();
    let mut result = json!({ "status": status, "passport": passport });
    let ppt = token.ppt.map(Ppt::name);
    if let (Some(result), Some(Some(ppt))) = (result.as_object_mut(), ppt) {
        result.insert("ppt".into(), ppt.into());
    }
    if let (Some(result), Some(code)) = (result.as_object_mut(), reason::code(token)) {
        result.insert("reasonCode".into(), code.status().into());
        result.insert("reasonText".into(), code.phrase().into());
    }
    json!({ "verifyResult": result })
}

/// Header and claims of a full form that has been verified.
fn jwt(identity: &str) -> Option<(Value, Value)> {
    let mut segments = identity.split(';').next()?.trim().split('.');
    let mut next = || serde_json::from_slice(&URL_SAFE_NO_PAD.decode(segments.next()?).ok()?).ok();
    Some((next()?, next()?))
}
