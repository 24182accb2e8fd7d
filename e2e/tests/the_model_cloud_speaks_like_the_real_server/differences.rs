//! The differences that stay, each with its reason, and what the script does not ask because it would only find such.
//!
//! Not asked:
//! - defaults and validation of specs, unknown fields, and values of the wrong type: the model knows no schemas. The
//!   script's objects have every default in them.
//! - what controllers do: deleting a namespace, collecting garbage, service accounts of new namespaces, rollouts. None
//!   run beside the script, and the model has none.
//! - field ownership: the model merges what is applied over what there is, so conflicts of managers and the removal
//!   of fields that a manager no longer names do not happen there.
//! - audiences that no volume of a pod asks for: the model gives a node any token of an account that its pods use.
//! - YAML, and protobuf bodies of requests: neither demo nor tests send them.
//! - protobuf fields of specs and statuses beyond those that selectors read: the model writes no others.
//! - exec, attach, logs, port-forwarding, proxying and scale: the model has no nodes behind it.

use crate::compare::Listed;
use crate::step::NO_JSON;

/// What the model does not do, and why nothing misses it.
pub(crate) const DIFFERENCES: &[Listed] = &[
    Listed { request: NO_JSON, place: "/body/message", reason: "the words of two different JSON parsers" },
    Listed { request: "GET /version ", place: "/body", reason: "the model says that it is one" },
    Listed {
        request: "GET /api ",
        place: "/body/serverAddressByClientCIDRs",
        reason: "each server has its own address; clients do not use this one",
    },
    Listed {
        request: "GET /.well-known/openid-configuration",
        place: "/body/jwks_uri",
        reason: "each server has its own address",
    },
    Listed {
        request: "accessreviews",
        place: "/body/status/reason",
        reason: "the model's rights are a table without names of roles and bindings",
    },
    Listed {
        request: "impersonate",
        place: "/",
        reason: "the model lets nobody impersonate: a hub that tries has to fail there, whatever rights it has",
    },
    Listed {
        request: "many columns",
        place: "/columnDefinitions",
        reason: "nodes and pods show name and age in the model",
    },
    Listed {
        request: "many columns",
        place: "/cells",
        reason: "nodes and pods show name and age in the model",
    },
];
