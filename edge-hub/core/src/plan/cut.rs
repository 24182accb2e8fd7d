//! The rows while no server is there: the offline table over every collection that could answer, the newest first, and
//! over what was kept whole.

use super::facts::{Ask, Facts, Local, Refusal, Step, Want};
use crate::offline::{Held, Holding, OfflineAnswer, decide};

pub(super) fn step(ask: &Ask<'_>, facts: &Facts<'_>) -> Step {
    match ask.want {
        Want::TheClouds => Step::Refuse(Refusal::TheClouds),
        _ if !ask.is_readable => Step::Refuse(Refusal::Unreadable),
        Want::Collection { continues: true, .. } => Step::Refuse(Refusal::Discontinued),
        Want::Collection { .. } => collection(ask, facts),
        Want::Object { .. } => object(ask, facts),
        Want::NonResource => {
            let held = Held { answer: facts.document_unix.is_some(), ..facts.held() };
            answer(decided(ask, &held), Step::Document)
        }
        Want::Other => {
            // Reads of subresources have no copy on this node, and a read that is allowed is none of what it lacks.
            let lacking = Step::Refuse(Refusal::Offline(OfflineAnswer::NOT_HELD));
            answer(decided(ask, &facts.held()), lacking)
        }
    }
}

/// The first collection that may answer; if none may, what the one to be believed most would say.
fn collection(ask: &Ask<'_>, facts: &Facts<'_>) -> Step {
    let mut refused = None;
    for (place, candidate) in facts.candidates.iter().enumerate().filter(|(_, each)| each.can_show) {
        let held =
            Held { access: candidate.access, collection_complete: candidate.is_complete, ..facts.held() };
        match decided(ask, &held) {
            OfflineAnswer::ServeFromCache => return Step::Serve(place),
            other => refused = refused.or(Some(other)),
        }
    }
    match refused {
        Some(refused) => Step::Refuse(Refusal::Offline(refused)),
        None => Step::Refuse(Refusal::FetchLater(decided(ask, &facts.held()))),
    }
}

/// The first collection that knows of the object, unless the answer that was kept whole is newer.
fn object(ask: &Ask<'_>, facts: &Facts<'_>) -> Step {
    let mut refused = None;
    for (place, candidate) in facts.candidates.iter().enumerate() {
        if facts.document_unix.is_some_and(|kept| candidate.standing.is_older_than(kept)) {
            break;
        }
        let object = candidate.known();
        if object == Holding::Unknown || !candidate.can_show {
            continue;
        }
        let followed = candidate.standing.followed;
        let held = Held { access: candidate.access, object, followed, ..facts.held() };
        match decided(ask, &held) {
            OfflineAnswer::ServeFromCache => return Step::Serve(place),
            other => refused = refused.or(Some(other)),
        }
    }
    if let Some(refused) = refused {
        return Step::Refuse(Refusal::Offline(refused));
    }
    let object = if facts.document_unix.is_some() { Holding::Present } else { Holding::Unknown };
    answer(decided(ask, &Held { object, ..facts.held() }), Step::Document)
}

fn decided(ask: &Ask<'_>, held: &Held<'_>) -> OfflineAnswer {
    decide(ask.info, ask.principal, ask.node, held)
}

/// The step for a word of the table; `served` for what is served from what is held.
fn answer(word: OfflineAnswer, served: Step) -> Step {
    match word {
        OfflineAnswer::ServeFromCache => served,
        OfflineAnswer::LocalLease => Step::Local(Local::Lease),
        OfflineAnswer::CachedToken => Step::Local(Local::Token),
        OfflineAnswer::RememberedReview => Step::Local(Local::Review),
        OfflineAnswer::SpoolEvent => Step::Local(Local::Event),
        refused => Step::Refuse(Refusal::Offline(refused)),
    }
}
