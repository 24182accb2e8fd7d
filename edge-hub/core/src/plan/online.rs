//! The rows while a server is there: from a collection where that is honest, from the server otherwise.
//!
//! | what | step |
//! |---|---|
//! | not a read of objects, or one that the hub does not understand | the server |
//! | GET of any age, a live collection holds it, the right is known | that collection |
//! | any other GET | the server |
//! | LIST or WATCH: continues a list; is refused or cannot be kept | the server |
//! | nothing stands, and one more may be had | it is fetched |
//! | the newest state is asked for, and was not fetched for this | the server, at once |
//! | the right is not known | the server is asked about it |
//! | it lags behind | it has a moment to catch up |
//! | else | that collection |

use super::facts::{Ask, Candidate, Collected, Facts, Fetch, Freshness, Refusal, Step, Want};
use super::fallback;
use crate::access::Access;
use crate::offline::Holding;

pub(super) fn step(ask: &Ask<'_>, facts: &Facts<'_>) -> Step {
    let forward = || Step::Forward(fallback::patience(ask, facts));
    let from_collection = match ask.want {
        _ if !ask.is_readable => None,
        Want::Collection { continues: true, .. } => None,
        Want::Collection { freshness, .. } => collection(facts, freshness),
        Want::Object { freshness: Freshness::AsHeld } => object(facts),
        Want::Object { .. } | Want::Other | Want::NonResource | Want::TheClouds => None,
    };
    from_collection.unwrap_or_else(forward)
}

/// The step towards a collection, or `None` for the server.
fn collection(facts: &Facts<'_>, freshness: Freshness) -> Option<Step> {
    let tried = facts.tried;
    if facts.is_uncollectable || tried.could_not_serve {
        return None;
    }
    let narrow = (facts.is_widened && !tried.narrowed).then_some(Step::Narrow);
    match tried.collected {
        Some(Collected::Incomplete) => return Some(Step::Refuse(Refusal::Incomplete)),
        Some(Collected::JsonOnly) => return (!tried.json).then_some(Step::AskForJson),
        Some(Collected::Refused) => return narrow,
        Some(Collected::NoRoom) => return None,
        Some(Collected::Complete) | None => {}
    }
    let stands = |candidate: &Candidate| {
        candidate.of_pool || candidate.is_meant || candidate.fetch == Fetch::Live && candidate.is_complete
    };
    let collect = tried.collected.is_none().then_some(Step::Collect);
    let Some(place) = facts.candidates.iter().position(stands) else {
        return collect.filter(|_| facts.may_collect);
    };
    let candidate = &facts.candidates[place];
    if !candidate.is_complete {
        return collect;
    }
    if freshness == Freshness::MostRecent && !candidate.is_fetched_for_this {
        return None;
    }
    match candidate.access {
        Access::Allowed => {}
        Access::Unknown if !tried.proved => return Some(Step::Prove(place)),
        Access::Unknown | Access::Denied => return None,
    }
    // What was fetched for this is complete a moment before its watch stands.
    let has_come = tried.caught_up || tried.collected.is_some();
    if candidate.fetch == Fetch::Behind && !has_come {
        return Some(Step::CatchUp(place));
    }
    if candidate.fetch == Fetch::Refused {
        return narrow;
    }
    candidate.can_show.then_some(Step::Serve(place))
}

/// A live collection that holds the object, for who may see it: unknown is no yes, and what the server then says is
/// remembered.
fn object(facts: &Facts<'_>) -> Option<Step> {
    let holds = |candidate: &Candidate| {
        candidate.fetch == Fetch::Live && candidate.can_show && candidate.object == Holding::Present
    };
    let place = facts.candidates.iter().position(holds)?;
    (facts.access == Access::Allowed && !facts.tried.could_not_serve).then_some(Step::Serve(place))
}
