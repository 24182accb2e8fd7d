//! What one client sees of a collection: its selector, then its filters.
//!
//! Filters depend on inputs that change while clients watch. The collection remembers from which of its resource
//! versions on which inputs counted, so that a client is told what a change of inputs changes for it, whether its
//! stream was open then or is opened again later.

use std::borrow::Cow;
use std::sync::Arc;

use proto_kube::gvr::GroupVersionResource;
use proto_kube::media_type::Format;
use proto_kube::object::ObjectKey;

use super::epochs::{Epochs, can_show};
use super::spec::{Filter, Selection, Uncovered};
use super::{Collection, Listing, Lookup, Object, Refusal};
use crate::filter::{Chain, FilterError, Inputs};
use crate::record::DamagedRecord;

/// A client's selector and filters.
#[derive(Clone, Debug)]
pub(crate) struct Lens {
    gvr: GroupVersionResource,
    format: Format,
    selector: Filter,
    chain: Chain,
    /// `None` where the chain is empty.
    inputs: Option<Arc<Inputs>>,
}

impl Lens {
    /// With the inputs of now.
    ///
    /// # Errors
    /// When the collection cannot serve the selection, its objects cannot be filtered, or the inputs are not known
    /// yet.
    pub(crate) fn new(collection: &Collection, selection: &Selection, chain: Chain) -> Result<Self, Refusal> {
        let spec = collection.spec();
        let selector = Filter::new(spec, selection)?;
        if !chain.can_read(spec.format.form) {
            return Err(Uncovered::Form.into());
        }
        let inputs = match collection.epochs() {
            _ if chain.is_empty() => None,
            Some(epochs) if !can_show(&chain, epochs.current()) => return Err(Refusal::Incomplete),
            Some(epochs) => Some(Arc::clone(epochs.current())),
            None if chain.reads_inputs() => return Err(Refusal::Incomplete),
            None => Some(Arc::new(Inputs::new("", None))),
        };
        Ok(Self { gvr: spec.gvr.clone(), format: spec.format, selector, chain, inputs })
    }

    /// The same client under other inputs.
    pub(crate) fn under(&self, inputs: &Arc<Inputs>) -> Self {
        Self { inputs: self.inputs.as_ref().map(|_| Arc::clone(inputs)), ..self.clone() }
    }

    /// Whether the outcome may depend on inputs at all.
    pub(crate) fn reads_inputs(&self) -> bool {
        self.inputs.is_some() && self.chain.reads_inputs()
    }

    /// Its filters.
    pub(crate) fn chain(&self) -> &Chain {
        &self.chain
    }

    /// The inputs that it looks through.
    pub(crate) fn inputs(&self) -> Option<&Arc<Inputs>> {
        self.inputs.as_ref()
    }

    /// Whether it looks through these inputs, or through none.
    pub(crate) fn is_under(&self, inputs: &Arc<Inputs>) -> bool {
        self.inputs.as_ref().is_none_or(|own| Arc::ptr_eq(own, inputs))
    }

    /// The object as the client sees it: borrowed where it is as it is, `None` where the client does not see it.
    ///
    /// # Errors
    /// When a filter cannot read it.
    pub(crate) fn see<'a>(&self, object: &'a Object) -> Result<Option<Cow<'a, Object>>, FilterError> {
        if !self.selector.matches(object) {
            return Ok(None);
        }
        self.filtered(object)
    }

    /// Whether the filters, whatever the selector says, leave an object as it is.
    ///
    /// # Errors
    /// When a filter cannot read it.
    pub(crate) fn leaves(&self, object: &Object) -> Result<bool, FilterError> {
        Ok(matches!(self.filtered(object)?, Some(Cow::Borrowed(_))))
    }

    fn filtered<'a>(&self, object: &'a Object) -> Result<Option<Cow<'a, Object>>, FilterError> {
        match &self.inputs {
            None => Ok(Some(Cow::Borrowed(object))),
            Some(inputs) => self.chain.show(inputs, &self.gvr, self.format, object),
        }
    }

    /// Whether an object is seen or not for its key alone.
    pub(crate) fn is_by_key(&self) -> bool {
        self.selector.is_by_key() && !self.chain.may_drop()
    }

    /// Whether an update that changes nothing the client sees is kept from it.
    pub(crate) fn is_quiet(&self) -> bool {
        self.chain.is_quiet()
    }
}

impl Collection {
    /// The inputs of filters changed, or became known. Open views tell their clients what that changes; true when any
    /// may have something to say, and [`Self::filter_inputs_record`] is another one. What has nothing to do with this
    /// resource is no change.
    pub fn set_filter_inputs(&mut self, inputs: &Arc<Inputs>) -> bool {
        let now = self.resource_version;
        match &mut self.epochs {
            Some(epochs) if Arc::ptr_eq(&epochs.current, inputs) => return false,
            Some(epochs) if epochs.current.is_same_for(&self.spec.gvr, inputs) => return false,
            // What was known before a restart counts until more is known.
            Some(epochs) if inputs.is_less_than(&epochs.current) => return false,
            Some(epochs) => epochs.change(Arc::clone(inputs), now),
            None => self.epochs = Some(Epochs::new(Arc::clone(inputs), now)),
        }
        self.revision += 1;
        true
    }

    /// Whether a client behind filters was ever served from here, so that a change of inputs concerns it.
    #[must_use]
    pub fn has_filter_inputs(&self) -> bool {
        self.epochs.is_some()
    }

    /// A client was given the cloud's own answer at this version through filters under the inputs of now: when they
    /// change before the collection has come that far, that client is told, too.
    pub fn note_filtered_answer(&mut self, resource_version: u64) {
        if let Some(epochs) = &mut self.epochs {
            epochs.told = epochs.told.max(resource_version);
        }
    }

    /// The inputs that count and that counted, for the store; `None` while there are none, or they are too large.
    #[must_use]
    pub fn filter_inputs_record(&self) -> Option<Vec<u8>> {
        self.epochs.as_ref().and_then(|epochs| epochs.record(&self.spec.gvr))
    }

    /// What this process's predecessor left, before the first [`Self::set_filter_inputs`]. Without it clients of
    /// input-dependent filters can resume from the collection's very version only.
    ///
    /// # Errors
    /// When the record is damaged.
    pub fn restore_filter_inputs(&mut self, record: &[u8]) -> Result<(), DamagedRecord> {
        self.epochs = Some(Epochs::restore(record)?);
        Ok(())
    }

    pub(crate) fn epochs(&self) -> Option<&Epochs> {
        self.epochs.as_ref()
    }

    /// [`Self::get`] as a client behind these filters sees it; an object that is hidden from it is absent.
    ///
    /// # Errors
    /// [`Refusal::Unfilterable`], [`Refusal::Uncovered`], and [`Refusal::Incomplete`] while the inputs are not known.
    pub fn get_filtered(&self, key: &ObjectKey, chain: &Chain) -> Result<Lookup, Refusal> {
        let lens = Lens::new(self, &Selection::own(&self.spec), chain.clone())?;
        Ok(match self.get(key) {
            Lookup::Found(object) => match lens.filtered(&object)? {
                Some(Cow::Borrowed(_)) => Lookup::Found(object),
                Some(Cow::Owned(object)) => Lookup::Found(Arc::new(object)),
                None => Lookup::Absent,
            },
            unfound => unfound,
        })
    }

    /// [`Self::list`] as a client behind these filters sees it.
    ///
    /// # Errors
    /// As [`Self::list`], and as [`Self::get_filtered`].
    pub fn list_filtered(&self, selection: &Selection, chain: &Chain) -> Result<Listing, Refusal> {
        let listing = self.list(selection)?;
        self.filter_listing(listing, &Lens::new(self, selection, chain.clone())?)
    }

    /// [`Self::state_at`] as a client behind these filters saw it then.
    ///
    /// # Errors
    /// As [`Self::state_at`], and as [`Self::get_filtered`].
    pub fn state_at_filtered(
        &self,
        resource_version: u64,
        selection: &Selection,
        chain: &Chain,
    ) -> Result<Listing, Refusal> {
        let listing = self.state_at(resource_version, selection)?;
        let mut lens = Lens::new(self, selection, chain.clone())?;
        if let (true, Some(epochs)) = (lens.reads_inputs(), &self.epochs) {
            let expired = || Refusal::Expired { requested: resource_version, oldest: epochs.since() };
            lens = lens.under(epochs.counted_at(resource_version, chain).ok_or_else(expired)?);
        }
        self.filter_listing(listing, &lens)
    }

    fn filter_listing(&self, mut listing: Listing, lens: &Lens) -> Result<Listing, Refusal> {
        if lens.inputs.is_none() {
            return Ok(listing);
        }
        let mut seen = Vec::with_capacity(listing.objects.len());
        for object in listing.objects {
            match lens.filtered(&object)? {
                Some(Cow::Borrowed(_)) => seen.push(object),
                Some(Cow::Owned(object)) => seen.push(Arc::new(object)),
                None => {}
            }
        }
        listing.objects = seen;
        Ok(listing)
    }
}
