//! What changes the ICE of a session while it goes on: candidates that come later, and restarts.

use std::time::Instant;

use media_core::{
    sdpfrag,
    whip::{IfMatch, Refusal},
};

use super::{Engine, Sender, refusal};
use crate::call::{Patch, Patched};

impl Engine {
    /// Takes candidates in, or restarts the ICE of a session. Until a pair is nominated by the new credentials the former ones
    /// hold, too, and media goes on.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn patch(&mut self, patch: Patch, now: Instant, wire: &mut dyn Sender) -> Result<Patched, Refusal> {
        let session = patch.session;
        if self.taken_over.contains(&session) {
            return Err(Refusal::taken_over());
        }
        let member = self.members.get_mut(&session).ok_or_else(Refusal::no_session)?;
        if member.subject != patch.subject {
            return Err(Refusal::new(403, "right", "this session is of another subject"));
        }
        let new = patch.fragment.credentials.filter(|credentials| *credentials != member.remote);
        match patch.if_match {
            IfMatch::Tags(tags) if !tags.iter().any(|tag| **tag == *member.user) => {
                return Err(Refusal::another_tag());
            }
            IfMatch::Tags(_) if new.is_none() => return Ok(Patched::Taken),
            IfMatch::Tags(_) => return Err(Refusal::no_restart()),
            IfMatch::Restart => {}
        }
        let new = new.ok_or_else(Refusal::no_restart)?;
        let offer = sdpfrag::with_credentials(&member.offer, &new);
        let restarted = member.endpoint.restart(&offer).map_err(|error| refusal(&error))?;
        member.remote = new;
        let former = std::mem::replace(&mut member.user, restarted.user.clone());
        if let Some(before) = member.former_user.replace(former) {
            self.by_user.remove(&before);
        }
        self.by_user.insert(restarted.user.clone(), session);
        tracing::info!(%session, "the session's ICE is restarted by its owner");
        self.drain(session, now, wire);
        Ok(Patched::Restarted { fragment: sdpfrag::of_answer(&restarted.sdp), tag: restarted.user })
    }
}
