//! A client of an engine: a publisher or viewer by str0m, on a UDP socket of its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::UdpSocket,
    time::{Duration, Instant},
};

use media::crypto;
use str0m::{
    Candidate, Event, Input, Output, Rtc,
    change::{SdpAnswer, SdpPendingOffer},
    media::{Direction, KeyframeRequestKind, MediaKind, Mid, Simulcast, SimulcastLayer},
    net::{Protocol, Receive},
    rtp::RtpWrite,
};

use crate::rig::{Answer, Engine, LIMIT};

/// Codecs of a client beside Opus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pictures {
    Vp8,
    H264,
}

/// One session of a client.
pub(crate) struct Peer {
    rtc: Rtc,
    socket: UdpSocket,
    pub(crate) video: Mid,
    pending: Option<SdpPendingOffer>,
    pub(crate) offer: String,
    pub(crate) session: String,
    /// The tag of its ICE session, in quotes.
    pub(crate) tag: String,
    answer: String,
    /// The servers that it was told of.
    pub(crate) links: Vec<String>,
    pub(crate) connected: bool,
    pub(crate) closed: bool,
    /// Requests for key frames that came.
    pub(crate) asked: usize,
    /// The layers that a key frame is awaited of.
    pub(crate) asked_for: BTreeSet<String>,
    /// Sequence number, timestamp and payload of each packet of pictures that came.
    pub(crate) received: Vec<(u64, u32, Vec<u8>)>,
    sent: u32,
    /// The same of each layer.
    layers: BTreeMap<String, u32>,
}

impl Peer {
    pub(crate) fn new(direction: Direction, pictures: Pictures) -> Self {
        Self::with_layers(direction, pictures, &[])
    }

    /// One that sends its pictures in layers of these rids, if there are any.
    fn with_layers(direction: Direction, pictures: Pictures, rids: &[&str]) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
        socket.set_nonblocking(true).expect("a setting");
        let address = socket.local_addr().expect("bound");
        let mut rtc = Rtc::builder()
            .set_crypto_provider(crypto::provider())
            .set_rtp_mode(true)
            .clear_codecs()
            .enable_opus(true, false)
            .enable_vp8(pictures == Pictures::Vp8)
            .enable_h264(pictures == Pictures::H264)
            .build(Instant::now());
        rtc.add_local_candidate(Candidate::host(address, "udp").expect("a candidate"));
        let mut change = rtc.sdp_api();
        change.add_media(MediaKind::Audio, direction, None, None, None);
        let mut layers = Simulcast::new();
        for rid in rids {
            layers.add_send_layer(SimulcastLayer::new(rid));
        }
        let layers = (!rids.is_empty()).then_some(layers);
        let video = change.add_media(MediaKind::Video, direction, None, None, layers);
        let (offer, pending) = change.apply().expect("something to offer");
        Self {
            rtc,
            socket,
            video,
            pending: Some(pending),
            offer: offer.to_sdp_string(),
            session: String::new(),
            tag: String::new(),
            answer: String::new(),
            links: Vec::new(),
            connected: false,
            closed: false,
            asked: 0,
            asked_for: BTreeSet::new(),
            received: Vec::new(),
            sent: 0,
            layers: BTreeMap::new(),
        }
    }

    /// A publisher of `path` that has been let in.
    pub(crate) fn publish(engine: &Engine, path: &str, subject: &str) -> Self {
        let mut peer = Self::new(Direction::SendOnly, Pictures::Vp8);
        let answer = engine.offer(path, &engine.issuer.everything(subject), &peer.offer);
        peer.accept(&answer);
        peer
    }

    /// A viewer of `path` that has been let in.
    pub(crate) fn play(engine: &Engine, path: &str) -> Self {
        let mut peer = Self::new(Direction::RecvOnly, Pictures::Vp8);
        let answer = engine.offer(path, &engine.issuer.everything("eve"), &peer.offer);
        peer.accept(&answer);
        peer
    }

    /// New ICE credentials by PATCH; the offer and its answer are made of the fragments.
    pub(crate) fn restart_ice(&mut self, engine: &Engine, subject: &str) -> Answer {
        let mut change = self.rtc.sdp_api();
        change.ice_restart(true);
        let (offer, pending) = change.apply().expect("something to offer");
        let ice = |line: &&str| line.starts_with("a=ice-") || line.starts_with("a=candidate");
        let sdp = offer.to_sdp_string();
        let fragment: String = sdp.lines().filter(ice).map(|line| format!("{line}\r\n")).collect();
        let answer = engine.patch(&self.session, subject, Some("\"*\""), &fragment);
        assert_eq!(answer.status, 200, "{answer:?}");
        let new = |name: &str| answer.body.lines().find(|line| line.starts_with(name)).expect("it has one");
        let whole: String = self
            .answer
            .lines()
            .map(|line| match line.split_once(':').map(|(name, _)| name) {
                Some(name @ ("a=ice-ufrag" | "a=ice-pwd")) => format!("{}\r\n", new(name)),
                _ => format!("{line}\r\n"),
            })
            .collect();
        let sdp = SdpAnswer::from_sdp_string(&whole).expect("an answer");
        self.rtc.sdp_api().accept_answer(pending, sdp).expect("accepted");
        answer
    }

    pub(crate) fn accept(&mut self, answer: &Answer) {
        assert_eq!(answer.status, 201, "{answer:?}");
        self.session = answer.header("location").expect("a session").to_owned();
        self.tag = answer.header("etag").expect("a tag").to_owned();
        self.answer = answer.body.clone();
        self.links = answer.headers("link");
        let sdp = SdpAnswer::from_sdp_string(&answer.body).expect("an answer");
        self.rtc.sdp_api().accept_answer(self.pending.take().expect("once"), sdp).expect("accepted");
    }

    /// Sends one packet of pictures, a key frame if it is asked for; its payload ends with its number.
    pub(crate) fn send(&mut self, key_frame: bool) {
        let number = self.rtc.media(self.video).expect("a track").remote_pts()[0];
        let mut payload = vec![0x10, u8::from(!key_frame), 0, 0, 0];
        payload.extend_from_slice(&self.sent.to_be_bytes());
        let mut direct = self.rtc.direct_api();
        let stream = direct.stream_tx_by_mid(self.video, None).expect("a track");
        let (sequence, time) = (u64::from(self.sent).into(), self.sent * 3000);
        stream.write_rtp(RtpWrite::new(number, sequence, time, Instant::now(), payload).marker(true));
        self.sent += 1;
        self.rtc.handle_input(Input::Timeout(Instant::now())).expect("alive");
        self.turn();
    }

    /// A publisher of `path` that sends its pictures in layers of these rids.
    pub(crate) fn publish_layers(engine: &Engine, path: &str, subject: &str, rids: &[&str]) -> Self {
        let mut peer = Self::with_layers(Direction::SendOnly, Pictures::Vp8, rids);
        let answer = engine.offer(path, &engine.issuer.everything(subject), &peer.offer);
        peer.accept(&answer);
        peer
    }

    /// The offer of such a publisher.
    pub(crate) fn layered_offer(rids: &[&str]) -> String {
        Self::with_layers(Direction::SendOnly, Pictures::Vp8, rids).offer
    }

    /// Sends a packet of `bytes` of one layer, a key frame if it was asked for; the third byte is the first of its rid.
    pub(crate) fn send_layer(&mut self, rid: &str, bytes: usize) {
        let is_delta = u8::from(!self.asked_for.remove(rid) && self.layers.contains_key(rid));
        let sent = self.layers.entry(rid.to_owned()).or_default();
        let (sequence, time) = (u64::from(*sent), *sent * 3000);
        *sent += 1;
        let mut payload = vec![0; bytes];
        payload[..3].copy_from_slice(&[0x10, is_delta, rid.as_bytes()[0]]);
        payload.extend_from_slice(&sent.to_be_bytes());
        let number = self.rtc.media(self.video).expect("a track").remote_pts()[0];
        let mut direct = self.rtc.direct_api();
        let stream = direct.stream_tx_by_mid(self.video, Some(rid.into())).expect("a layer");
        stream.write_rtp(RtpWrite::new(number, sequence.into(), time, Instant::now(), payload).marker(true));
        self.rtc.handle_input(Input::Timeout(Instant::now())).expect("alive");
        self.turn();
    }

    /// Of which layers the packets since the first `from` came, without repeats.
    pub(crate) fn layers_since(&self, from: usize) -> String {
        let mut layers: Vec<u8> = self.received[from..].iter().map(|(_, _, payload)| payload[2]).collect();
        layers.dedup();
        String::from_utf8(layers).expect("ASCII")
    }

    /// Asks the engine for a key frame, as a decoder does that has lost its way.
    pub(crate) fn ask_for_key_frame(&mut self) {
        let video = self.video;
        let mut direct = self.rtc.direct_api();
        direct.stream_rx_by_mid(video, None).expect("it came").request_keyframe(KeyframeRequestKind::Pli);
        self.turn();
    }

    /// Takes what has come and says what is to be said, without waiting.
    pub(crate) fn turn(&mut self) {
        let mut buffer = [0; 2048];
        let address = self.socket.local_addr().expect("bound");
        loop {
            loop {
                match self.rtc.poll_output().expect("alive") {
                    Output::Transmit(transmit) => {
                        let sent = self.socket.send_to(&transmit.contents, transmit.destination);
                        assert_eq!(sent.expect("loopback takes all"), transmit.contents.len());
                    }
                    Output::Event(event) => self.event(event),
                    Output::Timeout(at) if at <= Instant::now() && self.rtc.is_alive() => {
                        self.rtc.handle_input(Input::Timeout(Instant::now())).expect("alive");
                    }
                    Output::Timeout(_) => break,
                }
            }
            match self.socket.recv_from(&mut buffer) {
                Ok((length, from)) => {
                    let Ok(received) = Receive::new(Protocol::Udp, from, address, &buffer[..length]) else {
                        continue;
                    };
                    self.rtc.handle_input(Input::Receive(Instant::now(), received)).expect("alive");
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // The engine's port is closed for a moment: it was killed.
                Err(_) => {}
            }
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Connected => self.connected = true,
            Event::Closed => self.closed = true,
            Event::KeyframeRequest(request) => {
                self.asked += 1;
                self.asked_for.extend(request.rid.map(|rid| rid.to_string()));
            }
            Event::RtpPacket(packet) => {
                let entry = (*packet.seq_no, packet.header.timestamp, packet.payload.to_vec());
                self.received.push(entry);
            }
            _ => {}
        }
    }

    /// The numbers that the publisher gave to the packets which came.
    pub(crate) fn numbers(&self) -> Vec<u32> {
        let number = |payload: &Vec<u8>| {
            u32::from_be_bytes(payload[payload.len() - 4..].try_into().expect("four bytes"))
        };
        self.received.iter().map(|(_, _, payload)| number(payload)).collect()
    }
}

/// Lets all of them talk until `holds`; panics with `what` if it does not.
pub(crate) fn talk(peers: &mut [&mut Peer], what: &str, mut holds: impl FnMut(&mut [&mut Peer]) -> bool) {
    let end = Instant::now() + LIMIT;
    loop {
        peers.iter_mut().for_each(|peer| peer.turn());
        if holds(peers) {
            return;
        }
        assert!(Instant::now() < end, "not within {LIMIT:?}: {what}");
        // What is awaited comes by a socket or by time; this only spares the CPU meanwhile.
        std::thread::sleep(Duration::from_millis(1));
    }
}
