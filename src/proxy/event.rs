//! What a proxy tells the program around it: plain data, to be logged and counted by `node`.

use std::net::SocketAddr;

use super::TrunkId;
use crate::stir::verification::Verdict;

/// Something an operator may want to read. Made for what goes wrong, and for every verified call when
/// [`super::Config::observe`] is set.
#[derive(Debug, Clone)]
pub enum Event {
    /// A request that was answered by us with an error, or not at all.
    Refused {
        /// Call-ID as received, empty when there was none.
        call_id: Box<[u8]>,
        /// Where it came from.
        source: SocketAddr,
        /// SIP status that was sent; `None` when the message was dropped.
        status: Option<u16>,
        /// Reason phrase, or why it was dropped.
        reason: &'static str,
    },
    /// The verdict on the Identity header fields of one INVITE.
    Verified {
        /// Call-ID as received.
        call_id: Box<[u8]>,
        /// Trunk that it came from.
        trunk: TrunkId,
        /// Checks and their results.
        verdict: Box<Verdict>,
    },
    /// The verdict on the Identity header fields of a response to an INVITE (RFC 9970).
    Connected {
        /// Call-ID as received.
        call_id: Box<[u8]>,
        /// Trunk that it came from.
        trunk: TrunkId,
        /// Checks and their results.
        verdict: Box<Verdict>,
    },
    /// A message left without a token that its trunk wants.
    Unsigned {
        /// Call-ID as received.
        call_id: Box<[u8]>,
        /// Trunk that it goes to.
        trunk: TrunkId,
        /// Why.
        error: crate::stir::authentication::SignError,
    },
    /// A response says that a token of ours failed (RFC 9410 7).
    Disputed {
        /// Call-ID as received.
        call_id: Box<[u8]>,
        /// Trunk that it came from.
        trunk: TrunkId,
        /// The first Reason line.
        reason: Box<[u8]>,
    },
    /// A source is heard no more for a while.
    Banned {
        /// Its address, or its IPv6 /64.
        network: ipnet::IpNet,
        /// Why.
        cause: super::admission::Cause,
    },
    /// A next hop of a trunk went down, or came back.
    NextHop {
        /// The trunk.
        trunk: TrunkId,
        /// Id of the member.
        member: String,
        /// The next hop as text.
        next_hop: String,
        /// It answers again.
        is_up: bool,
    },
    /// The machine's clock was found wrong by the word of others, or right again.
    Clock(super::clock_watch::ClockChange),
    /// No ACK came for a final response other than 2xx (RFC 3261 17.2.1, Timer H).
    Unacknowledged {
        /// Call-ID of the INVITE.
        call_id: Box<[u8]>,
    },
}

macro_rules! stats {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters of one worker since its start.
        #[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
        pub struct Stats {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Stats {
            /// Name and value of each counter.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }

            /// Adds the counters of another worker.
            pub fn add(&mut self, other: &Stats) {
                $(self.$name += other.$name;)*
            }
        }
    };
}

stats! {
    /// Requests that began a transaction.
    requests,
    /// Requests forwarded, ACK included, attempts at a further next hop included.
    forwarded,
    /// Responses forwarded upstream.
    responses,
    /// Requests answered by us with 4xx to 6xx.
    refused,
    /// Requests dropped without an answer.
    dropped_requests,
    /// Responses dropped: malformed, not ours, or without a transaction (RFC 6026 7.3).
    dropped_responses,
    /// 2xx to an INVITE that had been answered otherwise already, retransmissions counted: a gateway waits for an ACK in vain.
    late_answers,
    /// Requests whose Identity was verified with a good result.
    verified,
    /// Requests with a failed Identity check, rejected or not.
    verification_failed,
    /// Requests without an Identity that a policy asked for.
    identity_missing,
    /// Requests whose Resource-Priority lost values that nothing proves.
    priorities_stripped,
    /// Requests of which the table of tokens, being full, could not tell whether they are replays.
    replay_unknown,
    /// INVITEs and MESSAGEs signed.
    signed,
    /// Failures to make tokens that a trunk wants; a message that needs several may have several.
    unsigned,
    /// Diversions signed.
    diversions,
    /// Responses that got a token of ours for the party reached (RFC 9970).
    connected_signed,
    /// Answers whose connected identity was verified with a good result.
    connected_verified,
    /// Responses with a failed check of it.
    connected_failed,
    /// Answers without, though the INVITE had a token.
    connected_missing,
    /// Responses with one, though the INVITE had no token (N-26).
    connected_unasked,
    /// Requests left unsigned because a trusted trunk or the setting of their destination wants it so.
    exempt,
    /// Reason values about tokens of ours, taken out of responses (RFC 9410 7).
    reasons_removed,
    /// Requests that waited for the slow side: a certificate, the addresses of a name, a signature.
    parked,
    /// INVITEs that did not wait because [`super::Config::max_parked`] calls waited already.
    parking_full,
    /// Responses that could not be sent.
    failed_responses,
    /// Responses whose way was gone and that took another one (T-4).
    rerouted_responses,
    /// Attempts at a next hop that failed (transport, timeout or 503).
    failed_attempts,
    /// Requests answered 503 because a transaction table was full.
    table_full,
    /// Messages not read because their source is banned or denied.
    banned_messages,
    /// Messages of unknown sources not read because there were too many.
    excess_messages,
    /// Error answers that unknown sources did not get (sip-parsing E-1).
    withheld_answers,
    /// Sources banned.
    bans,
    /// New dialogs refused because of overload.
    shed,
    /// Requests with wrong credentials.
    wrong_credentials,
    /// Calls refused by the limits of a trunk.
    limited,
    /// Pings of members sent.
    pings,
    /// Pings that told that their member does not serve.
    pings_failed,
    /// Attempts passed over because their next hop is overloaded and said so (RFC 7339); the request may have gone elsewhere.
    withheld,
    /// INVITEs of a trunk that is served (`service`) answered 302 with an Identity.
    served_signed,
    /// Those of such a trunk for which there was nothing to say.
    served_nothing,
    /// Those of such a trunk answered 302 with a verdict.
    served_verdicts,
    /// Calls that were not observed because the table of calls was full.
    unobserved_calls,
}
