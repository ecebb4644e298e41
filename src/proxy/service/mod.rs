//! The STIR engine for networks that keep their SBC. `redirect` answers INVITEs of a served trunk by 302, with an Identity or a
//! verdict in it, the form of SIP redirect STI-AS and STI-VS: no call is left behind, only the transaction. `question` answers what
//! `node` is asked over HTTP.

mod question;
mod redirect;

pub(super) use question::ParkedQuestions;
pub use question::{Kind, Question, Replied, Reply};

/// What is done for the INVITEs of a trunk instead of forwarding them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Service {
    /// Sign or verify.
    pub duty: Duty,
    /// The answer where there is nothing to say: to sign, or (if it is set) no Identity to verify. The SBC goes on with the call
    /// as it has it.
    pub no_match: Option<u16>,
}

/// What a served trunk asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duty {
    /// An Identity by the trunk's signer.
    Sign,
    /// The verdict of the trunk's policy.
    Verify,
}
