//! `service` of a trunk: its INVITEs are signed or judged and sent back.

use super::mistake::Fault;
use super::reader::Section;
use crate::proxy::Trunk;
use crate::proxy::service::{Duty, Service};

/// Reads the keys of a trunk whose `sign` and `verify` are known.
pub(super) fn read_trunk(section: &Section<'_, '_>, trunk: &Trunk, has_policy: bool) -> Option<Service> {
    let duty = section.choice("service", &[("sign", Duty::Sign), ("verify", Duty::Verify)]);
    let no_match = section.number("no_match", (400, 699)).and_then(|status| status.try_into().ok());
    let wrong = |key, reason, remedy| section.wrong(section.offset_of(key), key, Fault::Conflict { reason, remedy });
    let is_signing = trunk.sign.is_some() || !section.is_absent("sign");
    match duty {
        None if no_match.is_some() => wrong("no_match", "nothing is served to this trunk", "add service, or remove it"),
        Some(Duty::Sign) if !is_signing => {
            wrong("service", "nothing says who signs", "add sign = \"name of a [[signer]]\"");
        }
        Some(Duty::Sign) if has_policy => wrong(
            "service",
            "its INVITEs would be verified before they are signed",
            "remove [trunk.verify], or make two trunks of it",
        ),
        Some(Duty::Verify) if !has_policy => wrong("service", "there is no policy to verify by", "add [trunk.verify]"),
        _ => {}
    }
    duty.map(|duty| Service { duty, no_match })
}
