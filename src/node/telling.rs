//! What a worker tells: answers to the operator, what it has seen, records at the end.

use super::admin::{Filter, Page, Question, SeenCall};
use super::machine::{Machine, now};
use super::metrics::Report;
use super::packet_loop::{PacketLoop, Summary};
use crate::transport::udp;

/// Places of the table of calls that are looked at for one answer.
const PAGE: usize = 1024;

impl PacketLoop {
    /// The operator asks.
    pub fn on_question(&mut self, question: Question) {
        let now = now();
        match question {
            Question::Calls { place, filter, answer } => drop(answer.send(self.page(place, &filter))),
            Question::End { call_id, answer } => {
                let Machine { proxy, output, .. } = &mut self.machine;
                let _ = answer.send(proxy.end_calls(now, &call_id, output));
                self.settle(now);
            }
        }
    }

    /// The calls that fit, in a piece of the table: short enough that no message waits for it.
    fn page(&self, place: usize, filter: &Filter) -> Page {
        let (calls, next) = self.machine.proxy.calls().from(place, PAGE);
        Page { calls: calls.filter(|call| filter.takes(call)).map(SeenCall::of).collect(), next }
    }

    /// The program stops: the records of calls that still stand are written, and for these the worker waits.
    pub fn close(&mut self) {
        let now = now();
        self.machine.proxy.close_calls(now, &mut self.machine.output);
        let records = std::mem::take(&mut self.machine.output.records);
        if let Some(cdr) = &self.cdr {
            records.into_iter().for_each(|record| cdr.tell_last(record));
        }
        self.settle(now);
    }

    /// What the worker has seen, in all dimensions.
    pub fn report(&self) -> Report {
        let proxy = &self.machine.proxy;
        Report { summary: self.summary(), meters: proxy.meters(), trunks: proxy.calls().by_trunk().to_vec() }
    }

    /// What the worker has seen.
    pub fn summary(&self) -> Summary {
        let mut udp = udp::Stats::default();
        self.sockets.iter().for_each(|socket| udp.add(socket.stats()));
        let Machine { proxy, counters, .. } = &self.machine;
        Summary {
            live: proxy.live(),
            calls: proxy.calls().len(),
            unanswered: proxy.unanswered(),
            proxy: *proxy.stats(),
            worker: *counters,
            udp,
            tcp: *self.tcp.stats(),
            restarts: 0,
        }
    }
}
