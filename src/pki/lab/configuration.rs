//! The texts of the lab: what is where, and the two edges.

use ipnet::IpNet;

use super::files::MARK;
use super::{Addresses, Lab, SERVICE_PROVIDER_CODE};

/// `lab.txt`.
pub(super) fn overview(lab: &Lab) -> String {
    let (acme, globex) = (&lab.acme, &lab.globex);
    format!(
        "{MARK} a complete STI ecosystem for tests. Its keys are not secret; never trust its roots elsewhere.

sti/        trust anchor (root.pem) and issuing authority with their keys
log/        log list and key of the transparency log that signed the embedded SCTs
web/        authority of the TLS certificates, apart from the STI
acme/       {acme_name}, {acme_domain}: 12015550100 and 12015550110 to 12015550119
globex/     {globex_name}, {globex_domain}: 12025550100 and 12025550110 to 12025550119
              sti.pem, sti.key  VESPER delegate certificate (chain, leaf first) and key
              tls.pem, tls.key  TLS certificate of the domain and key
provider/   plain SHAKEN certificate of the provider {SERVICE_PROVIDER_CODE} and key

originating.toml   the edge of Acme: signs what its PBX sends and passes it to Globex
terminating.toml   the edge of Globex: verifies what arrives and passes it to its PBX

Acme's delegate certificate belongs at {x5u}
",
        acme_name = acme.organization,
        acme_domain = acme.domain,
        globex_name = globex.organization,
        globex_domain = globex.domain,
        x5u = acme.sti.x5u,
    )
}

fn listeners(bind: std::net::SocketAddr) -> String {
    ["udp", "tcp"]
        .map(|transport| {
            format!("[[listener]]\nname = \"{transport}\"\ntransport = \"{transport}\"\nbind = \"{bind}\"\n\n")
        })
        .concat()
}

/// `originating.toml`: the PBX is a neighbour by its address, all else goes out signed, and answers are verified.
pub(super) fn originating(lab: &Lab, at: &Addresses) -> String {
    let Addresses { originating, terminating, caller, .. } = at;
    format!(
        "# vesperd lab: the edge of Acme. Signs the calls of its PBX and sends them to Globex.
[node]
workers = 1

{listeners}[[trunk]]
name = \"pbx\"
peers = [\"{caller_net}\"]
next_hop = \"udp:{caller}\"
trusted = true

[[trunk]]
name = \"globex\"
next_hop = \"udp:{terminating}\"
sign = \"acme\"
udp_oversize = \"udp\"
[trunk.connected]
verify = \"preferred\"
profile = \"vesper\"

[[trunk]]
name = \"globex-tcp\"
next_hop = \"tcp:{terminating}\"
sign = \"acme\"
[trunk.connected]
verify = \"preferred\"
profile = \"vesper\"

[[signer]]
name = \"acme\"
certificate = \"acme/sti.pem\"
key = \"acme/sti.key\"
x5u = \"{x5u}\"
profile = \"vesper\"

# One number of Globex is reached over TCP, the others over UDP.
[[route]]
from = \"pbx\"
prefix = \"12025550110\"
to = \"globex-tcp\"

[[route]]
from = \"pbx\"
prefix = \"1202555\"
to = \"globex\"

# For the answers, which say who was reached.
[stir]
anchors = [\"sti/root.pem\"]
log_list = \"log/log-list.json\"
",
        listeners = listeners(*originating),
        caller_net = IpNet::from(caller.ip()),
        x5u = lab.acme.sti.x5u,
    )
}

/// `terminating.toml`: what arrives is verified as VESPER, or as SHAKEN from the provider; answers to Acme are signed.
pub(super) fn terminating(lab: &Lab, at: &Addresses) -> String {
    let Addresses { originating, terminating, provider, callee, .. } = at;
    format!(
        "# vesperd lab: the edge of Globex. Verifies what arrives and passes it to its PBX.
[node]
workers = 1

{listeners}[[trunk]]
name = \"acme\"
peers = [\"{originating_net}\"]
next_hop = \"udp:{originating}\"
[trunk.verify]
profile = \"vesper\"
on_failure = \"reject\"
require_identity = true
[trunk.connected]
sign = \"globex\"

# The provider is told apart by address and port: it sends from the port it listens on.
[[trunk]]
name = \"provider\"
next_hop = \"udp:{provider}\"
[trunk.verify]
profile = \"shaken\"
on_failure = \"reject\"
require_identity = true

[[trunk]]
name = \"pbx\"
next_hop = \"udp:{callee}\"
trusted = true
udp_oversize = \"udp\"

[[trunk]]
name = \"pbx-tcp\"
next_hop = \"tcp:{callee}\"
trusted = true

[[signer]]
name = \"globex\"
certificate = \"globex/sti.pem\"
key = \"globex/sti.key\"
x5u = \"{x5u}\"
profile = \"vesper\"

[[route]]
prefix = \"12025550110\"
to = \"pbx-tcp\"

[[route]]
prefix = \"1202555\"
to = \"pbx\"

[stir]
anchors = [\"sti/root.pem\"]
log_list = \"log/log-list.json\"
",
        listeners = listeners(*terminating),
        originating_net = IpNet::from(originating.ip()),
        x5u = lab.globex.sti.x5u,
    )
}
