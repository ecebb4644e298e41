//! PASSporT extensions, named by `ppt` (RFC 8225 section 8).
pub mod shaken;

/// The extensions this program understands. An Identity field with another `ppt` is ignored (RFC 8224 6.2 step 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ppt {
    /// No `ppt`: claims of RFC 8225 alone.
    Baseline,
    /// RFC 8588.
    Shaken,
}

impl Ppt {
    /// By name, case-sensitive; `None` inside when there is no `ppt`, `None` outside when it is not supported.
    pub fn from_name(name: Option<&str>) -> Option<Self> {
        match name {
            None => Some(Self::Baseline),
            Some("shaken") => Some(Self::Shaken),
            Some(_) => None,
        }
    }

    /// The value of the `ppt` member, if there is to be one.
    pub fn name(self) -> Option<&'static str> {
        match self {
            Self::Baseline => None,
            Self::Shaken => Some("shaken"),
        }
    }
}
