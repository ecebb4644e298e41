//! INVITE client transaction: RFC 3261 17.1.1 as changed by RFC 6026 8.4.

use super::machine::{Action::*, Begin, ClientInput, ClientInput::*, Report, Row, Timer::*, end, go};

/// States of RFC 6026 figure 5; Terminated is the absence of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Calling,
    Proceeding,
    Completed,
    Accepted,
}

use State::*;

/// The INVITE leaves.
pub(super) const START: Begin<State> = Begin { actions: &[Send, Keep, Start(B), Start(A)], first: Calling };

/// The table.
pub(super) fn row(state: State, input: ClientInput) -> Row<State> {
    match (state, input) {
        (Calling, Fired(A)) => go(&[Resend, Double(A)], Calling),
        (Calling, Fired(B)) => end(&[Report(Report::TimedOut)]),
        (Calling, TransportError) => end(&[Report(Report::Failed)]),
        (Calling, Provisional) => go(&[Stop(A), Stop(B), Deliver, CancelIfWished], Proceeding),
        (Calling, Success) => go(&[Stop(A), Deliver, Forget, Start(M)], Accepted),
        (Calling, Failure) => go(&[Stop(A), Deliver, Acknowledge, Start(D)], Completed),

        (Proceeding, Provisional) => go(&[Deliver], Proceeding),
        (Proceeding, Success) => go(&[Deliver, Forget, Start(M)], Accepted),
        (Proceeding, Failure) => go(&[Deliver, Acknowledge, Start(D)], Completed),
        // RFC 3261 9.1: 64*T1 after the CANCEL the INVITE counts as cancelled (K-3).
        (Proceeding, Fired(Cancelled)) => end(&[Report(Report::CancelTimedOut)]),

        (Completed, Failure) => go(&[Resend], Completed),
        (Completed, TransportError) => end(&[Report(Report::Failed)]),
        (Completed, Fired(D)) => end(&[]),

        // Every 2xx, whatever its To tag: the user forwards them all (RFC 6026 8.4).
        (Accepted, Success) => go(&[Deliver], Accepted),
        (Accepted, Fired(M)) => end(&[]),

        // Among them 1xx and 300-699 in Accepted, 1xx and 2xx in Completed, a late transport error in Proceeding: dropped.
        (state, _) => go(&[], state),
    }
}
