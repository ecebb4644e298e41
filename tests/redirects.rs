//! Diversions that a redirecting element signs and sends back in its 3xx (RFC 8946 7, D-18), from the 3xx to the verdict on the new target.

mod support;

use std::sync::Arc;

use support::rig::{CALLER, Rig, Sent, answer, listener, request, requests, routes, trunk, upstream};
use tempfile::TempDir;
use vesperd::cert::TrustAnchors;
use vesperd::passport::ppt::shaken::Attestation;
use vesperd::pki::lab::{self, Lab, Options};
use vesperd::proxy::route::table::Action;
use vesperd::proxy::{Config, On3xx, TrunkId};
use vesperd::sip::hop::Transport;
use vesperd::sip::{self, Framing, Index, Limits};
use vesperd::stir::authentication::{Signer, SignerConfig};
use vesperd::stir::replay::ReplayTable;
use vesperd::stir::verification::{FetchedChain, Outcome, Verifier, VerifierConfig};
use vesperd::stir::{Policy, Profile, Retarget, TrustStore, Verdict};

const NOW: i64 = 1_795_219_200;
/// Where calls are redirected, and where they go then.
const REDIRECTOR: &str = "198.51.100.20:5060";
const OTHER: &str = "198.51.100.21:5060";
const CALLED: &str = "+12155551213";
const SECOND: &str = "+12155558888";
const THIRD: &str = "+12155559999";

struct World {
    _directory: TempDir,
    lab: Lab,
    signer: Arc<Signer>,
}

impl World {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let lab = lab::create(directory.path(), NOW, &Options::default()).unwrap();
        let (chain, key) = (lab.provider.chain.clone(), lab.provider.key.serialize_der());
        let mut config = SignerConfig::new(Profile::Shaken, chain, key, lab.provider.x5u.clone());
        config.attestation = Some(Attestation::Full);
        Self { _directory: directory, signer: Arc::new(Signer::new(config).unwrap()), lab }
    }

    /// Calls go to the redirecting element, then to the other one; nothing is signed here.
    fn config(&self) -> Config {
        let mut config = Config {
            listeners: vec![listener(Transport::Udp, 5060)],
            trunks: vec![trunk("caller", &[CALLER]), trunk("redirector", &[REDIRECTOR]), trunk("other", &[OTHER])],
            routes: routes(&[(Some(0), 1)]),
            signers: vec![Arc::clone(&self.signer)],
            signer_names: vec!["provider".into()],
            signer_rich: vec![None],
            udp_mtu: 65_535,
            ..Config::default()
        };
        config.routes[0].action = Action::To(vec![TrunkId(1), TrunkId(2)]);
        for trunk in &mut config.trunks[1..] {
            trunk.on_3xx = On3xx::Recurse;
            trunk.redirect_tokens = true;
        }
        config
    }

    /// The same, where we could sign diversions ourselves.
    fn diverting(&self) -> Config {
        let mut config = self.config();
        config.trunks[1].sign = Some(0);
        config.trunks[1].signing.divert = true;
        config
    }

    /// Date and an Identity of whoever calls from +12015550100.
    fn signed(&self) -> String {
        let mut config = self.config();
        config.trunks[1].sign = Some(0);
        let sent = Rig::new(config).receive(CALLER, &request("INVITE", "", ""));
        let copy = requests(&sent, "INVITE")[0];
        format!("Date: {}\nIdentity: {}\n", copy.line("Date"), copy.line("Identity"))
    }

    /// The diversion of a request as the redirecting element signs it.
    fn div(&self, request: &Sent, target: &str) -> String {
        let (mut index, mut line) = (Index::new(), Vec::new());
        let message = sip::parse(request.text.as_bytes(), &mut index, Framing::Datagram, &Limits::default()).unwrap();
        self.signer.sign_diversion(NOW, message, uri(target).as_bytes(), &mut line).unwrap();
        String::from_utf8(line).unwrap()
    }

    /// What a verifier behind the new target finds.
    fn verdict(&self, copy: &Sent) -> Verdict {
        let mut verifier = Verifier::new(VerifierConfig::default(), [7; 16]);
        let chain = FetchedChain { certificates: self.lab.provider.chain.clone(), fresh_until: NOW + 3600 };
        let anchors = TrustAnchors::from_ders([self.lab.root.certificate().der()]).unwrap();
        let trust = TrustStore { anchors, logs: self.lab.log_list.clone(), ..TrustStore::default() };
        verifier.provide(NOW, &trust, &self.lab.provider.x5u, Ok(chain));
        let (mut index, replay) = (Index::new(), ReplayTable::default());
        let message = sip::parse(copy.text.as_bytes(), &mut index, Framing::Datagram, &Limits::default()).unwrap();
        match verifier.verify(NOW, &Policy::shaken(), &trust, Some(&replay), message) {
            Outcome::Done(verdict) => verdict,
            Outcome::Need { x5u } => panic!("needs {x5u}"),
        }
    }

    fn assert_proven(&self, copy: &Sent, diversions: usize) {
        let verdict = self.verdict(copy);
        assert!(verdict.is_valid(), "{verdict:?}");
        assert!(verdict.tokens().iter().all(|token| token.fault().is_none()), "{verdict:?}");
        let valid = verdict.valid().unwrap();
        assert_eq!((valid.retarget(), valid.diversions.len()), (Retarget::Proven, diversions), "{}", copy.text);
    }
}

fn uri(number: &str) -> String {
    format!("sip:{number}@{REDIRECTOR}")
}

/// A 302 to these numbers with these lines.
fn moved(copy: &Sent, numbers: &[&str], lines: &str) -> String {
    let contacts: String = numbers.iter().map(|number| format!("Contact: <{}>\n", uri(number))).collect();
    answer(copy, 302, &format!("{contacts}{}", lines.replace("\r\n", "\n")))
}

fn copy(sent: &[Sent]) -> Sent {
    let copies = requests(sent, "INVITE");
    assert_eq!(copies.len(), 1, "{sent:?}");
    copies[0].clone()
}

/// A call that is redirected with lines made of its first copy: that copy, the one for the new target, these lines.
fn redirected(config: Config, lines: &str, made: impl FnOnce(&Sent) -> String) -> (Sent, Sent, String) {
    let mut rig = Rig::new(config);
    let first = copy(&rig.receive(CALLER, &request("INVITE", "", lines)));
    let made = made(&first);
    let second = copy(&rig.receive(REDIRECTOR, &moved(&first, &[SECOND], &made)));
    assert!(second.first_line().contains(SECOND));
    (first, second, made)
}

/// The diversions of a copy.
fn divs(copy: &Sent) -> Vec<&str> {
    copy.lines("Identity").into_iter().filter(|identity| identity.contains("ppt=\"div\"")).collect()
}

#[test]
fn d18_the_diversion_of_a_3xx_goes_to_the_new_target_and_proves_the_way_there() {
    let world = World::new();
    let line = world.signed();
    let (first, second, made) = redirected(world.config(), &line, |first| world.div(first, SECOND));
    assert_eq!(second.lines("Identity")[0], first.line("Identity"), "D-11");
    assert_eq!(second.lines("Identity").len(), 2);
    assert_eq!(format!("Identity: {}\r\n", divs(&second)[0]), made, "octet by octet");
    world.assert_proven(&second, 1);

    // Not wanted: nothing proves it.
    let mut config = world.config();
    config.trunks[1].redirect_tokens = false;
    let (_, second, _) = redirected(config, &line, |first| world.div(first, SECOND));
    assert!(divs(&second).is_empty());
    assert_ne!(world.verdict(&second).valid().map(|token| token.retarget()), Some(Retarget::Proven));
}

#[test]
fn d18_d14_we_sign_no_diversion_that_was_signed_and_sign_one_that_was_not() {
    let world = World::new();
    let line = world.signed();
    let (_, second, made) = redirected(world.diverting(), &line, |first| world.div(first, SECOND));
    assert_eq!(divs(&second).iter().map(|div| format!("Identity: {div}\r\n")).collect::<Vec<_>>(), [made]);
    world.assert_proven(&second, 1);
    for unfit in ["", "Identity: a.b.c;info=<https://a.example/>;ppt=div\n"] {
        let (_, second, _) = redirected(world.diverting(), &line, |_| unfit.to_owned());
        assert_eq!(divs(&second).len(), 1, "our own");
        world.assert_proven(&second, 1);
    }
}

/// A name, and the lines of a 3xx to this copy.
type Case<'c> = (&'c str, &'c dyn Fn(&Sent) -> String);

#[test]
fn d10_d16_only_diversions_that_lead_from_a_token_of_the_call_to_the_target_go_on() {
    let world = World::new();
    let line = world.signed();
    let of_another_caller = |first: &Sent| {
        let from = |text: &str| text.replace("sip:+12015550100", "sip:+12015550101");
        let mut config = world.config();
        config.trunks[1].sign = Some(0);
        let other = copy(&Rig::new(config).receive(CALLER, &from(&request("INVITE", "", ""))));
        assert_ne!(other.line("Identity"), first.line("Identity"));
        world.div(&other, SECOND)
    };
    let of_another_number = |first: &Sent| {
        let with = first.text.replacen(&format!("sip:{CALLED}"), &format!("sip:{THIRD}"), 1);
        let next = Sent {
            text: with.replace("Content-Length", &format!("{}Content-Length", world.div(first, THIRD))),
            ..first.clone()
        };
        let both = world.div(&next, SECOND);
        assert_eq!(both.matches("Identity: ").count(), 1, "THIRD to SECOND");
        both
    };
    let as_kind = |first: &Sent, kind: &str| world.div(first, SECOND).replace("ppt=\"div\"", kind);
    let cases: [Case<'_>; 8] = [
        ("to another target", &|first| world.div(first, THIRD)),
        ("of another caller", &of_another_caller),
        ("from another number", &of_another_number),
        ("of another kind", &|first| as_kind(first, "ppt=\"shaken\"")),
        ("of no kind", &|first| as_kind(first, "x=y")),
        ("the token itself", &|first| format!("Identity: {}\n", first.line("Identity"))),
        ("a compact form", &|first| {
            let div = world.div(first, SECOND);
            format!("Identity: ..{}", div.split('.').nth(2).unwrap())
        }),
        ("nonsense", &|_| "Identity: x;ppt=\"div\"\nIdentity: a.b.c;ppt=div;info=<\nIdentity:\n".to_owned()),
    ];
    for (what, made) in cases {
        let (first, second, _) = redirected(world.config(), &line, made);
        assert_eq!(second.lines("Identity"), first.lines("Identity"), "{what}");
    }
    // D-10: none without a token in the request, though the redirecting element had one made up for it.
    let (_, second, _) = redirected(world.config(), "", |first| {
        let with = first.text.replacen("Max-Forwards", &format!("{}Max-Forwards", line.replace('\n', "\r\n")), 1);
        world.div(&Sent { text: with, ..first.clone() }, SECOND)
    });
    assert!(second.lines("Identity").is_empty(), "{}", second.text);
}

#[test]
fn d18_a_diversion_of_the_token_that_we_signed_goes_with_it() {
    let world = World::new();
    let mut config = world.config();
    config.trunks[1].sign = Some(0);
    let (first, second, _) = redirected(config.clone(), "", |first| world.div(first, SECOND));
    assert_eq!(second.lines("Identity"), [first.line("Identity"), divs(&second)[0]]);
    world.assert_proven(&second, 1);
    // At a trunk that we do not sign for it has nothing to begin with.
    config.routes[0].action = Action::To(vec![TrunkId(1), TrunkId(2)]);
    let mut rig = Rig::new(config);
    let first = copy(&rig.receive(CALLER, &request("INVITE", "", "")));
    let contact = format!("Contact: <sip:{SECOND}@{OTHER}>\n{}", world.div(&first, SECOND).replace("\r\n", "\n"));
    let second = copy(&rig.receive(REDIRECTOR, &answer(&first, 302, &contact)));
    assert!(second.is_to(OTHER) && second.lines("Identity").is_empty(), "{}", second.text);
}

#[test]
fn d15_d18_redirections_one_after_the_other_and_at_once_make_a_chain() {
    let world = World::new();
    let line = world.signed();
    let mut rig = Rig::new(world.config());
    let first = copy(&rig.receive(CALLER, &request("INVITE", "", &line)));
    let second = copy(&rig.receive(REDIRECTOR, &moved(&first, &[SECOND], &world.div(&first, SECOND))));
    let third = copy(&rig.receive(REDIRECTOR, &moved(&second, &[THIRD], &world.div(&second, THIRD))));
    assert_eq!((divs(&third).len(), third.lines("Identity").len()), (2, 3));
    world.assert_proven(&third, 2);

    // Both steps in one 3xx.
    let both = format!("{}{}", world.div(&second, THIRD), world.div(&first, SECOND));
    let mut rig = Rig::new(world.config());
    let again = copy(&rig.receive(CALLER, &request("INVITE", "", &line)));
    let third = copy(&rig.receive(REDIRECTOR, &moved(&again, &[THIRD], &both)));
    assert_eq!(divs(&third).len(), 2);
    world.assert_proven(&third, 2);

    // The second redirection proves nothing: then the first is worth nothing either.
    let mut rig = Rig::new(world.config());
    let first = copy(&rig.receive(CALLER, &request("INVITE", "", &line)));
    let second = copy(&rig.receive(REDIRECTOR, &moved(&first, &[SECOND], &world.div(&first, SECOND))));
    let third = copy(&rig.receive(REDIRECTOR, &moved(&second, &[THIRD], "")));
    assert!(divs(&third).is_empty());
}

#[test]
fn d18_each_target_gets_its_own_and_none_twice() {
    let world = World::new();
    let line = world.signed();
    let mut rig = Rig::new(world.config());
    let first = copy(&rig.receive(CALLER, &request("INVITE", "", &line)));
    let (to_second, to_third) = (world.div(&first, SECOND), world.div(&first, THIRD));
    let echo = format!("Identity: {}\n", first.line("Identity"));
    let lines = format!("{echo}{to_third}{to_second}{to_second}");
    let second = copy(&rig.receive(REDIRECTOR, &moved(&first, &[SECOND, THIRD], &lines)));
    let third = copy(&rig.receive(REDIRECTOR, &answer(&second, 503, "")));
    for (copy, own) in [(&second, &to_second), (&third, &to_third)] {
        assert_eq!(
            divs(copy).iter().map(|div| format!("Identity: {div}\r\n")).collect::<Vec<_>>(),
            std::slice::from_ref(own)
        );
        world.assert_proven(copy, 1);
    }
    let end = rig.receive(REDIRECTOR, &answer(&third, 486, ""));
    assert_eq!(upstream(&end), [486]);
    rig.settle();
}

#[test]
fn d15_s6_no_more_than_five_and_none_beyond_the_domain_of_tokens() {
    let world = World::new();
    let mut line = world.signed();
    // Four diversions before it comes to us, then one more, then two more.
    let mut number = CALLED.to_owned();
    for step in 0..4 {
        let text = request("INVITE", "", &line).replacen(CALLED, &number, 1);
        let sent = copy(&Rig::new(world.config()).receive(CALLER, &text));
        number = format!("+1215555200{step}");
        line.push_str(&world.div(&sent, &number).replace("\r\n", "\n"));
    }
    let text = request("INVITE", "", &line).replacen(CALLED, &number, 1);
    let mut rig = Rig::new(world.config());
    let first = copy(&rig.receive(CALLER, &text));
    let echo: String = first.lines("Identity").iter().map(|identity| format!("Identity: {identity}\n")).collect();
    let lines = format!("{echo}{}", world.div(&first, SECOND));
    let second = copy(&rig.receive(REDIRECTOR, &moved(&first, &[SECOND], &lines)));
    assert_eq!((divs(&first).len(), divs(&second).len()), (4, 5), "what it has is not given twice");
    world.assert_proven(&second, 5);
    let third = copy(&rig.receive(REDIRECTOR, &moved(&second, &[THIRD], &world.div(&second, THIRD))));
    assert_eq!(divs(&third).len(), 4, "those that came with the call");

    let mut config = world.config();
    config.trunks[1].headers.withholds_tokens = true;
    let given = copy(&Rig::new(world.config()).receive(CALLER, &request("INVITE", "", &world.signed())));
    let (first, second, _) = redirected(config, &world.signed(), |_| world.div(&given, SECOND));
    assert!(first.lines("Identity").is_empty() && second.lines("Identity").is_empty());
}
