//! Each row of what may be wrong with a request, its status and the words that say why; every answer has CORS headers.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::json;
use str0m::media::Direction;

use crate::{
    peer::{Peer, Pictures, talk},
    rig::{Engine, Issuer, now},
};

const WHIP: &str = "/whip/hall/cam";
const WHEP: &str = "/whep/hall/cam";

#[test]
fn offers() {
    let engine = Engine::start();
    let token = engine.issuer.everything("ann");
    let good = Peer::new(Direction::SendOnly, Pictures::Vp8).offer;
    let video = good.find("m=video").map(|at| good[at..].to_owned()).expect("there is one");
    let without = |word: &str| -> String {
        good.lines().filter(|line| !line.contains(word)).map(|line| format!("{line}\r\n")).collect()
    };
    for (path, sdp, status, words) in [
        (WHIP, "hello".to_owned(), 400, "no SDP"),
        (WHIP, "v=0\r\nnonsense\r\n".to_owned(), 406, "no media"),
        (WHIP, good.replace("a=rtpmap", "a=\u{0}"), 400, "no SDP that can be read"),
        (WHIP, "x".repeat(1024 * 1024), 413, "64 KiB"),
        (WHIP, good.replace("VP8/90000", "NEW/90000"), 406, "no codec in common"),
        (WHIP, format!("{good}{video}"), 406, "one of each"),
        (WHIP, video.repeat(500), 413, "64 KiB"),
        (WHIP, good.replace("BUNDLE", "LS"), 406, "BUNDLE"),
        (WHIP, without("fingerprint"), 422, "fingerprint"),
        (WHIP, without("ice-ufrag"), 422, "ice-ufrag"),
        (WHIP, good.replace("actpass", "passive"), 422, "passive"),
        (WHIP, good.replace("sendonly", "recvonly"), 406, "sendonly"),
        (WHEP, good.replace("sendonly", "recvonly"), 409, "nobody publishes"),
    ] {
        let answer = engine.offer(path, &token, &sdp);
        let detail = answer.detail();
        assert_eq!(answer.status, status, "{words}: {detail}");
        assert!(detail.contains(words), "{detail:?} should say {words:?}");
    }
    assert_eq!(engine.status()["sessions"], 0, "nothing is half open");
}

#[test]
fn a_viewer_without_the_streams_codec() {
    let engine = Engine::start();
    let mut publisher = Peer::publish(&engine, WHIP, "ann");
    talk(&mut [&mut publisher], "the publisher connects", |peers| peers[0].connected);
    let offer = Peer::new(Direction::RecvOnly, Pictures::H264).offer;
    let answer = engine.offer(WHEP, &engine.issuer.everything("eve"), &offer);
    assert_eq!((answer.status, answer.detail().contains("the stream has VP8")), (406, true));
}

#[test]
fn tokens() {
    let engine = Engine::start();
    let offer = Peer::new(Direction::SendOnly, Pictures::Vp8).offer;
    let issuer = &engine.issuer;
    let good = issuer.everything("ann");
    let (head, signature) = good.rsplit_once('.').expect("three parts");
    let (_, payload) = head.split_once('.').expect("three parts");
    let unsigned = format!("{}.{payload}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#));
    let symmetric = format!("{}.{payload}.{signature}", URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256"}"#));
    let everything = |mut claims: serde_json::Value| {
        claims["publish"] = json!(["*"]);
        issuer.token(claims)
    };
    for (token, status, words) in [
        (everything(json!({ "exp": now() - 61 })), 401, "ended"),
        (everything(json!({ "nbf": now() + 3600 })), 401, "begins in"),
        (everything(json!({ "exp": "soon" })), 401, "JSON"),
        (everything(json!({ "room": "attic" })), 403, "another room"),
        (issuer.token(json!({ "publish": ["other"], "play": ["*"] })), 403, "publish this stream"),
        (unsigned, 401, "algorithm"),
        (symmetric, 401, "algorithm"),
        (format!("{head}."), 401, "signature"),
        (format!("{head}.{}", "A".repeat(86)), 401, "signature"),
        (Issuer::new("k1", 9).everything("ann"), 401, "signature"),
        (Issuer::new("k9", 9).everything("ann"), 401, "unknown key id"),
        ("garbage".to_owned(), 401, "compact"),
        ("x".repeat(20_000), 401, "too long"),
    ] {
        let answer = engine.offer(WHIP, &token, &offer);
        let detail = answer.detail();
        assert_eq!(answer.status, status, "{words}: {detail}");
        assert!(detail.contains(words), "{detail:?} should say {words:?}");
        let challenge = (status == 401).then_some("Bearer error=\"invalid_token\"");
        assert_eq!(answer.header("www-authenticate"), challenge);
        assert!(!answer.body.contains(payload), "no answer repeats a token");
    }
    let none = engine.ask("POST", WHIP, &[("content-type", "application/sdp")], offer.as_bytes());
    assert_eq!((none.status, none.detail().contains("Bearer TOKEN")), (401, true));
    assert_eq!(engine.ask("GET", "/streams", &[], b"").status, 401);
    assert_eq!(engine.offer(WHIP, &good, &offer).status, 201);
}

#[test]
fn new_keys_count_when_the_file_changes() {
    let engine = Engine::start();
    let offer = Peer::new(Direction::SendOnly, Pictures::Vp8).offer;
    let (old, new) = (engine.issuer.everything("ann"), Issuer::new("k2", 2));
    assert_eq!(engine.offer(WHIP, &new.everything("ann"), &offer).status, 401);
    let keys = engine.folder.path().join("jwks.json");
    std::fs::write(&keys, "{").expect("written");
    assert_eq!(engine.offer(WHIP, &old, &offer).status, 201, "a broken file leaves the former keys in place");
    std::fs::write(&keys, new.key_set()).expect("written");
    assert_eq!(engine.offer(WHIP, &new.everything("ann"), &offer).status, 201);
    assert_eq!(engine.offer(WHIP, &old, &offer).status, 401);
}

#[test]
fn methods_paths_and_preflights() {
    let engine = Engine::start();
    for (method, path, status) in [
        ("OPTIONS", WHIP, 200),
        ("GET", WHIP, 204),
        ("HEAD", WHEP, 204),
        ("PUT", WHIP, 405),
        ("POST", WHIP, 415),
        ("GET", "/nothing", 404),
        ("DELETE", "/session/00000000000000000000000000000001", 404),
        ("PATCH", "/session/00000000000000000000000000000001", 415),
        ("PATCH", WHIP, 405),
        ("GET", "/", 200),
    ] {
        let answer = engine.ask(method, path, &[("origin", "https://x.example")], b"");
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
        for (name, value) in [
            ("access-control-allow-origin", "*"),
            ("access-control-allow-methods", "POST, PATCH, DELETE, GET, OPTIONS"),
            ("access-control-allow-headers", "Authorization, Content-Type, If-Match"),
            ("access-control-expose-headers", "Location, Link, ETag, Accept-Patch, Retry-After"),
            ("access-control-max-age", "600"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{method} {path}");
        }
        assert_eq!(answer.header("allow").is_some(), status == 405, "{method} {path}");
    }
    assert_eq!(engine.ask("OPTIONS", WHIP, &[], b"").header("accept-post"), Some("application/sdp"));
    let created = engine.offer(
        WHIP,
        &engine.issuer.everything("a"),
        &Peer::new(Direction::SendOnly, Pictures::Vp8).offer,
    );
    let tag = created.header("etag").expect("an ETag");
    assert!(tag.starts_with('"') && tag.ends_with('"') && tag.len() > 4, "strong: {tag}");
    assert_eq!(created.header("accept-patch"), Some("application/trickle-ice-sdpfrag"));
    assert!(created.header("location").is_some_and(|path| path.starts_with("/session/")));
    assert_eq!(created.header("content-type"), Some("application/sdp"));
}

#[test]
fn preflights_leave_the_rate_of_an_address_alone() {
    let engine = Engine::start();
    let one = |method: &str, more: &str| format!("{method} {WHIP} HTTP/1.1\r\nhost: x\r\n{more}\r\n");
    let many = one("OPTIONS", "").repeat(1000) + &one("OPTIONS", "connection: close\r\n");
    assert_eq!(engine.ask_raw(many.as_bytes()).status, 200);
    assert_eq!(engine.metric("media_requests_total{method=\"OPTIONS\",status=\"200\"}"), 1001.0);
    assert_eq!(engine.metric("media_refused_total{reason=\"rate\"}"), 0.0);
}
