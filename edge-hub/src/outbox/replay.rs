//! After a heal: the newest Lease and the spooled events go to the cloud, each once, under their own identity.

use std::{sync::Arc, time::Duration};

use edge_hub_core::spool::{Replay, ReplayOutcome, ReplayStep};
use http::{Request, header};
use proto_kube::media_type::{Encoding, Format};

use crate::{
    hub::Hub,
    reflect::retry_after,
    store::BlobClass,
    sync::lock,
    upstream::{Body, Credential, full},
};

const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Look again at the latest after this long: a credential may have come meanwhile.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// Runs until the hub drains.
pub async fn run(hub: Arc<Hub>) {
    let mut link = hub.site.link.subscribe();
    loop {
        while !link.borrow_and_update().is_connected() {
            tokio::select! {
                () = hub.site.shutdown.draining() => return,
                changed = link.changed() => if changed.is_err() { return },
            }
        }
        forward_lease(&hub).await;
        let now = hub.site.clock.now();
        let step =
            lock(&hub.outbox.spool).poll(now, &|principal| hub.outbox.credential_of(principal).is_some());
        let pause = match step {
            ReplayStep::Send(event) => {
                post(&hub, *event).await;
                continue;
            }
            ReplayStep::WaitUntil(until) => until.saturating_sub(now.monotonic).min(LOOK_AGAIN),
            ReplayStep::Idle => LOOK_AGAIN,
        };
        tokio::select! {
            () = hub.site.shutdown.draining() => return,
            _ = link.changed() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

fn media_type(encoding: Encoding) -> &'static str {
    Format { encoding, ..Format::JSON }.content_type(false)
}

async fn forward_lease(hub: &Arc<Hub>) {
    let Some(forward) = lock(&hub.lease).take_forward() else { return };
    let request = Request::put(forward.path)
        .header(header::CONTENT_TYPE, media_type(forward.lease.encoding))
        .header(header::ACCEPT, media_type(forward.lease.encoding))
        .header(header::USER_AGENT, crate::USER_AGENT)
        .body(full(forward.lease.body));
    let Ok(request) = request else { return };
    match hub.site.send(&Credential::Node, request, ANSWER_TIMEOUT).await {
        // A conflict means that the kubelet's own renewal came first: as good.
        Ok(response) => tracing::debug!(status = %response.status(), "the Lease was told to the cloud"),
        Err(error) => tracing::debug!(%error, "the Lease was not told; the kubelet's next renewal will be"),
    }
}

async fn post(hub: &Arc<Hub>, event: Replay) {
    let outcome = match hub.outbox.credential_of(&event.principal) {
        None => ReplayOutcome::NoAnswer,
        Some(credential) => send(hub, &credential, &event).await,
    };
    let changes = lock(&hub.outbox.spool).answered(hub.site.clock.now(), event.id, outcome);
    hub.site.save_records(BlobClass::Event, changes);
}

async fn send(hub: &Arc<Hub>, credential: &Credential, event: &Replay) -> ReplayOutcome {
    let request = Request::post(&event.path_and_query)
        .header(header::CONTENT_TYPE, media_type(event.encoding))
        .header(header::ACCEPT, "application/json")
        .header(header::USER_AGENT, crate::USER_AGENT)
        .body(full(event.body.clone()));
    let outcome = ask(hub, credential, request).await;
    match (&event.recount, outcome) {
        (Some(recount), ReplayOutcome::Answered { code: 409, .. }) => {
            let request = Request::patch(&event.object_path)
                .header(header::CONTENT_TYPE, "application/merge-patch+json")
                .header(header::ACCEPT, "application/json")
                .header(header::USER_AGENT, crate::USER_AGENT)
                .body(full(recount.clone()));
            ask(hub, credential, request).await
        }
        (_, outcome) => outcome,
    }
}

async fn ask(hub: &Arc<Hub>, credential: &Credential, request: http::Result<Request<Body>>) -> ReplayOutcome {
    let Ok(request) = request else { return ReplayOutcome::Answered { code: 400, retry_after: None } };
    match hub.site.send(credential, request, ANSWER_TIMEOUT).await {
        Ok(response) => ReplayOutcome::Answered {
            code: response.status().as_u16(),
            retry_after: retry_after(response.headers()),
        },
        Err(_) => ReplayOutcome::NoAnswer,
    }
}
