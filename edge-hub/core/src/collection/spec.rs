//! The identity of a collection, and which requests it can answer.

use std::borrow::Cow;

use proto_kube::gvr::GroupVersionResource;
use proto_kube::media_type::{Encoding, Format};
use proto_kube::object::{ObjectKey, field, label};
use proto_kube::selector::{FieldOperator, FieldSelector, LabelOperator, LabelRequirement, LabelSelector};

use super::object::Object;

/// The identity of one upstream list-watch: what is asked for and in which format. Credentials are not part of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CollectionSpec {
    /// The resource type.
    pub gvr: GroupVersionResource,
    /// One namespace, or `None` for all of them and for cluster-scoped kinds.
    pub namespace: Option<Box<str>>,
    /// Label selector sent upstream.
    pub labels: LabelSelector,
    /// Field selector sent upstream.
    pub fields: FieldSelector,
    /// Encoding and form in which the objects are held.
    pub format: Format,
}

/// Which objects of a collection a client wants. The default selects all.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selection {
    /// One namespace, or `None` for all.
    pub namespace: Option<Box<str>>,
    /// One name, or `None` for all.
    pub name: Option<Box<str>>,
    /// Label selector.
    pub labels: LabelSelector,
    /// Field selector.
    pub fields: FieldSelector,
}

impl Selection {
    /// All that a collection of this spec holds.
    pub(crate) fn own(spec: &CollectionSpec) -> Self {
        Self {
            namespace: spec.namespace.clone(),
            name: None,
            labels: spec.labels.clone(),
            fields: spec.fields.clone(),
        }
    }
}

impl CollectionSpec {
    /// Whether a collection of this spec holds all that `other` asks for and can tell which objects those are.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        let all = Selection::own(other);
        self.gvr == other.gvr && self.format == other.format && self.uncovered(&all).is_none()
    }

    /// The collection without selectors that answers for this one, whose selectors only leave objects out (`!k`, `k!=v`,
    /// `notin`, `spec.clusterIP!=None`): it holds little more, and serves everybody. `None` where there is no selector, one
    /// that picks few, or one on a field that cannot be read from the objects as they are held; and of Secrets and Events,
    /// where what is left out is the most and the largest (`type!=helm.sh/release.v1`, `type!=Normal`), and no Secret comes
    /// to a node that nobody there asked for.
    #[must_use]
    pub fn without_exclusions(&self) -> Option<Self> {
        if matches!(&*self.gvr.resource, "secrets" | "events") {
            return None;
        }
        let excludes = |wanted: &LabelRequirement| {
            use LabelOperator::{DoesNotExist, NotEquals, NotIn};
            matches!(wanted.operator(), DoesNotExist | NotEquals | NotIn)
        };
        let only = self.labels.requirements().iter().all(excludes)
            && self.fields.requirements().iter().all(|wanted| wanted.operator == FieldOperator::Ne);
        let whole =
            Self { labels: LabelSelector::default(), fields: FieldSelector::default(), ..self.clone() };
        (only && whole != *self && whole.covers(self)).then_some(whole)
    }

    /// The first reason why this collection cannot serve `selection`; `None` when it can.
    pub(crate) fn uncovered(&self, selection: &Selection) -> Option<Uncovered> {
        if self.namespace.is_some() && self.namespace != selection.namespace {
            return Some(Uncovered::Namespace);
        }
        let labels = selection.labels.requirements();
        if !self.labels.requirements().iter().all(|held| labels.contains(held)) {
            return Some(Uncovered::Labels);
        }
        let wanted = selection.fields.requirements();
        if !self.fields.requirements().iter().all(|held| wanted.contains(held)) {
            return Some(Uncovered::Fields);
        }
        let unreadable = wanted
            .iter()
            .filter(|wanted| !self.fields.requirements().contains(wanted))
            .find(|wanted| !self.can_read(&wanted.path));
        unreadable.map(|wanted| Uncovered::Path(wanted.path.clone()))
    }

    /// Whether the field at `path` can be read from this collection's objects. Asked of an empty object, because the
    /// answer depends on the kind and the form alone.
    fn can_read(&self, path: &str) -> bool {
        let empty: &[u8] = match self.format.encoding {
            Encoding::Json => b"{}",
            Encoding::Protobuf => b"",
        };
        matches!(path, "metadata.name" | "metadata.namespace")
            || field(&self.gvr, self.format, empty, path).is_some()
    }
}

/// Why a collection cannot answer for a selection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Uncovered {
    /// The collection holds one namespace, the request asks for another or for all.
    #[error("the collection holds another namespace")]
    Namespace,
    /// The collection is narrowed by labels that the request does not ask for.
    #[error("the collection is narrowed by another label selector")]
    Labels,
    /// The collection is narrowed by fields that the request does not ask for.
    #[error("the collection is narrowed by another field selector")]
    Fields,
    /// The objects as they are held cannot be shown in the form that the client wants.
    #[error("the objects cannot be shown in this form here")]
    Form,
    /// This field cannot be read from the objects as they are held.
    #[error("the field {0:?} cannot be evaluated here")]
    Path(Box<str>),
}

/// What is left to check of a selection on each object of a collection that covers it.
#[derive(Clone, Debug)]
pub(crate) struct Filter {
    gvr: GroupVersionResource,
    format: Format,
    namespace: Option<Box<str>>,
    name: Option<Box<str>>,
    labels: Option<LabelSelector>,
    fields: Option<FieldSelector>,
}

impl Filter {
    /// # Errors
    /// When a collection of this spec cannot serve the selection.
    pub(crate) fn new(spec: &CollectionSpec, selection: &Selection) -> Result<Self, Uncovered> {
        if let Some(why) = spec.uncovered(selection) {
            return Err(why);
        }
        let namespace = selection.namespace.clone().filter(|_| spec.namespace.is_none());
        let labels = (selection.labels != spec.labels).then(|| selection.labels.clone());
        let fields = (selection.fields != spec.fields).then(|| selection.fields.clone());
        Ok(Self {
            gvr: spec.gvr.clone(),
            format: spec.format,
            namespace,
            name: selection.name.clone(),
            labels,
            fields,
        })
    }

    /// Whether an object can enter or leave the selection without being created or deleted.
    pub(crate) fn is_by_key(&self) -> bool {
        let by_key = |path: &str| matches!(path, "metadata.name" | "metadata.namespace");
        self.labels.is_none()
            && self
                .fields
                .as_ref()
                .is_none_or(|fields| fields.requirements().iter().all(|wanted| by_key(&wanted.path)))
    }

    pub(crate) fn matches(&self, object: &Object) -> bool {
        self.matches_key(&object.key)
            && self.labels.as_ref().is_none_or(|labels| {
                labels.matches(|key| label(self.format, &object.raw, key).ok().flatten())
            })
            && self
                .fields
                .as_ref()
                .is_none_or(|fields| fields.matches(|path| self.field(object, path)).unwrap_or(false))
    }

    fn matches_key(&self, key: &ObjectKey) -> bool {
        self.namespace.as_ref().is_none_or(|namespace| *namespace == key.namespace)
            && self.name.as_ref().is_none_or(|name| *name == key.name)
    }

    fn field<'a>(&self, object: &'a Object, path: &str) -> Option<Cow<'a, str>> {
        match path {
            "metadata.name" => Some(Cow::Borrowed(&object.key.name)),
            "metadata.namespace" => Some(Cow::Borrowed(&object.key.namespace)),
            _ => field(&self.gvr, self.format, &object.raw, path),
        }
    }
}
