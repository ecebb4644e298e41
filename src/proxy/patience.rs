//! Timers of a branch: Timer C (RFC 3261 16.6 item 11, 16.8; K-8) and the trunk's shorter patience (sip-proxy section 3).

use super::failover::Outcome;
use super::request_context::BranchState;
use super::response_context::Local;
use super::{ContextKey, Now, Output, Proxy, Timer};
use crate::transaction::ClientId;

impl Proxy {
    /// 16.8: a provisional response was seen: CANCEL, and the branch ends by its answer or by K-3; none was seen: as if 408, and nothing is sent any more.
    pub(super) fn timer_c(&mut self, now: Now, key: ContextKey, client: ClientId, out: &mut Output) {
        let Some(branch) = self.context(key).and_then(|c| c.branch_mut(client)) else { return };
        branch.timer_c = None;
        match branch.state {
            BranchState::Proceeding => {
                self.layer.cancel(now.instant, client, &[], &mut out.outbox);
            }
            BranchState::Calling => self.give_up(now, key, client, out),
            BranchState::Abandoned | BranchState::Final | BranchState::Ended(_) => {}
        }
    }

    /// 101 to 199 restart Timer C, 100 does not.
    pub(super) fn restart_timer_c(&mut self, now: Now, key: ContextKey, client: ClientId) {
        let after = self.snapshot_of(key).config.timer_c;
        let Some(old) = self.context(key).and_then(|c| c.branch_mut(client)).and_then(|b| b.timer_c.take()) else {
            return;
        };
        self.timers.cancel(old);
        let timer = self.timers.insert(now.instant + after, Timer::C { context: key, client });
        if let Some(branch) = self.context(key).and_then(|c| c.branch_mut(client)) {
            branch.timer_c = Some(timer);
        }
    }

    /// The first provisional response is there: from now on the wait is for the final one.
    pub(super) fn await_final(&mut self, now: Now, key: ContextKey, client: ClientId) {
        let Some(context) = self.context(key) else { return };
        let (is_timed, snapshot) = (context.is_invite && context.is_initial, context.snapshot.clone());
        let Some(branch) = context.branch_mut(client) else { return };
        let trunk = branch.egress.filter(|_| is_timed).and_then(|id| snapshot.config.trunk(id));
        let old = branch.patience.take();
        let after = trunk.and_then(|t| t.forking.fr_inv);
        if let Some(old) = old {
            self.timers.cancel(old);
        }
        let timer =
            after.map(|after| self.timers.insert(now.instant + after, Timer::Patience { context: key, client }));
        if let Some(branch) = self.context(key).and_then(|c| c.branch_mut(client)) {
            branch.patience = timer;
        }
    }

    /// A trunk's patience with a branch is over. The branch is given up, which makes room for the next candidate, but stays alive: its
    /// late 1xx brings a CANCEL to it, its late 2xx is forwarded. A branch that answered and has no successor (nothing is left, or no
    /// time or breadth for it) is cancelled and waited for instead, as a 2xx may cross the CANCEL and could not be forwarded after a 408
    ///
    pub(super) fn lost_patience(&mut self, now: Now, key: ContextKey, client: ClientId, out: &mut Output) {
        let Some(context) = self.context(key) else { return };
        let (snapshot, is_invite) = (context.snapshot.clone(), context.is_invite);
        let has_next = !context.plan.is_empty() && !context.settled;
        let has_room = !context.is_closed() && context.is_in_time(now) && context.breadth_left() > 0;
        let Some(branch) = context.branch_mut(client) else { return };
        branch.patience = None;
        if branch.state.has_ended() {
            return;
        }
        let trunk = branch.egress.and_then(|id| snapshot.config.trunk(id));
        let allowed = trunk.is_some_and(|t| t.forking.failover.allows(Outcome::Local(Local::Timeout), branch.rang));
        let moves_on = has_room && (allowed && has_next || !branch.rang && !branch.alternates.is_empty());
        if branch.state == BranchState::Proceeding && !moves_on {
            branch.overdue = true;
            self.layer.cancel(now.instant, client, &[], &mut out.outbox);
            return;
        }
        if is_invite || moves_on {
            self.give_up(now, key, client, out); // else Timer F: it may still get through, and there is nobody to tell sooner (N-2)
        }
    }

    /// The branch counts as ended by a 408, but stays alive.
    fn give_up(&mut self, now: Now, key: ContextKey, client: ClientId, out: &mut Output) {
        let Some(branch) = self.context(key).and_then(|c| c.branch_mut(client)) else { return };
        let was_silent = branch.state == BranchState::Calling;
        branch.state = BranchState::Abandoned;
        if was_silent {
            self.note_silence(now, key, client, out);
        }
        self.stop_timers(key, client);
        self.layer.abandon(client);
        self.layer.cancel(now.instant, client, &[], &mut out.outbox);
        self.stats.failed_attempts += 1;
        self.after_branch(now, key, client, Outcome::Local(Local::Timeout), out);
    }

    /// No timer of ours runs for this branch any more.
    pub(super) fn stop_timers(&mut self, key: ContextKey, client: ClientId) {
        let Some(branch) = self.context(key).and_then(|c| c.branch_mut(client)) else { return };
        let timers = [branch.timer_c.take(), branch.patience.take()];
        for timer in timers.into_iter().flatten() {
            self.timers.cancel(timer);
        }
    }
}
