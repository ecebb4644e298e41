//! The runner of the SIPp scenarios: reads a case file, starts the proxy and the parties, judges both sides.

mod baresip;
mod case;
mod certificates;
mod certsrv;
mod judge;
mod kamailio;
mod message;
mod passport;
mod place;
mod process;
mod proxy;
mod raw;
mod records;
mod run;
mod sipp;

pub use run::{run, run_all_direct};
