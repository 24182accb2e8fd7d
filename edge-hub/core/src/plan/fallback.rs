//! The rows while a server is there and did not answer this request, or said that it cannot. A read that promises nothing
//! of its age, the node's own Lease and tokens for pods are answered from what is held, request by request.

use proto_kube::request_info::{RequestInfo, Verb};

use super::cut;
use super::facts::{Ask, Cloud, Facts, Failure, Freshness, Patience, Step, Want};
use crate::lease;

/// How often a read is passed on in all.
const ATTEMPTS: u8 = 2;

pub(super) fn step(ask: &Ask<'_>, facts: &Facts<'_>, failure: Failure) -> Step {
    let tried = facts.tried;
    // The connection died, or the link did: which of both decides what the client is told.
    if failure == Failure::NoAnswer && ask.is_read() && tried.forwarded < ATTEMPTS {
        return if tried.has_verdict { Step::Forward(patience(ask, facts)) } else { Step::AwaitVerdict };
    }
    if tried.could_not_serve || !is_allowed(ask) {
        return Step::Relay;
    }
    match cut::step(ask, facts) {
        held @ (Step::Serve(_) | Step::Document | Step::Local(_)) => held,
        _ => Step::Relay,
    }
}

/// How long a request that is passed on may take, by what there is to answer with otherwise. The kubelet gives up on its
/// Lease long before a server does, so that waits for none.
pub(super) fn patience(ask: &Ask<'_>, facts: &Facts<'_>) -> Patience {
    let has_other = || !matches!(cut::step(ask, facts), Step::Refuse(_));
    let is_short = facts.cloud == Cloud::Impaired && is_allowed(ask) || is_own_lease(ask);
    if is_short && has_other() { Patience::Short } else { Patience::Usual }
}

/// Whether something that is held may stand in for what the server does not say.
fn is_allowed(ask: &Ask<'_>) -> bool {
    match ask.want {
        Want::Collection { freshness, .. } | Want::Object { freshness } => freshness == Freshness::AsHeld,
        Want::NonResource => ask.is_read(),
        Want::Other => match ask.info {
            RequestInfo::Resource(request) => {
                let is_token =
                    request.verb == Verb::Create && request.subresource.as_deref() == Some("token");
                is_token || is_own_lease(ask)
            }
            RequestInfo::NonResource(_) => false,
        },
        Want::TheClouds => false,
    }
}

fn is_own_lease(ask: &Ask<'_>) -> bool {
    match ask.info {
        RequestInfo::Resource(request) => lease::is_own_lease(ask.node, ask.principal, request),
        RequestInfo::NonResource(_) => false,
    }
}
