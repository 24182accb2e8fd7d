//! The endpoint by str0m: an SDP offer becomes a session in RTP mode, ICE-lite, with our cryptography.

use std::{collections::VecDeque, net::SocketAddr, sync::Arc, time::Instant};

use media_core::{Role, TrackKind, layer::FIRST_ESTIMATE};
use ring::rand::{SecureRandom as _, SystemRandom};
use str0m::{
    Candidate, IceCreds, Input, Output as RtcOutput, Rtc,
    bwe::{Bitrate, BweKind},
    change::SdpOffer,
    config::DtlsCert,
    format::{Codec as RtcCodec, PayloadParams},
    ice::StunMessage,
    media::{KeyframeRequestKind, Media, MediaKind, Mid},
    net::{Protocol, Receive},
    rtp::{ExtensionValues, RtpPacket, RtpWrite, Ssrc, VideoOrientation},
};

use crate::{
    crypto,
    endpoint::{
        Annotations, Answered, Codec, Endpoint, Endpoints, Event, OfferError, Output, Packet, Restarted, Rid,
    },
    stun,
};

/// Most packets that a session keeps for those who ask again, of pictures: 2 s at 4 Mbit/s.
const KEPT_PACKETS: usize = 1000;

/// Most answers to checks that wait to be sent.
const MAX_REPLIES: usize = 16;

/// A session that was made of an offer.
pub struct Peer {
    rtc: Rtc,
    /// The address that the candidate in the answer names: where datagrams are taken to have been sent to.
    local: SocketAddr,
    /// Our part of the ICE credentials: STUN that was signed by it comes from the other side.
    credentials: IceCreds,
    /// Ours before the last restart, while they hold.
    former: Option<IceCreds>,
    /// Answers to checks by the former ones, which the library does not know any more.
    replies: VecDeque<(SocketAddr, Vec<u8>)>,
    /// Whether the answer agrees on simulcast.
    layered: bool,
    /// The bitrates that the way was last asked to be tried for.
    wanted: (u64, u64),
    audio: Option<Mid>,
    video: Option<Mid>,
    closed: bool,
}

/// Makes sessions of offers: all with one certificate, and one address that their answers name.
pub struct Peers {
    /// The candidate.
    pub local: SocketAddr,
    /// The certificate whose fingerprint stands in the answers.
    pub certificate: DtlsCert,
}

impl Endpoints for Peers {
    fn answer(&self, offer: &str, role: Role, estimates: bool, now: Instant) -> Result<Answered, OfferError> {
        let certificate = self.certificate.clone();
        let (peer, sdp) = Peer::answer(offer, role, estimates, self.local, certificate, now)?;
        let user = peer.credentials.ufrag.clone();
        Ok(Answered { endpoint: Box::new(peer), sdp, user })
    }

    fn user<'a>(&self, datagram: &'a [u8]) -> Option<&'a str> {
        stun::user(datagram)
    }
}

impl Peer {
    /// Answers `offer` in this role: a publisher's media is received, a viewer's sent. `local` is the candidate.
    fn answer(
        offer: &str,
        role: Role,
        estimates: bool,
        local: SocketAddr,
        certificate: DtlsCert,
        now: Instant,
    ) -> Result<(Self, String), OfferError> {
        let text = offer;
        let offer = SdpOffer::from_sdp_string(offer).map_err(|error| {
            // Its text holds addresses of this process's memory.
            tracing::debug!(%error, "an offer was not read");
            OfferError::Syntax
        })?;
        let credentials = credentials()?;
        let mut rtc = Rtc::builder()
            .set_crypto_provider(crypto::provider())
            .set_dtls_cert(certificate)
            .set_local_ice_credentials(credentials.clone())
            .set_ice_lite(true)
            .set_rtp_mode(true)
            .set_send_buffer_video(KEPT_PACKETS)
            .enable_bwe(estimates.then_some(Bitrate::bps(FIRST_ESTIMATE)))
            .clear_codecs()
            .enable_opus(true, false)
            .enable_vp8(true)
            .enable_h264(true)
            .enable_vp9(true)
            .enable_av1(true)
            .build(now);
        let unworkable = |error: &dyn std::fmt::Display| OfferError::Unworkable(error.to_string());
        let candidate = Candidate::host(local, "udp").map_err(|error| unworkable(&error))?;
        rtc.add_local_candidate(candidate);
        let answer = rtc.sdp_api().accept_offer(offer).map_err(|error| unworkable(&error))?;
        let sdp = media_core::offer::with_paused_layers(&answer.to_sdp_string(), text);
        let mut peer = Self {
            rtc,
            local,
            credentials,
            former: None,
            replies: VecDeque::new(),
            layered: sdp.contains("a=simulcast:recv "),
            wanted: (0, 0),
            audio: None,
            video: None,
            closed: false,
        };
        peer.find_tracks(&sdp, role)?;
        Ok((peer, sdp))
    }

    fn find_tracks(&mut self, answer: &str, role: Role) -> Result<(), OfferError> {
        let mut kind = "this media";
        for line in answer.lines() {
            if let Some(media) = line.strip_prefix("m=") {
                kind = match media.split(' ').next() {
                    Some("audio") => "audio",
                    Some("video") => "video",
                    _ => "this media",
                };
                if media.split(' ').nth(1) == Some("0") {
                    return Err(OfferError::Codec(kind));
                }
            }
            let Some(mid) = line.strip_prefix("a=mid:") else { continue };
            let mid = Mid::from(mid.trim());
            let Some(media) = self.rtc.media(mid) else { continue };
            let agreed = !media.disabled() && !media.remote_pts().is_empty();
            let flows = match role {
                Role::Publisher => media.direction().is_receiving(),
                Role::Viewer => media.direction().is_sending(),
            };
            if !agreed || !flows {
                return Err(OfferError::Codec(kind));
            }
            let track = match media.kind() {
                MediaKind::Audio => &mut self.audio,
                MediaKind::Video => &mut self.video,
            };
            *track = Some(mid);
        }
        Ok(())
    }

    /// Answers a check by the credentials before the last restart, which [`Endpoint::accepts`] has verified: the pair that is
    /// in use stays so until another one is nominated. Returns whether it was one.
    fn answers_by_former(&mut self, source: SocketAddr, datagram: &[u8]) -> bool {
        let is_stun = datagram.first().is_some_and(|first| *first < 4);
        let Some(former) = self.former.as_ref().filter(|_| is_stun) else { return false };
        if stun::user(datagram) != Some(former.ufrag.as_str()) {
            return false;
        }
        let Ok(message) = StunMessage::parse(datagram) else { return true };
        let mut reply = [0; 256];
        let answer = StunMessage::binding_reply(message.trans_id(), source);
        let written = answer.to_bytes(Some(former.pass.as_bytes()), &mut reply, crypto::hmac_sha1);
        if let Ok(length) = written
            && self.replies.len() < MAX_REPLIES
        {
            self.replies.push_back((source, reply[..length].to_vec()));
        }
        true
    }

    fn track(&self, kind: TrackKind) -> Option<Mid> {
        match kind {
            TrackKind::Audio => self.audio,
            TrackKind::Video => self.video,
        }
    }

    /// What was agreed on for a track.
    fn parameters(&self, kind: TrackKind) -> impl Iterator<Item = &PayloadParams> {
        let media = self.track(kind).and_then(|mid| self.rtc.media(mid));
        let numbers = media.map(Media::remote_pts).unwrap_or_default();
        let known = self.rtc.codec_config().params();
        numbers.iter().filter_map(move |number| known.iter().find(|params| params.pt() == *number))
    }

    fn packet(&mut self, packet: RtpPacket) -> Option<Packet> {
        let rid = self.rid(packet.header.ssrc);
        let of_track = |kind: &TrackKind| {
            self.parameters(*kind).find(|params| params.pt() == packet.header.payload_type).cloned()
        };
        let (kind, parameters) = TrackKind::ALL.iter().find_map(|kind| Some((*kind, of_track(kind)?)))?;
        let extensions = &packet.header.ext_vals;
        Some(Packet {
            kind,
            codec: codec(&parameters)?,
            source: *packet.header.ssrc,
            rid,
            sequence: *packet.seq_no,
            timestamp: packet.header.timestamp,
            marker: packet.header.marker,
            arrived: packet.timestamp,
            annotations: Annotations {
                audio_level: extensions.audio_level,
                voice: extensions.voice_activity,
                turned: extensions.video_orientation.map(|turned| turned as u8),
            },
            payload: packet.payload,
        })
    }

    fn rid(&mut self, source: Ssrc) -> Option<Rid> {
        let mut direct = self.rtc.direct_api();
        let rid = direct.stream_rx(&source)?.rid()?;
        Rid::new(&rid.to_string())
    }

    fn event(&mut self, event: str0m::Event) -> Option<Event> {
        match event {
            str0m::Event::Connected => Some(Event::Connected),
            str0m::Event::RtpPacket(packet) => self.packet(packet).map(Event::Packet),
            str0m::Event::KeyframeRequest(_) => Some(Event::KeyFrameWanted),
            str0m::Event::EgressBitrateEstimate(BweKind::Twcc { estimate, .. }) => {
                Some(Event::Estimate(estimate.as_u64()))
            }
            str0m::Event::IceConnectionStateChange(state) if state.is_connected() => {
                self.former.take().map(|_| Event::Settled)
            }
            // That ICE hears nothing is no end: the session's own time-out says when it is, and until then it may come back.
            str0m::Event::Closed => Some(Event::Closed),
            _ => None,
        }
    }
}

/// Credentials that nobody can guess, as RFC 8445 s5.3 wants them: 64 bits of name and 128 of password, in hex digits. The
/// library's own are of a generator whose later numbers follow from its former ones.
fn credentials() -> Result<IceCreds, OfferError> {
    let mut bytes = [0; 24];
    SystemRandom::new().fill(&mut bytes).map_err(|_| OfferError::Random)?;
    let (user, password) = bytes.split_at(8);
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(IceCreds { ufrag: hex(user), pass: hex(password) })
}

/// What of `parameters` must be equal on both sides.
fn codec(parameters: &PayloadParams) -> Option<Codec> {
    let spec = parameters.spec();
    let (name, variant) = match spec.codec {
        RtcCodec::Opus => ("opus", None),
        RtcCodec::Vp8 => ("VP8", None),
        RtcCodec::H264 => {
            let mode = spec.format.packetization_mode.unwrap_or(0);
            // The level, the last byte, is what a decoder can do at most, and is negotiated by each side for itself.
            let profile = spec.format.profile_level_id.unwrap_or(0x42_000a) >> 8;
            ("H264", Some((mode, u16::try_from(profile).ok()?)))
        }
        RtcCodec::Vp9 => {
            let profile = spec.format.profile_id.unwrap_or(0);
            ("VP9", Some((0, u16::try_from(profile).ok()?)))
        }
        RtcCodec::Av1 => ("AV1", Some((0, u16::from(spec.format.profile.unwrap_or(0))))),
        _ => return None,
    };
    Some(Codec { name, clock_rate: spec.clock_rate.get(), variant })
}

fn orientation(bits: u8) -> VideoOrientation {
    VideoOrientation::from(bits)
}

impl Endpoint for Peer {
    fn accepts(&self, source: SocketAddr, datagram: &[u8], now: Instant) -> bool {
        // RFC 7983: 0 to 3 is STUN. str0m takes anything from an address that it knows.
        if datagram.first().is_some_and(|first| *first < 4) {
            let Some(user) = stun::user(datagram) else { return false };
            let ours = [Some(&self.credentials), self.former.as_ref()];
            let Some(ours) = ours.into_iter().flatten().find(|ours| ours.ufrag == user) else { return false };
            let signed = |message: StunMessage<'_>| message.verify(ours.pass.as_bytes(), crypto::hmac_sha1);
            return StunMessage::parse(datagram).is_ok_and(signed);
        }
        let Ok(received) = Receive::new(Protocol::Udp, source, self.local, datagram) else { return false };
        self.rtc.accepts(&Input::Receive(now, received))
    }

    fn receive(&mut self, source: SocketAddr, datagram: &[u8], now: Instant) {
        if self.answers_by_former(source, datagram) {
            return;
        }
        let Ok(received) = Receive::new(Protocol::Udp, source, self.local, datagram) else { return };
        if let Err(error) = self.rtc.handle_input(Input::Receive(now, received)) {
            tracing::debug!(%error, "a session failed on a datagram");
            self.rtc.disconnect();
            self.closed = true;
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        if let Err(error) = self.rtc.handle_input(Input::Timeout(now)) {
            tracing::debug!(%error, "a session failed on a time-out");
            self.rtc.disconnect();
            self.closed = true;
        }
    }

    fn poll(&mut self) -> Output {
        if let Some((to, datagram)) = self.replies.pop_front() {
            return Output::Transmit { to, datagram };
        }
        loop {
            match self.rtc.poll_output() {
                Ok(RtcOutput::Transmit(transmit)) => {
                    return Output::Transmit {
                        to: transmit.destination,
                        datagram: Vec::from(transmit.contents),
                    };
                }
                Ok(RtcOutput::Event(event)) => {
                    if let Some(event) = self.event(event) {
                        return Output::Event(event);
                    }
                }
                Ok(RtcOutput::Timeout(at)) => {
                    if std::mem::take(&mut self.closed) {
                        return Output::Event(Event::Closed);
                    }
                    return Output::Timeout(at);
                }
                Err(error) => {
                    tracing::debug!(%error, "a session failed");
                    self.rtc.disconnect();
                    return Output::Event(Event::Closed);
                }
            }
        }
    }

    fn codecs(&self, kind: TrackKind) -> Vec<Codec> {
        self.parameters(kind).filter_map(codec).collect()
    }

    fn send(&mut self, packet: &Packet, sequence: u64, timestamp: u32) -> bool {
        let wanted =
            self.parameters(packet.kind).find(|params| codec(params).as_ref() == Some(&packet.codec));
        let Some((number, mid)) = wanted.map(PayloadParams::pt).zip(self.track(packet.kind)) else {
            return false;
        };
        let mut direct = self.rtc.direct_api();
        let Some(stream) = direct.stream_tx_by_mid(mid, None) else { return false };
        let extensions = ExtensionValues {
            audio_level: packet.annotations.audio_level,
            voice_activity: packet.annotations.voice,
            video_orientation: packet.annotations.turned.map(orientation),
            ..ExtensionValues::default()
        };
        let payload = Arc::clone(&packet.payload);
        let write = RtpWrite::new(number, sequence.into(), timestamp, packet.arrived, payload)
            .marker(packet.marker)
            .nackable(packet.kind == TrackKind::Video)
            .ext_vals(extensions);
        stream.write_rtp(write);
        true
    }

    fn request_key_frame(&mut self, rid: Option<&str>) -> bool {
        let Some(mid) = self.video else { return false };
        let mut direct = self.rtc.direct_api();
        let Some(stream) = direct.stream_rx_by_mid(mid, rid.map(Into::into)) else { return false };
        stream.request_keyframe(KeyframeRequestKind::Pli);
        true
    }

    fn is_layered(&self) -> bool {
        self.layered
    }

    fn want_bitrate(&mut self, next: u64, best: u64) {
        if std::mem::replace(&mut self.wanted, (next, best)) != (next, best) {
            self.rtc.bwe().set_bitrate(Bitrate::bps(next), Bitrate::bps(best));
        }
    }

    fn mid(&self, kind: TrackKind) -> Option<String> {
        self.track(kind).map(|mid| mid.to_string())
    }

    fn restart(&mut self, offer: &str) -> Result<Restarted, OfferError> {
        let offer = SdpOffer::from_sdp_string(offer).map_err(|_| OfferError::Syntax)?;
        let credentials = credentials()?;
        let unworkable = |error: &dyn std::fmt::Display| OfferError::Unworkable(error.to_string());
        let answer = self.rtc.sdp_api().accept_offer(offer).map_err(|error| unworkable(&error))?;
        // The library made credentials of its own for this answer, as it did for the first one.
        let made = self.rtc.direct_api().local_ice_credentials();
        self.rtc.direct_api().set_local_ice_credentials(credentials.clone());
        let sdp = answer.to_sdp_string();
        let sdp = sdp
            .replace(&format!("a=ice-ufrag:{}", made.ufrag), &format!("a=ice-ufrag:{}", credentials.ufrag))
            .replace(&format!("a=ice-pwd:{}", made.pass), &format!("a=ice-pwd:{}", credentials.pass))
            .replace(&format!("ufrag {}", made.ufrag), &format!("ufrag {}", credentials.ufrag));
        self.former = Some(std::mem::replace(&mut self.credentials, credentials));
        Ok(Restarted { sdp, user: self.credentials.ufrag.clone() })
    }

    fn close(&mut self) {
        // What cannot be told any more needs not to be: the other side will miss our packets.
        let _ = self.rtc.close();
    }

    fn is_alive(&self) -> bool {
        self.rtc.is_alive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use str0m::{
        change::{SdpAnswer, SdpPendingOffer},
        media::Direction,
    };

    use super::*;

    /// A browser's part, by the same library without ICE-lite; times and datagrams are the test's.
    struct Client {
        rtc: Rtc,
        pending: Option<SdpPendingOffer>,
        video: Mid,
    }

    const ENGINE: ([u8; 4], u16) = ([192, 0, 2, 1], 7000);
    const CLIENT: ([u8; 4], u16) = ([192, 0, 2, 2], 40_000);

    impl Client {
        fn new(direction: Direction, now: Instant) -> (Self, String) {
            let mut rtc = Rtc::builder()
                .set_crypto_provider(crypto::provider())
                .set_rtp_mode(true)
                .clear_codecs()
                .enable_opus(true, false)
                .enable_vp8(true)
                .build(now);
            rtc.add_local_candidate(Candidate::host(CLIENT.into(), "udp").expect("a candidate"));
            let mut change = rtc.sdp_api();
            change.add_media(MediaKind::Audio, direction, None, None, None);
            let video = change.add_media(MediaKind::Video, direction, None, None, None);
            let (offer, pending) = change.apply().expect("something to offer");
            (Self { rtc, pending: Some(pending), video }, offer.to_sdp_string())
        }

        fn accept(&mut self, answer: &str) {
            let answer = SdpAnswer::from_sdp_string(answer).expect("an answer");
            let pending = self.pending.take().expect("once");
            self.rtc.sdp_api().accept_answer(pending, answer).expect("accepted");
        }
    }

    /// Lets both talk until `until` says so or ten seconds of their time are over.
    fn talk(
        engine: &mut Peer,
        client: &mut Client,
        now: &mut Instant,
        mut until: impl FnMut(&mut Client, Option<Event>, Option<str0m::Event>) -> bool,
    ) {
        let end = *now + Duration::from_secs(10);
        while *now < end {
            let mut next = end;
            let mut to_client = Vec::new();
            loop {
                match engine.poll() {
                    Output::Transmit { to, datagram } => {
                        assert_eq!(to, CLIENT.into());
                        to_client.push(datagram);
                    }
                    Output::Event(event) => {
                        if until(client, Some(event), None) {
                            return;
                        }
                    }
                    Output::Timeout(at) => {
                        next = next.min(at);
                        break;
                    }
                }
            }
            for datagram in to_client {
                let receive = Receive::new(Protocol::Udp, ENGINE.into(), CLIENT.into(), &datagram);
                client.rtc.handle_input(Input::Receive(*now, receive.expect("WebRTC"))).expect("taken");
            }
            let mut to_engine = Vec::new();
            loop {
                match client.rtc.poll_output().expect("alive") {
                    RtcOutput::Transmit(transmit) => to_engine.push(transmit),
                    RtcOutput::Event(event) => {
                        if until(client, None, Some(event)) {
                            return;
                        }
                    }
                    RtcOutput::Timeout(at) => {
                        next = next.min(at);
                        break;
                    }
                }
            }
            if to_engine.is_empty() {
                *now = next.max(*now + Duration::from_millis(1));
                client.rtc.handle_input(Input::Timeout(*now)).expect("alive");
                engine.handle_timeout(*now);
            }
            for transmit in to_engine {
                if engine.accepts(transmit.source, &transmit.contents, *now) {
                    engine.receive(transmit.source, &transmit.contents, *now);
                }
            }
        }
        panic!("not within ten seconds");
    }

    fn connected(role: Role, direction: Direction) -> (Peer, Client, Instant) {
        let mut now = Instant::now();
        let (mut client, offer) = Client::new(direction, now);
        let certificate = crypto::certificate().expect("a certificate");
        let (mut engine, answer) =
            Peer::answer(&offer, role, false, ENGINE.into(), certificate, now).expect("answered");
        assert!(answer.contains("a=ice-lite") && answer.contains(&engine.credentials.ufrag), "{answer}");
        client.accept(&answer);
        let (mut one, mut other) = (false, false);
        talk(&mut engine, &mut client, &mut now, |_, ours, theirs| {
            one |= matches!(ours, Some(Event::Connected));
            other |= matches!(theirs, Some(str0m::Event::Connected));
            one && other
        });
        (engine, client, now)
    }

    #[test]
    fn the_credentials_of_an_answer_are_the_systems_randomness() {
        let hex = |text: &str, digits| text.len() == digits && text.bytes().all(|b| b.is_ascii_hexdigit());
        let now = Instant::now();
        let (_, offer) = Client::new(Direction::SendOnly, now);
        let certificate = crypto::certificate().expect("a certificate");
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..8 {
            let (peer, answer) =
                Peer::answer(&offer, Role::Publisher, false, ENGINE.into(), certificate.clone(), now)
                    .expect("answered");
            let IceCreds { ufrag, pass } = peer.credentials;
            assert!(hex(&ufrag, 16) && hex(&pass, 32), "64 and 128 bits: {ufrag} {pass}");
            assert!(answer.contains(&format!("a=ice-ufrag:{ufrag}\r\n")), "{answer}");
            assert!(answer.contains(&format!("a=ice-pwd:{pass}\r\n")), "{answer}");
            assert!(seen.insert(ufrag) && seen.insert(pass), "never twice");
        }
    }

    #[test]
    fn every_packet_of_a_publisher_arrives_through_our_cryptography() {
        let (mut engine, mut client, mut now) = connected(Role::Publisher, Direction::SendOnly);
        assert_eq!(engine.codecs(TrackKind::Video)[0].name, "VP8");
        let number = client.rtc.media(client.video).expect("video").remote_pts()[0];
        let mut sent = 0_u32;
        let mut sequences = Vec::new();
        while sent < 200 {
            let mut direct = client.rtc.direct_api();
            let stream = direct.stream_tx_by_mid(client.video, None).expect("a track");
            let payload = vec![u8::try_from(sent % 251).expect("small"); 900];
            stream.write_rtp(RtpWrite::new(number, u64::from(sent).into(), sent * 3000, now, payload));
            sent += 1;
            talk(&mut engine, &mut client, &mut now, |_, ours, _| {
                let Some(Event::Packet(packet)) = ours else { return false };
                assert_eq!((packet.kind, packet.codec.name), (TrackKind::Video, "VP8"));
                assert_eq!(packet.timestamp, u32::try_from(packet.sequence).expect("small") * 3000);
                assert!(packet.payload.iter().all(|byte| u64::from(*byte) == packet.sequence % 251));
                sequences.push(packet.sequence);
                true
            });
        }
        assert_eq!(sequences, (0..200).collect::<Vec<u64>>());
        assert!(engine.request_key_frame(None));
        talk(&mut engine, &mut client, &mut now, |_, _, theirs| {
            matches!(theirs, Some(str0m::Event::KeyframeRequest(_)))
        });
    }

    #[test]
    fn a_viewer_gets_packets_under_its_own_numbers_and_may_ask_for_a_key_frame() {
        let (mut engine, mut client, mut now) = connected(Role::Viewer, Direction::RecvOnly);
        let codec = engine.codecs(TrackKind::Video)[0].clone();
        let packet = Packet {
            kind: TrackKind::Video,
            codec,
            source: 7,
            rid: None,
            sequence: 60_000,
            timestamp: 1,
            marker: true,
            payload: vec![1, 2, 3].into(),
            arrived: now,
            annotations: Annotations::default(),
        };
        assert!(engine.send(&packet, 42, 90_000));
        engine.handle_timeout(now);
        talk(&mut engine, &mut client, &mut now, |_, _, theirs| {
            let Some(str0m::Event::RtpPacket(packet)) = theirs else { return false };
            assert_eq!((*packet.seq_no, packet.header.timestamp, packet.header.marker), (42, 90_000, true));
            assert_eq!(&*packet.payload, [1, 2, 3]);
            true
        });
        let video = client.video;
        let mut direct = client.rtc.direct_api();
        direct
            .stream_rx_by_mid(video, None)
            .expect("the track came")
            .request_keyframe(KeyframeRequestKind::Pli);
        talk(&mut engine, &mut client, &mut now, |_, ours, _| matches!(ours, Some(Event::KeyFrameWanted)));
        let foreign = Codec { name: "H264", clock_rate: 90_000, variant: Some((1, 0x4200)) };
        assert!(!engine.send(&Packet { codec: foreign, ..packet }, 43, 93_000), "never agreed on");
        engine.close();
        talk(&mut engine, &mut client, &mut now, |_, _, theirs| matches!(theirs, Some(str0m::Event::Closed)));
    }

    #[test]
    fn a_restart_changes_the_credentials_and_media_goes_on_meanwhile() {
        let (mut engine, mut client, mut now) = connected(Role::Viewer, Direction::RecvOnly);
        let before = engine.credentials.clone();
        let codec = engine.codecs(TrackKind::Video)[0].clone();
        let mut change = client.rtc.sdp_api();
        let theirs = change.ice_restart(true);
        let (offer, pending) = change.apply().expect("something to offer");
        let restarted = engine.restart(&offer.to_sdp_string()).expect("it may");
        assert_eq!(restarted.user, engine.credentials.ufrag);
        assert_ne!(restarted.user, before.ufrag);
        for ours in [&engine.credentials.ufrag, &engine.credentials.pass] {
            assert!(restarted.sdp.contains(ours.as_str()), "{}", restarted.sdp);
        }
        // The other side has not heard of it: its checks by the former credentials are still answered.
        let check = crate::stun::tests::signed_request(&before, &theirs.ufrag);
        assert!(engine.accepts(CLIENT.into(), &check, now), "the former ones hold");
        engine.receive(CLIENT.into(), &check, now);
        let Output::Transmit { to, datagram } = engine.poll() else { panic!("it is answered") };
        let reply = StunMessage::parse(&datagram).expect("STUN");
        assert!(reply.is_successful_binding_response() && to == CLIENT.into());
        assert!(reply.verify(before.pass.as_bytes(), crypto::hmac_sha1), "by the former password");
        let mut packet = Packet {
            kind: TrackKind::Video,
            codec,
            source: 7,
            rid: None,
            sequence: 1,
            timestamp: 1,
            marker: true,
            payload: vec![1, 2, 3].into(),
            arrived: now,
            annotations: Annotations::default(),
        };
        let mut send = |engine: &mut Peer, client: &mut Client, now: &mut Instant, sequence| {
            packet.arrived = *now;
            assert!(engine.send(&packet, sequence, 90_000));
            engine.handle_timeout(*now);
            talk(engine, client, now, |_, _, theirs| matches!(theirs, Some(str0m::Event::RtpPacket(_))));
        };
        send(&mut engine, &mut client, &mut now, 1);
        let answer = SdpAnswer::from_sdp_string(&restarted.sdp).expect("an answer");
        client.rtc.sdp_api().accept_answer(pending, answer).expect("accepted");
        talk(&mut engine, &mut client, &mut now, |_, ours, _| matches!(ours, Some(Event::Settled)));
        assert!(!engine.accepts(CLIENT.into(), &check, now), "the former ones are over");
        send(&mut engine, &mut client, &mut now, 2);
        assert!(engine.restart("hello").is_err() && engine.is_alive());
    }

    #[test]
    fn what_cannot_be_answered_is_refused_with_its_reason() {
        let now = Instant::now();
        let certificate = crypto::certificate().expect("a certificate");
        let answer = |offer: &str, role| {
            Peer::answer(offer, role, false, ENGINE.into(), certificate.clone(), now).map(drop)
        };
        assert!(matches!(answer("hello", Role::Viewer), Err(OfferError::Syntax)));
        let (_, offer) = Client::new(Direction::SendOnly, now);
        answer(&offer, Role::Publisher).expect("as it is");
        let alien = offer.replace("VP8/90000", "NEW/90000");
        assert!(matches!(answer(&alien, Role::Publisher), Err(OfferError::Codec("video"))));
        assert!(matches!(answer(&offer, Role::Viewer), Err(OfferError::Codec(_))), "who sends does not play");
        let bare: String =
            offer.lines().filter(|l| !l.contains("fingerprint")).map(|l| format!("{l}\r\n")).collect();
        assert!(matches!(answer(&bare, Role::Publisher), Err(OfferError::Unworkable(_))));
    }

    /// A series that repeats (Knuth's MMIX).
    struct Series(u64);

    impl Series {
        fn below(&mut self, end: usize) -> usize {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(self.0 >> 33).expect("31 bits") % end.max(1)
        }
    }

    /// Lines that are left out, doubled, swapped, cut off, or have a character changed.
    fn mutated(offer: &str, series: &mut Series) -> String {
        let mut lines: Vec<String> = offer.lines().map(str::to_owned).collect();
        for _ in 0..=series.below(4) {
            let (at, other) = (series.below(lines.len()), series.below(lines.len()));
            match series.below(6) {
                0 => drop(lines.remove(at)),
                1 => lines.insert(other, lines[at].clone()),
                2 => lines.swap(at, other),
                3 => {
                    let length = series.below(lines[at].len());
                    lines[at].truncate(length);
                }
                4 => {
                    let line = std::mem::take(&mut lines[at]);
                    let (number, new) =
                        (series.below(line.len()), [b'0', b'9', b':', b' ', b'-', b'z'][series.below(6)]);
                    let change = |(i, byte)| if i == number { char::from(new) } else { char::from(byte) };
                    lines[at] = line.bytes().enumerate().map(change).collect();
                }
                _ => {
                    let digits = ["0", "127", "128", "65536", "99999999999999999999", "-1"][series.below(6)];
                    lines[at] = lines[at].replace(|c: char| c.is_ascii_digit(), digits);
                }
            }
            if lines.is_empty() {
                break;
            }
        }
        lines.iter().map(|line| format!("{line}\r\n")).collect()
    }

    #[test]
    fn no_offer_breaks_the_library() {
        let now = Instant::now();
        let certificate = crypto::certificate().expect("a certificate");
        let (_, offer) = Client::new(Direction::SendOnly, now);
        let mut series = Series(1);
        let (mut read, mut answered) = (0, 0);
        for round in 0..1500 {
            let text = mutated(&offer, &mut series);
            // What the engine does: the core's checks come first.
            let Ok(checked) = media_core::offer::check(&text, Role::Publisher) else { continue };
            read += usize::from(SdpOffer::from_sdp_string(&checked).is_ok());
            // A session without optimisation takes its time.
            if round % 50 == 0 {
                let certificate = certificate.clone();
                let peer = Peer::answer(&checked, Role::Publisher, false, ENGINE.into(), certificate, now);
                answered += usize::from(peer.is_ok());
            }
        }
        assert!(read > 200 && answered > 5, "some are still good: {read}, {answered}");
    }

    #[test]
    fn no_datagram_breaks_a_session() {
        let (mut engine, _client, mut now) = connected(Role::Publisher, Direction::SendOnly);
        let mut series = Series(2);
        for round in 0..5_000_usize {
            let first = [0_u8, 1, 20, 22, 23, 25, 128, 144, 200, 255][round % 10];
            let length = series.below(200);
            let mut datagram: Vec<u8> =
                (0..length).map(|_| u8::try_from(series.below(256)).expect("a byte")).collect();
            if let Some(byte) = datagram.first_mut() {
                *byte = first;
            }
            // From the address that the session knows: as if its integrity held.
            engine.receive(CLIENT.into(), &datagram, now);
            while !matches!(engine.poll(), Output::Timeout(_)) {}
            now += Duration::from_micros(50);
        }
        assert!(engine.is_alive(), "noise ends no session");
    }
}
