//! The words of a plan: what is asked, what is known, and what may be done.

use std::time::Duration;

use proto_kube::request_info::RequestInfo;

use crate::access::Access;
use crate::identity::Principal;
use crate::offline::{Held, Holding, OfflineAnswer};
use crate::standing::Standing;

/// The way to the API servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cloud {
    /// A server is there and answers requests.
    Answers,
    /// A server is there and fails this node's requests; see [`crate::impairment`].
    Impaired,
    /// No server is there.
    Cut,
}

impl Cloud {
    /// Whether requests may go there.
    #[must_use]
    pub fn is_there(self) -> bool {
        self != Self::Cut
    }
}

/// What a read promises of the age of its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Nothing was said, which means the newest state: only the API server can keep that promise.
    MostRecent,
    /// Any state will do, or one that a collection itself can tell.
    AsHeld,
}

/// What is asked, as far as a plan depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// LIST or WATCH of objects.
    Collection {
        /// What the client wants of its age.
        freshness: Freshness,
        /// A page that continues a list.
        continues: bool,
    },
    /// GET of one object.
    Object {
        /// What the client wants of its age.
        freshness: Freshness,
    },
    /// Writes, and reads of subresources.
    Other,
    /// A path that is no resource.
    NonResource,
    /// Something that only the API server can answer, and of which nothing is ever kept: a request that impersonates, one
    /// for a kind of an aggregated API, a HEAD of an object.
    TheClouds,
}

/// A request and who asks.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// What the path says.
    pub info: &'a RequestInfo,
    /// Who asks.
    pub principal: &'a Principal,
    /// The name of this node.
    pub node: &'a str,
    /// What is asked.
    pub want: Want,
    /// Whether the hub understands the options and can make a format that the client takes. The API server words its own
    /// refusals best, and asks who may before it looks at what is wished for.
    pub is_readable: bool,
}

impl Ask<'_> {
    /// Whether it changes nothing, so that it may be asked again when no answer came.
    pub(super) fn is_read(&self) -> bool {
        match self.info {
            RequestInfo::Resource(request) => request.verb.is_read(),
            RequestInfo::NonResource(request) => matches!(&*request.verb, "get" | "head"),
        }
    }
}

/// How the upstream side of a collection fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fetch {
    /// An upstream watch stands.
    Live,
    /// It is being caught up, or nobody has read it for long.
    Behind,
    /// The server refused it.
    Refused,
}

/// A collection that could answer.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// Whether this user may do with it what is asked, as far as that is known.
    pub access: Access,
    /// It is the pool's, which answers alone for what it holds.
    pub of_pool: bool,
    /// It is the one that would be fetched for this request.
    pub is_meant: bool,
    /// It has all that it collects.
    pub is_complete: bool,
    /// Its upstream side.
    pub fetch: Fetch,
    /// A format that the client takes can be made of it.
    pub can_show: bool,
    /// It was fetched for this very request, after that came: what it has is as new as the promise asks for.
    pub is_fetched_for_this: bool,
    /// GET: what it knows of the object.
    pub object: Holding,
    /// How it stands among others while cut.
    pub standing: Standing,
}

impl Candidate {
    /// What may be said by a collection that gives this answer for a key: what was abandoned before the cut does not know
    /// what has come into being since.
    pub(super) fn known(&self) -> Holding {
        match self.object {
            Holding::Absent if !self.standing.followed => Holding::Unknown,
            object => object,
        }
    }
}

/// How the fetch of a collection for this request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Collected {
    /// It has a first state.
    Complete,
    /// Not within the time that a client can be asked to wait.
    Incomplete,
    /// The server refuses it.
    Refused,
    /// The server has no protobuf of this kind.
    JsonOnly,
    /// There is no room for one more collection.
    NoRoom,
}

/// Why a request that was passed on has no answer that may be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// None came.
    NoAnswer,
    /// The server said that it cannot: its code, from 500 on.
    Server(u16),
}

/// What was done for this request already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tried {
    /// A collection was fetched; begins anew with [`Step::Narrow`], [`Step::AskForJson`], and when the answer of the server is
    /// left for a collection that was begun at that.
    pub collected: Option<Collected>,
    /// The wider collection was given up for exactly what is asked for.
    pub narrowed: bool,
    /// JSON is asked for in place of protobuf.
    pub json: bool,
    /// The cloud was asked about the right, whatever it said.
    pub proved: bool,
    /// The collection had its time to catch up.
    pub caught_up: bool,
    /// How often it was passed on.
    pub forwarded: u8,
    /// How that ended last.
    pub failure: Option<Failure>,
    /// The verdict on the link was waited for.
    pub has_verdict: bool,
    /// A candidate was found unable to answer after all.
    pub could_not_serve: bool,
}

/// What is known at the moment.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The way to the API servers.
    pub cloud: Cloud,
    /// Whether this user may do exactly what is asked, as the API server said.
    pub access: Access,
    /// The canonical field selector of a LIST or WATCH, else empty.
    pub fields: &'a str,
    /// LIST, WATCH: the API server is known to refuse what a collection would need, or its answer cannot be kept.
    pub is_uncollectable: bool,
    /// LIST, WATCH: this user may have one more collection.
    pub may_collect: bool,
    /// LIST, WATCH: the collection that would be fetched is wider than what is asked for.
    pub is_widened: bool,
    /// The collections that could answer, the one to be believed first at the front.
    pub candidates: &'a [Candidate],
    /// A whole answer to this was kept, fetched at this wall clock.
    pub document_unix: Option<Duration>,
    /// This node's own Node is held.
    pub own_node: bool,
    /// This node's own Lease is held.
    pub own_lease: bool,
    /// What was done for this request already.
    pub tried: Tried,
}

impl<'a> Facts<'a> {
    /// As the offline table has them, without any collection.
    pub(super) fn held(&self) -> Held<'a> {
        Held {
            access: self.access,
            fields: self.fields,
            own_node: self.own_node,
            own_lease: self.own_lease,
            ..Held::default()
        }
    }
}

/// How long the head of an answer may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// As long as the API server gives itself.
    Usual,
    /// A moment: there is something else to answer with.
    Short,
}

/// What an answer that is made on this node is made by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Local {
    /// [`crate::lease::LeaseKeeper`].
    Lease,
    /// [`crate::token::TokenCache`].
    Token,
    /// The remembered word on a review.
    Review,
    /// [`crate::spool::EventSpool`].
    Event,
}

/// A refusal by the hub itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The offline table's word.
    Offline(OfflineAnswer),
    /// The same, and somebody asked: it is fetched as soon as the cloud is back.
    FetchLater(OfflineAnswer),
    /// The collection is being fetched; come again.
    Incomplete,
    /// What cannot be read, or made in a format that is taken, in the words of the hub.
    Unreadable,
    /// A list that was begun before the cut cannot be continued.
    Discontinued,
    /// Only the API server can answer this, and it is not there.
    TheClouds,
}

/// What to do next. The answers are the last four.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Passes the request on as the client's own; what comes back is the answer, unless it is a [`Failure`].
    Forward(Patience),
    /// Waits until it is known whether the link is cut.
    AwaitVerdict,
    /// Fetches the collection that is meant, on behalf of this user, and waits for its first state.
    Collect,
    /// Means exactly what is asked for from now on, and nothing wider.
    Narrow,
    /// Means JSON from now on.
    AskForJson,
    /// Asks the cloud whether this user may read this candidate.
    Prove(usize),
    /// Gives this candidate a moment to catch up.
    CatchUp(usize),
    /// Answers from this candidate. It may find that it cannot after all (a version that it never had), and while a server
    /// is there that one answers instead.
    Serve(usize),
    /// Answers with what was kept whole.
    Document,
    /// Answers by what the node itself may say.
    Local(Local),
    /// Gives what came of passing it on, a failure.
    Relay,
    /// Refuses.
    Refuse(Refusal),
}
