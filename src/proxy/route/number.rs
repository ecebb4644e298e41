//! The number in a Request-URI: how a trunk writes it (E.164 and back), and how a route changes it. Only the Request-URI of one copy
//! changes; To, From and what is signed stay as they came (RFC 8224, I-13).

use std::borrow::Cow;

use crate::passport::telephone_number::{DialPlan, TelephoneNumber};
use crate::sip::{Scheme, TelUri, Uri, split_subscriber};

/// A number as it was dialled: its digits, and whether a plus sign said that it is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Called {
    /// Digits, `*` and `#`, without plus sign and visual separators.
    pub digits: TelephoneNumber,
    /// It begins with its country code.
    pub is_global: bool,
}

impl Called {
    /// The same for a URI as text.
    pub fn in_uri(uri: &[u8]) -> Option<Self> {
        Self::of(&Uri::parse(uri).ok()?)
    }

    /// The number in a Request-URI, if it is one (U-2: by its form, `user=phone` or not).
    pub fn of(uri: &Uri<'_>) -> Option<Self> {
        let subscriber = if uri.scheme == Scheme::Tel { split_subscriber(uri.opaque) } else { uri.subscriber() }?;
        let (digits, is_global) = TelephoneNumber::completed(subscriber.number, &DialPlan::default())?;
        Some(Self { digits, is_global })
    }
}

/// `[trunk.numbers_in]`: how a trunk writes numbers that it calls. They become E.164 with `+` before they are routed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NumbersIn {
    /// National and international prefixes.
    pub plan: DialPlan,
    /// Fewest digits of a number without `+` that has its country code already, when the plan does not read it otherwise.
    /// `None`: no number has.
    pub e164_min: Option<usize>,
}

/// How a number is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Format {
    /// `+` and country code.
    #[default]
    E164,
    /// Country code without `+`.
    Digits,
    /// As it is dialled in the country of the plan: prefixes instead of `+`.
    National,
}

/// The kind of URI that carries a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Form {
    /// As it came.
    #[default]
    Keep,
    /// `sip:number@host;user=phone` (RFC 3261 19.1.6).
    Sip,
    /// `tel:number`.
    Tel,
}

/// `[trunk.numbers_out]`: how numbers in E.164 are written towards a trunk; others stay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NumbersOut {
    /// Prefixes for [`Format::National`].
    pub plan: DialPlan,
    /// How.
    pub format: Format,
    /// In which URI.
    pub form: Form,
    /// Host of a SIP URI made of a tel URI.
    pub host: String,
    /// SIP URIs with a number get `user=phone`.
    pub user_phone: bool,
}

/// What a route does to the Request-URI.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// Leading characters of the number that go, a `+` counted.
    pub strip: u8,
    /// What comes in their place.
    pub add: Box<str>,
    /// Another host, with a port or without.
    pub host: Option<Box<str>>,
}

impl Shape {
    /// It changes nothing.
    pub fn is_empty(&self) -> bool {
        self.strip == 0 && self.add.is_empty() && self.host.is_none()
    }
}

/// The Request-URI as it is routed: its number in E.164 if the trunk's plan can say so.
pub fn normalised<'a>(uri: &'a [u8], numbers: Option<&NumbersIn>) -> Cow<'a, [u8]> {
    let Some(numbers) = numbers else { return Cow::Borrowed(uri) };
    let written = Uri::parse(uri).ok().and_then(|parsed| {
        let subscriber =
            if parsed.scheme == Scheme::Tel { split_subscriber(parsed.opaque) } else { parsed.subscriber() }?;
        let (digits, is_global) = TelephoneNumber::completed(subscriber.number, &numbers.plan)?;
        let is_whole = || numbers.e164_min.is_some_and(|least| digits.len() >= least) && is_e164(&digits);
        let number = (is_global || is_whole()).then(|| format!("+{digits}"))?;
        (number.as_bytes() != subscriber.number).then(|| Draft { number: Some(&number), ..Draft::of(&parsed) }.write())
    });
    written.map_or(Cow::Borrowed(uri), Cow::Owned)
}

fn is_e164(digits: &str) -> bool {
    digits.len() <= 15 && !digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit())
}

/// The Request-URI of a copy: `uri` (as it is routed) changed by the shapes in their order, then written as the trunk wants it.
/// `None` if nothing is left of its number.
pub fn shaped(uri: &[u8], shapes: &[&Shape], out: Option<&NumbersOut>) -> Option<Vec<u8>> {
    let Ok(parsed) = Uri::parse(uri) else { return Some(uri.to_vec()) };
    let mut draft = Draft::of(&parsed);
    let mut number = Called::of(&parsed).map(|called| plain(&called));
    for shape in shapes {
        if let Some(number) = &mut number {
            let rest = number.get(usize::from(shape.strip).min(number.len())..).unwrap_or_default();
            *number = format!("{}{rest}", shape.add);
        }
        draft.host = shape.host.as_deref().or(draft.host);
    }
    if let (Some(out), Some(number)) = (out, &mut number) {
        if let Some(written) = out.written(number) {
            *number = written;
        }
        draft.form = out.form;
        draft.user_phone = out.user_phone;
        draft.fallback_host = &out.host;
    }
    if number.as_ref().is_some_and(String::is_empty) {
        return None;
    }
    let was = Called::of(&parsed).map(|called| plain(&called));
    draft.number = number.as_deref().filter(|number| was.as_deref() != Some(number));
    Some(if draft.changes_nothing() { uri.to_vec() } else { draft.write() })
}

/// The same number as a SIP URI at this host: what is tried after a 416 to a tel URI of ours (R-4, TEL-4).
pub fn as_sip(uri: &[u8], host: &str) -> Option<Vec<u8>> {
    let parsed = Uri::parse(uri).ok().filter(|parsed| parsed.scheme == Scheme::Tel)?;
    Some(Draft { form: Form::Sip, fallback_host: host, ..Draft::of(&parsed) }.write())
}

fn plain(called: &Called) -> String {
    format!("{}{}", if called.is_global { "+" } else { "" }, called.digits)
}

impl NumbersOut {
    /// A number as this trunk wants it; `None` for one that is not E.164.
    fn written(&self, number: &str) -> Option<String> {
        let digits = number.strip_prefix('+')?;
        Some(match self.format {
            Format::E164 => number.to_owned(),
            Format::Digits => digits.to_owned(),
            Format::National => {
                let prefix = |prefix: &Option<String>| prefix.clone().unwrap_or_default();
                let own = self.plan.country_code.as_deref().and_then(|code| digits.strip_prefix(code));
                match own {
                    Some(national) => format!("{}{national}", prefix(&self.plan.trunk_prefix)),
                    None => format!("{}{digits}", prefix(&self.plan.international_prefix)),
                }
            }
        })
    }
}

/// A Request-URI to be written.
struct Draft<'a> {
    parsed: &'a Uri<'a>,
    /// The number in place of the one that is there.
    number: Option<&'a str>,
    /// The host in place of the one that is there.
    host: Option<&'a str>,
    form: Form,
    user_phone: bool,
    /// Host for a SIP URI that had none.
    fallback_host: &'a str,
}

impl<'a> Draft<'a> {
    fn of(parsed: &'a Uri<'a>) -> Self {
        Self { parsed, number: None, host: None, form: Form::Keep, user_phone: false, fallback_host: "" }
    }

    fn changes_nothing(&self) -> bool {
        let is_phone = || self.parsed.param("user").flatten().is_some_and(|user| user.eq_ignore_ascii_case(b"phone"));
        let keeps_form = match self.form {
            Form::Keep => true,
            Form::Sip => self.parsed.scheme != Scheme::Tel,
            Form::Tel => self.parsed.scheme == Scheme::Tel,
        };
        let is_tel = self.parsed.scheme == Scheme::Tel;
        self.number.is_none()
            && (self.host.is_none() || is_tel)
            && keeps_form
            && (!self.user_phone || is_tel || is_phone())
    }

    fn write(&self) -> Vec<u8> {
        let is_tel = self.parsed.scheme == Scheme::Tel;
        let mut out = Vec::with_capacity(self.parsed.opaque.len() + 32);
        match self.form {
            Form::Tel if is_tel || self.parsed.subscriber().is_some() => {
                out.extend_from_slice(b"tel:");
                self.write_user(&mut out);
            }
            Form::Sip if is_tel => {
                out.extend_from_slice(b"sip:");
                self.write_user(&mut out);
                out.push(b'@');
                out.extend_from_slice(self.host.unwrap_or(self.fallback_host).as_bytes());
                out.extend_from_slice(b";user=phone");
            }
            _ if is_tel => {
                out.extend_from_slice(b"tel:");
                self.write_user(&mut out);
            }
            _ => self.write_sip(&mut out),
        }
        out
    }

    fn write_sip(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(if self.parsed.scheme == Scheme::Sips { b"sips:" } else { b"sip:" });
        if self.parsed.user.is_some() {
            self.write_user(out);
            if let Some(password) = self.parsed.password {
                out.push(b':');
                out.extend_from_slice(password);
            }
            out.push(b'@');
        }
        match self.host {
            Some(host) => out.extend_from_slice(host.as_bytes()),
            None => {
                out.extend_from_slice(self.parsed.host_bytes);
                if let Some(port) = self.parsed.port {
                    out.push(b':');
                    crate::sip::text::push_decimal(out, port.into());
                }
            }
        }
        // What spoke of the old host goes with it.
        let goes = |name: &[u8]| {
            let names_host = name.eq_ignore_ascii_case(b"maddr") || name.eq_ignore_ascii_case(b"transport");
            self.host.is_some() && names_host || self.user_phone && name.eq_ignore_ascii_case(b"user")
        };
        push_params(self.parsed.params().filter(|(name, _)| !goes(name)), out);
        if self.user_phone && self.parsed.user.is_some() {
            out.extend_from_slice(b";user=phone");
        }
    }

    /// The user part of a SIP URI, or what follows `tel:`.
    fn write_user(&self, out: &mut Vec<u8>) {
        let is_tel = self.parsed.scheme == Scheme::Tel;
        let user = if is_tel { self.parsed.opaque } else { self.parsed.user.unwrap_or_default() };
        let Some(subscriber) = split_subscriber(user) else { return out.extend_from_slice(user) };
        let start = out.len();
        match TelUri::from_subscriber(subscriber).ok().filter(|_| is_tel && self.form == Form::Sip) {
            Some(tel) => tel.write_user(out),
            None => out.extend_from_slice(user),
        }
        let Some(number) = self.number else { return };
        let rest = out.split_off(start);
        let stays_tel = is_tel && self.form != Form::Sip || self.form == Form::Tel;
        for digit in number.bytes() {
            match digit {
                b'#' if !stays_tel => out.extend_from_slice(b"%23"), // no user part has it bare (RFC 3261 25.1)
                digit => out.push(digit),
            }
        }
        let params = rest.get(subscriber.number.len()..).unwrap_or_default();
        let is_global = number.starts_with('+');
        // A number that is complete needs no context, and one with other digits is in none.
        let keeps =
            |param: &&[u8]| !(is_global && param.get(..14).is_some_and(|p| p.eq_ignore_ascii_case(b"phone-context=")));
        for param in params.split(|b| *b == b';').skip(1).filter(keeps) {
            out.push(b';');
            out.extend_from_slice(param);
        }
    }
}

fn push_params<'a>(params: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>, out: &mut Vec<u8>) {
    for (name, value) in params {
        out.push(b';');
        out.extend_from_slice(name);
        if let Some(value) = value {
            out.push(b'=');
            out.extend_from_slice(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn german() -> DialPlan {
        DialPlan {
            country_code: Some("49".into()),
            international_prefix: Some("00".into()),
            trunk_prefix: Some("0".into()),
            national_min: 3,
            national_max: 11,
            bare_digits: None,
        }
    }

    fn text(bytes: &[u8]) -> &str {
        std::str::from_utf8(bytes).unwrap()
    }

    #[test]
    fn numbers_in_become_e164() {
        let mut numbers = NumbersIn { plan: DialPlan { national_min: 9, ..german() }, e164_min: Some(12) };
        for (uri, wanted) in [
            ("sip:0301234567@edge;user=phone", "sip:+49301234567@edge;user=phone"),
            ("sip:0012125551212@edge", "sip:+12125551212@edge"),
            ("sip:+49-30-123@edge:5070", "sip:+4930123@edge:5070"),
            ("sip:491234567890@edge", "sip:+491234567890@edge"),
            ("sip:110@edge", "sip:110@edge"),
            ("sip:*67@edge", "sip:*67@edge"),
            ("sip:alice@edge", "sip:alice@edge"),
            ("tel:030-123-4567;phone-context=+49;npdi", "tel:+49301234567;npdi"),
            ("sip:0301234567;rn=+4930;npdi@edge", "sip:+49301234567;rn=+4930;npdi@edge"),
            ("urn:service:sos", "urn:service:sos"),
        ] {
            assert_eq!(text(&normalised(uri.as_bytes(), Some(&numbers))), wanted, "{uri}");
            assert_eq!(text(&normalised(wanted.as_bytes(), Some(&numbers))), wanted, "once is enough: {wanted}");
        }
        numbers.e164_min = None;
        assert_eq!(text(&normalised(b"sip:491234567890@edge", Some(&numbers))), "sip:491234567890@edge");
    }

    #[test]
    fn numbers_out_are_written_as_the_trunk_wants() {
        let out = |format, form, user_phone| NumbersOut {
            plan: german(),
            format,
            form,
            host: "gw.example".into(),
            user_phone,
        };
        let cases = [
            ("sip:+49301234567@edge", out(Format::E164, Form::Keep, false), "sip:+49301234567@edge"),
            ("sip:+49301234567@edge", out(Format::Digits, Form::Keep, true), "sip:49301234567@edge;user=phone"),
            (
                "sip:+49301234567@edge;user=phone;x",
                out(Format::National, Form::Keep, true),
                "sip:0301234567@edge;x;user=phone",
            ),
            ("sip:+12125551212@edge", out(Format::National, Form::Keep, false), "sip:0012125551212@edge"),
            ("sip:110@edge", out(Format::National, Form::Keep, false), "sip:110@edge"),
            ("sip:+4930;rn=+49@edge;transport=tcp", out(Format::E164, Form::Tel, false), "tel:+4930;rn=+49"),
            (
                "tel:+4930;npdi;isub=7",
                out(Format::E164, Form::Sip, false),
                "sip:+4930;isub=7;npdi@gw.example;user=phone",
            ),
            ("tel:+4930;npdi", out(Format::National, Form::Sip, false), "sip:030;npdi@gw.example;user=phone"),
            ("sips:alice@edge", out(Format::Digits, Form::Tel, true), "sips:alice@edge"),
        ];
        for (uri, numbers, wanted) in cases {
            assert_eq!(text(&shaped(uri.as_bytes(), &[], Some(&numbers)).unwrap()), wanted, "{uri}");
        }
    }

    #[test]
    fn a_route_strips_adds_and_names_another_host() {
        let shape = |strip, add: &str, host: Option<&str>| Shape { strip, add: add.into(), host: host.map(Into::into) };
        for (uri, shape, wanted) in [
            ("sip:0049301234@edge", shape(2, "+", None), "sip:+49301234@edge"),
            ("sip:+49301234@edge", shape(1, "", None), "sip:49301234@edge"),
            ("sip:+49301234@edge", shape(1, "9#", None), "sip:9%2349301234@edge"),
            (
                "sip:+49301234@edge:5070;transport=tcp;maddr=1.2.3.4;x=y",
                shape(0, "", Some("gw.example:5080")),
                "sip:+49301234@gw.example:5080;x=y",
            ),
            ("sip:alice:pw@edge", shape(3, "9", Some("gw")), "sip:alice:pw@gw"),
            ("tel:+4930", shape(3, "0", Some("gw")), "tel:030"),
        ] {
            assert_eq!(text(&shaped(uri.as_bytes(), &[&shape], None).unwrap()), wanted, "{uri}");
        }
        assert_eq!(shaped(b"sip:12@edge", &[&shape(9, "", None)], None), None);
        let both = shaped(b"sip:0049301234@edge", &[&shape(2, "+", None), &shape(3, "0", Some("gw"))], None).unwrap();
        assert_eq!(text(&both), "sip:0301234@gw", "the route's own after that of its table");
        assert_eq!(text(&as_sip(b"tel:+49-30;npdi", "gw.example").unwrap()), "sip:+49-30;npdi@gw.example;user=phone");
        assert!(as_sip(b"sip:a@b", "gw").is_none());
    }
}
