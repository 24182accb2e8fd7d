//! The cloud's own answers through a chain: a list or one object as it travels, for a client behind filters whose
//! request was passed on.

use bytes::Bytes;
use proto_kube::gvr::GroupVersionResource;
use proto_kube::list::{ListHead, encode_document, encode_list, split_document, split_list};
use proto_kube::media_type::{Form, Format};
use proto_kube::object::scan;

use super::{Chain, FilterError, Inputs, Outcome, Subject};

/// A list as a client behind filters is shown it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownList {
    /// Resource version of the list; 0 where the server gave none that is a number.
    pub resource_version: u64,
    /// The body in pieces, to be sent in order.
    pub pieces: Vec<Bytes>,
}

impl Chain {
    /// A list's body as this client is shown it, with the objects that it is not shown left out. What it says of items
    /// on later pages goes with them, because nobody can tell how many of those are hidden.
    ///
    /// # Errors
    /// When the body is no list of this format, and as [`Self::apply`].
    pub fn show_list(
        &self,
        inputs: &Inputs,
        gvr: &GroupVersionResource,
        format: Format,
        body: &Bytes,
    ) -> Result<ShownList, FilterError> {
        let (head, items) = split_list(format, body)?;
        let shown = self.items(inputs, gvr, format, items)?;
        let resource_version = head.resource_version.parse().unwrap_or(0);
        Ok(ShownList { resource_version, pieces: encode_list(format, &head, shown.into_iter()) })
    }

    /// The body of an answer to a GET as this client is shown it; `None` when the object is hidden from it.
    ///
    /// # Errors
    /// When the body is no object of this format, and as [`Self::apply`].
    pub fn show_document(
        &self,
        inputs: &Inputs,
        gvr: &GroupVersionResource,
        format: Format,
        body: &Bytes,
    ) -> Result<Option<Bytes>, FilterError> {
        if format.form == Form::Table {
            return self.show_table(inputs, gvr, format, body);
        }
        let (type_meta, raw) = split_document(format, body)?;
        Ok(match self.outcome(inputs, gvr, format, &raw)? {
            Outcome::Keep => Some(body.clone()),
            Outcome::Replace(raw) => Some(encode_document(format, &type_meta, &raw)),
            Outcome::Drop => None,
        })
    }

    /// The table of one object is a list of one row.
    fn show_table(
        &self,
        inputs: &Inputs,
        gvr: &GroupVersionResource,
        format: Format,
        body: &Bytes,
    ) -> Result<Option<Bytes>, FilterError> {
        let (head, rows): (ListHead, Vec<Bytes>) = split_list(format, body)?;
        let shown = self.items(inputs, gvr, format, rows)?;
        let is_hidden = shown.is_empty();
        let pieces = encode_list(format, &head, shown.into_iter());
        Ok((!is_hidden).then(|| pieces.concat().into()))
    }

    fn items(
        &self,
        inputs: &Inputs,
        gvr: &GroupVersionResource,
        format: Format,
        items: Vec<Bytes>,
    ) -> Result<Vec<Bytes>, FilterError> {
        let mut shown = Vec::with_capacity(items.len());
        for raw in items {
            match self.outcome(inputs, gvr, format, &raw)? {
                Outcome::Keep => shown.push(raw),
                Outcome::Replace(raw) => shown.push(raw),
                Outcome::Drop => {}
            }
        }
        Ok(shown)
    }

    fn outcome(
        &self,
        inputs: &Inputs,
        gvr: &GroupVersionResource,
        format: Format,
        raw: &[u8],
    ) -> Result<Outcome, FilterError> {
        let key = scan(format, raw)?.key();
        self.apply(inputs, &Subject { gvr, format, key: &key, raw })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::Filter;

    fn shown(chain: &Chain, format: Format, body: &str) -> Result<Option<String>, FilterError> {
        let gvr = GroupVersionResource::new("", "v1", "services");
        let inputs = Inputs::new("here", None);
        let body = Bytes::copy_from_slice(body.as_bytes());
        let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).expect("JSON is text");
        Ok(chain.show_document(&inputs, &gvr, format, &body)?.map(text))
    }

    fn chain(filter: Filter) -> Chain {
        Chain::new(&GroupVersionResource::new("", "v1", "services"), [filter])
    }

    const CLOUD_ONLY: &str = r#"{"kind":"Service","apiVersion":"v1","metadata":{"name":"lb","namespace":"ns","annotations":{"svc.openyurt.io/discard":"true"}},"spec":{"type":"LoadBalancer"}}"#;

    #[test]
    fn a_list_loses_what_is_hidden_and_keeps_its_version() {
        let plain = r#"{"metadata":{"name":"web","namespace":"ns","managedFields":[]},"spec":{}}"#;
        let list = format!(
            r#"{{"kind":"ServiceList","apiVersion":"v1","metadata":{{"resourceVersion":"7","continue":"c","remainingItemCount":3}},"items":[{plain},{CLOUD_ONLY}]}}"#
        );
        let gvr = GroupVersionResource::new("", "v1", "services");
        let both = Chain::new(&gvr, [Filter::DiscardCloudService, Filter::ManagedFields]);
        let shown = both
            .show_list(&Inputs::new("here", None), &gvr, Format::JSON, &Bytes::from(list))
            .expect("a list");
        assert_eq!(shown.resource_version, 7);
        let want = r#"{"kind":"ServiceList","apiVersion":"v1","metadata":{"resourceVersion":"7","continue":"c"},"items":[{"metadata":{"name":"web","namespace":"ns"},"spec":{}}]}"#;
        assert_eq!(shown.pieces.concat(), format!("{want}\n").into_bytes());
    }

    #[test]
    fn one_object_is_kept_hidden_or_changed() {
        let discard = chain(Filter::DiscardCloudService);
        assert_eq!(shown(&discard, Format::JSON, CLOUD_ONLY), Ok(None));
        let kept = CLOUD_ONLY.replace("true", "false");
        assert_eq!(shown(&discard, Format::JSON, &kept), Ok(Some(kept)));
        let managed = r#"{"kind":"Service","apiVersion":"v1","metadata":{"name":"a","managedFields":[1]}}"#;
        let bare = "{\"kind\":\"Service\",\"apiVersion\":\"v1\",\"metadata\":{\"name\":\"a\"}}\n";
        assert_eq!(shown(&chain(Filter::ManagedFields), Format::JSON, managed), Ok(Some(bare.to_owned())));
    }

    #[test]
    fn a_table_of_one_object_is_filtered_where_the_filter_can_read_it() {
        let table = Format { form: Form::Table, ..Format::JSON };
        let body = r#"{"kind":"Table","apiVersion":"meta.k8s.io/v1","metadata":{"resourceVersion":"7"},"columnDefinitions":[1],"rows":[{"cells":["a"],"object":{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","metadata":{"name":"a","managedFields":[1]}}}]}"#;
        let bare = body.replace(r#","managedFields":[1]"#, "");
        let found = shown(&chain(Filter::ManagedFields), table, body).expect("a table").expect("not hidden");
        assert_eq!(found.trim_end(), bare);
        assert_eq!(shown(&chain(Filter::DiscardCloudService), table, body), Err(FilterError::Form));
    }

    #[test]
    fn what_is_no_answer_of_this_kind_is_not_shown() {
        let discard = chain(Filter::DiscardCloudService);
        for body in ["", "{}", "[1]", r#"{"kind":"Service","apiVersion":"v1"}"#] {
            assert!(shown(&discard, Format::JSON, body).is_err(), "{body}");
        }
        let gvr = GroupVersionResource::new("", "v1", "services");
        let body = Bytes::from_static(CLOUD_ONLY.as_bytes());
        let list = discard.show_list(&Inputs::new("here", None), &gvr, Format::JSON, &body);
        assert!(list.is_err(), "an object is no list");
    }
}
