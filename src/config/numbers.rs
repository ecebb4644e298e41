//! `[trunk.numbers_in]`, `[trunk.numbers_out]`: how numbers are written on the two sides of a trunk.

use super::mistake::Fault;
use super::network::host_and_port;
use super::reader::Section;
use crate::passport::DialPlan;
use crate::proxy::route::number::{Form, Format, NumbersIn, NumbersOut};
use crate::proxy::{Numbers, Place, TargetHost};

const FORMATS: [(&str, Format); 3] =
    [("e164", Format::E164), ("digits", Format::Digits), ("national", Format::National)];
const FORMS: [(&str, Form); 3] = [("keep", Form::Keep), ("sip", Form::Sip), ("tel", Form::Tel)];

/// Reads the keys that say how numbers are dialled in a country.
pub(super) fn read_plan(section: &Section<'_, '_>) -> DialPlan {
    let mut plan = DialPlan::default();
    let digits = |key| {
        let is_digits = |text: &str| !text.is_empty() && text.len() <= 8 && text.bytes().all(|b| b.is_ascii_digit());
        section.read(key, "digits", |text| is_digits(text).then(|| text.to_owned())).map(|at| at.value)
    };
    plan.country_code = digits("country_code").or(plan.country_code);
    plan.international_prefix = digits("international_prefix").or(plan.international_prefix);
    plan.trunk_prefix = digits("trunk_prefix").or(plan.trunk_prefix);
    section.size("national_min", (1, 15), &mut plan.national_min);
    section.size("national_max", (1, 15), &mut plan.national_max);
    plan
}

/// Reads both tables of a trunk.
pub(super) fn read(trunk: &Section<'_, '_>, next_hop: Option<&Place>) -> Numbers {
    Numbers {
        inbound: trunk.section("numbers_in").map(read_in),
        outbound: trunk.section("numbers_out").map(|section| read_out(section, next_hop)),
    }
}

fn read_in(section: Section<'_, '_>) -> NumbersIn {
    let plan = read_plan(&section);
    if plan.country_code.is_some() && plan.national_max < plan.national_min.max(1) {
        let reason = "no number can be national without its least and greatest length";
        let remedy = "give national_min and national_max";
        section.wrong(section.offset(), "national_max", Fault::Conflict { reason, remedy });
    }
    let e164_min = section.number("e164_min", (1, 15)).and_then(|fewest| usize::try_from(fewest).ok());
    section.finish();
    NumbersIn { plan, e164_min }
}

fn read_out(section: Section<'_, '_>, next_hop: Option<&Place>) -> NumbersOut {
    let plan = read_plan(&section);
    let format = section.choice("format", &FORMATS).unwrap_or_default();
    if format == Format::National && (plan.country_code.is_none() || plan.international_prefix.is_none()) {
        let reason = "national numbers need to know their country";
        let remedy = "give country_code and international_prefix";
        section.wrong(section.offset_of("format"), "format", Fault::Conflict { reason, remedy });
    }
    let form = section.choice("uri", &FORMS).unwrap_or_default();
    let host = section.read("uri_host", "\"host\" or \"host:port\"", host_text).map(|at| at.value);
    let user_phone = section.bool("user_phone", false);
    section.finish();
    NumbersOut { plan, format, form, host: host.or(next_hop.map(host_of)).unwrap_or_default(), user_phone }
}

/// `host` or `host:port` as it stands in a URI.
pub(super) fn host_text(text: &str) -> Option<String> {
    let (host, port) = host_and_port(text)?;
    Some(port.map_or_else(|| host.clone(), |port| format!("{host}:{port}")))
}

fn host_of(place: &Place) -> String {
    match place {
        Place::At(hop) => hop.remote.to_string(),
        Place::Locate(target) => {
            let host = match &target.host {
                TargetHost::Name(name) => name.to_string(),
                TargetHost::Ip(address) if address.is_ipv6() => format!("[{address}]"),
                TargetHost::Ip(address) => address.to_string(),
            };
            target.port.map_or_else(|| host.clone(), |port| format!("{host}:{port}"))
        }
    }
}
