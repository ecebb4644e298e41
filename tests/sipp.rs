//! The black box from outside: SIPp and raw sockets around a running `vesperd`. One test per file in `sipp-scenarios/cases`.
//! `sipp-scenarios/README.md` tells how to read a case and how to run one by hand.
#![allow(clippy::disallowed_methods, reason = "a test from outside has clocks of its own")]

mod support_sipp;

macro_rules! cases {
    ($($name:ident: $id:literal,)*) => {
        const CASES: &[&str] = &[$($id),*];
        $(
            #[test]
            fn $name() {
                support_sipp::run($id);
            }
        )*
    };
}

cases! {
    a01_operator_ends_a_ringing_call: "A-01",
    a02_operator_ends_an_answered_call: "A-02",
    c01_basic_call_udp: "C-01",
    c02_basic_call_tcp: "C-02",
    c03_challenge: "C-03",
    c04_cancel_before_ringing: "C-04",
    c05_cancel_of_a_ringing_call: "C-05",
    c06_cancel_crosses_200: "C-06",
    c07_reason_in_cancel: "C-07",
    c08_unmatched_cancel: "C-08",
    c09_no_answer: "C-09",
    c15_bye_by_caller: "C-15",
    c16_bye_by_callee: "C-16",
    c17_re_invite: "C-17",
    c18_update: "C-18",
    c20_prack: "C-20",
    c21_session_timer_observed: "C-21",
    c21b_session_timer_of_the_proxy: "C-21b",
    c22_short_session_interval: "C-22",
    c22b_short_session_interval_is_refused: "C-22b",
    c23_session_expiry: "C-23",
    c24_other_methods: "C-24",
    c25_options: "C-25",
    c25b_pings: "C-25b",
    c26_lost_ack: "C-26",
    c26b_accepted_state: "C-26b",
    c27_next_hop_after_503: "C-27",
    c27b_only_503: "C-27b",
    c28_timeout_then_next_hop: "C-28",
    c29_tcp_refused: "C-29",
    c29b_tcp_silent: "C-29b",
    c32_non_invite_timeout: "C-32",
    c33_same_branch_two_clients: "C-33",
    c34_rport: "C-34",
    c35_no_rport: "C-35",
    c36_oversize_over_tcp: "C-36",
    c37_oversize_falls_back_to_udp: "C-37",
    c38_streams: "C-38",
    c40_mandatory_fields: "C-40",
    c41_content_length_udp: "C-41",
    c41b_content_length_tcp: "C-41b",
    c41c_content_length_tcp_more: "C-41c",
    c42_uri_scheme: "C-42",
    c43_proxy_require: "C-43",
    c44_max_forwards: "C-44",
    c45_version: "C-45",
    c46_cseq: "C-46",
    c46b_bad_requests_tcp: "C-46b",
    c48_ipv6_udp: "C-48",
    c48b_ipv6_tcp: "C-48b",
    c49_ipv4_to_ipv6: "C-49",
    c49b_ipv6_to_ipv4: "C-49b",
    c50_spoofed_responses: "C-50",
    c51_loop: "C-51",
    c52_spiral: "C-52",
    c54_strict_router_upstream: "C-54",
    c56_preloaded_route: "C-56",
    c56b_preloaded_route_trusted: "C-56b",
    c57_udp_to_tcp: "C-57",
    c57b_tcp_to_udp: "C-57b",
    c57c_udp_to_tcp_bye_by_caller: "C-57c",
    c61_compact: "C-61",
    c61b_folded: "C-61b",
    c62_sign_shaken: "C-62",
    c62b_sign_inline: "C-62b",
    c63_verify: "C-63",
    c63b_verify_shaken: "C-63b",
    c63c_verify_tcp: "C-63c",
    c63d_replay: "C-63d",
    c64_identity_required: "C-64",
    c65_certificate_url: "C-65",
    c65b_certificate_fetched: "C-65b",
    c65c_certificate_url_forbidden: "C-65c",
    c66_unsupported_credential: "C-66",
    c67_invalid_identity: "C-67",
    c68_stale: "C-68",
    c69_reason_stir: "C-69",
    c70_several_identities: "C-70",
    c71_connected_identity: "C-71",
    d01_a_diverted_call_gets_a_div: "D-01",
    d02_a_chain_is_verified: "D-02",
    d02b_chains_that_are_broken: "D-02b",
    e04_an_untrusted_caller_asserts_nothing: "E-04",
    k01_kamailio_udp: "K-01-udp",
    k01_kamailio_tcp: "K-01-tcp",
    k02_kamailio_bye_by_callee_udp: "K-02-udp",
    k02_kamailio_bye_by_callee_tcp: "K-02-tcp",
    k01_kamailio_tls: "K-01-tls",
    k02_kamailio_bye_by_callee_tls: "K-02-tls",
    k03_kamailio_cancel_udp: "K-03-udp",
    k03_kamailio_cancel_tcp: "K-03-tcp",
    k04_kamailio_verifies_what_we_sign: "K-04",
    k04_kamailio_refuses_a_broken_signature: "K-04b",
    k05_we_verify_what_kamailio_signs: "K-05",
    k10_baresip: "K-10",
    m01_messages_are_signed: "M-01",
    m02_messages_are_verified: "M-02",
    m02b_messages_with_another_body: "M-02b",
    n01_rich_call_data_is_signed: "N-01",
    n02_rich_call_data_is_shown: "N-02",
    n02b_rich_call_data_that_is_not_shown: "N-02b",
    p01_priority_is_signed: "P-01",
    p01b_priority_of_an_untrusted_caller: "P-01b",
    p02_priority_is_verified: "P-02",
    p02b_priority_that_is_not_proven: "P-02b",
    s01_redirect_signs_udp: "S-01",
    s01b_redirect_signs_tcp: "S-01b",
    s02_redirect_verifies: "S-02",
    s02b_redirect_verdict_is_bad_or_missing: "S-02b",
    s03_redirect_signs_tls: "S-03",
    s03b_redirect_verifies_tls: "S-03b",
    u01_an_anonymous_caller_who_is_asserted: "U-01",
    u01b_anonymous_callers_are_refused_where_that_is_set: "U-01b",
    u01c_anonymous_callers_are_judged_like_others: "U-01c",
    u02_an_anonymous_caller_is_signed_as_asserted: "U-02",
    v01_the_verdict_is_told_inside: "V-01",
    v02_a_failure_told_inside_alone: "V-02",
    v03_verstat_is_set_on_the_tel_uri: "V-03",
    v03b_verstat_of_an_untrusted_caller_is_replaced: "V-03b",
    v03c_verstat_of_an_untrusted_caller_goes_nowhere: "V-03c",
    v04_tokens_stay_inside: "V-04",
}

/// Every case file is run, and every case has its file.
#[test]
fn every_case_file_has_its_test() {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("sipp-scenarios/cases");
    let files = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = files.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    let mut known: Vec<_> = CASES.iter().map(|id| (*id).to_owned()).collect();
    found.sort();
    known.sort();
    assert_eq!(found, known);
}

/// The scripts agree with each other without a proxy between them, so that a failing case speaks of the proxy.
#[test]
fn scripts_agree_without_a_proxy() {
    support_sipp::run_all_direct(CASES);
}
