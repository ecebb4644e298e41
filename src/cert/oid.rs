//! Object identifiers, as arcs (for issuing) and as the contents octets of their DER (for reading).

/// An object identifier in both spellings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Oid {
    /// The arcs, for example `[2, 5, 29, 56]`.
    pub arcs: &'static [u64],
    /// The contents octets of the DER OBJECT IDENTIFIER.
    pub der: &'static [u8],
}

macro_rules! oid {
    ($(#[$doc:meta])* $name:ident, [$($arc:expr),*], [$($octet:expr),*]) => {
        $(#[$doc])*
        pub const $name: Oid = Oid { arcs: &[$($arc),*], der: &[$($octet),*] };
    };
}

oid!(
    /// id-pe-TNAuthList (RFC 8226 section 9).
    TN_AUTH_LIST, [1, 3, 6, 1, 5, 5, 7, 1, 26], [0x2b, 6, 1, 5, 5, 7, 1, 0x1a]
);
oid!(
    /// id-pe-JWTClaimConstraints (RFC 8226 section 8).
    JWT_CLAIM_CONSTRAINTS, [1, 3, 6, 1, 5, 5, 7, 1, 27], [0x2b, 6, 1, 5, 5, 7, 1, 0x1b]
);
oid!(
    /// id-pe-eJWTClaimConstraints (RFC 9118 section 3).
    ENHANCED_JWT_CLAIM_CONSTRAINTS, [1, 3, 6, 1, 5, 5, 7, 1, 33], [0x2b, 6, 1, 5, 5, 7, 1, 0x21]
);
oid!(
    /// id-ad-stirTNList, an access method of authority information access (RFC 8226 section 10.1).
    STIR_TN_LIST, [1, 3, 6, 1, 5, 5, 7, 48, 14], [0x2b, 6, 1, 5, 5, 7, 0x30, 0x0e]
);
oid!(
    /// The embedded SCT list (RFC 6962 section 3.3).
    SCT_LIST, [1, 3, 6, 1, 4, 1, 11129, 2, 4, 2], [0x2b, 6, 1, 4, 1, 0xd6, 0x79, 2, 4, 2]
);
oid!(
    /// The precertificate poison (RFC 6962 section 3.1).
    PRECERTIFICATE_POISON, [1, 3, 6, 1, 4, 1, 11129, 2, 4, 3], [0x2b, 6, 1, 4, 1, 0xd6, 0x79, 2, 4, 3]
);
oid!(
    /// id-ce-noRevAvail (RFC 9608 section 2).
    NO_REV_AVAIL, [2, 5, 29, 56], [0x55, 0x1d, 0x38]
);
oid!(
    /// id-ad-ocsp (RFC 5280 section 4.2.2.1).
    AD_OCSP, [1, 3, 6, 1, 5, 5, 7, 48, 1], [0x2b, 6, 1, 5, 5, 7, 0x30, 1]
);
oid!(
    /// id-ce-freshestCRL (RFC 5280 section 4.2.1.15).
    FRESHEST_CRL, [2, 5, 29, 46], [0x55, 0x1d, 0x2e]
);
oid!(
    /// id-ce-cRLNumber (RFC 5280 section 5.2.3).
    CRL_NUMBER, [2, 5, 29, 20], [0x55, 0x1d, 0x14]
);
oid!(
    /// id-ce-issuingDistributionPoint (RFC 5280 section 5.2.5).
    ISSUING_DISTRIBUTION_POINT, [2, 5, 29, 28], [0x55, 0x1d, 0x1c]
);
oid!(
    /// id-ce-certificateIssuer (RFC 5280 section 5.3.3).
    CERTIFICATE_ISSUER, [2, 5, 29, 29], [0x55, 0x1d, 0x1d]
);
oid!(
    /// id-ce-authorityKeyIdentifier (RFC 5280 section 4.2.1.1).
    AUTHORITY_KEY_ID, [2, 5, 29, 35], [0x55, 0x1d, 0x23]
);

/// The dotted form of an OBJECT IDENTIFIER's contents octets; what is none reads as hexadecimal digits.
pub(crate) fn dotted(der: &[u8]) -> String {
    let mut arcs: Vec<String> = Vec::new();
    let mut value = 0u64;
    for (at, octet) in der.iter().enumerate() {
        // Ten octets of seven bits could exceed a u64; identifiers in use stay far below.
        if value >> 57 != 0 {
            return super::hex(der);
        }
        value = value << 7 | u64::from(octet & 0x7f);
        if octet & 0x80 != 0 {
            if at + 1 == der.len() {
                return super::hex(der);
            }
            continue;
        }
        if arcs.is_empty() {
            // X.690 section 8.19.4: the first octets hold two arcs.
            let first = (value / 40).min(2);
            arcs.push(first.to_string());
            value -= first * 40;
        }
        arcs.push(value.to_string());
        value = 0;
    }
    arcs.join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arcs_and_octets_agree() {
        for oid in [
            TN_AUTH_LIST,
            JWT_CLAIM_CONSTRAINTS,
            ENHANCED_JWT_CLAIM_CONSTRAINTS,
            STIR_TN_LIST,
            SCT_LIST,
            PRECERTIFICATE_POISON,
            NO_REV_AVAIL,
            AD_OCSP,
            FRESHEST_CRL,
            CRL_NUMBER,
            ISSUING_DISTRIBUTION_POINT,
            CERTIFICATE_ISSUER,
            AUTHORITY_KEY_ID,
        ] {
            let arcs: Vec<String> = oid.arcs.iter().map(u64::to_string).collect();
            assert_eq!(dotted(oid.der), arcs.join("."));
        }
    }
}
