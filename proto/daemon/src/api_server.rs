//! The API servers as a configuration names them: `https://host:port`.

use http::Uri;
use http::uri::Authority;
use rustls_pki_types::ServerName;

/// One API server as configured.
#[derive(Clone, Debug)]
pub struct ApiServer {
    /// `host:port` for the Host header.
    pub authority: Authority,
    /// Name that its certificate must carry.
    pub name: ServerName<'static>,
}

impl ApiServer {
    /// Reads a URL.
    ///
    /// # Errors
    /// What is wrong with it and what to write.
    pub fn parse(url: &str) -> Result<Self, String> {
        let bad = |why: &str| format!("{url:?} {why}; write https://host:port");
        let uri: Uri = url.parse().map_err(|_| bad("is no URL"))?;
        if uri.scheme_str() != Some("https") {
            return Err(bad("is not https"));
        }
        if uri.path() != "/" || uri.query().is_some() {
            return Err(bad("has a path"));
        }
        let authority = uri.authority().ok_or_else(|| bad("has no host"))?.clone();
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| bad("has a host that no certificate can name"))?;
        Ok(Self { authority, name })
    }

    /// The host without the brackets of IPv6.
    #[must_use]
    pub fn host(&self) -> &str {
        self.authority.host().trim_start_matches('[').trim_end_matches(']')
    }

    /// The port; 443 where the URL has none.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.authority.port_u16().unwrap_or(443)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_an_https_url_without_a_path() {
        let server = ApiServer::parse("https://[fd00::1]:6443").expect("a server");
        assert_eq!((server.host(), server.port()), ("fd00::1", 6443));
        assert_eq!(ApiServer::parse("https://api.example").expect("a server").port(), 443);
        for url in ["http://10.0.0.1:6443", "https://10.0.0.1/path", "10.0.0.1:6443", "https://a_b^", ""] {
            let error = ApiServer::parse(url).expect_err("refused");
            assert!(error.contains("write https://host:port"), "{error}");
        }
    }
}
