//! Who hears what happens to a session, and what they hear.

use media_core::{SessionId, StreamName, TrackKind, layer::Layer, room::Stream, whip::Refusal};
use tokio::sync::mpsc;

use super::Engine;
use crate::events::{MAX_LISTENERS, QUEUE, SessionEvent};

impl Engine {
    /// Everything that happens to `session` from now on, beginning with how its stream is.
    ///
    /// # Errors
    /// [`Refusal`] without such a session, or with too many who listen.
    pub fn listen(&mut self, session: SessionId) -> Result<mpsc::Receiver<SessionEvent>, Refusal> {
        let present = self.streams.of(session).map(|(_, stream)| self.present(stream));
        let member = self.members.get_mut(&session).ok_or_else(Refusal::no_session)?;
        member.listeners.retain(|listener| !listener.is_closed());
        if member.listeners.len() >= MAX_LISTENERS {
            return Err(Refusal::too_many_listeners());
        }
        let (listener, events) = mpsc::channel(QUEUE);
        if let Some(present) = present {
            let _ = listener.try_send(present);
        }
        member.listeners.push(listener);
        member.told_layers.clear();
        Ok(events)
    }

    fn present(&self, stream: &Stream) -> SessionEvent {
        let sends = stream.publisher().is_some_and(|publisher| self.is_live(publisher));
        if sends { SessionEvent::Active } else { SessionEvent::Inactive }
    }

    pub(super) fn tell_viewers(&mut self, stream: &StreamName) {
        let Some(stream) = self.streams.get(stream) else { return };
        let (event, viewers) = (self.present(stream), stream.viewers().clone());
        for viewer in viewers {
            if let Some(member) = self.members.get_mut(&viewer) {
                member.tell(&event);
            }
        }
    }

    pub(super) fn tell_all(&mut self, event: &SessionEvent) {
        self.members.values_mut().for_each(|member| member.tell(event));
    }

    /// Tells viewers who listen of the layers, where they are others than they were told.
    pub(super) fn tell_layers(&mut self, name: &StreamName, layers: &[Layer]) {
        if layers.iter().all(|layer| layer.rid.is_none()) {
            return;
        }
        let Some(stream) = self.streams.get(name) else { return };
        let seen: Vec<(Box<str>, bool)> =
            layers.iter().filter_map(|layer| Some((layer.rid.clone()?, layer.active))).collect();
        for viewer in stream.viewers() {
            let Some(member) = self.members.get_mut(viewer) else { continue };
            if member.listeners.is_empty() || member.told_layers == seen {
                continue;
            }
            let mid = member.endpoint.mid(TrackKind::Video).unwrap_or_default();
            member.tell(&SessionEvent::Layers(document(&mid, layers)));
            member.told_layers.clone_from(&seen);
        }
    }
}

/// By media id, the layers that packets come of and those that have stopped, the largest first.
fn document(mid: &str, layers: &[Layer]) -> String {
    let of = |active: bool| -> Vec<serde_json::Value> {
        let layers = layers.iter().rev().filter(|layer| layer.active == active);
        layers.map(|layer| serde_json::json!({ "encodingId": layer.rid, "bitrate": layer.bitrate })).collect()
    };
    serde_json::json!({ mid: { "active": of(true), "inactive": of(false) } }).to_string()
}
