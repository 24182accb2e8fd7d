//! Every format a reader may be told to expect.

use proto_kube::media_type::{Encoding, Form, Format};

/// All six of them, the impossible protobuf table included.
pub(crate) fn all() -> impl Iterator<Item = Format> {
    [Encoding::Json, Encoding::Protobuf].into_iter().flat_map(|encoding| {
        [Form::Object, Form::Table, Form::PartialMetadata].map(|form| Format { encoding, form })
    })
}
