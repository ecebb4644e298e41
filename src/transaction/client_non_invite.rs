//! Non-INVITE client transaction: RFC 3261 17.1.2.

use super::machine::{Action::*, Begin, ClientInput, ClientInput::*, Report, Row, Timer::*, end, go};

/// States of RFC 3261 figure 6; Terminated is the absence of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Trying,
    Proceeding,
    Completed,
}

use State::*;

/// The request leaves.
pub(super) const START: Begin<State> = Begin { actions: &[Send, Keep, Start(F), Start(E)], first: Trying };

/// The table.
pub(super) fn row(state: State, input: ClientInput) -> Row<State> {
    match (state, input) {
        (Trying, Fired(E)) => go(&[Resend, Double(E)], Trying),
        (Trying, Fired(F)) => end(&[Report(Report::TimedOut)]),
        (Trying, TransportError) => end(&[Report(Report::Failed)]),
        (Trying, Provisional) => go(&[Deliver], Proceeding),
        (Trying, Success | Failure) => go(&[Stop(E), Deliver, Forget, Start(K)], Completed),

        // Unlike an INVITE, the request is sent again after a provisional response, every T2.
        (Proceeding, Fired(E)) => go(&[Resend, AtT2(E)], Proceeding),
        (Proceeding, Fired(F)) => end(&[Report(Report::TimedOut)]),
        (Proceeding, TransportError) => end(&[Report(Report::Failed)]),
        (Proceeding, Provisional) => go(&[Deliver], Proceeding),
        (Proceeding, Success | Failure) => go(&[Stop(E), Deliver, Forget, Start(K)], Completed),

        (Completed, Fired(K)) => end(&[]),

        // Among them every response in Completed: absorbed.
        (state, _) => go(&[], state),
    }
}
