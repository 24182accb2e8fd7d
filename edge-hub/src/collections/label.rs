//! How logs and /status name a collection.

use edge_hub_core::collection::CollectionSpec;
use proto_kube::media_type::Form;

/// A collection's name in logs.
pub struct Label<'a>(pub &'a CollectionSpec);

impl std::fmt::Display for Label<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let spec = self.0;
        write!(f, "{}", spec.gvr)?;
        if let Some(namespace) = &spec.namespace {
            write!(f, " in {namespace}")?;
        }
        if !spec.fields.is_empty() {
            write!(f, " where {}", spec.fields)?;
        }
        if !spec.labels.is_empty() {
            write!(f, " labelled {}", spec.labels)?;
        }
        let form = match spec.format.form {
            Form::Object => "",
            Form::Table => " as tables",
            Form::PartialMetadata => " as metadata",
        };
        write!(f, "{form} ({:?})", spec.format.encoding)
    }
}
