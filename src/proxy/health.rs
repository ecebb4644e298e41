//! What requests tell of the next hops they went to (KR-3): passive health for the dispatcher.

use super::dispatcher::Change;
use super::route::target::Chance;
use super::{Config, ContextKey, Event, NextHop, Now, Output, Place, Proxy, TrunkId};
use crate::sip::{Message, Name};
use crate::transaction::ClientId;

impl Proxy {
    /// For the choice of a next hop.
    pub(super) fn chance(&mut self, now: Now, ingress: Option<TrunkId>) -> Chance {
        let [a, b, c, d, e, f, g, h, ..] = self.unpredictable();
        Chance { random: u64::from_le_bytes([a, b, c, d, e, f, g, h]), unix: now.unix, ingress }
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
        self.note(now, key, client, status != 503, pause_of(status, response), out);
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
        let Some(branch) = self.context(key).and_then(|context| context.branch_mut(client)) else { return };
        let (Some(egress), Some(member), at) = (branch.egress, branch.member, branch.next_hop) else { return };
        let snapshot = self.snapshot_of(key);
        let Some(trunk) = snapshot.config.trunk(egress) else { return };
        let place = usize::from(member);
        let change = match is_there {
            true => trunk.dispatcher.succeeded(place, at, now.unix),
            false => trunk.dispatcher.failed(place, at, pause, now.unix),
        };
        if let Some(change) = change {
            out.events.push(changed(&snapshot.config, egress, place, Some(at), change));
        }
    }
}

/// Seconds that the Retry-After of a 503 asks for (D-6).
pub fn pause_of(status: u16, response: Message<'_>) -> Option<u32> {
    let field = Some(response).filter(|_| status == 503)?.field(Name::RetryAfter)?;
    let value = field.value();
    let digits = value.iter().take_while(|octet| octet.is_ascii_digit()).count();
    std::str::from_utf8(value.get(..digits)?).ok()?.parse().ok()
}

/// What is told when a member goes down or comes back.
pub fn changed(config: &Config, trunk: TrunkId, place: usize, at: Option<NextHop>, change: Change) -> Event {
    let known = config.trunk(trunk);
    let member = known.and_then(|trunk| trunk.dispatcher.member(place)).map(|member| member.id.clone());
    let hop = known.and_then(|trunk| trunk.next_hops.get(place));
    let next_hop = match (hop, at) {
        (Some(Place::Locate(name)), Some(at)) => format!("{name} at {}", Place::At(at)),
        (Some(hop), _) => hop.to_string(),
        (None, at) => at.map(|at| Place::At(at).to_string()).unwrap_or_default(),
    };
    Event::NextHop { trunk, member: member.unwrap_or_default(), next_hop, is_up: change == Change::Up }
}
