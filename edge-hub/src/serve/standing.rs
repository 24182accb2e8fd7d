//! The collections that could answer a request while cut, the one to be believed first.

use std::{sync::Arc, time::Duration};

use edge_hub_core::{collection::CollectionSpec, link::LinkState, offline::Holding, standing::Standing};
use proto_kube::{media_type::Format, object::ObjectKey};

use super::call::Call;
use crate::{
    cell::{Cell, Phase},
    documents::single_key,
};

/// A collection that could answer, and the client's format for which.
pub(super) struct Candidate {
    pub(super) cell: Arc<Cell>,
    pub(super) shown: Format,
    pub(super) standing: Standing,
}

impl Candidate {
    /// What may be said by a collection that gives this answer for a key: what was abandoned before the cut does not
    /// know what has come into being since.
    pub(super) fn known(&self, holding: Holding) -> Holding {
        if holding == Holding::Absent && !self.standing.followed { Holding::Unknown } else { holding }
    }
}

impl Call {
    /// Collections that cover `wanted`, for each format that the client takes with the format held for it.
    pub(super) fn candidates(
        &self,
        holdings: &[(Format, Format)],
        wanted: impl Fn(Format) -> CollectionSpec,
    ) -> Vec<Candidate> {
        self.ranked(holdings, |held| {
            let wanted = wanted(held);
            let covering = self.hub.collections.covering(&wanted);
            covering.into_iter().map(|cell| (cell.spec == wanted, cell)).collect()
        })
    }

    /// Collections that may hold the object `key` of `wanted`.
    pub(super) fn candidates_for(
        &self,
        holdings: &[(Format, Format)],
        key: &ObjectKey,
        wanted: impl Fn(Format) -> CollectionSpec,
    ) -> Vec<Candidate> {
        self.ranked(holdings, |held| {
            let wanted = wanted(held);
            let covering = self.hub.collections.covering_object(&wanted, key);
            covering.into_iter().map(|cell| (cell.spec == wanted, cell)).collect()
        })
    }

    fn ranked(
        &self,
        holdings: &[(Format, Format)],
        cells: impl Fn(Format) -> Vec<(bool, Arc<Cell>)>,
    ) -> Vec<Candidate> {
        let cut_since = match *self.hub.site.link.borrow() {
            LinkState::Cut { since_unix } => since_unix,
            LinkState::Connected | LinkState::Relayed { .. } => self.hub.site.clock.now().unix,
        };
        let mut candidates: Vec<Candidate> = Vec::new();
        for (format, (shown, held)) in holdings.iter().enumerate() {
            candidates.extend(cells(*held).into_iter().map(|(exact, cell)| {
                let (heard_unix, ended) = cell.with(|inner| {
                    let ended = matches!(inner.phase, Phase::Retired | Phase::Refused(..));
                    (inner.collection.synced_unix(), ended)
                });
                let followed = Standing::was_followed(ended, heard_unix, cut_since);
                let standing = Standing { followed, exact, format, heard_unix };
                Candidate { cell, shown: *shown, standing }
            }));
        }
        candidates.sort_by_key(|candidate| candidate.standing.rank());
        candidates
    }

    /// When the cloud's answer for this very object was kept whole last, in a format that the client takes.
    pub(super) fn kept_at(&self, formats: &[Format]) -> Option<Duration> {
        let fetched = |format: &Format| {
            let document = self.hub.documents.get(&single_key(&self.head.uri, *format))?;
            Some(document.fetched_unix)
        };
        formats.iter().filter_map(fetched).max()
    }
}
