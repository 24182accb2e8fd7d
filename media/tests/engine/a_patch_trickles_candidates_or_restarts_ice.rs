//! PATCH of a session: each row of what is answered, and a restart that the call does not notice.

use serde_json::json;

use crate::{
    peer::{Peer, talk},
    rig::{Engine, Issuer, now},
};

const WHIP: &str = "/whip/hall/cam";
const WHEP: &str = "/whep/hall/cam";
const PWD: &str = "0123456789abcdefghijkl";

fn credentials(ufrag: &str) -> String {
    format!("m=audio 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:0\r\na=ice-ufrag:{ufrag}\r\na=ice-pwd:{PWD}\r\n")
}

#[test]
fn each_row_of_a_patch() {
    let engine = Engine::start();
    let mut publisher = Peer::publish(&engine, WHIP, "ann");
    let (session, tag) = (publisher.session.clone(), publisher.tag.clone());
    let nobody = "/session/00000000000000000000000000000001";
    let candidates = "a=candidate:1 1 UDP 2122252543 192.0.2.2 50000 typ host\r\n\
                      a=candidate:2 1 TCP 1518280447 192.0.2.2 9 typ host tcptype active\r\n\
                      a=candidate:3 1 UDP 2122252543 6e3a.local 50001 typ host\r\na=end-of-candidates\r\n";
    for (path, subject, if_match, body, status) in [
        (session.as_str(), "ann", Some(tag.as_str()), candidates.to_owned(), 204),
        (&session, "ann", Some(&tag), String::new(), 204),
        (&session, "ann", None, candidates.to_owned(), 428),
        (&session, "ann", Some("\"other\""), candidates.to_owned(), 412),
        (&session, "ann", Some("W/\"weak\""), candidates.to_owned(), 412),
        (&session, "ann", Some("bare"), candidates.to_owned(), 400),
        (&session, "ann", Some("*"), candidates.to_owned(), 400),
        (&session, "ann", Some(&tag), credentials("abcd"), 400),
        (&session, "ann", Some("*"), "hello".to_owned(), 400),
        (&session, "ann", Some("*"), credentials("a"), 400),
        (&session, "ann", Some("*"), "a=x\r\n".repeat(20_000), 413),
        (&session, "bob", Some(&tag), candidates.to_owned(), 403),
        (nobody, "ann", Some(&tag), candidates.to_owned(), 404),
    ] {
        let answer = engine.patch(path, subject, if_match, &body);
        assert_eq!(answer.status, status, "{if_match:?} {body:.60}: {answer:?}");
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
        if status == 204 {
            assert_eq!((answer.header("etag"), answer.body.as_str()), (None, ""));
        } else {
            assert!(!answer.detail().is_empty());
        }
    }
    let headers = [("content-type", "application/sdp"), ("if-match", tag.as_str())];
    assert_eq!(engine.ask("PATCH", &session, &headers, b"").status, 415);
    let headers = [("content-type", "application/trickle-ice-sdpfrag"), ("if-match", tag.as_str())];
    assert_eq!(engine.ask("PATCH", &session, &headers, b"").status, 401, "no token");
    let ended = engine.issuer.token(json!({ "exp": now() - 61 }));
    assert_eq!(engine.patch_by(&session, &ended, Some(&tag), candidates).status, 401, "one that ended");
    let stranger = Issuer::new("k1", 9).everything("ann");
    assert_eq!(engine.patch_by(&session, &stranger, Some(&tag), candidates).status, 401);
    assert_eq!(engine.ask("PATCH", WHIP, &headers, b"").header("allow"), Some("POST, GET, HEAD, OPTIONS"));
    talk(&mut [&mut publisher], "the publisher connects after all of it", |peers| peers[0].connected);
}

#[test]
fn a_restart_is_not_noticed_by_the_call() {
    let engine = Engine::start();
    let mut publisher = Peer::publish(&engine, WHIP, "ann");
    talk(&mut [&mut publisher], "the publisher connects", |peers| peers[0].connected);
    publisher.send(true);
    let mut viewer = Peer::play(&engine, WHEP);
    talk(&mut [&mut publisher, &mut viewer], "the viewer connects", |peers| peers[1].connected);
    let send = |publisher: &mut Peer, viewer: &mut Peer| {
        let before = viewer.received.len();
        let mut asked = publisher.asked;
        talk(&mut [publisher, viewer], "packets pass", |peers| {
            let key_frame = peers[0].asked > asked;
            asked = peers[0].asked;
            peers[0].send(key_frame);
            peers[1].received.len() > before + 20
        });
    };
    send(&mut publisher, &mut viewer);
    for round in 0..3 {
        let (tag, session) = (viewer.tag.clone(), viewer.session.clone());
        let answer = viewer.restart_ice(&engine, "eve");
        assert_eq!(answer.header("content-type"), Some("application/trickle-ice-sdpfrag"));
        for word in ["a=ice-lite", "a=ice-ufrag:", "a=ice-pwd:", "a=candidate:"] {
            assert!(answer.body.contains(word), "{}", answer.body);
        }
        let new = answer.header("etag").expect("a new tag").to_owned();
        assert_ne!(new, tag);
        assert_eq!(engine.patch(&session, "eve", Some(&tag), "").status, 412, "the former tag is over");
        assert_eq!(engine.patch(&session, "eve", Some(&new), "").status, 204);
        viewer.tag = new;
        send(&mut publisher, &mut viewer);
        publisher.restart_ice(&engine, "ann");
        send(&mut publisher, &mut viewer);
        assert_eq!(engine.status()["sessions"], 2, "round {round}");
    }
    let sequences: Vec<u64> = viewer.received.iter().map(|(sequence, ..)| *sequence).collect();
    assert!(sequences.windows(2).all(|pair| pair[1] == pair[0] + 1), "{sequences:?}");
    assert!(viewer.numbers().windows(2).all(|pair| pair[1] == pair[0] + 1), "nothing is missing");
}

#[test]
fn a_session_is_told_of_turn_servers() {
    let folder = tempfile::tempdir().expect("a folder");
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "north").expect("written");
    let engine = Engine::start_with(&format!(
        "iceServers:\n- urls: ['stun:192.0.2.1:3478']\n- urls: ['turn:192.0.2.1:3478?transport=udp']\n  \
         secretFile: {}\n  lifetime: 1h\n",
        secret.display()
    ));
    let publisher = Peer::publish(&engine, WHIP, "ann");
    let links: Vec<&str> = publisher.links.iter().map(String::as_str).collect();
    assert_eq!(links[0], "<stun:192.0.2.1:3478>; rel=\"ice-server\"");
    let (_, rest) = links[1].split_once("username=\"").expect("a user");
    let (user, rest) = rest.split_once("\"; credential=\"").expect("a password");
    let (expiry, who) = user.split_once(':').expect("until when, and who");
    let left = expiry.parse::<u64>().expect("seconds") - now();
    assert!((3500..=3600).contains(&left) && who == "ann", "{user}");
    assert!(links[1].starts_with("<turn:192.0.2.1:3478?transport=udp>; rel=\"ice-server\";"));
    assert!(rest.ends_with("\"; credential-type=\"password\"") && links.len() == 2, "{links:?}");
}
