//! The cert module from outside: vectors, worked encodings, generated chains of the shapes in production, and mutations.

mod chain;
mod constraints;
mod crl;
mod lint;
mod log_list;
mod referenced;
mod robustness;
mod scope;
mod signed_list;
mod support;
mod tn_auth_list;
mod transparency;
