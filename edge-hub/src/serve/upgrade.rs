//! exec, attach and port-forward: the connection is handed through, byte for byte, after the API server agreed.

use std::sync::Arc;

use edge_hub_core::link::LinkState;
use http::{Request, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use proto_kube::status::Status;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
};

use super::{answer, slot, slot::Slot};
use crate::{
    hub::Hub,
    upstream::{Body, Credential, empty, hop, set_authorization},
};

/// How long the API server may take to agree.
const AGREE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(65);

/// Passes an upgrade on over a connection of its own.
pub(super) async fn pass(
    hub: &Arc<Hub>,
    credential: &Credential,
    mut request: Request<Incoming>,
    slot: Slot,
) -> Response<Body> {
    if !hub.site.is_connected() {
        return answer::refuse(&answer::cut_off("exec, attach and port-forward go through the API server"));
    }
    let on_client = hyper::upgrade::on(&mut request);
    match exchange(hub, credential, &request).await {
        Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
            join(hub, response, on_client, slot)
        }
        Ok(response) => {
            let (mut head, body) = response.into_parts();
            hop::strip_hop_headers(&mut head.headers);
            slot::hold(Response::from_parts(head, body.map_err(Into::into).boxed_unsync()), slot)
        }
        Err(why) => {
            answer::refuse(&Status::service_unavailable(format!("the API server did not agree: {why}")))
        }
    }
}

async fn exchange(
    hub: &Arc<Hub>,
    credential: &Credential,
    request: &Request<Incoming>,
) -> Result<Response<Incoming>, String> {
    let (stream, authority) =
        hub.site.upstream.connect_upgradable(credential).await.map_err(|error| error.to_string())?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake::<_, Body>(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "an upgraded connection ended");
        }
    });
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let mut builder = Request::builder().method(request.method().clone()).uri(path);
    if let Some(headers) = builder.headers_mut() {
        let upgrade = request.headers().get(header::UPGRADE).cloned();
        headers.clone_from(request.headers());
        hop::strip_hop_headers(headers);
        headers.remove(header::HOST);
        // Only a request without a body gets here; a length of one would make the server wait for it.
        headers.remove(header::CONTENT_LENGTH);
        headers.insert(header::CONNECTION, header::HeaderValue::from_static("Upgrade"));
        if let Some(upgrade) = upgrade {
            headers.insert(header::UPGRADE, upgrade);
        }
        if let Ok(host) = header::HeaderValue::from_str(authority.as_str()) {
            headers.insert(header::HOST, host);
        }
        set_authorization(credential, headers).map_err(|error| error.to_string())?;
    }
    let upgraded = builder.body(empty()).map_err(|error| error.to_string())?;
    let answer = tokio::time::timeout(AGREE_TIMEOUT, sender.send_request(upgraded)).await;
    answer.map_err(|_| format!("no answer within {AGREE_TIMEOUT:?}"))?.map_err(|error| error.to_string())
}

fn join(
    hub: &Arc<Hub>,
    mut response: Response<Incoming>,
    on_client: hyper::upgrade::OnUpgrade,
    slot: Slot,
) -> Response<Body> {
    let on_server = hyper::upgrade::on(&mut response);
    let link = hub.site.link.subscribe();
    tokio::spawn(async move {
        let _held = slot;
        let (client, server) = match tokio::try_join!(on_client, on_server) {
            Ok(both) => both,
            Err(error) => return tracing::debug!(%error, "an upgrade was agreed but did not happen"),
        };
        carry(TokioIo::new(client), TokioIo::new(server), link).await;
    });
    let (head, _) = response.into_parts();
    Response::from_parts(head, empty())
}

/// Carries bytes both ways until both sides have ended, or the link is cut.
async fn carry(
    mut client: impl AsyncRead + AsyncWrite + Unpin,
    mut server: impl AsyncRead + AsyncWrite + Unpin,
    mut link: watch::Receiver<LinkState>,
) {
    tokio::select! {
        copied = tokio::io::copy_bidirectional(&mut client, &mut server) => {
            if let Err(error) = copied {
                tracing::debug!(%error, "an upgraded stream broke");
            }
        }
        // Its own connection would find out minutes later; whoever sits at it should know now.
        _ = link.wait_for(|link| !link.is_connected()) => tracing::debug!("an upgraded stream ends with the link"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    #[tokio::test]
    async fn an_upgraded_stream_carries_both_ways_and_ends_with_the_link() {
        let ((mut user, client), (mut kubelet, server)) = (duplex(64), duplex(64));
        let link = watch::Sender::new(LinkState::Connected);
        let carried = tokio::spawn(carry(client, server, link.subscribe()));
        let mut read = [0; 2];
        user.write_all(b"ls").await.unwrap();
        kubelet.read_exact(&mut read).await.unwrap();
        kubelet.write_all(&read).await.unwrap();
        user.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"ls");
        // Another way to the cloud is no end of it.
        link.send_replace(LinkState::Relayed { via: 0 });
        user.write_all(b"ps").await.unwrap();
        kubelet.read_exact(&mut read).await.unwrap();
        link.send_replace(LinkState::Cut { since_unix: Duration::ZERO });
        carried.await.unwrap();
        assert_eq!(user.read(&mut read).await.unwrap(), 0, "the user's end is closed");
        assert_eq!(kubelet.read(&mut read).await.unwrap(), 0, "and the kubelet's");
    }
}
