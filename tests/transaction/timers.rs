//! How often and when: Timers A to M, RFC 4320's 100, abandoning.

use super::{Bench, ms};
use crate::support::message::Request;
use vesperd::sip::Transport;
use vesperd::transaction::{CancelResult, Config, ResponseMatch};

#[test]
fn timer_a_sends_seven_times_and_b_ends() {
    let mut bench = Bench::new(Transport::Udp);
    bench.send("INVITE");
    assert_eq!(bench.sent().len(), 1);
    assert_eq!(bench.run_out(), [500, 1_500, 3_500, 7_500, 15_500, 31_500]);
    assert_eq!((bench.now - bench.t0, bench.events()), (ms(32_000), vec!["TimedOut", "Gone"]));
    assert_eq!((bench.live(), bench.layer.timers()), (0, 0));
}

#[test]
fn timer_e_sends_eleven_times_and_f_ends() {
    let mut bench = Bench::new(Transport::Udp);
    bench.send("OPTIONS");
    assert_eq!(bench.sent().len(), 1);
    let expected = [500, 1_500, 3_500, 7_500, 11_500, 15_500, 19_500, 23_500, 27_500, 31_500];
    assert_eq!(bench.run_out(), expected);
    assert_eq!((bench.now - bench.t0, bench.events()), (ms(32_000), vec!["TimedOut", "Gone"]));
}

#[test]
fn timer_e_goes_on_at_t2_after_a_provisional() {
    let mut bench = Bench::new(Transport::Udp);
    let client = bench.send("OPTIONS");
    bench.respond_to(&client, 100);
    bench.sent();
    assert_eq!(bench.run_out(), [500, 4_500, 8_500, 12_500, 16_500, 20_500, 24_500, 28_500]);
    assert_eq!(bench.now - bench.t0, ms(32_000));
}

#[test]
fn timer_g_sends_eleven_times_and_h_ends() {
    let mut bench = Bench::new(Transport::Udp);
    let request = Request::default();
    let server = bench.open(&request);
    bench.answer(server, &request, 486);
    assert_eq!(bench.sent().len(), 1);
    let expected = [500, 1_500, 3_500, 7_500, 11_500, 15_500, 19_500, 23_500, 27_500, 31_500];
    assert_eq!(bench.run_out(), expected);
    assert_eq!((bench.now - bench.t0, bench.events()), (ms(32_000), vec!["Unacknowledged", "Gone"]));
}

#[test]
fn no_retransmission_on_a_reliable_transport() {
    for transport in [Transport::Tcp, Transport::Tls] {
        let mut bench = Bench::new(transport);
        bench.send("INVITE");
        bench.send("OPTIONS");
        let request = Request { transport, ..Request::default() };
        let server = bench.open(&request);
        bench.answer(server, &request, 500);
        bench.sent();
        assert_eq!(bench.run_out(), [0u64; 0]);
        assert_eq!(bench.now - bench.t0, ms(32_000));
        assert_eq!(bench.live(), 0);
    }
}

#[test]
fn timers_scale_with_t1_but_not_d() {
    let config = Config { t1: ms(100), t2: ms(400), ..Config::default() };
    let mut bench = Bench::with(Transport::Udp, config.clone());
    bench.send("INVITE");
    bench.sent();
    assert_eq!(bench.run_out(), [100, 300, 700, 1_500, 3_100, 6_300]);
    assert_eq!(bench.now - bench.t0, ms(6_400));
    let mut bench = Bench::with(Transport::Udp, config.clone());
    let client = bench.send("INVITE");
    bench.respond_to(&client, 500);
    assert_eq!(bench.fire(), ms(32_000));
    assert_eq!(config.trying_delay(), ms(300));
}

#[test]
fn no_invite_is_sent_again_after_a_provisional_and_b_is_off() {
    let mut bench = Bench::new(Transport::Udp);
    let client = bench.send("INVITE");
    bench.respond_to(&client, 100);
    assert_eq!((bench.layer.poll_timeout(), bench.layer.timers()), (None, 0));
}

#[test]
fn a_non_invite_without_an_answer_ends_by_itself_and_its_late_final_is_not_sent() {
    let mut bench = Bench::new(Transport::Udp);
    let request = Request { method: "OPTIONS".into(), ..Request::default() };
    let server = bench.open(&request);
    bench.advance(ms(3_490));
    bench.answer(server, &request, 100);
    assert_eq!((bench.sent().len(), bench.events()), (0, vec![]), "N-1: a 100 is too early");
    bench.advance(ms(10));
    assert_eq!(bench.events(), ["TryingDue"]);
    bench.answer(server, &request, 100);
    assert_eq!(bench.sent(), ["SIP/2.0 100 Said So"]);
    bench.advance(ms(28_500));
    assert_eq!(bench.events(), ["Gone"]);
    bench.answer(server, &request, 200);
    assert!(bench.sent().is_empty(), "N-2: nothing after the client has given up");
    assert_eq!(bench.layer.stats().responses_withheld, 1);
}

#[test]
fn an_abandoned_request_is_not_sent_again_but_hears_late_responses() {
    let mut bench = Bench::new(Transport::Udp);
    let client = bench.send("INVITE");
    bench.advance(ms(600));
    bench.sent();
    bench.layer.abandon(client.id);
    assert_eq!(bench.layer.cancel(bench.now, client.id, b"", &mut bench.out), CancelResult::Deferred);
    bench.advance(ms(20_000));
    assert!(bench.sent().is_empty());
    assert!(matches!(bench.respond_to(&client, 180), ResponseMatch::Deliver { .. }));
    assert_eq!(bench.sent(), ["CANCEL sip:bob@biloxi.example SIP/2.0"]);
    assert!(matches!(bench.respond_to(&client, 200), ResponseMatch::Deliver { .. }));
    bench.run_out();
    assert_eq!((bench.events(), bench.live()), (vec!["Gone"], 0));
}
