//! What passes from a stream's publisher to its viewers, and their requests for key frames back.

use std::time::Instant;

use media_core::{
    SessionId, StreamName, TrackKind,
    forward::{Forwarded, Incoming},
    keyframe,
    room::Stream,
    session::{End, SessionState},
};

use super::{Engine, Member, Sender};
use crate::{endpoint::Packet, metrics::Direction};

impl Engine {
    /// Sends a publisher's packet to every viewer that can receive.
    pub(super) fn forward(
        &mut self,
        publisher: SessionId,
        packet: &Packet,
        now: Instant,
        wire: &mut dyn Sender,
    ) {
        let Some((name, stream)) = self.streams.of(publisher) else { return };
        if stream.publisher() != Some(publisher) {
            return self.metrics.dropped("not_live");
        }
        let (name, viewers) = (name.clone(), stream.viewers().clone());
        let incoming = Incoming {
            publisher,
            ssrc: packet.source,
            sequence: packet.sequence,
            timestamp: packet.timestamp,
            begins: keyframe::begins(packet.codec.name, &packet.payload),
            clock_rate: packet.codec.clock_rate,
            at: self.since(packet.arrived),
        };
        if packet.kind == TrackKind::Video {
            if incoming.begins
                && let Some(requests) = self.key_frames.get_mut(&name)
            {
                requests.arrived();
            }
            self.groups.push(&name, incoming, packet.payload.len(), packet.clone());
            self.metrics.kept_bytes.set(i64::try_from(self.groups.bytes()).unwrap_or(i64::MAX));
        }
        let mut waiting = false;
        let mut other_codec = Vec::new();
        for viewer in viewers {
            let Some(member) = self.members.get_mut(&viewer) else { continue };
            if member.session.state() != SessionState::Live {
                continue;
            }
            match member.track(packet.kind).forward(&incoming) {
                Forwarded::As { sequence, timestamp } => {
                    if !self.send(viewer, packet, sequence, timestamp) {
                        other_codec.push(viewer);
                        continue;
                    }
                }
                Forwarded::WaitsForKeyFrame => {
                    self.metrics.dropped("waits_for_key_frame");
                    waiting = true;
                    continue;
                }
                Forwarded::Stale => {
                    self.metrics.dropped("stale");
                    continue;
                }
            }
            self.flush(viewer, now, wire);
        }
        for viewer in other_codec {
            self.end(viewer, End::OtherCodec, now, wire);
        }
        if waiting {
            self.want_key_frame(&name, now);
        }
    }

    /// Gives the packet to the viewer's session. False if the viewer would stay dark, because it knows other codecs only; one
    /// without this track misses nothing.
    fn send(&mut self, viewer: SessionId, packet: &Packet, sequence: u64, timestamp: u32) -> bool {
        let Some(member) = self.members.get_mut(&viewer) else { return true };
        if member.endpoint.send(packet, sequence, timestamp) {
            return true;
        }
        self.metrics.dropped("codec");
        let played = member.endpoint.codecs(packet.kind);
        played.is_empty() || played.contains(&packet.codec)
    }

    fn flush(&mut self, viewer: SessionId, now: Instant, wire: &mut dyn Sender) {
        if let Some(Member { endpoint, .. }) = self.members.get_mut(&viewer) {
            endpoint.handle_timeout(now);
            self.drain(viewer, now, wire);
        }
    }

    /// A viewer can receive now: it gets the group of pictures that has begun, else waits for a key frame.
    pub(super) fn begin_to_play(&mut self, viewer: SessionId, now: Instant, wire: &mut dyn Sender) {
        let Some((name, stream)) = self.streams.of(viewer) else { return };
        let (name, publisher) = (name.clone(), stream.publisher());
        let since = self.since(now);
        let has_pictures = |member: &Member| !member.endpoint.codecs(TrackKind::Video).is_empty();
        if !self.members.get(&viewer).is_some_and(has_pictures) {
            return;
        }
        let group = publisher.and_then(|publisher| {
            let mut sources = self.groups.sources(&name);
            sources.find_map(|source| self.groups.get(&name, publisher, source, since))
        });
        let Some(group) = group else { return self.want_key_frame(&name, now) };
        let (packets, content): (Vec<Incoming>, Vec<Packet>) = group.iter().cloned().unzip();
        let Some(member) = self.members.get_mut(&viewer) else { return };
        let places = member.video.catch_up(packets.iter());
        tracing::debug!(%viewer, packets = places.len(), "a viewer begins with the group of pictures that is kept");
        for (packet, (sequence, timestamp)) in content.iter().zip(places) {
            if !self.send(viewer, packet, sequence, timestamp) {
                return self.end(viewer, End::OtherCodec, now, wire);
            }
            self.flush(viewer, now, wire);
        }
    }

    pub(super) fn want_key_frame(&mut self, stream: &StreamName, now: Instant) {
        if let Some(requests) = self.key_frames.get_mut(stream) {
            requests.want();
            self.request_key_frame(stream, now);
        }
    }

    /// Asks the publisher, if the time for it has come and it is there to be asked.
    pub(super) fn request_key_frame(&mut self, stream: &StreamName, now: Instant) {
        let since = self.since(now);
        let Some(publisher) = self.streams.get(stream).and_then(Stream::publisher) else { return };
        let Some(member) = self.members.get_mut(&publisher) else { return };
        let Some(requests) = self.key_frames.get_mut(stream) else { return };
        if member.session.state() != SessionState::Live || !requests.poll(since) {
            return;
        }
        if member.endpoint.request_key_frame() {
            self.metrics.pli(Direction::Out);
            // What the publisher has to say meanwhile is taken up when its own time comes.
            member.endpoint.handle_timeout(now);
            self.timeouts.remove(&(member.timeout, publisher));
            member.timeout = now;
            self.timeouts.insert((now, publisher));
        }
    }
}
