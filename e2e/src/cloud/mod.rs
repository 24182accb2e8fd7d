//! The model cloud on a socket: [`e2e_cloud`]'s state machine behind TLS, HTTP/1.1 and HTTP/2.
//!
//! ```text
//! let pki = pki::Authority::new("test");
//! let control = CloudControl::start(&pki, &["127.0.0.1"])?;
//! control.listen(std_listener, 0)?;                      // replica 0
//! control.create(&Gvr::core("configmaps"), json!({..}))?; // as the administrator
//! control.set_link(0, LinkState::BlackHole).await;        // cut
//! control.set_link(0, LinkState::Up).await;               // heal
//! control.records();                                      // what the cloud saw
//! ```

mod accept;
mod body;
pub mod client;
mod control;
mod link;
pub mod pki;
mod serve;
mod shared;
mod wire;

pub use control::CloudControl;
pub use e2e_cloud as model;
pub use link::LinkState;
