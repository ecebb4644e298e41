//! Ending calls by the operator's order: what rings is cancelled, what was answered gets a BYE on both sides. A proxy does that on
//! nobody else's behalf (RFC 3261 16; kamailio-routing section 4).

use super::dialog::Bye;
use super::observe::hash_of_call_id;
use super::{CallKey, EndedBy, Side};
use crate::proxy::route::target::leave_by;
use crate::proxy::{Config, Now, Output, Proxy, Target, forward};
use crate::sip::hop::{Hop, PeerId};
use crate::sip::{Method, Uri};

/// Says on both sides why.
const REASON: &[u8] = b"Reason: Q.850;cause=16;text=\"Ended by operator\"\r\n";
/// User of the BYEs' transactions: nobody waits for their end.
const NOBODY: u64 = u64::MAX;

/// Whether a transaction is that of a BYE of our own. Its responses have no Via below ours: they are for nobody.
pub fn is_own_bye(user: u64) -> bool {
    user == NOBODY
}

/// What became of an order to end calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EndedCalls {
    /// Calls without an answer that are cancelled; one that is answered meanwhile gets its BYEs then.
    pub cancelled: usize,
    /// Answered calls that got their BYEs.
    pub hung_up: usize,
}

impl Proxy {
    /// Ends the calls of a Call-ID.
    pub fn end_calls(&mut self, now: Now, call_id: &[u8], out: &mut Output) -> EndedCalls {
        let keys: Vec<CallKey> = self.calls.of(hash_of_call_id(&self.key, call_id)).collect(); // 16 at most
        let mut ended = EndedCalls::default();
        for key in keys {
            let Some(call) = self.calls.get_mut(key) else { continue };
            call.is_condemned = true;
            if call.answered.is_some() {
                self.hang_up(now, key, out);
                ended.hung_up += 1;
            } else {
                let context = call.context;
                self.cancel_request(now, context, REASON, out);
                ended.cancelled += 1;
            }
        }
        self.handle_events(now, out);
        ended
    }

    /// Sends a BYE to both sides of each dialog of an answered call. The call is over by that, whatever they answer.
    pub(super) fn hang_up(&mut self, now: Now, key: CallKey, out: &mut Output) {
        let dialogs = self.calls.get(key).map_or(0, |call| call.dialogs.len());
        for place in 0..dialogs {
            for side in [Side::Callee, Side::Caller] {
                self.send_bye(now, key, place, side, out);
            }
        }
        self.close_call(now, key, EndedBy::Admin, out);
    }

    fn send_bye(&mut self, now: Now, key: CallKey, place: usize, side: Side, out: &mut Output) {
        let Some(call) = self.calls.get(key) else { return };
        let Some(dialog) = call.dialogs.get(place).filter(|dialog| !dialog.has_ended()) else { return };
        let config = &self.snapshot.config;
        let Some(bye) = Bye::new(config, call, dialog, side) else { return };
        let known = match side {
            Side::Caller => Hop { peer: call.ingress.map(|trunk| PeerId(trunk.0)), ..call.source },
            Side::Callee => dialog.next(),
        };
        let hop = way(config, bye.next(), known);
        let Some(exit) = config.listener(hop.local) else { return };
        let Ok((client, branch)) = self.layer.reserve_client(NOBODY, 0) else { return };
        let mut via = Vec::with_capacity(128);
        forward::write_via_value(exit, hop.transport, &branch, &mut via);
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        bye.write(&via, REASON, &mut buffer);
        self.layer.send_request(now.instant, client, Method::Bye, hop, &buffer, &mut out.outbox);
        self.buffer = buffer;
    }

    /// The program stops: what is known of the calls that still stand is told. They go on without being seen.
    pub fn close_calls(&mut self, now: Now, out: &mut Output) {
        let keys: Vec<CallKey> = self.calls.keys().collect();
        keys.into_iter().for_each(|key| self.close_call(now, key, EndedBy::Stop, out));
    }
}

/// The way to a URI: where it says if that is an address, else the way that the call took.
fn way(config: &Config, uri: &[u8], known: Hop) -> Hop {
    let target = Uri::parse(uri).ok().and_then(|uri| Target::of_uri(&uri));
    match target.and_then(|target| target.direct()) {
        Some(to) if (to.transport, to.remote) != (known.transport, known.remote) => Hop {
            transport: to.transport,
            remote: to.remote,
            local: leave_by(config, to.transport, Some(to.remote), Some(known.local)),
            connection: None,
            peer: known.peer,
        },
        _ => known,
    }
}
