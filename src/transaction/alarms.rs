//! The timers of one transaction, kept in the layer's wheel.

use super::Config;
use super::machine::{Pace, Timer};
use super::timer::{TimerHandle, Wheel};
use std::time::{Duration, Instant};

/// Whose timer it is: an index into the clients or the servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    Client(u32),
    Server(u32),
}

/// What the wheel hands out. The timers of a transaction are stopped before its index is reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Alarm {
    pub(super) owner: Owner,
    pub(super) timer: Timer,
}

/// What starting a timer came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Started {
    /// It runs, or does not apply on this transport.
    Later,
    /// Its time is zero: it has fired already.
    AtOnce,
}

/// The running timers of one transaction: at most one of each [`Pace`].
#[derive(Debug, Default)]
pub(super) struct Alarms {
    repeating: Option<TimerHandle>,
    ending: Option<TimerHandle>,
    /// Present value of the repeating timer.
    interval: Duration,
}

impl Alarms {
    /// Starts `timer` in place of the running one of its pace.
    pub(super) fn start(
        &mut self,
        now: Instant,
        wheel: &mut Wheel<Alarm>,
        alarm: Alarm,
        config: &Config,
        reliable: bool,
    ) -> Started {
        match alarm.timer.duration(config, reliable) {
            None => Started::Later,
            Some(Duration::ZERO) => Started::AtOnce,
            Some(duration) => {
                self.run(now, wheel, alarm, duration);
                Started::Later
            }
        }
    }

    /// Starts it again with twice its time.
    pub(super) fn double(&mut self, now: Instant, wheel: &mut Wheel<Alarm>, alarm: Alarm, config: &Config) {
        let interval = self.interval.saturating_mul(2).min(alarm.timer.longest(config));
        self.run(now, wheel, alarm, interval);
    }

    /// Starts it with `duration`.
    pub(super) fn run(&mut self, now: Instant, wheel: &mut Wheel<Alarm>, alarm: Alarm, duration: Duration) {
        self.stop(wheel, alarm.timer.pace());
        let handle = wheel.insert(now + duration, alarm);
        match alarm.timer.pace() {
            Pace::Repeating => (self.repeating, self.interval) = (Some(handle), duration),
            Pace::Ending => self.ending = Some(handle),
        }
    }

    pub(super) fn stop(&mut self, wheel: &mut Wheel<Alarm>, pace: Pace) {
        let handle = match pace {
            Pace::Repeating => self.repeating.take(),
            Pace::Ending => self.ending.take(),
        };
        if let Some(handle) = handle {
            wheel.cancel(handle);
        }
    }

    pub(super) fn stop_all(&mut self, wheel: &mut Wheel<Alarm>) {
        self.stop(wheel, Pace::Repeating);
        self.stop(wheel, Pace::Ending);
    }

    /// Notes that the timer of this pace has fired.
    pub(super) fn fired(&mut self, pace: Pace) {
        match pace {
            Pace::Repeating => self.repeating = None,
            Pace::Ending => self.ending = None,
        }
    }

    pub(super) fn is_running(&self, pace: Pace) -> bool {
        match pace {
            Pace::Repeating => self.repeating.is_some(),
            Pace::Ending => self.ending.is_some(),
        }
    }
}
