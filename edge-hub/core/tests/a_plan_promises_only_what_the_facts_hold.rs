//! A plan ends every request, and what it answers with is there, allowed, and as fresh as was asked for.

use std::time::Duration;

use edge_hub_core::access::Access;
use edge_hub_core::identity::Principal;
use edge_hub_core::offline::{Holding, OfflineAnswer};
use edge_hub_core::plan::{
    Ask, Candidate, Cloud, Collected, Facts, Failure, Fetch, Freshness, Local, Patience, Refusal, Step,
    Tried, Want, plan,
};
use edge_hub_core::standing::Standing;
use proptest::prelude::*;
use proto_kube::request_info::{RequestInfo, Verb};

const NODE: &str = "a";
/// More steps than any request may take.
const MOST_STEPS: usize = 16;

/// Requests of each kind, and what they want.
const LINES: [(&str, Want); 11] = [
    (
        "GET /api/v1/services?resourceVersion=0",
        Want::Collection { freshness: Freshness::AsHeld, continues: false },
    ),
    ("GET /api/v1/services", Want::Collection { freshness: Freshness::MostRecent, continues: false }),
    (
        "GET /api/v1/services?continue=x",
        Want::Collection { freshness: Freshness::MostRecent, continues: true },
    ),
    (
        "GET /api/v1/services?watch=1&resourceVersion=7",
        Want::Collection { freshness: Freshness::AsHeld, continues: false },
    ),
    ("GET /api/v1/namespaces/x/secrets/s?resourceVersion=0", Want::Object { freshness: Freshness::AsHeld }),
    ("GET /api/v1/namespaces/x/secrets/s", Want::Object { freshness: Freshness::MostRecent }),
    ("PUT /apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/a", Want::Other),
    ("POST /api/v1/namespaces/x/serviceaccounts/s/token", Want::Other),
    ("PATCH /api/v1/namespaces/x/configmaps/c", Want::Other),
    ("GET /apis/apps/v1", Want::NonResource),
    ("GET /api/v1/namespaces/x/configmaps/c", Want::TheClouds),
];

fn info(line: &str) -> RequestInfo {
    let (method, target) = line.split_once(' ').expect("METHOD path");
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    RequestInfo::parse(method, path, query).expect("a request line")
}

fn access() -> impl Strategy<Value = Access> {
    prop_oneof![Just(Access::Allowed), Just(Access::Denied), Just(Access::Unknown)]
}

fn candidate() -> impl Strategy<Value = Candidate> {
    let fetch = prop_oneof![Just(Fetch::Live), Just(Fetch::Behind), Just(Fetch::Refused)];
    let object = prop_oneof![Just(Holding::Present), Just(Holding::Absent), Just(Holding::Unknown)];
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    (access(), fetch, object, flags, any::<bool>(), 0..40u64).prop_map(
        |(access, fetch, object, (of_pool, is_meant, is_complete, can_show, is_fetched), followed, heard)| {
            let heard_unix = Duration::from_secs(heard);
            Candidate {
                access,
                of_pool,
                is_meant,
                is_complete,
                fetch,
                can_show,
                is_fetched_for_this: is_fetched,
                object,
                standing: Standing { followed, exact: is_meant, format: 0, heard_unix },
            }
        },
    )
}

/// What the world is at one moment, but for what was tried.
#[derive(Clone, Debug)]
struct Moment {
    cloud: Cloud,
    access: Access,
    is_uncollectable: bool,
    may_collect: bool,
    is_widened: bool,
    candidates: Vec<Candidate>,
    document_unix: Option<Duration>,
    own_node: bool,
    own_lease: bool,
    /// What comes of a step that tries something.
    collected: Collected,
    failure: Option<Failure>,
    serves: bool,
    /// The answer of the server is left for a collection, which happens once.
    goes_back: bool,
}

fn moment() -> impl Strategy<Value = Moment> {
    let cloud = prop_oneof![Just(Cloud::Answers), Just(Cloud::Impaired), Just(Cloud::Cut)];
    let collected = prop_oneof![
        Just(Collected::Complete),
        Just(Collected::Incomplete),
        Just(Collected::Refused),
        Just(Collected::JsonOnly),
        Just(Collected::NoRoom),
    ];
    let failure = prop_oneof![Just(None), Just(Some(Failure::NoAnswer)), Just(Some(Failure::Server(503)))];
    (
        (cloud, access(), any::<bool>(), any::<bool>(), any::<bool>()),
        prop::collection::vec(candidate(), 0..3),
        (prop::option::of((0..40u64).prop_map(Duration::from_secs)), any::<bool>(), any::<bool>()),
        (collected, failure, any::<bool>(), any::<bool>()),
    )
        .prop_map(|(first, candidates, held, outcome)| {
            let (cloud, access, is_uncollectable, may_collect, is_widened) = first;
            let (document_unix, own_node, own_lease) = held;
            let (collected, failure, serves, goes_back) = outcome;
            Moment {
                cloud,
                access,
                is_uncollectable,
                may_collect,
                is_widened,
                candidates,
                document_unix,
                own_node,
                own_lease,
                collected,
                failure,
                serves,
                goes_back,
            }
        })
}

impl Moment {
    fn facts(&self, tried: Tried) -> Facts<'_> {
        Facts {
            cloud: self.cloud,
            access: self.access,
            fields: "",
            is_uncollectable: self.is_uncollectable,
            may_collect: self.may_collect,
            is_widened: self.is_widened,
            candidates: &self.candidates,
            document_unix: self.document_unix,
            own_node: self.own_node,
            own_lease: self.own_lease,
            tried,
        }
    }
}

/// What a step that is no answer leaves in what was tried; `None` where the request has its answer now.
fn after(step: Step, moment: &Moment, went_back: &mut bool, mut tried: Tried) -> Option<Tried> {
    match step {
        Step::Forward(_) if moment.goes_back && !*went_back => {
            *went_back = true;
            tried.forwarded += 1;
            tried.collected = None;
        }
        Step::Forward(_) => {
            tried.forwarded += 1;
            tried.failure = Some(moment.failure?);
        }
        Step::AwaitVerdict => tried.has_verdict = true,
        Step::Collect => tried.collected = Some(moment.collected),
        Step::Narrow => (tried.narrowed, tried.collected) = (true, None),
        Step::AskForJson => (tried.json, tried.collected) = (true, None),
        Step::Prove(_) => tried.proved = true,
        Step::CatchUp(_) => tried.caught_up = true,
        Step::Serve(_) if !moment.serves && moment.cloud.is_there() => tried.could_not_serve = true,
        _ => return None,
    }
    Some(tried)
}

/// That an answer is backed by the facts.
fn check(step: Step, ask: &Ask<'_>, facts: &Facts<'_>) -> Result<(), TestCaseError> {
    let is_silent = !facts.cloud.is_there() || facts.tried.failure.is_some();
    match step {
        Step::Serve(place) => {
            let candidate = &facts.candidates[place];
            prop_assert!(candidate.can_show);
            let is_nodes = ask.principal.node_name() == Some(ask.node);
            match ask.want {
                Want::Collection { freshness, continues } => {
                    prop_assert!(candidate.access != Access::Denied);
                    prop_assert!(candidate.is_complete && !continues);
                    prop_assert!(candidate.access == Access::Allowed || is_nodes && is_silent);
                    if facts.cloud.is_there() && freshness == Freshness::MostRecent {
                        prop_assert!(
                            candidate.is_fetched_for_this,
                            "the newest state is the cloud's to tell"
                        );
                    }
                }
                Want::Object { freshness } => {
                    prop_assert_eq!(candidate.object, Holding::Present);
                    if !is_silent {
                        prop_assert_eq!((candidate.fetch, facts.access), (Fetch::Live, Access::Allowed));
                    }
                    prop_assert!(!is_silent || candidate.access != Access::Denied);
                    let promises = facts.cloud.is_there() && freshness == Freshness::MostRecent;
                    prop_assert!(!promises, "the newest state is the cloud's to tell");
                    let is_older = |kept| candidate.standing.is_older_than(kept);
                    prop_assert!(!is_silent || !facts.document_unix.is_some_and(is_older));
                }
                other => prop_assert!(false, "{other:?} is answered from no collection"),
            }
        }
        Step::Document => {
            prop_assert!(is_silent && facts.document_unix.is_some() && facts.access == Access::Allowed);
        }
        Step::Local(_) => prop_assert!(is_silent, "the node speaks for itself only where the cloud does not"),
        Step::Relay => prop_assert!(facts.tried.failure.is_some() && facts.cloud.is_there()),
        Step::Forward(patience) => {
            prop_assert!(facts.cloud.is_there());
            let is_lease =
                matches!(ask.info, RequestInfo::Resource(request) if &*request.gvr.resource == "leases");
            prop_assert!(patience == Patience::Usual || facts.cloud == Cloud::Impaired || is_lease);
        }
        Step::Refuse(Refusal::Offline(OfflineAnswer::NotFound404)) => {
            let knows =
                |candidate: &Candidate| candidate.object == Holding::Absent && candidate.standing.followed;
            prop_assert!(facts.candidates.iter().any(knows), "what is merely unknown is not denied");
        }
        Step::Refuse(Refusal::Offline(OfflineAnswer::Forbidden403)) => {
            let is_denied = |candidate: &Candidate| candidate.access == Access::Denied;
            prop_assert!(facts.access == Access::Denied || facts.candidates.iter().any(is_denied));
        }
        Step::Refuse(Refusal::Incomplete) => {
            prop_assert_eq!(facts.tried.collected, Some(Collected::Incomplete))
        }
        Step::Refuse(_) => prop_assert!(!facts.cloud.is_there(), "the cloud refuses for itself: {step:?}"),
        Step::AwaitVerdict => prop_assert!(facts.tried.failure.is_some()),
        Step::Prove(place) | Step::CatchUp(place) => prop_assert!(place < facts.candidates.len()),
        Step::Collect | Step::Narrow | Step::AskForJson => {}
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, ..ProptestConfig::default() })]

    /// Whatever the world turns into between two steps.
    #[test]
    fn every_request_ends_and_no_answer_is_without_its_facts(
        line in 0..LINES.len(),
        is_node in any::<bool>(),
        is_readable in any::<bool>(),
        moments in prop::collection::vec(moment(), 1..MOST_STEPS),
    ) {
        let (line, want) = LINES[line];
        let info = info(line);
        let principal =
            if is_node { Principal::node(NODE) } else { Principal::service_account("media", "engine") };
        let ask = Ask { info: &info, principal: &principal, node: NODE, want, is_readable };
        let mut tried = Tried::default();
        let mut given: Vec<(Step, Tried)> = Vec::new();
        let mut went_back = false;
        for turn in 0.. {
            prop_assert!(turn < MOST_STEPS, "no end: {given:?}");
            let moment = &moments[turn % moments.len()];
            let facts = moment.facts(tried);
            let step = plan(&ask, &facts);
            check(step, &ask, &facts)?;
            if let RequestInfo::Resource(request) = &info
                && !request.verb.is_read()
                && matches!(step, Step::Forward(_))
            {
                prop_assert_eq!(tried.forwarded, 0, "a write may have arrived");
            }
            prop_assert!(!given.contains(&(step, tried)), "{step:?} twice with the same {tried:?}");
            given.push((step, tried));
            let goes_back = moment.goes_back && matches!(want, Want::Collection { .. });
            let moment = Moment { goes_back, ..moment.clone() };
            match after(step, &moment, &mut went_back, tried) {
                Some(next) => tried = next,
                None => break,
            }
        }
    }
}

/// A world in which the cloud answers, and one live collection has everything for somebody who may see it.
fn all() -> Moment {
    Moment {
        cloud: Cloud::Answers,
        access: Access::Allowed,
        is_uncollectable: false,
        may_collect: true,
        is_widened: false,
        candidates: vec![Candidate {
            access: Access::Allowed,
            of_pool: false,
            is_meant: true,
            is_complete: true,
            fetch: Fetch::Live,
            can_show: true,
            is_fetched_for_this: false,
            object: Holding::Present,
            standing: Standing { followed: true, exact: true, format: 0, heard_unix: Duration::from_secs(9) },
        }],
        document_unix: Some(Duration::from_secs(5)),
        own_node: true,
        own_lease: true,
        collected: Collected::Complete,
        failure: None,
        serves: true,
        goes_back: false,
    }
}

#[track_caller]
fn row(line: &str, moment: &Moment, tried: Tried, expected: Step) {
    let want = LINES.iter().find(|(known, _)| *known == line).expect("one of the lines").1;
    let info = info(line);
    let principal = Principal::node(NODE);
    let ask = Ask { info: &info, principal: &principal, node: NODE, want, is_readable: true };
    assert_eq!(plan(&ask, &moment.facts(tried)), expected, "{line}");
}

const LIST: &str = LINES[0].0;
const NEWEST: &str = LINES[1].0;
const PAGE: &str = LINES[2].0;
const GET: &str = LINES[4].0;
const GET_NEWEST: &str = LINES[5].0;
const LEASE: &str = LINES[6].0;
const TOKEN: &str = LINES[7].0;
const WRITE: &str = LINES[8].0;
const DISCOVERY: &str = LINES[9].0;
const FORWARD: Step = Step::Forward(Patience::Usual);

fn first() -> Tried {
    Tried::default()
}

fn with(mut moment: Moment, change: impl FnOnce(&mut Candidate)) -> Moment {
    change(&mut moment.candidates[0]);
    moment
}

#[test]
fn the_rows_while_the_cloud_answers() {
    row(LIST, &all(), first(), Step::Serve(0));
    row(NEWEST, &all(), first(), FORWARD);
    row(NEWEST, &with(all(), |c| c.fetch = Fetch::Behind), first(), FORWARD);
    row(NEWEST, &with(all(), |c| c.access = Access::Unknown), first(), FORWARD);
    row(NEWEST, &with(all(), |c| c.is_fetched_for_this = true), first(), Step::Serve(0));
    row(NEWEST, &Moment { candidates: Vec::new(), ..all() }, first(), Step::Collect);
    row(PAGE, &all(), first(), FORWARD);
    row(LIST, &Moment { is_uncollectable: true, ..all() }, first(), FORWARD);
    row(LIST, &Moment { candidates: Vec::new(), may_collect: false, ..all() }, first(), FORWARD);
    row(LIST, &with(all(), |c| c.access = Access::Unknown), first(), Step::Prove(0));
    row(LIST, &with(all(), |c| c.access = Access::Unknown), Tried { proved: true, ..first() }, FORWARD);
    row(LIST, &with(all(), |c| c.fetch = Fetch::Behind), first(), Step::CatchUp(0));
    let caught_up = Tried { caught_up: true, ..first() };
    row(LIST, &with(all(), |c| c.fetch = Fetch::Behind), caught_up, Step::Serve(0));
    let refused = Tried { collected: Some(Collected::Refused), ..first() };
    row(LIST, &Moment { is_widened: true, ..all() }, refused, Step::Narrow);
    row(LIST, &all(), refused, FORWARD);
    row(LIST, &all(), Tried { collected: Some(Collected::JsonOnly), ..first() }, Step::AskForJson);
    let incomplete = Tried { collected: Some(Collected::Incomplete), ..first() };
    row(LIST, &all(), incomplete, Step::Refuse(Refusal::Incomplete));
    row(GET, &all(), first(), Step::Serve(0));
    row(GET, &with(all(), |c| c.fetch = Fetch::Behind), first(), FORWARD);
    row(GET, &Moment { access: Access::Unknown, ..all() }, first(), FORWARD);
    for line in [GET_NEWEST, TOKEN, WRITE, DISCOVERY] {
        row(line, &all(), first(), FORWARD);
    }
    row(LEASE, &all(), first(), Step::Forward(Patience::Short));
}

#[test]
fn the_rows_while_a_server_fails_requests() {
    let failed = |failure| Tried { forwarded: 2, has_verdict: true, failure: Some(failure), ..first() };
    for failure in [Failure::Server(503), Failure::NoAnswer] {
        row(LIST, &all(), failed(failure), Step::Serve(0));
        row(GET, &all(), failed(failure), Step::Serve(0));
        row(LEASE, &all(), failed(failure), Step::Local(Local::Lease));
        row(TOKEN, &all(), failed(failure), Step::Local(Local::Token));
        row(DISCOVERY, &all(), failed(failure), Step::Document);
        // A promise of the newest state is kept by nobody else, and a write may have arrived.
        for line in [NEWEST, GET_NEWEST, WRITE] {
            row(line, &all(), failed(failure), Step::Relay);
        }
        row(DISCOVERY, &Moment { document_unix: None, ..all() }, failed(failure), Step::Relay);
    }
    // One connection that died under a read is no failure of the server's.
    let once = Tried { forwarded: 1, failure: Some(Failure::NoAnswer), ..first() };
    row(GET_NEWEST, &all(), once, Step::AwaitVerdict);
    row(GET_NEWEST, &all(), Tried { has_verdict: true, ..once }, FORWARD);
    row(LEASE, &all(), once, Step::Local(Local::Lease));
    let impaired = Moment { cloud: Cloud::Impaired, ..all() };
    for line in [LEASE, TOKEN, DISCOVERY] {
        row(line, &impaired, first(), Step::Forward(Patience::Short));
    }
    row(WRITE, &impaired, first(), FORWARD);
    row(NEWEST, &impaired, first(), FORWARD);
}

#[test]
fn the_rows_while_the_cloud_is_cut() {
    let cut = Moment { cloud: Cloud::Cut, ..all() };
    for line in [LIST, NEWEST, GET, GET_NEWEST] {
        row(line, &cut, first(), Step::Serve(0));
    }
    row(PAGE, &cut, first(), Step::Refuse(Refusal::Discontinued));
    row(LEASE, &cut, first(), Step::Local(Local::Lease));
    row(DISCOVERY, &cut, first(), Step::Document);
    let denied = Moment { access: Access::Denied, ..cut.clone() };
    row(DISCOVERY, &denied, first(), Step::Refuse(Refusal::Offline(OfflineAnswer::Forbidden403)));
    let nothing = Moment { candidates: Vec::new(), document_unix: None, ..cut.clone() };
    let later = Step::Refuse(Refusal::FetchLater(OfflineAnswer::NotComplete429));
    row(LIST, &nothing, first(), later);
    row(GET, &nothing, first(), Step::Refuse(Refusal::Offline(OfflineAnswer::NOT_HELD)));
    // What was left before the cut does not know what has come into being since.
    let left = with(cut.clone(), |c| (c.object, c.standing.followed) = (Holding::Absent, false));
    row(GET, &left, first(), Step::Document);
    let gone = with(cut, |c| c.object = Holding::Absent);
    row(GET, &gone, first(), Step::Refuse(Refusal::Offline(OfflineAnswer::NotFound404)));
    assert!(matches!(info(WRITE), RequestInfo::Resource(request) if request.verb == Verb::Patch));
}
