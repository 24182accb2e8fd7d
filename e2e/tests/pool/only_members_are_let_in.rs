//! The coordinator's listener is for members of its pool; whoever else comes is told why not, and does no harm.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use edge_hub::pool::Pool;

use crate::rig::{PoolAuthority, Rig, run};

#[test]
fn a_certificate_of_another_authority_or_another_pool_is_refused_in_words() {
    run(async {
        let rig = Rig::whole().await;
        let (spec, folder) = (Pool::new("a", Vec::new()).specs()[0].clone(), rig.path().to_owned());
        let foreign = PoolAuthority::new();
        let good = rig.pool.issue(&folder, "good", "eyot://a/n9");
        assert!(rig.dial(&good, "eyot://a/n1").subscribe(&spec, 0).await.is_ok());
        for (files, wanted) in [
            (foreign.issue(&folder, "foreign", "eyot://a/n9"), "is it of this pool's authority?"),
            (rig.pool.issue(&folder, "other", "eyot://b/n9"), "is a member of another pool; this one is a"),
            (rig.pool.issue(&folder, "nobody", "https://a/n9"), "names no member of a pool"),
        ] {
            let refused = rig.dial(&files, "eyot://a/n1").subscribe(&spec, 0).await.map(drop);
            assert!(refused.as_ref().is_err_and(|why| why.contains(wanted)), "{refused:?}: {wanted}");
            let refused = rig.dial(&files, "eyot://a/n1").relay(&rig.server(0).to_string()).await.map(drop);
            assert!(refused.as_ref().is_err_and(|why| why.to_string().contains(wanted)), "{refused:?}");
        }
        // The member, too, looks whom it meets.
        let other = rig.dial(&good, "eyot://a/n2").subscribe(&spec, 0).await.map(drop);
        assert!(other.as_ref().is_err_and(|why| why.contains("answered")), "{other:?}");
    });
}

#[test]
fn garbage_on_the_listener_harms_nobody() {
    run(async {
        let rig = Rig::whole().await;
        let mut informer = rig.informer(1);
        informer.until(&[("a", "1"), ("b", "1")]).await;
        let address = rig.coordinator_address();
        let garbage = tokio::task::spawn_blocking(move || {
            let hello: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
            let texts: [&[u8]; 5] =
                [b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", hello, &[0xff; 70_000], b""];
            for turn in 0..60 {
                let mut stream = TcpStream::connect(address).expect("it listens");
                stream.set_read_timeout(Some(Duration::from_millis(50))).expect("a socket");
                // It may close while this still writes.
                let _ = stream.write_all(texts[turn % texts.len()]);
                let _ = stream.read(&mut [0; 64]);
            }
        });
        garbage.await.expect("it only writes");
        rig.put("a", "2");
        informer.until(&[("a", "2"), ("b", "1")]).await;
        rig.all_fed().await;
    });
}
