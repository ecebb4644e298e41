//! Non-INVITE server transaction: RFC 3261 17.2.2 with RFC 4320.

use super::machine::{Action::*, Begin, Report, Row, ServerInput, ServerInput::*, Timer::*, end, go};

/// States of RFC 3261 figure 8; Terminated is the absence of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Trying,
    Proceeding,
    Completed,
}

use State::*;

/// The request came. Both timers are those of RFC 4320 (N-1, N-2).
pub(super) const START: Begin<State> = Begin { actions: &[Start(Unanswered), Start(TryingDelay)], first: Trying };

/// The table.
pub(super) fn row(state: State, input: ServerInput) -> Row<State> {
    match (state, input) {
        // The layer lets no provisional pass but a 100 that may be sent (N-1).
        (Trying, Provisional) => go(&[Stop(TryingDelay), Send, Keep], Proceeding),
        (Trying, Success | Failure) => go(&[Stop(TryingDelay), Send, Keep, Start(J)], Completed),
        (Trying, Fired(TryingDelay)) => go(&[Report(Report::TryingDue)], Trying),
        (Trying, Fired(Unanswered)) => end(&[]),

        (Proceeding, Request) => go(&[Resend], Proceeding),
        (Proceeding, Provisional) => go(&[Send, Keep], Proceeding),
        (Proceeding, Success | Failure) => go(&[Send, Keep, Start(J)], Completed),
        // RFC 3261 ends the transaction here; it stays, as RFC 6026 7.1 has it for INVITE (policy).
        (Proceeding, TransportError) => go(&[Report(Report::Failed)], Proceeding),
        (Proceeding, Fired(Unanswered)) => end(&[]),

        (Completed, Request) => go(&[Resend], Completed),
        (Completed, TransportError) => go(&[Report(Report::Failed)], Completed),
        (Completed, Fired(J)) => end(&[]),

        // Among them a request in Trying and a further final in Completed: discarded.
        (state, _) => go(&[], state),
    }
}
