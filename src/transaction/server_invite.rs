//! INVITE server transaction: RFC 3261 17.2.1 as changed by RFC 6026 8.5 to 8.7.

use super::machine::{Action::*, Begin, Report, Row, ServerInput, ServerInput::*, Timer::*, end, go};

/// States of RFC 6026 figure 6; Terminated is the absence of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Proceeding,
    Accepted,
    Completed,
    Confirmed,
}

use State::*;

/// The INVITE came. The user sends the 100 at once, so there is no 200 ms timer.
pub(super) const START: Begin<State> = Begin { actions: &[], first: Proceeding };

/// The table.
pub(super) fn row(state: State, input: ServerInput) -> Row<State> {
    match (state, input) {
        (Proceeding, Request) => go(&[Resend], Proceeding),
        (Proceeding, Provisional) => go(&[Send, Keep], Proceeding),
        // A 2xx is never sent again from here: the UAS does that, and each copy crosses the user (RFC 6026 7.1).
        (Proceeding, Success) => go(&[Send, Forget, Start(L)], Accepted),
        (Proceeding, Failure) => go(&[Send, Keep, Start(H), Start(G)], Completed),
        (Proceeding, TransportError) => go(&[Report(Report::Failed)], Proceeding),

        (Accepted, Success) => go(&[Send], Accepted),
        (Accepted, Ack) => go(&[Deliver], Accepted),
        (Accepted, TransportError) => go(&[Report(Report::Failed)], Accepted),
        (Accepted, Fired(L)) => end(&[]),

        (Completed, Request) => go(&[Resend], Completed),
        (Completed, Fired(G)) => go(&[Resend, Double(G)], Completed),
        (Completed, Ack) => go(&[Stop(G), Stop(H), Forget, Start(I)], Confirmed),
        (Completed, Fired(H)) => end(&[Report(Report::Unacknowledged)]),
        (Completed, TransportError) => go(&[Report(Report::Failed)], Completed),

        (Confirmed, Fired(I)) => end(&[]),

        // Among them an INVITE in Accepted or Confirmed, an ACK in Confirmed, any response after a 300-699: absorbed.
        (state, _) => go(&[], state),
    }
}
