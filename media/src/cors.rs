//! The CORS headers of every answer: a page that is served from elsewhere speaks with the engine by `fetch`.
//!
//! Source: the Fetch standard, s3.3 (CORS protocol).

use http::{HeaderMap, HeaderValue, header};

/// Origins whose pages may ask.
#[derive(Debug, Clone)]
pub struct Cors {
    origins: Vec<String>,
}

impl Cors {
    /// From the configuration; `*` stands for any.
    #[must_use]
    pub fn new(origins: Vec<String>) -> Self {
        Self { origins }
    }

    /// Adds to `headers` what lets a page of `origin` (the request's header) read the answer.
    pub fn apply(&self, origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
        let any = self.origins.iter().any(|allowed| allowed == "*");
        let allowed = if any {
            Some(HeaderValue::from_static("*"))
        } else {
            headers.insert(header::VARY, HeaderValue::from_static("origin"));
            origin.filter(|origin| self.origins.iter().any(|a| a.as_bytes() == origin.as_bytes())).cloned()
        };
        let Some(allowed) = allowed else { return };
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
        for (name, value) in [
            (header::ACCESS_CONTROL_ALLOW_METHODS, "POST, PATCH, DELETE, GET, OPTIONS"),
            (header::ACCESS_CONTROL_ALLOW_HEADERS, "Authorization, Content-Type, If-Match"),
            (header::ACCESS_CONTROL_EXPOSE_HEADERS, "Location, Link, ETag, Accept-Patch, Retry-After"),
            (header::ACCESS_CONTROL_MAX_AGE, "600"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pages_of_named_origins_may_read() {
        let cors = Cors::new(vec!["https://a.example".to_owned()]);
        let allowed = |origin: &'static str| {
            let mut headers = HeaderMap::new();
            cors.apply(Some(&HeaderValue::from_static(origin)), &mut headers);
            headers.get(header::ACCESS_CONTROL_ALLOW_ORIGIN).cloned()
        };
        assert_eq!(allowed("https://a.example").expect("allowed"), "https://a.example");
        assert_eq!(allowed("https://b.example"), None);
    }
}
