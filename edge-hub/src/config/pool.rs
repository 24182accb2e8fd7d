//! What an operator writes of the node's pool. Without it a hub knows of none.

use std::path::PathBuf;

use proto::member::Member;
use proto_daemon::tls::CertificateFiles;
use serde::Deserialize;

/// The pool.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PoolFile {
    /// Its name.
    pub name: String,
    /// Where its coordinators are, in order of preference; each is enough.
    pub coordinators: Vec<CoordinatorFile>,
    /// This node's member certificate and key; it names `eyot://POOL/NODE`.
    pub member: CertificateFiles,
    /// The pool's authority, which signs the certificates of its members.
    #[serde(rename = "memberCA")]
    pub member_ca: PathBuf,
}

/// One coordinator.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct CoordinatorFile {
    /// The node that it runs on: the name that its certificate must show.
    pub node: String,
    /// `host:port` on the pool's LAN.
    pub address: String,
}

/// More than these nobody needs.
const MOST_COORDINATORS: usize = 3;

impl PoolFile {
    /// Whether it can work; the error is a key and what is wrong with it.
    pub(super) fn check(&self, node: &str) -> Result<(), (&'static str, String)> {
        Member::new(&self.name, node)
            .map_err(|_| ("pool.name", "must be the pool's name, a lower-case DNS name".to_owned()))?;
        if self.coordinators.is_empty() || self.coordinators.len() > MOST_COORDINATORS {
            return Err((
                "pool.coordinators",
                format!("needs 1 to {MOST_COORDINATORS} of {{node, address}}"),
            ));
        }
        for coordinator in &self.coordinators {
            Member::new(&self.name, &coordinator.node)
                .map_err(|_| ("pool.coordinators", format!("{:?} is no name of a node", coordinator.node)))?;
            let port = coordinator.address.rsplit_once(':').and_then(|(host, port)| {
                port.parse::<u16>().ok().filter(|port| *port != 0 && !host.is_empty())
            });
            if port.is_none() {
                let why = format!("{:?} is no address; write 10.0.0.11:10262", coordinator.address);
                return Err(("pool.coordinators", why));
            }
        }
        Ok(())
    }
}
