//! Credentials with one deliberate flaw each: what verifiers must refuse.

use super::{Credential, Lab, LabError, delegate, hierarchy};
use crate::cert::{ClaimConstraints, ConstraintKind, PermittedValues};
use crate::pki::ca::profile::{DEFAULT_LIFETIME, DelegateProfile, MIN_LIFETIME};
use crate::pki::ca::{IssueError, Transparency};

/// The only call reason (`crn`, RFC 9795) that the certificate of [`Flaw::Constrained`] permits.
pub const PERMITTED_CALL_REASON: &str = "Delivery of your order";

/// What is wrong with a credential of Acme; everything else about it is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// Issued below a root that is no trust anchor (R22).
    UnknownRoot,
    /// Recorded in no log (R24).
    NoSct,
    /// Permits the claim `crn` with the value [`PERMITTED_CALL_REASON`] alone: a token that says otherwise violates it (R25).
    Constrained,
    /// `x5u` leads to a host that is not the certificate's dNSName (R26).
    ForeignX5u,
    /// Ended an hour ago (R28).
    Expired,
}

impl Lab {
    /// A credential for Acme's numbers and domain with one flaw, issued at `now` (Unix seconds). Nothing is written.
    ///
    /// # Errors
    /// [`LabError::Issue`].
    pub fn flawed(&self, flaw: Flaw, now: i64) -> Result<Credential, LabError> {
        let logs = [&self.log];
        let embed = Transparency::Embed(&logs);
        let good = DelegateProfile {
            organization: self.acme.organization.to_owned(),
            dns_name: self.acme.domain.to_owned(),
            scope: self.acme.scope.clone(),
            constraints: None,
            lifetime: DEFAULT_LIFETIME,
        };
        let credential = match flaw {
            Flaw::UnknownRoot => {
                let (_, issuing) = hierarchy("Foreign", now)?;
                delegate(&issuing, &good, now, embed)
            }
            Flaw::NoSct => delegate(&self.issuing, &good, now, Transparency::Omit),
            Flaw::Constrained => {
                let profile = DelegateProfile { constraints: Some(call_reason()?), ..good };
                delegate(&self.issuing, &profile, now, embed)
            }
            Flaw::ForeignX5u => delegate(&self.issuing, &good, now, embed).map(|mut credential| {
                credential.x5u = credential.x5u.replacen(self.acme.domain, self.globex.domain, 1);
                credential
            }),
            Flaw::Expired => {
                let profile = DelegateProfile { lifetime: MIN_LIFETIME, ..good };
                delegate(&self.issuing, &profile, now.saturating_sub(2 * MIN_LIFETIME), embed)
            }
        };
        Ok(credential?)
    }
}

fn call_reason() -> Result<ClaimConstraints, IssueError> {
    let permitted = PermittedValues { claim: "crn".to_owned(), values: vec![PERMITTED_CALL_REASON.to_owned()] };
    ClaimConstraints::new(ConstraintKind::Enhanced, Vec::new(), vec![permitted], Vec::new())
        .map_err(IssueError::ClaimConstraints)
}
