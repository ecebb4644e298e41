//! `keep` of RFC 6223 (KA-3): a neighbour asks in its Via whether it may send us keepalives, and learns how often.

use super::{ContextKey, Proxy};
use crate::sip::hop::Transport;
use crate::sip::text::push_decimal;
use crate::sip::{Message, Method, Name, Via};

impl Proxy {
    /// Edits a response that is on its way to the neighbour who asked. In our Via's place, which goes, nobody else is answered; a value
    /// that is there is left to him who wrote it.
    pub(super) fn answer_keep(&mut self, key: ContextKey, response: Message<'_>) {
        let Some(context) = self.context(key) else { return };
        let (transport, ingress) = (context.source.transport, context.ingress);
        let config = &context.snapshot.config;
        let Some(seconds) = config.trunk(ingress).and_then(|trunk| trunk.keep) else { return };
        // RFC 5626 3.5.2: keepalives by datagrams are STUN, and whoever sends them waits for answers.
        let can = transport != Transport::Udp || config.answers_stun;
        if !can || !establishes(response) {
            return;
        }
        let Some(value) = response.values(Name::Via).nth(1) else { return };
        let asked =
            Via::parse(value.value).ok().and_then(|via| via.params().find("keep").filter(|p| p.value.is_none()));
        if let Some(asked) = asked {
            let at = value.range.start;
            self.patch.replace_with(at + asked.range.start..at + asked.range.end, |out| {
                out.extend_from_slice(b";keep=");
                push_decimal(out, seconds.into());
            });
        }
    }
}

/// It makes a registration or a dialog: with anything else there is nothing that keepalives could last as long as (RFC 6223 4).
fn establishes(response: Message<'_>) -> bool {
    let method = response.cseq().map(|cseq| cseq.method);
    match response.status() {
        Some(101..=199) => method == Ok(Method::Invite),
        Some(200..=299) => {
            matches!(method, Ok(Method::Invite | Method::Register | Method::Subscribe | Method::Refer))
        }
        _ => false,
    }
}
