//! One session of an engine, with all that the engine knows of it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use media_core::{TrackKind, forward::Forward, layer::Choice, sdpfrag::Credentials, session::Session};
use tokio::sync::mpsc;

use crate::{
    endpoint::{Codec, Endpoint},
    events::SessionEvent,
};

/// A session.
pub(super) struct Member {
    pub(super) endpoint: Box<dyn Endpoint>,
    pub(super) session: Session,
    /// Who it is, as the token says.
    pub(super) subject: Box<str>,
    /// The offer as it was answered, for a restart.
    pub(super) offer: String,
    /// The ICE credentials of the other side.
    pub(super) remote: Credentials,
    /// The name by which STUN finds it.
    pub(super) user: String,
    /// The name before the last restart, until ICE has settled.
    pub(super) former_user: Option<String>,
    /// Where the request came from.
    pub(super) client: IpAddr,
    /// Where its datagrams come from, the one that was heard last at the end.
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) timeout: Instant,
    /// A viewer's tracks.
    pub(super) audio: Forward,
    pub(super) video: Forward,
    /// Which layer a viewer gets, and what its link is thought to carry, in bit/s.
    pub(super) choice: Choice,
    pub(super) estimate: u64,
    /// A publisher's codecs as its packets have them.
    pub(super) codecs: BTreeMap<TrackKind, Codec>,
    /// Who hears what happens to the session.
    pub(super) listeners: Vec<mpsc::Sender<SessionEvent>>,
    /// The layers that they know of, and whether packets come.
    pub(super) told_layers: Vec<(Box<str>, bool)>,
}

impl Member {
    /// Who does not keep up hears no more, and asks anew.
    pub(super) fn tell(&mut self, event: &SessionEvent) {
        self.listeners.retain(|listener| listener.try_send(event.clone()).is_ok());
    }

    pub(super) fn track(&mut self, kind: TrackKind) -> &mut Forward {
        match kind {
            TrackKind::Audio => &mut self.audio,
            TrackKind::Video => &mut self.video,
        }
    }
}
