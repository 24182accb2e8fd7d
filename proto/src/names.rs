//! Names that more than one process of ours must spell alike.

/// The product.
pub const PRODUCT: &str = "eyot";

/// The DNS domain under which our labels, annotations, finalizers, API groups and CSR signers stand.
pub const DOMAIN: &str = "eyot.io";

/// Response header of an answer that was served from the store while the cloud was away: the age of the data in
/// whole seconds, in decimal. Tools may rely on it; people get the same as a `Warning: 299`.
pub const HEADER_STALENESS: &str = "x-eyot-staleness";

/// The name of a label or annotation of ours: `eyot.io/NAME`.
#[must_use]
pub fn qualified(name: &str) -> String {
    format!("{DOMAIN}/{name}")
}

/// What `program` calls itself towards an API server: its audit log and its flow control then show who asked.
#[must_use]
pub fn user_agent(program: &str, version: &str) -> String {
    format!("{program}/{version} ({PRODUCT})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_the_spelling_that_clusters_have_stored() {
        assert_eq!(qualified("pool-member"), "eyot.io/pool-member");
        assert_eq!(user_agent("edge-hub", "1.2.3"), "edge-hub/1.2.3 (eyot)");
    }

    #[test]
    fn headers_are_spelt_as_http_2_sends_them() {
        assert_eq!(HEADER_STALENESS, HEADER_STALENESS.to_ascii_lowercase());
    }
}
