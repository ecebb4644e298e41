//! What requests tell of the next hops they went to (KR-3): passive health for the dispatcher.

use super::dispatcher::Change;
use super::route::target::Chance;
use super::{ContextKey, Event, Now, Output, Proxy};
use crate::sip::{Message, Name};
use crate::transaction::ClientId;

impl Proxy {
    /// For the choice of a next hop.
    pub(super) fn chance(&mut self, now: Now) -> Chance {
        let [a, b, c, d, e, f, g, h, ..] = self.unpredictable();
        Chance { random: u64::from_le_bytes([a, b, c, d, e, f, g, h]), unix: now.unix }
    }

    /// A response came: its sender is there, unless it says 503.
    pub(super) fn note_answer(
        &mut self,
        now: Now,
        key: ContextKey,
        client: ClientId,
        status: u16,
        response: Message<'_>,
        out: &mut Output,
    ) {
        let pause = (status == 503).then(|| response.field(Name::RetryAfter)).flatten();
        let pause = pause.and_then(|field| {
            let digits: Vec<u8> = field.value().iter().copied().take_while(u8::is_ascii_digit).collect();
            std::str::from_utf8(&digits).ok()?.parse().ok()
        });
        self.note(now, key, client, status != 503, pause, out);
    }

    /// Nothing came in time, or it could not be sent.
    pub(super) fn note_silence(&mut self, now: Now, key: ContextKey, client: ClientId, out: &mut Output) {
        self.note(now, key, client, false, None, out);
    }

    fn note(
        &mut self,
        now: Now,
        key: ContextKey,
        client: ClientId,
        is_there: bool,
        pause: Option<u32>,
        out: &mut Output,
    ) {
        let branch = self.context(key).and_then(|context| context.branch_mut(client));
        let Some((egress, member)) = branch.and_then(|branch| branch.egress.zip(branch.member)) else { return };
        let snapshot = self.snapshot_of(key);
        let Some(trunk) = snapshot.config.trunk(egress) else { return };
        let place = usize::from(member);
        let change =
            if is_there { trunk.dispatcher.succeeded(place) } else { trunk.dispatcher.failed(place, pause, now.unix) };
        if let Some(change) = change {
            let next_hop = trunk.next_hops.get(place).map(ToString::to_string).unwrap_or_default();
            out.events.push(Event::NextHop { trunk: egress, next_hop, is_up: change == Change::Up });
        }
    }
}
