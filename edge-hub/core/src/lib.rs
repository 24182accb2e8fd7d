//! The decisions of the edge hub, pure: no sockets, no clock, no tokio. One request is decided by [`plan`], from facts that
//! the shell gathers; what it is answered from is a [`collection`], read through a [`view`].
//!
//! # Glossary
//!
//! Kubernetes has a word for most things, and then it is used. These are our own:
//!
//! | word | meaning |
//! |---|---|
//! | cloud | the API servers, and whoever is beyond the link to them |
//! | link | the way to them; *cut* when none answers a probe, *relayed* when it leads through a coordinator, *healed* when it is back |
//! | impaired | a server answers probes and fails requests |
//! | collection | all objects of one kind, namespace and selector: what kube-apiserver calls a watch cache |
//! | cell | a collection in the shell, with its readers and sponsors |
//! | sponsor | a client whose credential the upstream watch of a collection may use |
//! | ring | the last events of a collection, from which a watch resumes |
//! | tombstone | what a collection knows of a deleted object |
//! | followed | a collection was watched until the cut, so that it knows what does not exist |
//! | absorbed | a collection follows a wider one of the same kind instead of a watch of its own |
//! | document | an answer kept whole: a single object, discovery |
//! | held | what is on this node, in memory |
//! | principal | who asks: TokenReview's `UserInfo` |
//! | chain | the filters that a client's objects pass |
//! | lens | a chain together with the inputs that it reads |
//! | overlay | endpoints of this node's pods as their kubelet has them |
//! | spool | events that wait for the cloud |
//! | feed | a collection as a coordinator of the pool sends it |
//! | share | what one user may have of something that clients share |
//! | plan | the next step of a request |

pub mod access;
pub mod authentication;
pub mod body;
pub mod budget;
pub mod claims;
pub mod client_review;
pub mod collection;
pub mod connections;
pub mod control_frames;
pub mod definition;
pub mod documents;
pub mod filter;
pub mod identity;
pub mod impairment;
pub mod lease;
pub mod link;
pub mod node_rights;
pub mod offline;
pub mod overlay;
pub mod plan;
pub mod precondition;
pub mod projection;
pub mod rate;
pub mod record;
pub mod recount;
pub mod refused_tokens;
pub mod review;
pub mod source;
pub mod spool;
pub mod standing;
pub mod table;
pub mod token;
pub mod view;

pub use proto_kube::{clock, reflector};
