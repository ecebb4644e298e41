//! What the four machines have in common: their inputs, what a row of a table may do, and the timers.
//!
//! A machine is a function from state and input to a [`Row`]. It decides nothing else and keeps nothing: [`super::client`] and
//! [`super::server`] carry out the actions.

use super::Config;
use std::time::Duration;

/// The timers of RFC 3261 table 4 and RFC 6026 by their letters, and three this element needs besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Timer {
    /// INVITE client: sends again.
    A,
    /// INVITE client: nothing came.
    B,
    /// INVITE client: absorbs retransmitted 300-699.
    D,
    /// Non-INVITE client: sends again.
    E,
    /// Non-INVITE client: no final came.
    F,
    /// INVITE server: sends the 300-699 again.
    G,
    /// INVITE server: no ACK came.
    H,
    /// INVITE server: absorbs ACKs.
    I,
    /// Non-INVITE server: absorbs requests.
    J,
    /// Non-INVITE client: absorbs responses.
    K,
    /// INVITE server: absorbs INVITEs after a 2xx (RFC 6026 8.7).
    L,
    /// INVITE client: more 2xx may come (RFC 6026 8.4).
    M,
    /// INVITE client: no final after CANCEL (RFC 3261 9.1, K-3).
    Cancelled,
    /// Non-INVITE server: a 100 may and must be sent from here on (RFC 4320 4.1, N-1).
    TryingDelay,
    /// Non-INVITE server: the client has given up, no final is of use any more (RFC 4320 4.2, N-2).
    Unanswered,
}

/// How a timer behaves; each transaction runs at most one timer of each pace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    /// Fires again and again, or warns: A, E, G, TryingDelay.
    Repeating,
    /// Ends a state: all others.
    Ending,
}

impl Timer {
    pub(super) fn pace(self) -> Pace {
        match self {
            Self::A | Self::E | Self::G | Self::TryingDelay => Pace::Repeating,
            _ => Pace::Ending,
        }
    }

    /// How long it runs when it is started; `None` where it is not started at all, zero where the state is left at once.
    pub(super) fn duration(self, config: &Config, reliable: bool) -> Option<Duration> {
        let unless_reliable = |duration| if reliable { Duration::ZERO } else { duration };
        match self {
            Self::A | Self::E | Self::G => (!reliable).then_some(config.t1),
            Self::B | Self::F | Self::H | Self::L | Self::M | Self::Cancelled | Self::Unanswered => {
                Some(config.lifetime())
            }
            Self::D => Some(unless_reliable(config.timer_d)),
            Self::I | Self::K => Some(unless_reliable(config.t4)),
            // Zero in RFC 3261 17.2.2. Here a response that the transport could not deliver still finds its transaction (T-4).
            Self::J if reliable => Some(config.t4),
            Self::J => Some(config.lifetime()),
            Self::TryingDelay => Some(config.trying_delay()),
        }
    }

    /// The longest it waits between two sendings: A doubles for ever, E and G up to T2.
    pub(super) fn longest(self, config: &Config) -> Duration {
        match self {
            Self::E | Self::G => config.t2,
            _ => Duration::MAX,
        }
    }
}

/// What the user is told besides messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Report {
    TimedOut,
    Failed,
    Unacknowledged,
    CancelTimedOut,
    TryingDue,
}

/// One thing a row does. "The message" is the one being handled, "the kept message" the last one kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// TU: hand over the message.
    Deliver,
    /// TU: tell.
    Report(Report),
    /// Net: the message.
    Send,
    /// Keep the message as long as it may have to be sent again, or an ACK or CANCEL to be made of it.
    Keep,
    /// Net: the kept message.
    Resend,
    /// Net: an ACK for the message, made of the kept request; it is kept instead (RFC 3261 17.1.1.3).
    Acknowledge,
    /// Net: the CANCEL that had to wait for a provisional response (RFC 3261 9.1).
    CancelIfWished,
    /// Nothing kept is of use any more.
    Forget,
    /// Starts a timer, in place of the one of its pace.
    Start(Timer),
    /// Starts it again with twice its time, at most [`Timer::longest`].
    Double(Timer),
    /// Starts it again with T2.
    AtT2(Timer),
    /// Stops a timer.
    Stop(Timer),
}

/// What a table says about one state and one event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Row<S> {
    pub(super) actions: &'static [Action],
    /// `None`: Terminated, the transaction is freed.
    pub(super) next: Option<S>,
}

impl<S> Row<S> {
    /// The same row for a wider type of states.
    pub(super) fn map<T>(self, widen: impl FnOnce(S) -> T) -> Row<T> {
        Row { actions: self.actions, next: self.next.map(widen) }
    }
}

/// How a transaction begins: the row above the first.
#[derive(Debug, Clone, Copy)]
pub(super) struct Begin<S> {
    pub(super) actions: &'static [Action],
    pub(super) first: S,
}

/// A row that leads to (or stays in) a state.
pub(super) const fn go<S>(actions: &'static [Action], next: S) -> Row<S> {
    Row { actions, next: Some(next) }
}

/// A row that ends the transaction.
pub(super) const fn end<S>(actions: &'static [Action]) -> Row<S> {
    Row { actions, next: None }
}

/// What happens to a client transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClientInput {
    /// 1xx.
    Provisional,
    /// 2xx.
    Success,
    /// 300-699.
    Failure,
    /// The transport could not send.
    TransportError,
    /// A timer fired.
    Fired(Timer),
}

/// What happens to a server transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ServerInput {
    /// The request again.
    Request,
    /// ACK (INVITE only).
    Ack,
    /// 1xx from the user.
    Provisional,
    /// 2xx from the user.
    Success,
    /// 300-699 from the user.
    Failure,
    /// The transport could not send.
    TransportError,
    /// A timer fired.
    Fired(Timer),
}

/// The class of a status as a machine sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Provisional,
    Success,
    Failure,
}

impl Class {
    /// `None` for a number that is no SIP status (RFC 3261 7.2).
    pub(super) fn of(status: u16) -> Option<Self> {
        match status {
            100..=199 => Some(Self::Provisional),
            200..=299 => Some(Self::Success),
            300..=699 => Some(Self::Failure),
            _ => None,
        }
    }
}

impl From<Class> for ClientInput {
    fn from(class: Class) -> Self {
        match class {
            Class::Provisional => Self::Provisional,
            Class::Success => Self::Success,
            Class::Failure => Self::Failure,
        }
    }
}

impl From<Class> for ServerInput {
    fn from(class: Class) -> Self {
        match class {
            Class::Provisional => Self::Provisional,
            Class::Success => Self::Success,
            Class::Failure => Self::Failure,
        }
    }
}
