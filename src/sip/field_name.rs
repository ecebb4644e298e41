//! The name of a header field as an operator writes it.

use super::message::{Field, Message};
use super::name::Name;

/// A name, recognised once and not for each message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldName {
    known: Name,
    /// As written.
    text: Box<str>,
}

impl<T: Into<Box<str>>> From<T> for FieldName {
    fn from(text: T) -> Self {
        let text = text.into();
        Self { known: Name::new(text.as_bytes()), text }
    }
}

impl FieldName {
    /// Which header it is.
    pub fn known(&self) -> Name {
        self.known
    }

    /// The fields of a message that have this name, in its compact form too.
    pub fn fields_of<'a>(&self, message: Message<'a>) -> impl Iterator<Item = Field<'a>> {
        let is_named = |raw: &[u8]| self.known != Name::Other || raw.eq_ignore_ascii_case(self.text.as_bytes());
        message.fields_of(self.known).filter(move |field| is_named(field.raw_name()))
    }
}
