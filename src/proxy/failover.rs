//! Which failures of a candidate let the next one be tried (kamailio-routing 1.4, KR-9; sip-proxy R-6, D-5, D-8).

use std::time::Duration;

use super::response_context::Local;

/// Statuses: one, or a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codes {
    /// This one.
    Status(u16),
    /// All that begin with this digit, 3 to 5.
    Class(u8),
}

impl Codes {
    /// Whether `status` is meant.
    pub fn contains(self, status: u16) -> bool {
        match self {
            Codes::Status(own) => own == status,
            Codes::Class(digit) => status / 100 == u16::from(digit),
        }
    }
}

/// What becomes of a request when a candidate fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failover {
    /// No answer in time moves on to the next candidate.
    pub on_timeout: bool,
    /// A transport that fails moves on.
    pub on_transport: bool,
    /// Final responses that move on. 6xx, 486 and 487 never do, whatever stands here: they are the callee's word.
    pub on: Vec<Codes>,
    /// Also after the candidate sent a 101 to 199: by default a phone that rang and was not answered is no dead gateway.
    pub after_18x: bool,
}

impl Default for Failover {
    /// RFC 3263 4.3: a timeout, a transport failure, a 503.
    fn default() -> Self {
        Failover { on_timeout: true, on_transport: true, on: vec![Codes::Status(503)], after_18x: false }
    }
}

/// How a candidate ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// By this final response.
    Answered(u16),
    /// Without one.
    Local(Local),
}

impl Failover {
    /// Whether the next candidate is tried after this outcome; `rang`: a 101 to 199 came before it.
    pub fn allows(&self, outcome: Outcome, rang: bool) -> bool {
        if rang && !self.after_18x {
            return false;
        }
        match outcome {
            Outcome::Answered(486 | 487 | 600..) => false,
            Outcome::Answered(status) => self.on.iter().any(|codes| codes.contains(status)),
            Outcome::Local(Local::Timeout) => self.on_timeout,
            Outcome::Local(Local::Unavailable) => self.on_transport,
            Outcome::Local(Local::Refused { .. }) => true,
            Outcome::Local(Local::Cancelled) => false,
        }
    }
}

/// How a trunk's addresses are tried.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Forking {
    /// All at once; otherwise one after the other.
    pub parallel: bool,
    /// No response at all for this long counts as a timeout; the transaction stays and its late answer is dealt with. `None`: Timers B
    /// and F alone.
    pub fr: Option<Duration>,
    /// No final response for this long after the first provisional one counts as a timeout. `None`: Timer C alone.
    pub fr_inv: Option<Duration>,
    /// What moves on to the next address.
    pub failover: Failover,
}

/// What the caller is told when nothing but a 503 came (RFC 3261 16.7 item 6; R-7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Relay503 {
    /// 500 without Retry-After.
    #[default]
    Rewrite500,
    /// The 503 as it came.
    Pass,
    /// This status instead, 400 to 699, without Retry-After.
    Map(u16),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kr9_what_moves_on() {
        let failover = Failover::default();
        assert!(failover.allows(Outcome::Answered(503), false));
        assert!(failover.allows(Outcome::Local(Local::Timeout), false));
        assert!(failover.allows(Outcome::Local(Local::Unavailable), false));
        for status in [300, 404, 480, 486, 487, 500, 600, 603, 607, 608, 699] {
            assert!(!failover.allows(Outcome::Answered(status), false), "{status}");
        }
        assert!(!failover.allows(Outcome::Local(Local::Cancelled), false));
        assert!(!failover.allows(Outcome::Local(Local::Timeout), true), "it rang: nobody answered");
    }

    #[test]
    fn kr9_the_callees_word_is_final_whatever_is_configured() {
        let on = vec![Codes::Class(3), Codes::Class(4), Codes::Class(5), Codes::Class(6), Codes::Status(603)];
        let failover = Failover { on, after_18x: true, ..Failover::default() };
        for status in [302, 404, 408, 500, 503] {
            assert!(failover.allows(Outcome::Answered(status), true), "{status}");
        }
        for status in [486, 487, 600, 603, 607, 608] {
            assert!(!failover.allows(Outcome::Answered(status), false), "{status}");
        }
    }
}
