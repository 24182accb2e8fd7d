//! One consumer of the pool's kinds straight at the API server, which does nothing but count the bytes of bodies that it is
//! sent: what one informer costs.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use e2e::cloud::client::Client;
use e2e::cloud::pki::Authority;
use http::header::ACCEPT;
use http_body_util::BodyExt as _;
use proto::coordinator::POOL_KINDS;
use proto_kube::gvr::GroupVersionResource;
use proto_kube::list::split_list;
use proto_kube::media_type::Format;

use crate::stage::Stage;

/// The consumer; dropping it ends its watches.
pub(crate) struct OneInformer {
    bytes: Arc<AtomicU64>,
    _runtime: tokio::runtime::Runtime,
}

impl OneInformer {
    /// Lists each kind, which is not counted, and opens its watch from there.
    pub(crate) fn start(stage: &Stage) -> OneInformer {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let bytes = Arc::new(AtomicU64::new(0));
        let client = client(stage);
        for (group, version, resource) in POOL_KINDS {
            let path = GroupVersionResource::new(group, version, resource).path(None, None, None);
            let (client, counted) = (client.clone(), Arc::clone(&bytes));
            runtime.block_on(async {
                let list = client.clone().with_header(ACCEPT, Format::PROTOBUF.accept_list());
                let answer = list.send("GET", &path, "", Bytes::new()).await.expect("an answer");
                let body = answer.into_body().collect().await.expect("a body").to_bytes();
                let (head, _) = split_list(Format::PROTOBUF, &body).expect("a list");
                let watch = client.with_header(ACCEPT, Format::PROTOBUF.accept_object());
                let path = format!(
                    "{path}?watch=true&allowWatchBookmarks=true&timeoutSeconds=600&resourceVersion={}",
                    head.resource_version
                );
                let mut stream = watch.watch(&path).await.expect("an answer");
                assert_eq!(stream.status, 200, "{path}");
                tokio::spawn(async move {
                    while let Ok(Some(chunk)) = stream.chunk().await {
                        counted.fetch_add(chunk.len() as u64, Ordering::SeqCst);
                    }
                });
            });
        }
        OneInformer { bytes, _runtime: runtime }
    }

    /// Bytes of bodies of its watches so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::SeqCst)
    }
}

fn client(stage: &Stage) -> Client {
    proto_daemon::tls::install_provider();
    let read =
        |file: &str| std::fs::read_to_string(stage.dir().join("pki").join(file)).expect("the lab's own");
    let authority = Authority::load(&read("ca.crt"), &read("ca.key")).expect("the lab's authority");
    let identity = authority.client("one-informer", "system:masters").expect("a certificate");
    let server = stage.api_server();
    let address: SocketAddr = server.trim_start_matches("https://").parse().expect("an address");
    let roots = authority.roots().expect("roots");
    Client::new(address, &address.ip().to_string(), roots, Some(&identity)).expect("a client")
}
