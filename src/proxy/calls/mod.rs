//! The calls that run through a worker, each from its INVITE to its end: what they count by, what is told of them when they are over,
//! and the dialog state that it takes to end one (kamailio-routing section 4, KR-6, KR-12).
//!
//! One [`Call`] per initial INVITE that has a transaction. All messages of a call come to one worker, so each worker has a table of its
//! own. Its size is bounded by [`super::Config::max_calls`]: calls above it go on unobserved, unless a limit of a trunk counts them.

mod dialog;
mod end;
mod observe;
mod record;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use hashbrown::HashTable;
use slab::Slab;

use super::admission::{CallGuard, TrunkLimits};
use super::{ContextKey, TrunkId};
use crate::passport::Identity;
use crate::sip::Message;
use crate::sip::hop::Hop;
use crate::transaction::timer::TimerHandle;

pub use dialog::{Dialog, Side};
pub use end::EndedCalls;
pub(super) use end::is_own_bye;
pub use record::{CallRecord, EndedBy, Numbers, Signed, Verification};

pub(super) use observe::{Part, Role, call_hash};

/// Calls of one Call-ID that are observed at a time: more than a spiral needs, and no list that an attacker can lengthen.
const MAX_PER_CALL_ID: usize = 16;

/// A place in the table with a serial number, so that a late report never meets a newer call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallKey {
    slot: u32,
    serial: u32,
}

/// Where a request belongs in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InDialog {
    /// The call.
    pub call: CallKey,
    /// The place of the dialog among those of the call.
    pub place: usize,
    /// Which of the two sent it.
    pub side: Side,
    /// The trunk that its sender is in this call. Of several that share an address, a request alone shows the first only.
    pub trunk: TrunkId,
}

/// How far a call has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallState {
    /// The INVITE came.
    Trying,
    /// A 101 to 199 went to the caller.
    Ringing,
    /// A 2xx went to the caller.
    Answered,
    /// A BYE is under way.
    Ending,
}

impl CallState {
    /// All, with their names.
    pub const NAMES: [(Self, &'static str); 4] =
        [(Self::Trying, "trying"), (Self::Ringing, "ringing"), (Self::Answered, "answered"), (Self::Ending, "ending")];

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::NAMES.into_iter().find(|(state, _)| *state == self).map_or("", |(_, name)| name)
    }
}

/// Pieces of the messages that made a call, in one allocation.
#[derive(Debug)]
pub(super) struct Pieces<const N: usize> {
    bytes: Vec<u8>,
    ends: [u32; N],
}

impl<const N: usize> Pieces<N> {
    fn of(pieces: [&[u8]; N]) -> Self {
        let mut out = Self { bytes: Vec::with_capacity(pieces.iter().map(|piece| piece.len()).sum()), ends: [0; N] };
        for (end, piece) in out.ends.iter_mut().zip(pieces) {
            out.bytes.extend_from_slice(piece);
            *end = out.bytes.len() as u32; // a message is below 4 GiB
        }
        out
    }

    fn get(&self, place: usize) -> &[u8] {
        let start = place.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or_default();
        let end = self.ends.get(place).copied().unwrap_or_default();
        self.bytes.get(start as usize..end as usize).unwrap_or_default()
    }
}

/// What is kept of the INVITE.
const CALL_ID: usize = 0;
const FROM: usize = 1;
const FROM_TAG: usize = 2;
const CONTACT: usize = 3;
const ROUTES: usize = 4;
const CALLED: usize = 5;

/// One call.
#[derive(Debug)]
pub struct Call {
    serial: u32,
    hash: u64,
    /// CSeq number of its INVITE.
    cseq: u32,
    /// The request that began it.
    context: ContextKey,
    state: CallState,
    /// Where the INVITE came from.
    source: Hop,
    ingress: Option<TrunkId>,
    /// Where the latest attempt went, then the one that answered.
    egress: Option<TrunkId>,
    next: Option<Hop>,
    attempts: u16,
    started: Instant,
    rang: Option<Instant>,
    answered: Option<Instant>,
    /// It ends at this time if nothing is seen of it before.
    until: Instant,
    /// Its session is over at this time, if it has an interval (RFC 4028 8).
    session: Option<Instant>,
    /// An answered call must be acknowledged by this time; `None` once it is.
    unacknowledged: Option<Instant>,
    timer: Option<TimerHandle>,
    status: u16,
    is_own_answer: bool,
    cancelled: bool,
    /// The operator wants it ended.
    is_condemned: bool,
    cause: Option<u16>,
    verification: Verification,
    /// What verification said of the answer, and whom it names.
    connection: (Verification, Option<Identity<'static>>),
    signed: Option<Arc<Signed>>,
    invite: Pieces<6>,
    dialogs: Vec<Dialog>,
    guards: Vec<CallGuard>,
}

impl Call {
    /// The time at which there is something to look at, if nothing happens before.
    fn deadline(&self) -> Instant {
        let earlier = [self.session, self.unacknowledged].into_iter().flatten().min();
        earlier.map_or(self.until, |at| at.min(self.until))
    }
}

/// Requests that were refused without state lately, by a hash: the newest of each slot. Two that are sent again and again at the same
/// time and share a slot push each other out, so that each copy has its record: one chance in 4096 for each two, and harmless.
pub(super) struct Refused(Box<[u64; Refused::SLOTS]>);

impl Default for Refused {
    fn default() -> Self {
        Self(Box::new([0; Self::SLOTS]))
    }
}

impl Refused {
    const SLOTS: usize = 4096;

    /// Whether this one is not a copy of one before. It is remembered.
    fn is_new(&mut self, hash: u64) -> bool {
        let place = self.0.get_mut(hash as usize % Self::SLOTS);
        place.is_some_and(|last| std::mem::replace(last, hash) != hash)
    }
}

/// The calls of one worker.
#[derive(Default)]
pub struct Calls {
    entries: Slab<Box<Call>>,
    by_call_id: HashTable<(u64, u32)>,
    serial: u32,
    /// How many come from a trunk and go to it, by its number.
    by_trunk: Vec<[u32; 2]>,
}

impl Calls {
    /// Calls observed.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// No call is observed.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether a call may be taken in: its Call-ID has not too many already.
    fn has_room_for(&self, hash: u64) -> bool {
        self.of(hash).count() < MAX_PER_CALL_ID
    }

    /// Takes a call in, if there is room for it.
    fn insert(&mut self, mut call: Box<Call>) -> Option<CallKey> {
        let hash = call.hash;
        if !self.has_room_for(hash) {
            return None;
        }
        self.count(call.ingress, 0, 1);
        self.count(call.egress, 1, 1);
        self.serial = self.serial.wrapping_add(1);
        call.serial = self.serial;
        let slot = u32::try_from(self.entries.insert(call)).ok()?; // the bound on calls is far below
        self.by_call_id.insert_unique(hash, (hash, slot), |(hash, _)| *hash);
        Some(CallKey { slot, serial: self.serial })
    }

    fn get_mut(&mut self, key: CallKey) -> Option<&mut Call> {
        let call = self.entries.get_mut(key.slot as usize)?;
        (call.serial == key.serial).then_some(&mut **call)
    }

    fn get(&self, key: CallKey) -> Option<&Call> {
        self.entries.get(key.slot as usize).map(|call| &**call).filter(|call| call.serial == key.serial)
    }

    fn keys(&self) -> impl Iterator<Item = CallKey> {
        self.entries.iter().map(|(slot, call)| CallKey { slot: slot as u32, serial: call.serial })
    }

    fn remove(&mut self, key: CallKey) -> Option<Box<Call>> {
        let (hash, ingress, egress) = self.get(key).map(|call| (call.hash, call.ingress, call.egress))?;
        self.count(ingress, 0, -1);
        self.count(egress, 1, -1);
        if let Ok(place) = self.by_call_id.find_entry(hash, |entry| *entry == (hash, key.slot)) {
            place.remove();
        }
        self.entries.try_remove(key.slot as usize)
    }

    /// A call goes to another trunk.
    fn goes_to(&mut self, key: CallKey, egress: Option<TrunkId>) {
        let Some(before) = self.get_mut(key).map(|call| std::mem::replace(&mut call.egress, egress)) else { return };
        if before != egress {
            self.count(before, 1, -1);
            self.count(egress, 1, 1);
        }
    }

    fn count(&mut self, trunk: Option<TrunkId>, direction: usize, change: i32) {
        let Some(place) = trunk.map(|trunk| usize::from(trunk.0)) else { return };
        if self.by_trunk.len() <= place {
            self.by_trunk.resize(place + 1, [0; 2]);
        }
        let counts = self.by_trunk.get_mut(place).and_then(|counts| counts.get_mut(direction));
        counts.into_iter().for_each(|count| *count = count.saturating_add_signed(change));
    }

    /// How many calls come from each trunk, and how many go to it, by its number.
    pub fn by_trunk(&self) -> &[[u32; 2]] {
        &self.by_trunk
    }

    /// The calls of a Call-ID, by its hash.
    fn of(&self, hash: u64) -> impl Iterator<Item = CallKey> {
        let places = self.by_call_id.iter_hash(hash).filter(move |(other, _)| *other == hash);
        places.filter_map(|(_, slot)| Some(CallKey { slot: *slot, serial: self.entries.get(*slot as usize)?.serial }))
    }

    /// The dialog that a request belongs to which comes from this trunk and address, and which of the two sent it. Who is at neither end of
    /// the call, by trunk or by address, has no part in it, whatever tags it writes.
    pub fn dialog_of(&self, hash: u64, request: Message<'_>, ingress: TrunkId, from: IpAddr) -> Option<InDialog> {
        let (from_tag, to_tag) = (request.from_tag()?, request.to_tag()?);
        self.of(hash).find_map(|key| {
            let call = self.get(key)?;
            let caller = call.invite.get(FROM_TAG);
            let (callee, side) = match (caller == from_tag, caller == to_tag) {
                (true, _) => (to_tag, Side::Caller),
                (false, true) => (from_tag, Side::Callee),
                (false, false) => return None,
            };
            let place = call.dialogs.iter().position(|dialog| dialog.tag() == callee)?;
            // A callee that is no trunk's is whoever it is recognised as.
            let next = call.dialogs.get(place)?.next();
            let far = next.peer.map(|peer| TrunkId(peer.0));
            let party = if call.ingress == Some(ingress) || far.is_none_or(|far| far == ingress) {
                Some(ingress)
            } else {
                let is_there = |hop: Hop| hop.remote.ip().to_canonical() == from.to_canonical();
                let trunk = if side == Side::Caller { call.ingress } else { far };
                trunk.filter(|_| is_there(next) || is_there(call.source))
            };
            Some(InDialog { call: key, place, side, trunk: party? })
        })
    }

    /// Whether the call of an INVITE (or of its response) counts for a trunk already: this one, or the same one on its way through here
    /// before. A spiral keeps Call-ID, From tag and CSeq; with one of them new it is another call, or a caller could have many for one.
    pub(super) fn counts(&self, hash: u64, invite: Message<'_>, limits: &TrunkLimits) -> bool {
        let number = invite.cseq().map_or(0, |cseq| cseq.number);
        let is_meant = |call: &&Call| call.cseq == number && Some(call.from_tag()) == invite.from_tag();
        let mut calls = self.of(hash).filter_map(|key| self.get(key)).filter(is_meant);
        calls.any(|call| call.guards.iter().any(|guard| guard.is_of(limits)))
    }

    /// A call counts no more for one trunk.
    pub fn release_one(&mut self, key: CallKey, limits: &TrunkLimits) {
        if let Some(call) = self.get_mut(key) {
            call.guards.retain(|guard| !guard.is_of(limits));
        }
    }

    /// All calls from a place in the table on, at most so many places; and where to go on, if that is not the end.
    pub fn from(&self, place: usize, places: usize) -> (impl Iterator<Item = &Call>, Option<usize>) {
        let end = place.saturating_add(places);
        let bound = self.entries.capacity().max(self.entries.len());
        let calls = (place..end.min(bound)).filter_map(|slot| self.entries.get(slot)).map(|call| &**call);
        (calls, (end < bound).then_some(end))
    }
}
