// Compiled under #[cfg(test)] only. KR-1: shares of 10,000 picks within one percent, changes of state, one member and none.

use std::time::Duration;

use super::*;
use crate::sip::hop::Transport;

const PICKS: u64 = 10_000;

const ALL: [Algorithm; 14] = [
    Algorithm::Serial,
    Algorithm::RoundRobin,
    Algorithm::Random,
    Algorithm::CallIdHash,
    Algorithm::FromHash,
    Algorithm::ToHash,
    Algorithm::RuriHash,
    Algorithm::AuthUserHash,
    Algorithm::KeyHash,
    Algorithm::Weighted,
    Algorithm::Srv,
    Algorithm::LeastCalls,
    Algorithm::Parallel,
    Algorithm::Latency,
];

/// A generator of even spread; its seed is fixed, so the test is the same each time.
fn generator() -> impl FnMut() -> u64 {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    }
}

fn hop(last: u8) -> NextHop {
    NextHop { transport: Transport::Udp, remote: ([192, 0, 2, last], 5060).into() }
}

fn fail(dispatcher: &Dispatcher, place: usize, pause: Option<u32>, unix: i64) -> Option<Change> {
    dispatcher.failed(place, hop(1), pause, unix)
}

fn asked(call: u64, random: u64, unix: i64) -> Asked {
    Asked { key: Some(choice::hash(&call.to_be_bytes())), random, unix, is_call: true, is_emergency: false }
}

fn order(dispatcher: &Dispatcher, unix: i64) -> Vec<usize> {
    dispatcher.choose(dispatcher.members().len(), &asked(1, 7, unix)).places().collect()
}

/// How often each comes first, in percent.
fn shares(dispatcher: &Dispatcher, unix: i64) -> Vec<f64> {
    let (mut firsts, mut random) = (vec![0_u32; dispatcher.members().len()], generator());
    for call in 0..PICKS {
        let order: Vec<usize> = dispatcher.choose(0, &asked(call, random(), unix)).places().collect();
        let mut once = order.clone();
        once.sort_unstable();
        once.dedup();
        assert_eq!(once.len(), order.len(), "each once");
        firsts[order[0]] += 1;
    }
    firsts.iter().map(|n| f64::from(*n) * 100.0 / PICKS as f64).collect()
}

fn near(found: &[f64], wanted: &[f64]) {
    let is_near = found.iter().zip(wanted).all(|(found, wanted)| (found - wanted).abs() < 1.0);
    assert!(found.len() == wanted.len() && is_near, "{found:?} instead of {wanted:?}");
}

fn latencies(millis: &[u64]) -> Dispatcher {
    let member = |(place, millis): (usize, &u64)| Member {
        latency: (*millis > 0).then(|| Duration::from_millis(*millis)),
        ..Member::new(place.to_string())
    };
    Dispatcher::with_members(Algorithm::Latency, millis.iter().enumerate().map(member).collect())
}

fn with_priorities(algorithm: Algorithm, priorities: &[u16]) -> Dispatcher {
    let member = |(place, priority): (usize, &u16)| Member { priority: *priority, ..Member::new(place.to_string()) };
    Dispatcher::with_members(algorithm, priorities.iter().enumerate().map(member).collect())
}

#[test]
fn kr1_each_algorithm_gives_each_next_hop_its_share() {
    let even = [100.0 / 3.0; 3];
    for algorithm in ALL {
        let dispatcher = Dispatcher::new(algorithm, vec![60, 30, 10], 3);
        let wanted = match algorithm {
            Algorithm::Serial | Algorithm::Parallel | Algorithm::LeastCalls => [100.0, 0.0, 0.0],
            Algorithm::Weighted | Algorithm::Srv => [60.0, 30.0, 10.0],
            _ => even,
        };
        near(&shares(&dispatcher, 0), &wanted);
    }
    near(&shares(&Dispatcher::new(Algorithm::Weighted, vec![0, 3, 1], 3), 0), &[0.0, 75.0, 25.0]);
    near(&shares(&Dispatcher::new(Algorithm::Srv, vec![60, 30, 10, 0], 4), 0), &[59.4, 29.7, 9.9, 1.0]);
    near(&shares(&latencies(&[50, 10, 11, 0]), 0), &[0.0, 33.3, 33.3, 33.3]);
}

#[test]
fn kr1_the_rest_follows_by_weight_too() {
    let dispatcher = Dispatcher::new(Algorithm::Weighted, vec![50, 30, 20], 3);
    let (mut seconds, mut random) = ([0_u32; 3], generator());
    for call in 0..PICKS {
        let order: Vec<usize> = dispatcher.choose(3, &asked(call, random(), 0)).places().collect();
        seconds[order[1]] += 1;
    }
    // Drawn without replacement: P(second = i) is the sum over j of w_j * w_i / (1 - w_j).
    let wanted =
        [0.3 * 0.5 / 0.7 + 0.2 * 0.5 / 0.8, 0.5 * 0.3 / 0.5 + 0.2 * 0.3 / 0.8, 0.5 * 0.2 / 0.5 + 0.3 * 0.2 / 0.7];
    near(&seconds.map(|n| f64::from(n) * 100.0 / PICKS as f64), &wanted.map(|share: f64| share * 100.0));
}

#[test]
fn kr1_without_a_key_hashes_take_turns() {
    for algorithm in ALL.into_iter().filter(|algorithm| algorithm.is_hash()) {
        let dispatcher = Dispatcher::new(algorithm, vec![], 3);
        let firsts: Vec<_> = (0..6)
            .map(|_| dispatcher.choose(3, &Asked { key: None, ..asked(1, 7, 0) }).places().next().unwrap())
            .collect();
        assert_eq!(firsts, [0, 1, 2, 0, 1, 2], "{algorithm:?}");
    }
}

#[test]
fn kr1_one_and_none() {
    for algorithm in ALL {
        assert_eq!(order(&Dispatcher::new(algorithm, vec![0], 1), 0), [0], "{algorithm:?}");
        assert!(order(&Dispatcher::new(algorithm, vec![], 0), 0).is_empty(), "{algorithm:?}");
        let two = Dispatcher::new(algorithm, vec![1, 1], 2);
        two.members()[0].destination.set_state(MemberState::Disabled);
        assert_eq!(order(&two, 0), [1], "{algorithm:?}");
        two.members()[1].destination.set_state(MemberState::Draining);
        assert!(order(&two, 0).is_empty(), "{algorithm:?}");
    }
    let unknown = Dispatcher::default();
    assert_eq!(unknown.choose(3, &asked(1, 7, 0)).places().collect::<Vec<_>>(), [0, 1, 2]);
}

#[test]
fn kr1_lower_priorities_come_first_whatever_the_algorithm() {
    for algorithm in ALL {
        let dispatcher = with_priorities(algorithm, &[20, 10, 20, 10]);
        for call in 0..100 {
            let choice = dispatcher.choose(4, &asked(call, call.wrapping_mul(0x9e37_79b9_7f4a_7c15), 0));
            let mut order: Vec<usize> = choice.places().collect();
            let starts: Vec<bool> = choice.iter().map(|(_, starts)| starts).collect();
            assert_eq!(starts, [true, false, true, false], "{algorithm:?}");
            order[..2].sort_unstable();
            order[2..].sort_unstable();
            assert_eq!(order, [1, 3, 0, 2], "{algorithm:?}");
        }
    }
    let dispatcher = with_priorities(Algorithm::RoundRobin, &[20, 10, 20, 10]);
    near(&shares(&dispatcher, 0), &[0.0, 50.0, 0.0, 50.0]);
    [1, 3].iter().for_each(|place| assert!(fail(&dispatcher, *place, Some(60), 0).is_some()));
    near(&shares(&dispatcher, 1), &[50.0, 0.0, 50.0, 0.0]);
    assert_eq!(dispatcher.choose(4, &asked(1, 7, 1)).places().count(), 4, "those that are down come last");
}

#[test]
fn kr1_a_change_of_state_changes_the_shares() {
    for algorithm in ALL {
        let dispatcher = Dispatcher::new(algorithm, vec![50, 25, 25], 3);
        fail(&dispatcher, 0, Some(60), 0);
        let wanted = match algorithm {
            Algorithm::Serial | Algorithm::Parallel | Algorithm::LeastCalls => [0.0, 100.0, 0.0],
            _ => [0.0, 50.0, 50.0],
        };
        near(&shares(&dispatcher, 1), &wanted);
        assert_eq!(order(&dispatcher, 1)[2], 0, "{algorithm:?}");
        let back = shares(&dispatcher, 60);
        assert!(back[0] > 30.0, "{algorithm:?}: {back:?}");
    }
}

#[test]
fn kr1_a_next_hop_that_goes_moves_only_its_own_share() {
    let dispatcher = Dispatcher::new(Algorithm::CallIdHash, vec![], 4);
    let first = |dispatcher: &Dispatcher, unix| {
        let first = |n| dispatcher.choose(4, &asked(n, 0, unix)).places().next().unwrap();
        (0..1000).map(first).collect::<Vec<_>>()
    };
    let before = first(&dispatcher, 0);
    fail(&dispatcher, 2, Some(60), 0);
    for (before, after) in before.iter().zip(first(&dispatcher, 1)) {
        assert!(if *before == 2 { after != 2 } else { after == *before });
    }
    // A member that is taken out of the configuration shifts the places of those behind it, not their ids.
    let members = [0, 1, 3].map(|id: u8| Member::new(id.to_string())).to_vec();
    let fewer = Dispatcher::with_members(Algorithm::CallIdHash, members);
    for (before, after) in before.iter().zip(first(&fewer, 0)) {
        let after = [0, 1, 3][after];
        assert!(if *before == 2 { after != 2 } else { after == *before });
    }
}

#[test]
fn kr6_least_calls_goes_where_the_fewest_are() {
    let dispatcher = Dispatcher::new(Algorithm::LeastCalls, vec![], 3);
    let now = crate::node::clock::instant();
    let mut held = vec![Vec::new(), Vec::new(), Vec::new()];
    let call = |held: &mut Vec<Vec<_>>| {
        let place = order(&dispatcher, 0)[0];
        held[place].push(dispatcher.members()[place].limits.admit(now, false).unwrap());
    };
    (0..300).for_each(|_| call(&mut held));
    assert_eq!(held.iter().map(Vec::len).collect::<Vec<_>>(), [100, 100, 100]);
    held[1].truncate(40);
    (0..30).for_each(|_| call(&mut held));
    assert_eq!(held.iter().map(Vec::len).collect::<Vec<_>>(), [100, 70, 100]);
    drop(held);
    assert!(dispatcher.members().iter().all(|member| member.limits.calls() == 0));
}

#[test]
fn kr6_a_full_member_gets_no_call_but_everything_else() {
    let mut members = vec![Member::new("a".into()), Member::new("b".into())];
    for member in &mut members {
        member.max_calls = Some(1);
        member.lead_to(Arc::default());
    }
    let dispatcher = Dispatcher::with_members(Algorithm::Serial, members);
    let now = crate::node::clock::instant();
    let first = dispatcher.members()[0].limits.admit(now, false).unwrap();
    assert!(dispatcher.members()[0].limits.admit(now, false).is_err());
    assert_eq!(order(&dispatcher, 0), [1]);
    let second = dispatcher.members()[1].limits.admit(now, false).unwrap();
    let choice = dispatcher.choose(2, &asked(1, 7, 0));
    assert!(choice.is_empty() && choice.has_full);
    let other = Asked { is_call: false, ..asked(1, 7, 0) };
    assert_eq!(dispatcher.choose(2, &other).places().collect::<Vec<_>>(), [0, 1]);
    let emergency = Asked { is_emergency: true, ..asked(1, 7, 0) };
    assert_eq!(dispatcher.choose(2, &emergency).places().count(), 2, "E-12");
    drop((first, second));
    assert_eq!(order(&dispatcher, 0), [0, 1]);
}

#[test]
fn kr5_all_down() {
    let mut dispatcher = Dispatcher::new(Algorithm::Serial, vec![], 3);
    for place in 0..3 {
        fail(&dispatcher, place, Some(60 - 10 * place as u32), 100);
    }
    assert_eq!(order(&dispatcher, 105), [2, 1, 0], "D-6: the least recently failed first");
    dispatcher.all_down = AllDown::Reject;
    assert!(order(&dispatcher, 105).is_empty());
    assert_eq!(order(&dispatcher, 145), [2]);
    dispatcher.all_down = AllDown::Member(1);
    assert_eq!(order(&dispatcher, 105), [1]);
    assert_eq!(order(&dispatcher, 145), [2, 1], "the reserve comes last");
    assert_eq!(order(&dispatcher, 1000), [0, 2, 1]);
    dispatcher.members()[1].destination.set_state(MemberState::Draining);
    assert!(order(&dispatcher, 105).is_empty());
    let mut one = Dispatcher::new(Algorithm::Weighted, vec![], 1);
    fail(&one, 0, Some(60), 100);
    assert_eq!(order(&one, 105), [0]);
    one.all_down = AllDown::Reject;
    assert!(order(&one, 105).is_empty());
}

#[test]
fn kr2_many_threads_choose_and_change_at_once() {
    let dispatcher = Dispatcher::new(Algorithm::RoundRobin, vec![], MAX_MEMBERS);
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let dispatcher = &dispatcher;
            scope.spawn(move || {
                for call in 0..2_000_u64 {
                    let place = (call as usize * 7 + thread as usize) % MAX_MEMBERS;
                    fail(dispatcher, place, (call % 3 == 0).then_some(1), 100);
                    dispatcher.succeeded(place, hop(1), 102);
                    let order: Vec<_> = dispatcher.choose(0, &asked(call, call, 100)).places().collect();
                    assert_eq!(order.len(), MAX_MEMBERS);
                }
            });
        }
    });
}
