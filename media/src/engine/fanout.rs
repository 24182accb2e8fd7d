//! What passes from a stream's publisher to its viewers, and their requests for key frames back.

use std::{collections::BTreeSet, time::Instant};

use media_core::{
    Role, SessionId, StreamName, TrackKind,
    forward::{Forwarded, Incoming},
    keyframe,
    layer::{Layers, Pass},
    room::Stream,
    session::{End, SessionState},
};

use super::{Engine, Member, Sender};
use crate::{
    endpoint::{Packet, Rid},
    metrics::Direction,
};

/// Whether a viewer gets a packet.
enum Passes {
    Yes,
    /// Not before a key frame, and nothing else comes to it meanwhile.
    WithKeyFrame,
    No,
}

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
        let is_video = packet.kind == TrackKind::Video;
        if is_video {
            self.take_in(&name, &incoming, packet);
        }
        let mut waiting = false;
        let mut other_codec = Vec::new();
        for viewer in viewers {
            if !self.is_live(viewer) {
                continue;
            }
            if is_video {
                match self.passes(&name, viewer, &incoming) {
                    Passes::Yes => {}
                    Passes::WithKeyFrame => {
                        self.metrics.dropped("waits_for_key_frame");
                        waiting = true;
                        continue;
                    }
                    Passes::No => continue,
                }
            }
            let Some(member) = self.members.get_mut(&viewer) else { continue };
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
            self.want_key_frame(&name, Some(packet.source), now);
        }
    }

    /// Notes what a packet of pictures says of its layer, and keeps it for late viewers.
    fn take_in(&mut self, name: &StreamName, incoming: &Incoming, packet: &Packet) {
        let Some(layers) = self.layers.get_mut(name) else { return };
        let rid = packet.rid.as_ref().map(Rid::as_str);
        layers.packet(incoming.publisher, incoming.ssrc, rid, packet.payload.len(), incoming.at);
        if incoming.begins {
            layers.key_frame(incoming.ssrc);
        }
        self.groups.push(name, *incoming, packet.payload.len(), packet.clone());
        self.metrics.kept_bytes.set(i64::try_from(self.groups.bytes()).unwrap_or(i64::MAX));
    }

    /// Whether a packet of pictures is of the layer that the viewer gets.
    fn passes(&mut self, name: &StreamName, viewer: SessionId, packet: &Incoming) -> Passes {
        let (Some(member), Some(layers)) = (self.members.get_mut(&viewer), self.layers.get(name)) else {
            return Passes::No;
        };
        let choice = &mut member.choice;
        // Whoever has no layer, or one that is not there any more, cannot wait for the next look at the layers.
        let lost = choice.current().is_none_or(|source| !layers.has(source));
        if lost && choice.awaited() != Some(packet.ssrc) {
            choice.choose(&layers.all(), member.estimate, packet.at);
        }
        let is_dark = lost && choice.awaited() == Some(packet.ssrc);
        match choice.pass(packet.ssrc, packet.begins) {
            Pass::Current => Passes::Yes,
            Pass::Switch => {
                self.metrics.layer_switches.inc();
                Passes::Yes
            }
            Pass::Skip if is_dark => Passes::WithKeyFrame,
            Pass::Skip => Passes::No,
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
        let layers = self.layers.get(&name).map(Layers::all).unwrap_or_default();
        let Some(member) = self.members.get_mut(&viewer) else { return };
        member.choice.choose(&layers, member.estimate, since);
        let wanted = member.choice.awaited();
        let found = wanted.zip(publisher);
        let group = found.and_then(|(source, publisher)| self.groups.get(&name, publisher, source, since));
        let Some((group, source)) = group.zip(wanted) else { return self.want_key_frame(&name, wanted, now) };
        let (packets, content): (Vec<Incoming>, Vec<Packet>) = group.iter().cloned().unzip();
        let Some(member) = self.members.get_mut(&viewer) else { return };
        member.choice.began_with(source);
        let places = member.video.catch_up(packets.iter());
        tracing::debug!(%viewer, packets = places.len(), "a viewer begins with the group of pictures that is kept");
        for (packet, (sequence, timestamp)) in content.iter().zip(places) {
            if !self.send(viewer, packet, sequence, timestamp) {
                return self.end(viewer, End::OtherCodec, now, wire);
            }
            self.flush(viewer, now, wire);
        }
    }

    /// Gives a viewer the layer of that rid while it is there; the engine chooses without. False if there is no such viewer.
    pub fn choose(&mut self, viewer: SessionId, rid: Option<Box<str>>) -> bool {
        let member = self.members.get_mut(&viewer);
        let Some(member) = member.filter(|member| member.session.role() == Role::Viewer) else {
            return false;
        };
        member.choice.wish(rid);
        true
    }

    /// Chooses again for each viewer of the stream, as their links and the layers are now.
    pub(super) fn choose_layers(&mut self, name: &StreamName, now: Instant) {
        let since = self.since(now);
        let (Some(layers), Some(stream)) = (self.layers.get(name), self.streams.get(name)) else { return };
        let layers = layers.all();
        let is_layered = layers.iter().any(|layer| layer.rid.is_some());
        let mut wanted = BTreeSet::new();
        for viewer in stream.viewers() {
            let Some(member) = self.members.get_mut(viewer) else { continue };
            if member.session.state() != SessionState::Live {
                continue;
            }
            if member.choice.choose(&layers, member.estimate, since) {
                wanted.extend(member.choice.awaited());
            }
            if is_layered {
                let (next, best) = member.choice.room_wanted(&layers);
                member.endpoint.want_bitrate(next, best);
            }
        }
        for source in wanted {
            self.want_key_frame(name, Some(source), now);
        }
        self.tell_layers(name, &layers);
    }

    pub(super) fn want_key_frame(&mut self, stream: &StreamName, source: Option<u32>, now: Instant) {
        if let Some(layers) = self.layers.get_mut(stream) {
            layers.want_key_frame(source);
            self.request_key_frames(stream, now);
        }
    }

    /// Asks the publisher, if the time for it has come and it is there to be asked.
    pub(super) fn request_key_frames(&mut self, stream: &StreamName, now: Instant) {
        let since = self.since(now);
        let Some(publisher) = self.streams.get(stream).and_then(Stream::publisher) else { return };
        let Some(member) = self.members.get_mut(&publisher) else { return };
        let Some(layers) = self.layers.get_mut(stream) else { return };
        if member.session.state() != SessionState::Live {
            return;
        }
        let mut asked = false;
        for rid in layers.poll(since) {
            if member.endpoint.request_key_frame(rid.as_deref()) {
                self.metrics.pli(Direction::Out);
                asked = true;
            }
        }
        if asked {
            // What the publisher has to say meanwhile is taken up when its own time comes.
            member.endpoint.handle_timeout(now);
            self.timeouts.remove(&(member.timeout, publisher));
            member.timeout = now;
            self.timeouts.insert((now, publisher));
        }
    }
}
