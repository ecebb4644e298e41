//! Choosing among the final responses of the branches (RFC 3261 16.7, sip-proxy ).

use crate::sip::Refusal;

/// The final responses of the branches: the best one so far, ready to be sent (its top Via is already ours no more), and every
/// challenge.
#[derive(Default)]
pub struct ResponseContext {
    best: Option<Best>,
    /// WWW-Authenticate and Proxy-Authenticate lines of the 401 and 407 that are not the best, in order received.
    challenges: Vec<u8>,
}

struct Best {
    rank: u8,
    status: u16,
    bytes: Box<[u8]>,
    /// Its challenge lines, if it is a 401 or 407.
    challenges: Vec<u8>,
    /// The status the caller gets instead of it.
    sent: u16,
}

/// A final response that the proxy itself stands for: no branch gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Local {
    /// Nothing answered (Timer B, Timer C, no provisional): 408, for INVITE only (RFC 4320).
    Timeout,
    /// A transport failed, or there was no way to send: 503 on the branch, 500 to the outside.
    Unavailable,
    /// The branch was cancelled and never answered (RFC 3261 9.1).
    Cancelled,
    /// It could not be tried at all.
    Refused {
        /// Status.
        status: u16,
        /// Reason phrase.
        reason: &'static str,
    },
}

impl From<Refusal> for Local {
    fn from(refusal: Refusal) -> Self {
        Local::Refused { status: refusal.status, reason: refusal.reason }
    }
}

/// What goes upstream when all branches have ended.
pub enum Choice<'a> {
    /// This received response.
    Received {
        /// Its status as received.
        status: u16,
        /// The message without our Via.
        bytes: &'a [u8],
        /// Challenges of other branches, to be appended.
        challenges: &'a [u8],
        /// The status to send: the same, or another one.
        sent: u16,
    },
    /// One of our own.
    Local(Local),
}

impl ResponseContext {
    /// Keeps a final response (300 to 699) of a branch if it is the best so far; in one rank the latest wins. `sent` is the status
    /// that the caller would get for it, `challenges` its WWW-Authenticate and Proxy-Authenticate lines.
    pub fn store(&mut self, status: u16, sent: u16, bytes: &[u8], challenges: Vec<u8>) {
        let rank = rank(if status / 100 == 3 { sent } else { status });
        if self.best.as_ref().is_some_and(|best| rank > best.rank) {
            self.challenges.extend_from_slice(&challenges);
            return;
        }
        if let Some(worse) = self.best.take() {
            self.challenges.extend_from_slice(&worse.challenges);
        }
        self.best = Some(Best { rank, status, bytes: bytes.into(), challenges, sent });
    }

    /// Octets kept.
    pub fn kept(&self) -> usize {
        self.challenges.len() + self.best.as_ref().map_or(0, |best| best.bytes.len() + best.challenges.len())
    }

    /// A 6xx was received: no further attempt is made.
    pub fn is_global_failure(&self) -> bool {
        self.best.as_ref().is_some_and(|best| best.status >= 600)
    }

    /// The response to send, given what the branches without an answer amount to. A local 408 ranks below any received 4xx,
    /// a local 487 stands for a cancelled call before anything worse.
    pub fn choose(&self, local: Option<Local>) -> Choice<'_> {
        let local_rank = match local {
            Some(Local::Cancelled) => rank(487),
            Some(Local::Timeout) => rank(408) + 1,
            Some(Local::Unavailable) => rank(503),
            Some(Local::Refused { status, .. }) => rank(status),
            None => u8::MAX,
        };
        match (&self.best, local) {
            (Some(best), Some(local)) if local_rank < best.rank => Choice::Local(local),
            (Some(Best { status, bytes, sent, .. }), _) => Choice::Received {
                status: *status,
                bytes,
                challenges: if matches!(status, 401 | 407) { &self.challenges } else { &[] },
                sent: *sent,
            },
            (None, local) => Choice::Local(local.unwrap_or(Local::Unavailable)),
        }
    }
}

/// Rank of a final response, best first.
fn rank(status: u16) -> u8 {
    match status {
        600.. => 0,
        300..=399 => 1,
        401 | 407 => 2,
        415 | 420 | 484 | 422 | 428 | 436..=438 => 3,
        408 => 5,
        400..=499 => 4,
        503 => 8,
        _ => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn best_of(statuses: &[u16], local: Option<Local>) -> u16 {
        let mut context = ResponseContext::default();
        for status in statuses {
            context.store(*status, *status, status.to_string().as_bytes(), Vec::new());
        }
        match context.choose(local) {
            Choice::Received { status, bytes, .. } => {
                assert_eq!(bytes, status.to_string().as_bytes());
                status
            }
            Choice::Local(Local::Timeout) => 408,
            Choice::Local(Local::Unavailable) => 500,
            Choice::Local(Local::Cancelled) => 487,
            Choice::Local(Local::Refused { status, .. }) => status,
        }
    }

    #[test]
    fn c14_best_response_matrix() {
        assert_eq!(best_of(&[404, 503], None), 404);
        assert_eq!(best_of(&[503], None), 503);
        assert_eq!(best_of(&[486, 404], None), 404, "same rank: most recent");
        assert_eq!(best_of(&[302, 404], None), 302);
        assert_eq!(best_of(&[480, 500], None), 480);
        assert_eq!(best_of(&[408, 404], None), 404);
        assert_eq!(best_of(&[407, 404], None), 407);
        assert_eq!(best_of(&[404, 603, 200 + 200], None), 603);
    }

    #[test]
    fn r7_local_outcomes_rank_below_received_ones_of_their_class() {
        assert_eq!(best_of(&[486], Some(Local::Timeout)), 486);
        assert_eq!(best_of(&[408], Some(Local::Timeout)), 408);
        assert_eq!(best_of(&[503], Some(Local::Timeout)), 408);
        assert_eq!(best_of(&[], Some(Local::Timeout)), 408);
        assert_eq!(best_of(&[500], Some(Local::Unavailable)), 500);
        assert_eq!(best_of(&[], Some(Local::Unavailable)), 500);
        assert_eq!(best_of(&[503], Some(Local::Cancelled)), 487);
    }

    #[test]
    fn r4_a_3xx_that_is_answered_otherwise_ranks_as_what_it_becomes() {
        let mut context = ResponseContext::default();
        context.store(404, 404, b"404", Vec::new());
        context.store(302, 503, b"302", Vec::new());
        assert!(matches!(context.choose(None), Choice::Received { status: 404, sent: 404, .. }));
        context.store(302, 480, b"302", Vec::new());
        assert!(matches!(context.choose(None), Choice::Received { status: 302, sent: 480, .. }));
    }

    #[test]
    fn r8_every_challenge_but_the_answers_own_is_appended_in_order() {
        let mut context = ResponseContext::default();
        let challenges = |context: &ResponseContext| match context.choose(None) {
            Choice::Received { challenges, .. } => String::from_utf8(challenges.to_vec()).unwrap(),
            Choice::Local(_) => panic!("nothing received"),
        };
        for (status, line) in [(401, "a"), (486, ""), (407, "b"), (407, "c"), (404, "")] {
            context.store(status, status, b"", line.as_bytes().to_vec());
        }
        assert_eq!(challenges(&context), "ab", "the last one carries its own c");
        context.store(302, 302, b"", Vec::new());
        assert_eq!(challenges(&context), "", "nothing is appended to another answer");
    }
}
