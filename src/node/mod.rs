//! The running program: worker (the packet loop), fetch (slow side door), start and stop. Only here tasks are spawned, clocks
//! are read and randomness is drawn.

pub mod clock;
pub mod fetch;
