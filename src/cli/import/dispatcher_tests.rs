// Compiled under #[cfg(test)] only.
use std::path::Path;

use super::*;
use crate::config::Config;
use crate::proxy::dispatcher::{Algorithm, MemberState};

/// Listeners of all transports and families, as the operator has them already.
const LISTENERS: &str = r#"
[[listener]]
name = "udp"
transport = "udp"
bind = "192.0.2.1:5060"
[[listener]]
name = "tcp"
transport = "tcp"
bind = "192.0.2.1:5060"
[[listener]]
name = "udp6"
transport = "udp"
bind = "[2001:db8::1]:5060"
[[listener]]
name = "tcp6"
transport = "tcp"
bind = "[2001:db8::1]:5060"
"#;

fn load(text: &str) -> crate::proxy::Config {
    let text = format!("{LISTENERS}{text}");
    Config::parse(&text, Path::new("edge.toml"), 0).unwrap_or_else(|mistakes| panic!("{mistakes}\n{text}")).proxy
}

fn imported(list: &str, algorithms: &[&str]) -> (crate::proxy::Config, Vec<(usize, bool)>) {
    let wanted: Vec<Wanted> = algorithms.iter().map(|text| text.parse().unwrap()).collect();
    let imported = import(list, &wanted, None);
    let remarks = imported.remarks.iter().map(|remark| (remark.line, remark.is_loss)).collect();
    (load(&imported.text), remarks)
}

/// `id priority weight` of each member of the first trunk.
fn members(config: &crate::proxy::Config) -> Vec<(String, u16, u16)> {
    let members = config.trunks[0].dispatcher.members().iter();
    members.map(|member| (member.id.clone(), member.priority, member.weight)).collect()
}

#[test]
fn a_list_as_it_is_found() {
    let list = "\
# gateways
1 sip:192.0.2.10:5060;transport=tcp 8 10 weight=50;socket=udp:198.51.100.1:5060;duid=gw1;maxload=200
1 192.0.2.11 0 20 duid=gw2;site=north;latency=35 # the big one
1 sip:gw.example.net 0x4

2 sip:[2001:db8::10]:5070 1
2 sip:[2001:db8::11] 0x2 5
2 sctp-gw.example;transport=sctp
3 sip:192.0.2.30 0 high
x sip:192.0.2.31
4
";
    let (config, remarks) = imported(list, &[]);
    let [one, two] = &config.trunks[..] else { panic!("two sets") };
    assert_eq!((one.name.as_str(), two.name.as_str()), ("set-1", "set-2"));
    assert_eq!(
        members(&config),
        [("gw2".into(), 0, 1), ("gw1".into(), 10, 50), ("sip:gw.example.net".into(), 20, 1)],
        "higher numbers are first in Kamailio, lower ones here"
    );
    let hops: Vec<String> = one.next_hops.iter().chain(&two.next_hops).map(ToString::to_string).collect();
    assert_eq!(
        hops,
        [
            "udp:192.0.2.11:5060",
            "tcp:192.0.2.10:5060",
            "sip:gw.example.net",
            "udp:[2001:db8::11]:5060",
            "udp:[2001:db8::10]:5070"
        ]
    );
    let states: Vec<_> = one.dispatcher.members().iter().chain(two.dispatcher.members()).map(|m| m.state).collect();
    assert_eq!(
        states,
        [MemberState::Active, MemberState::Active, MemberState::Disabled, MemberState::Trying, MemberState::Inactive]
    );
    let [gw2, gw1, _] = one.dispatcher.members() else { panic!("three members") };
    assert_eq!((gw1.max_calls, gw2.latency.map(|l| l.as_millis())), (Some(200), Some(35)));
    assert_eq!(gw2.tags.get("site").map(String::as_str), Some("north"));
    assert_eq!(gw1.tags.get("socket").map(String::as_str), Some("udp:198.51.100.1:5060"));
    assert!(one.dispatcher.probing.is_some() && two.dispatcher.probing.is_none());
    let losses: Vec<usize> = remarks.iter().filter(|(_, is_loss)| *is_loss).map(|(line, _)| *line).collect();
    assert_eq!(losses, [8, 9, 10, 11]);
    assert!(remarks.contains(&(0, false)), "the algorithm is not in the list");
}

#[test]
fn equal_priorities_come_in_reverse_order_and_15_counts_upwards() {
    let list = "1 sip:192.0.2.1 0 5 duid=a\n1 sip:192.0.2.2 0 5 duid=b\n1 sip:192.0.2.3 0 7 duid=c;weight=3\n";
    let ids = |algorithm| members(&imported(list, &[algorithm]).0);
    assert_eq!(ids("8"), [("c".into(), 0, 3), ("b".into(), 2, 1), ("a".into(), 2, 1)]);
    assert_eq!(ids("15"), [("b".into(), 5, 0), ("a".into(), 5, 0), ("c".into(), 7, 3)]);
    assert!(imported(list, &["8"]).1.contains(&(1, false)), "and that is told");
    let far = "1 sip:192.0.2.1 0 -5 duid=a\n1 sip:192.0.2.2 0 100000 duid=b\n";
    assert_eq!(members(&imported(far, &["8"]).0), [("b".into(), 0, 1), ("a".into(), 1, 1)]);
    assert_eq!(members(&imported(far, &["15"]).0), [("a".into(), 0, 0), ("b".into(), 1, 0)]);
}

#[test]
fn weights_become_what_kamailio_makes_of_them() {
    let list = |weights: [u32; 3]| {
        let line =
            |(n, weight): (usize, u32)| format!("1 sip:192.0.2.{} 0 {} duid=g{n};weight={weight}\n", n + 1, 9 - n);
        weights.into_iter().enumerate().map(line).collect::<String>()
    };
    let weights = |given| members(&imported(&list(given), &["9"]).0).iter().map(|member| member.2).collect::<Vec<_>>();
    assert_eq!(weights([50, 30, 20]), [50, 30, 20]);
    assert_eq!(weights([50, 30, 0]), [50, 30, 20], "the last gets the rest");
    assert_eq!(weights([60, 60, 20]), [60, 40, 0], "what is above 100 is cut off");
    assert_eq!(weights([0, 0, 0]), [1, 1, 1]);
}

#[test]
fn every_algorithm_loads() {
    let list = "1 sip:192.0.2.1 0 5 weight=50;rweight=50\n1 sip:192.0.2.2 8 5 weight=50;rweight=50\n";
    let wanted = [
        ("0", Algorithm::CallIdHash),
        ("1", Algorithm::FromHash),
        ("2", Algorithm::ToHash),
        ("3", Algorithm::RuriHash),
        ("4", Algorithm::RoundRobin),
        ("5", Algorithm::AuthUserHash),
        ("6", Algorithm::Random),
        ("7", Algorithm::KeyHash),
        ("8", Algorithm::Serial),
        ("9", Algorithm::Weighted),
        ("10", Algorithm::LeastCalls),
        ("11", Algorithm::Weighted),
        ("12", Algorithm::Parallel),
        ("13", Algorithm::Latency),
        ("14", Algorithm::RoundRobin),
        ("15", Algorithm::Srv),
        ("64", Algorithm::RoundRobin),
        ("1=serial", Algorithm::Serial),
    ];
    for (word, algorithm) in wanted {
        let (config, _) = imported(list, &["6", word]);
        assert_eq!(config.trunks[0].dispatcher.algorithm, algorithm, "{word}");
        assert_eq!(config.trunks[0].forking.parallel, algorithm == Algorithm::Parallel);
    }
    assert_eq!(imported(list, &["2=8", "6"]).0.trunks[0].dispatcher.algorithm, Algorithm::Random);
}

#[test]
fn what_a_set_can_not_have_twice_is_told() {
    let long = format!("1 sip:192.0.2.3 0 0 note={}\n", "x".repeat(1100));
    let list = format!("1 sip:192.0.2.1 0 9 duid=a\n1 192.0.2.1 0 8\n1 sip:192.0.2.2 0 7 duid=a;od\"d=\"q\\\n{long}");
    let (config, remarks) = imported(&list, &["4"]);
    assert_eq!(config.trunks[0].next_hops.len(), 3);
    let losses: Vec<usize> = remarks.iter().filter(|(_, is_loss)| *is_loss).map(|(line, _)| *line).collect();
    assert_eq!(losses, [2, 3]);
    assert!(remarks.contains(&(4, false)), "longer than Kamailio's line buffer");
    assert_eq!(config.trunks[0].dispatcher.members()[1].tags.get("od\"d").map(String::as_str), Some("\"q\\"));
}

#[test]
fn what_is_dropped_or_changed_is_told() {
    let list = "1 sip:192.0.2.1 0 9 duid=a;rweight=5000;maxload=-3\n1 sip:192.0.2.2 0 8 duid=b;rweight=1000;latency=90000\n\
                1 sip:192.0.2.3 0 7 duid=c;rweight=much;weight=7\n1 sip:192.0.2.4 0 6 duid=d;rweight=1;maxload=0\n";
    let (config, remarks) = imported(list, &["11"]);
    let weights: Vec<u16> = members(&config).iter().map(|member| member.2).collect();
    assert_eq!(weights, [1000, 200, 0, 1], "5 to 1 stays 5 to 1, and nobody who had a share loses it");
    let of = |loss| remarks.iter().filter(|(_, is_loss)| *is_loss == loss).map(|(line, _)| *line).collect::<Vec<_>>();
    assert_eq!(of(true), [3, 1, 2], "rweight, maxload, latency");
    for line in 1..=4 {
        assert!(of(false).contains(&line), "{line}: {remarks:?}");
    }
}

#[test]
fn weights_and_priorities_of_any_size_do_not_overflow() {
    let half = u32::MAX / 2 + 1;
    let list =
        format!("1 sip:192.0.2.1 0 0 weight={half};rweight={half}\n1 sip:192.0.2.2 0 0 weight={half};rweight={half}\n");
    let weights = |algorithm| members(&imported(&list, &[algorithm]).0).iter().map(|m| m.2).collect::<Vec<_>>();
    assert_eq!((weights("9"), weights("11")), (vec![100, 0], vec![1000, 1000]));
    let list = format!("1 sip:192.0.2.1 0 {}\n1 sip:192.0.2.2 0 {}\n1 sip:192.0.2.3\n", i64::MIN, i32::MIN);
    let (config, remarks) = imported(&list, &["8"]);
    assert_eq!(config.trunks[0].next_hops.len(), 2);
    assert_eq!(remarks.iter().filter(|(_, is_loss)| *is_loss).collect::<Vec<_>>(), [&(1, true)]);
}
