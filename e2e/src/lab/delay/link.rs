//! The words of the process that delays one link.

/// One node's link, as the process that delays it is told; the arguments of the hidden `eyot delay`.
#[derive(Debug, Clone, clap::Args)]
pub struct Link {
    /// The number of the queue in both namespaces
    #[arg(long)]
    pub(super) queue: u16,
    /// The node's namespace
    #[arg(long)]
    pub(super) node: String,
    /// The namespace of the link's other end: the cloud's, or that of the router before it
    #[arg(long)]
    pub(super) cloud: String,
    /// The link's other end
    #[arg(long)]
    pub(super) port: String,
}
