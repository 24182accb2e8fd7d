//! When what a CustomResourceDefinition says of its objects may have changed, so that they must be listed again.
//!
//! A default or printer column that is added to a definition changes what the API server shows of every object, and no
//! object's resource version. The server ends the watches of that kind then; nothing else tells. A watch that ended
//! early is followed by a list at once. One that was lost, by the link or by a restart of the hub, may hide such an end;
//! a link that breaks every minute must not cost a list each time, so those lists keep a distance.

use std::time::Duration;

use proto_kube::descriptor::Descriptor;
use proto_kube::gvr::GroupVersionResource;

/// Time between two lists that only a lost watch asks for.
pub const RECHECK_DISTANCE: Duration = Duration::from_secs(300);
/// A server may count the length of a watch a little shorter than its client does.
const EARLY: Duration = Duration::from_secs(5);

/// Whether kube-apiserver itself serves this kind, as far as this program knows: it has no definition that may change.
/// Any other is a custom resource's, an aggregated API server's, or newer than this program.
#[must_use]
pub fn is_built_in(gvr: &GroupVersionResource) -> bool {
    Descriptor::kubernetes().has_group_version(&gvr.api_version())
}

/// How a watch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By the server's word, before its time.
    Early,
    /// At the time that was asked for.
    InTime,
    /// The connection broke, or nobody needed it for a while.
    Lost,
}

impl Ended {
    /// How a watch ended that was asked for `asked` and lived for `lived`.
    #[must_use]
    pub fn of(is_clean: bool, asked: Duration, lived: Duration) -> Self {
        match is_clean {
            true if lived + EARLY < asked => Self::Early,
            true => Self::InTime,
            false => Self::Lost,
        }
    }
}

/// Whether one collection must be listed again before it is watched on.
#[derive(Debug)]
pub struct DefinitionDoubt {
    is_defined: bool,
    is_doubted: bool,
    /// Monotonic.
    listed: Option<Duration>,
}

impl DefinitionDoubt {
    /// `is_held`: the collection is one that a former process filled.
    #[must_use]
    pub fn new(gvr: &GroupVersionResource, is_held: bool) -> Self {
        let is_defined = !is_built_in(gvr);
        Self { is_defined, is_doubted: is_defined && is_held, listed: None }
    }

    /// A watch ended.
    pub fn handle_end(&mut self, ended: Ended) {
        match ended {
            Ended::Early => {
                self.is_doubted = self.is_defined;
                self.listed = None;
            }
            Ended::Lost => self.is_doubted = self.is_defined,
            Ended::InTime => {}
        }
    }

    /// Whether to list again now; then it counts as done.
    pub fn take(&mut self, now: Duration) -> bool {
        let is_near = self.listed.is_some_and(|listed| now.saturating_sub(listed) < RECHECK_DISTANCE);
        if !self.is_doubted || is_near {
            return false;
        }
        self.is_doubted = false;
        self.listed = Some(now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn widgets() -> GroupVersionResource {
        GroupVersionResource::new("example.org", "v1", "widgets")
    }

    #[test]
    fn an_early_end_of_a_custom_kinds_watch_asks_for_a_list_at_once() {
        let mut doubt = DefinitionDoubt::new(&widgets(), false);
        assert!(!doubt.take(MINUTE));
        for at in [MINUTE, MINUTE + Duration::from_secs(1)] {
            doubt.handle_end(Ended::of(true, 5 * MINUTE, MINUTE));
            assert!(doubt.take(at) && !doubt.take(at));
        }
        doubt.handle_end(Ended::of(true, 5 * MINUTE, 5 * MINUTE - EARLY));
        assert!(!doubt.take(6 * MINUTE));
    }

    #[test]
    fn a_link_that_breaks_often_costs_a_list_now_and_then() {
        let mut doubt = DefinitionDoubt::new(&widgets(), true);
        assert!(doubt.take(Duration::ZERO), "a restart may hide a change");
        doubt.handle_end(Ended::Lost);
        assert!(!doubt.take(MINUTE));
        // It is not forgotten meanwhile.
        assert!(doubt.take(RECHECK_DISTANCE));
    }

    #[test]
    fn built_in_kinds_are_never_in_doubt() {
        let pods = GroupVersionResource::new("", "v1", "pods");
        let mut doubt = DefinitionDoubt::new(&pods, true);
        doubt.handle_end(Ended::Early);
        assert!(is_built_in(&pods) && !doubt.take(MINUTE));
    }
}
