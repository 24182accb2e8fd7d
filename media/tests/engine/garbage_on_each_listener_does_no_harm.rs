//! Noise on the HTTP port and on the media port, and clients that begin and never finish, while a call goes on.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};
use str0m::media::Direction;

use crate::{
    peer::{Peer, Pictures, talk},
    rig::{Engine, LIMIT},
};

const WHIP: &str = "/whip/hall/cam";

/// A series that repeats (Knuth's MMIX).
fn noise(seed: &mut u64, length: usize) -> Vec<u8> {
    let mut byte = || {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        seed.to_be_bytes()[0]
    };
    (0..length).map(|_| byte()).collect()
}

#[test]
fn a_call_goes_on_through_noise_on_both_ports() {
    let engine = Engine::start();
    let mut publisher = Peer::publish(&engine, WHIP, "ann");
    talk(&mut [&mut publisher], "the publisher connects", |peers| peers[0].connected);
    publisher.send(true);
    let mut viewer = Peer::play(&engine, "/whep/hall/cam");
    talk(&mut [&mut publisher, &mut viewer], "the viewer connects", |peers| peers[1].connected);
    let stranger = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let mut seed = 7;
    for round in 0_u32..400 {
        // Of each kind that RFC 7983 tells apart: STUN, DTLS, RTP, and none.
        for first in [0_u8, 1, 20, 22, 128, 200, 255] {
            let mut datagram = noise(&mut seed, 1 + (round as usize * 7) % 1500);
            datagram[0] = first;
            stranger.send_to(&datagram, engine.media).expect("loopback takes all");
        }
        stranger.send_to(&[], engine.media).expect("loopback takes all");
        publisher.send(publisher.asked > 0 && round % 50 == 0);
        talk(&mut [&mut publisher, &mut viewer], "a moment passes", |_| true);
    }
    for request in
        [&b"\x16\x03\x01\x02\x00\x01"[..], b"GET / HTTP/9\r\n\r\n", b"\r\n\r\n\r\n", &noise(&mut seed, 5000)]
    {
        let mut stream = TcpStream::connect(engine.http).expect("it listens");
        let _ = stream.write_all(request);
    }
    let huge = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(100_000));
    assert!([0, 400, 431].contains(&engine.ask_raw(huge.as_bytes()).status));
    let count = viewer.received.len();
    talk(&mut [&mut publisher, &mut viewer], "the call goes on", |peers| {
        let key_frame = peers[0].asked > 0;
        peers[0].send(key_frame);
        peers[1].received.len() > count + 20
    });
    assert_eq!(engine.probe("/livez").0, Some(0));
    assert!(engine.metric("media_dropped_packets_total{reason=\"no_session\"}") > 1000.0);
}

/// A STUN Binding request for `user` whose attributes are those of which the library warns.
fn request_to_warn_of(user: &str) -> Vec<u8> {
    let attribute = |kind: u16, value: &[u8]| {
        let length = u16::try_from(value.len()).expect("short").to_be_bytes();
        let mut bytes = [&kind.to_be_bytes()[..], &length, value].concat();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    };
    let mut body = [[0x0001, 0x000a, 0x8023].map(|kind| attribute(kind, &[])).concat().repeat(5)].concat();
    body.extend(attribute(0x0006, format!("{user}:x").as_bytes()));
    body.extend(attribute(0x0008, &[0; 20]));
    let length = u16::try_from(body.len()).expect("short").to_be_bytes();
    [&[0, 1][..], &length, &[0x21, 0x12, 0xa4, 0x42], &[7; 12], &body].concat()
}

#[test]
fn strangers_cannot_fill_the_log() {
    let engine = Engine::start();
    let offer = Peer::new(Direction::SendOnly, Pictures::Vp8).offer;
    let answer = engine.offer(WHIP, &engine.issuer.everything("ann"), &offer);
    let user = answer.body.lines().find_map(|line| line.strip_prefix("a=ice-ufrag:")).expect("an answer");
    let stranger = UdpSocket::bind("127.0.0.1:0").expect("a port");
    for (user, reason) in [("nobody", "no_session"), (user.trim(), "not_authentic")] {
        let dropped = format!("media_dropped_packets_total{{reason=\"{reason}\"}}");
        let end = Instant::now() + LIMIT;
        while engine.metric(&dropped) < 100.0 {
            assert!(Instant::now() < end, "{reason}: not dropped within {LIMIT:?}");
            for _ in 0..50 {
                stranger.send_to(&request_to_warn_of(user), engine.media).expect("loopback takes all");
            }
        }
    }
    let log = engine.log();
    assert!(log.contains("a session begins") && log.lines().count() < 10, "{log}");
}

#[test]
fn connections_that_say_nothing_keep_nobody_else_out() {
    let engine = Engine::start_with("limits: {connections: 80}\n");
    let began = Instant::now();
    let mut mute: Vec<TcpStream> =
        (0..100).map(|_| TcpStream::connect(engine.http).expect("it listens")).collect();
    let elsewhere = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    elsewhere.bind(&SocketAddr::from(([127, 0, 0, 2], 0)).into()).expect("loopback has many addresses");
    elsewhere.connect(&engine.http.into()).expect("it listens");
    let offer = Peer::new(Direction::SendOnly, Pictures::Vp8).offer;
    let answer = engine.offer_by(elsewhere.into(), WHIP, &engine.issuer.everything("ann"), &offer);
    assert_eq!(answer.status, 201, "{answer:?}");
    mute[0].set_read_timeout(Some(LIMIT)).expect("a limit");
    assert_eq!(mute[0].read(&mut [0]).expect("closed"), 0, "before the first request, too, there is a limit");
    println!("a connection that said nothing was closed after {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(30), "10 s are promised");
}

#[test]
fn who_never_finishes_has_32_sessions_at_most() {
    let engine = Engine::start();
    let offer = Peer::new(Direction::SendOnly, Pictures::Vp8).offer;
    let token = engine.issuer.everything("ann");
    let statuses: Vec<u16> = (0..40)
        .map(|number| engine.offer(&format!("/whip/hall/cam-{number}"), &token, &offer).status)
        .collect();
    assert_eq!(statuses.iter().filter(|status| **status == 201).count(), 32, "{statuses:?}");
    assert!(statuses[32..].iter().all(|status| *status == 429), "{statuses:?}");
    assert_eq!(engine.status()["sessions"], 32);
}
