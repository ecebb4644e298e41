// Compiled under #[cfg(test)] only.
use std::net::SocketAddr;

use super::*;
use crate::sip::hop::{ListenerId, Transport};
use crate::sip::{Framing, Index, Limits, parse};

fn hop(remote: &str) -> Hop {
    let remote: SocketAddr = remote.parse().unwrap();
    Hop { transport: Transport::Udp, local: ListenerId(0), remote, connection: None, peer: None }
}

fn guard() -> Guard {
    let mut guard = Guard {
        strangers: Some(Strangers { sources: 64, ..Strangers::default() }),
        bans: Arc::new(Bans::new(64)),
        vouched: Arc::new(Marks::new(64)),
        ..Guard::default()
    };
    guard.networks.add("192.0.2.0/24".parse().unwrap(), Standing::Known);
    guard.networks.add("198.51.100.0/24".parse().unwrap(), Standing::Denied);
    guard
}

const STRANGER: &str = "203.0.113.9:5060";

#[test]
fn kr10_a_stranger_has_a_burst_then_a_rate_and_is_banned_when_it_goes_on() {
    let (guard, start) = (guard(), crate::node::clock::instant());
    let mut gate = Gate::new(&guard, [1; 16], start);
    let mut seen = Vec::new();
    let mut banned = None;
    for _ in 0..200 {
        let (admission, ban) = gate.admit(&guard, start, &hop(STRANGER));
        seen.push(admission);
        banned = banned.or(ban);
    }
    let count = |what| seen.iter().filter(|admission| **admission == what).count();
    assert_eq!((count(Admission::Stranger), count(Admission::TooMany), count(Admission::Banned)), (40, 50, 110));
    assert_eq!(banned.unwrap().cause, Cause::Rate);
    // Another port and another worker know of it; its neighbour does not suffer.
    let mut other = Gate::new(&guard, [2; 16], start);
    assert_eq!(other.admit(&guard, start, &hop("203.0.113.9:9")).0, Admission::Banned);
    assert_eq!(gate.admit(&guard, start, &hop("203.0.113.10:5060")).0, Admission::Stranger);
    // And it ends.
    let later = start + Duration::from_secs(301);
    assert_eq!(gate.admit(&guard, later, &hop(STRANGER)).0, Admission::Stranger);
}

#[test]
fn trap14_a_neighbour_is_never_limited_and_what_is_denied_is_never_heard() {
    let (guard, now) = (guard(), crate::node::clock::instant());
    let mut gate = Gate::new(&guard, [1; 16], now);
    for _ in 0..100_000 {
        assert_eq!(gate.admit(&guard, now, &hop("192.0.2.7:5060")), (Admission::Known, None));
        assert_eq!(gate.may_answer(&guard, now, &hop("192.0.2.7:5060")), (true, None));
    }
    assert_eq!(gate.admit(&guard, now, &hop("198.51.100.1:5060")).0, Admission::Banned);
    assert!(gate.offence(&guard, now, &hop("192.0.2.7:5060"), Cause::Credentials).is_none());
    assert!(guard.bans.list(now).is_empty());
}

#[test]
fn c60_invented_addresses_take_no_memory_and_not_the_whole_worker() {
    let (guard, now) = (guard(), crate::node::clock::instant());
    let mut gate = Gate::new(&guard, [1; 16], now);
    let from =
        |n: u32| Hop { remote: SocketAddr::from((std::net::Ipv4Addr::from(0x0b00_0000 + n), 5060)), ..hop(STRANGER) };
    let admitted = (0..100_000).filter(|n| gate.admit(&guard, now, &from(*n)).0 == Admission::Stranger).count();
    assert_eq!(admitted, 2000, "the bucket of all strangers together");
    assert_eq!(gate.sources.capacity(), 64);
}

#[test]
fn e1_error_answers_to_strangers_are_few() {
    let (guard, now) = (guard(), crate::node::clock::instant());
    let mut gate = Gate::new(&guard, [1; 16], now);
    let answered = (0..60).filter(|_| gate.may_answer(&guard, now, &hop(STRANGER)).0).count();
    assert_eq!(answered, 10);
    assert_eq!(guard.bans.list(now).len(), 1, "50 requests that deserved no answer");
}

#[test]
fn who_is_vouched_for_is_treated_as_a_neighbour_for_that_time() {
    let (guard, now) = (guard(), crate::node::clock::instant());
    Gate::new(&guard, [2; 16], now).vouch(&guard, now, "203.0.113.9".parse().unwrap(), Duration::from_secs(60));
    let mut gate = Gate::new(&guard, [1; 16], now); // another worker
    assert_eq!(gate.admit(&guard, now, &hop(STRANGER)).0, Admission::Known);
    assert_eq!(gate.admit(&guard, now + Duration::from_secs(61), &hop(STRANGER)).0, Admission::Stranger);
}

#[test]
fn scanners_are_known_by_their_names() {
    let (guard, now) = (guard(), crate::node::clock::instant());
    let gate = Gate::new(&guard, [1; 16], now);
    let mut index = Index::new();
    let mut screen = |agent: &str| {
        let text = format!("OPTIONS sip:100@h SIP/2.0\r\nVia: SIP/2.0/UDP h\r\nUser-Agent: {agent}\r\n\r\n");
        let message = parse(text.as_bytes(), &mut index, Framing::Datagram, &Limits::default()).unwrap();
        gate.screen(&guard, now, &hop(STRANGER), message)
    };
    assert_eq!(screen("Asterisk PBX 20"), None);
    assert_eq!(screen("Friendly-Scanner").map(|banned| banned.cause), Some(Cause::Scanner));
    assert!(screen("a SIPVicious 0.3").is_some());
    assert!(guard.bans.is_banned(Source::of("203.0.113.9".parse().unwrap()), now));
}
