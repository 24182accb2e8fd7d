//! A member may be led to the API servers that the coordinator itself is configured with, and nowhere else.

use std::net::TcpListener;

use crate::rig::{Rig, run};

#[test]
fn a_relay_to_anything_but_an_api_server_is_refused_and_not_dialled() {
    run(async {
        let rig = Rig::whole().await;
        let files = rig.pool.issue(rig.path(), "good", "eyot://a/n9");
        let coordinator = rig.dial(&files, "eyot://a/n1");
        let own = rig.server(0);
        assert!(coordinator.relay(&own.to_string()).await.is_ok());
        let bait = TcpListener::bind("127.0.0.1:0").expect("a free port");
        bait.set_nonblocking(true).expect("a socket");
        let bait_address = bait.local_addr().expect("bound").to_string();
        for asked in [
            bait_address.as_str(),
            &rig.server(1).to_string(),
            &rig.coordinator_address().to_string(),
            &format!("localhost:{}", own.port()),
            "169.254.169.254:80",
        ] {
            let refused = coordinator.relay(asked).await.map(drop);
            let is_told = |why: &std::io::Error| why.to_string().contains("relays to its API servers alone");
            assert!(refused.as_ref().is_err_and(is_told), "{asked}: {refused:?}");
        }
        assert!(bait.accept().is_err(), "nobody was dialled");
    });
}
