//! The edge of the trust domain (RFC 3325, RFC 3323): who learns the asserted identity (E-4), what Privacy asks for there (E-5).

use super::history;
use crate::sip::{Message, Name, Patch};
use crate::stir::mark;

/// What becomes of a header that tells where a call has been.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Passing {
    /// It passes as it is.
    #[default]
    Pass,
    /// It passes, and says what this element does.
    Add,
    /// It goes no further.
    Remove,
}

/// How headers pass between us and a trunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct HeaderRules {
    /// An untrusted trunk does not learn the asserted identity, even where Privacy says nothing.
    pub withholds_identity: bool,
    /// History-Info (RFC 7044).
    pub history_info: Passing,
    /// Diversion (RFC 5806).
    pub diversion: Passing,
    /// It is outside the domain in which tokens are shared: no Identity field goes there (RFC 8588 10, S-6).
    pub withholds_tokens: bool,
    /// It learns what verification found about numbers (`verstat`); others find no such parameter, and it none of others' making.
    pub verstat: bool,
}

/// The two ends that a message passes between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crossing {
    /// The asserted identity it brings is believed.
    pub from_trusted: bool,
    /// Whoever gets it is in the trust domain.
    pub to_trusted: bool,
    /// Rules of the trunk it goes to.
    pub rules: HeaderRules,
}

/// The levels of Privacy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Privacy(u8);

const LEVELS: [(&str, u8); 7] = [
    ("user", Privacy::USER),
    ("header", Privacy::HEADER),
    ("session", Privacy::SESSION),
    ("none", Privacy::NONE),
    ("critical", Privacy::CRITICAL),
    ("id", Privacy::ID),
    ("history", Privacy::HISTORY),
];

impl Privacy {
    const USER: u8 = 1;
    const HEADER: u8 = 1 << 1;
    const SESSION: u8 = 1 << 2;
    const NONE: u8 = 1 << 3;
    const CRITICAL: u8 = 1 << 4;
    const ID: u8 = 1 << 5;
    const HISTORY: u8 = 1 << 6;

    /// What a message asks for.
    pub fn of(message: Message<'_>) -> Self {
        let levels = message.fields_of(Name::Privacy).flat_map(|field| words(field.value()));
        Self(levels.fold(0, |all, word| all | level(word)))
    }

    fn has(self, level: u8) -> bool {
        self.0 & level != 0
    }

    /// Entries of our own domain in History-Info are not for others.
    pub fn hides_history(self) -> bool {
        self.has(Self::HISTORY) && !self.has(Self::NONE)
    }

    /// Critical levels that only a back-to-back user agent could provide: the phrase of the 500 that says so.
    fn unmet(self) -> Option<&'static str> {
        if !self.has(Self::CRITICAL) || self.has(Self::NONE) {
            return None;
        }
        Some(match (self.has(Self::USER), self.has(Self::HEADER), self.has(Self::SESSION)) {
            (false, false, false) => return None,
            (true, false, false) => "Privacy Not Provided: user",
            (false, true, false) => "Privacy Not Provided: header",
            (false, false, true) => "Privacy Not Provided: session",
            (true, true, false) => "Privacy Not Provided: user, header",
            (true, false, true) => "Privacy Not Provided: user, session",
            (false, true, true) => "Privacy Not Provided: header, session",
            (true, true, true) => "Privacy Not Provided: user, header, session",
        })
    }
}

fn words(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|b| matches!(b, b';' | b',')).map(<[u8]>::trim_ascii).filter(|word| !word.is_empty())
}

fn level(word: &[u8]) -> u8 {
    LEVELS.iter().find(|(name, _)| word.eq_ignore_ascii_case(name.as_bytes())).map_or(0, |(_, level)| *level)
}

impl Crossing {
    /// It leaves the trust domain: here what is private stays behind.
    fn is_boundary(self) -> bool {
        self.from_trusted && !self.to_trusted
    }

    /// Whether whoever gets a message may learn who is asserted by it.
    pub fn tells_identity(self, message: Message<'_>) -> bool {
        let privacy = Privacy::of(message);
        self.to_trusted || privacy.has(Privacy::NONE) || !(privacy.has(Privacy::ID) || self.rules.withholds_identity)
    }

    /// The phrase of the 500 for a request whose critical privacy can not be had beyond this point. Inside the trust domain the next
    /// element may provide it.
    pub fn unmet(self, request: Message<'_>) -> Option<&'static str> {
        if self.to_trusted { None } else { Privacy::of(request).unmet() }
    }

    /// Adds the edits that this crossing takes. `own` knows the hosts of our own domain.
    pub fn write(self, message: Message<'_>, own: impl Fn(&[u8]) -> bool, patch: &mut Patch) {
        let removed = |name, patch: &mut Patch| message.fields_of(name).for_each(|field| patch.remove(field.line));
        if !self.from_trusted {
            removed(Name::PAssertedIdentity, patch);
            removed(Name::PPreferredIdentity, patch);
        }
        if !(self.from_trusted && self.rules.verstat) {
            mark::strip(message, patch);
        }
        if self.rules.withholds_tokens {
            removed(Name::Identity, patch);
        }
        if self.rules.history_info == Passing::Remove {
            removed(Name::HistoryInfo, patch);
        }
        if self.rules.diversion == Passing::Remove {
            removed(Name::Diversion, patch);
        }
        if !self.is_boundary() {
            return;
        }
        let privacy = Privacy::of(message);
        if privacy.has(Privacy::NONE) {
            return; // RFC 3323 4.2: nothing is to be done
        }
        if privacy.has(Privacy::ID) || self.rules.withholds_identity {
            removed(Name::PAssertedIdentity, patch);
        }
        if self.rules.history_info != Passing::Remove {
            history::anonymise(message, own, patch);
        }
        if privacy.0 != 0 {
            keep_levels(message, !(Privacy::ID | Privacy::HISTORY), patch);
        }
    }
}

/// Levels that have been provided go from Privacy; without any left but `critical` the header goes (E-5).
fn keep_levels(message: Message<'_>, kept: u8, patch: &mut Patch) {
    let stays = |word: &&[u8]| level(word) == 0 || level(word) & kept != 0;
    let is_done = |word: &[u8]| !stays(&word);
    if !message.fields_of(Name::Privacy).any(|field| words(field.value()).any(is_done)) {
        return;
    }
    let asks = |word: &[u8]| stays(&word) && level(word) != Privacy::CRITICAL;
    let asks_on = message.fields_of(Name::Privacy).any(|field| words(field.value()).any(asks));
    for field in message.fields_of(Name::Privacy) {
        let left: Vec<&[u8]> = words(field.value()).filter(stays).collect();
        if left.is_empty() || !asks_on {
            patch.remove(field.line);
        } else {
            patch.replace(field.value_range.clone(), &left.join(&b";"[..]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::{Framing, Index, Limits, parse};

    const PAI: &str = "P-Asserted-Identity: <sip:+1@a>, <tel:+1>\r\n";
    const PPI: &str = "P-Preferred-Identity: <sip:+2@a>\r\n";

    /// The lines that are left of those of a message.
    fn crossed(lines: &str, crossing: Crossing) -> String {
        let text = format!("INVITE sip:b@c SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bKx\r\n{lines}Call-ID: c\r\n\r\n");
        let (mut index, mut patch, mut out) = (Index::new(), Patch::new(), Vec::new());
        let message = parse(text.as_bytes(), &mut index, Framing::Datagram, &Limits::default()).unwrap();
        crossing.write(message, |host| host == b"own.example", &mut patch);
        patch.write(message.bytes(), &mut out);
        let text = String::from_utf8(out).unwrap();
        text.split("bKx\r\n").nth(1).unwrap().split("Call-ID").next().unwrap().to_owned()
    }

    fn between(from_trusted: bool, to_trusted: bool) -> Crossing {
        Crossing { from_trusted, to_trusted, rules: HeaderRules::default() }
    }

    #[test]
    fn e4_who_learns_the_asserted_identity() {
        let privacy = |levels: &str| format!("Privacy: {levels}\r\n");
        let (keep, none) = (PAI.to_owned(), String::new());
        for (from, to, levels, withholds, left) in [
            (true, true, "", false, keep.clone()),
            (true, true, "", true, keep.clone()),
            (true, true, "id", false, format!("{PAI}{}", privacy("id"))),
            (true, true, "none", false, format!("{PAI}{}", privacy("none"))),
            (true, false, "", false, keep.clone()),
            (true, false, "", true, none.clone()),
            (true, false, "id", false, none.clone()),
            (true, false, "ID", true, none.clone()),
            (true, false, "none", false, format!("{PAI}{}", privacy("none"))),
            (true, false, "none", true, format!("{PAI}{}", privacy("none"))),
            (true, false, "user", false, format!("{PAI}{}", privacy("user"))),
            (false, true, "", false, none.clone()),
            (false, true, "none", false, privacy("none")),
            (false, false, "", false, none.clone()),
            (false, false, "id", false, privacy("id")),
        ] {
            let mut crossing = between(from, to);
            crossing.rules.withholds_identity = withholds;
            let lines = format!("{PAI}{}", if levels.is_empty() { String::new() } else { privacy(levels) });
            assert_eq!(crossed(&lines, crossing), left, "{from} {to} {levels} {withholds}");
        }
        for to in [true, false] {
            assert_eq!(crossed(&format!("{PPI}{PAI}"), between(false, to)), "", "only a hint to whoever authenticates");
            assert_eq!(crossed(&format!("{PPI}{PAI}"), between(true, to)), format!("{PPI}{PAI}"));
        }
    }

    #[test]
    fn e5_levels_that_were_provided_go() {
        for (levels, left) in [
            ("id", ""),
            ("id;critical", ""),
            ("id; user", "Privacy: user\r\n"),
            ("user;id;critical;x-new", "Privacy: user;critical;x-new\r\n"),
            ("header;critical", "Privacy: header;critical\r\n"),
            ("history", ""),
            ("none;id", "Privacy: none;id\r\n"),
        ] {
            assert_eq!(crossed(&format!("Privacy: {levels}\r\n"), between(true, false)), left, "{levels}");
            assert_eq!(
                crossed(&format!("Privacy: {levels}\r\n"), between(true, true)),
                format!("Privacy: {levels}\r\n")
            );
        }
        assert_eq!(crossed("Privacy: id\r\nPrivacy: user\r\n", between(true, false)), "Privacy: user\r\n");
        let split = "Privacy: id;critical\r\nPrivacy: user\r\n";
        assert_eq!(crossed(split, between(true, false)), "Privacy: critical\r\nPrivacy: user\r\n", "of all lines");
        assert_eq!(crossed("Privacy: id;critical\r\nPrivacy: history\r\n", between(true, false)), "");
    }

    #[test]
    fn e5_critical_levels_nobody_provides_are_named() {
        let unmet = |levels: &str, to_trusted| {
            let text =
                format!("INVITE sip:b@c SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bKx\r\nPrivacy: {levels}\r\n\r\n");
            let mut index = Index::new();
            let message = parse(text.as_bytes(), &mut index, Framing::Datagram, &Limits::default()).unwrap();
            between(true, to_trusted).unmet(message)
        };
        assert_eq!(unmet("header;session;critical", false), Some("Privacy Not Provided: header, session"));
        assert_eq!(unmet("critical;user", false), Some("Privacy Not Provided: user"));
        for met in ["header", "id;critical", "history;id;critical", "none;critical;user", "critical"] {
            assert_eq!(unmet(met, false), None, "{met}");
        }
        assert_eq!(unmet("header;critical", true), None, "the next element in the trust domain may provide it");
    }

    #[test]
    fn e6_e7_rules_of_a_trunk_remove_what_tells_where_a_call_has_been() {
        let lines =
            "History-Info: <sip:a@b>;index=1\r\nDiversion: <sip:a@b>;reason=unknown\r\nReason: SIP;cause=486\r\n";
        let (history_info, diversion) = (Passing::Remove, Passing::Remove);
        let crossing = Crossing {
            rules: HeaderRules { history_info, diversion, ..HeaderRules::default() },
            ..between(true, true)
        };
        assert_eq!(crossed(lines, crossing), "Reason: SIP;cause=486\r\n");
        assert_eq!(crossed(lines, between(false, false)), lines, "they pass by default");
    }

    #[test]
    fn s6_tokens_stay_inside_and_what_is_said_of_them_goes_on() {
        let others = "Date: Sat, 21 Nov 2026 00:00:00 GMT\r\nReason: STIR ;cause=438 ;ppi=\"..c\"\r\nIdentity-Info: x\r\nResource-Priority: ets.1\r\n";
        let lines = format!(
            "Identity: a.b.c;info=<https://a.example/>\r\ny: ..c;info=<https://a.example/>\r\n{others}iDENTITY : a\r\n"
        );
        for (from, to) in [(true, true), (true, false), (false, true), (false, false)] {
            let mut crossing = between(from, to);
            assert_eq!(crossed(&lines, crossing), lines, "they pass by default");
            crossing.rules.withholds_tokens = true;
            assert_eq!(crossed(&lines, crossing), others, "{from} {to}");
        }
    }

    #[test]
    fn e6_our_own_entries_are_anonymised_at_the_boundary() {
        let lines = "History-Info: \"Jane, Boss\" <sip:boss@OWN.example?Reason=SIP%3Bcause%3D486>;index=1, \"B\" <sip:b@other.example>;index=1.1;mp=1\r\nPrivacy: history\r\n";
        let left =
            "History-Info: <sip:anonymous@anonymous.invalid>;index=1, \"B\" <sip:b@other.example>;index=1.1;mp=1\r\n";
        assert_eq!(crossed(lines, between(true, false)), left);
        let one = "History-Info: <sip:boss@own.example?Privacy=history>;index=1,<sip:desk@own.example>;index=1.1\r\n";
        let left = "History-Info: <sip:anonymous@anonymous.invalid>;index=1,<sip:desk@own.example>;index=1.1\r\n";
        assert_eq!(
            crossed(&format!("{one}Privacy: history;critical\r\n"), between(true, true)),
            format!("{one}Privacy: history;critical\r\n")
        );
        assert_eq!(crossed(one, between(true, false)), left, "an entry that says so itself");
    }
}
