//! Carries out the plan of one request, step by step, until it has its answer.

use edge_hub_core::{
    lease::is_own_lease,
    offline::OfflineAnswer,
    plan::{Ask, Freshness, Refusal, Step, Want, plan},
};
use http::{Method, Response, header};
use proto_kube::{
    media_type::Format,
    request_info::{RequestInfo, ResourceRequest, Verb},
    status::Status,
};

use super::{
    answer,
    call::Call,
    facts::{Gathered, Source, Trail, Wish},
};
use crate::upstream::Body;

/// Steps of one request. A plan gives none twice; this is what keeps a mistake in it from costing more than an answer.
const MOST_STEPS: usize = 16;

impl Call {
    /// What is asked, as a plan has it.
    pub(super) fn want(&self, info: &RequestInfo) -> Want {
        let RequestInfo::Resource(request) = info else { return Want::NonResource };
        let is_of_objects = matches!(request.verb, Verb::Get | Verb::List | Verb::Watch)
            && request.subresource.is_none()
            && !is_own_lease(&self.hub.site.config.file.node_name, &self.principal, request);
        match self.wish(request) {
            // The API server knows no HEAD of objects; an answer without a body is nothing to keep.
            _ if self.head.method == Method::HEAD => Want::TheClouds,
            _ if !is_of_objects => Want::Other,
            Ok(Wish::Object(options)) if options.resource_version.as_deref() == Some("0") => {
                Want::Object { freshness: Freshness::AsHeld }
            }
            // Any other version is a promise of freshness that only the cloud can keep.
            Ok(Wish::Object(_)) => Want::Object { freshness: Freshness::MostRecent },
            Ok(Wish::Collection { options, version }) => {
                let is_most_recent = request.verb == Verb::List && version.is_none();
                let freshness = if is_most_recent { Freshness::MostRecent } else { Freshness::AsHeld };
                Want::Collection { freshness, continues: options.continue_token.is_some() }
            }
            Err(_) if request.verb == Verb::Get => Want::Object { freshness: Freshness::MostRecent },
            Err(_) => Want::Collection { freshness: Freshness::MostRecent, continues: false },
        }
    }

    /// Answers the request.
    pub(super) async fn answer(mut self, info: &RequestInfo, want: Want) -> Response<Body> {
        // Before anything of the hub's own is left out of it: what the client asked for stays what it was.
        let read = match info {
            RequestInfo::Resource(request)
                if matches!(want, Want::Collection { .. } | Want::Object { .. }) =>
            {
                Some((request, self.wish(request)))
            }
            _ => None,
        };
        let mut trail = Trail::default();
        for _ in 0..MOST_STEPS {
            let (gathered, words) = match &read {
                Some((request, Ok(wish))) => match self.readable(request, wish) {
                    Ok(formats) => (self.gather(request, wish, &formats, &trail), None),
                    Err(status) => (self.gather_other(info), Some(status)),
                },
                Some((_, Err(status))) => (self.gather_other(info), Some(status.clone())),
                None => (self.gather_other(info), None),
            };
            let ask = Ask {
                info,
                principal: &self.principal,
                node: &self.hub.site.config.file.node_name,
                want,
                is_readable: words.is_none(),
            };
            let step = plan(&ask, &gathered.facts(&self, &trail));
            tracing::trace!(target: "edge_hub::plan", ?step, ?want, path = self.head.uri.path());
            let read = read.as_ref().and_then(|(request, wish)| Some((*request, wish.as_ref().ok()?)));
            let answer = match step {
                Step::Serve(place) => self.try_to_serve(read, &gathered.sources[place], &mut trail).await,
                Step::Document => Some(self.serve_document(info, &gathered)),
                Step::Local(local) => Some(self.local(local, info).await),
                Step::Refuse(refusal) => Some(self.refuse(info, refusal, &gathered, words)),
                Step::Relay => trail.instead.take(),
                Step::Forward(patience) => {
                    self.forward((info, want), patience, gathered.discovery(), &mut trail).await
                }
                Step::AwaitVerdict
                | Step::Collect
                | Step::Narrow
                | Step::AskForJson
                | Step::Prove(_)
                | Step::CatchUp(_) => {
                    self.prepare(step, read, &gathered, &mut trail).await;
                    None
                }
            };
            match answer {
                Some(answer) => return answer,
                None if step == Step::Relay => break,
                None => {}
            }
        }
        answer::refuse(&Status::internal("this node's hub found no way to an answer"))
    }

    /// A step after which more is known.
    async fn prepare(
        &self,
        step: Step,
        read: Option<(&ResourceRequest, &Wish)>,
        gathered: &Gathered,
        trail: &mut Trail,
    ) {
        match (step, read) {
            (Step::AwaitVerdict, _) => {
                self.hub.site.await_verdict().await;
                trail.tried.has_verdict = true;
            }
            (Step::Narrow, _) => {
                trail.tried.narrowed = true;
                trail.tried.collected = None;
            }
            (Step::AskForJson, _) => {
                trail.tried.json = true;
                trail.tried.collected = None;
            }
            (Step::Collect, Some((request, Wish::Collection { version, .. }))) => {
                let collected = self.collect(gathered, request.verb, *version, trail).await;
                trail.tried.collected = Some(collected);
                trail.collected.clone_from(&gathered.meant);
            }
            (Step::Prove(place), Some((request, _))) => {
                trail.tried.proved = true;
                self.prove(&gathered.sources[place].wanted, request.verb).await;
            }
            (Step::CatchUp(place), _) => {
                trail.tried.caught_up = true;
                let source = &gathered.sources[place];
                self.catch_up(source, gathered.meant.as_ref().unwrap_or(&source.wanted)).await;
            }
            (step, _) => tracing::error!(?step, "a plan has a step that fits no request of this kind"),
        }
    }

    /// The answer from a collection; `None` where it cannot give one after all, and the cloud may.
    async fn try_to_serve(
        &self,
        read: Option<(&ResourceRequest, &Wish)>,
        source: &Source,
        trail: &mut Trail,
    ) -> Option<Response<Body>> {
        let (request, wish) = read?;
        match self.serve(request, wish, source).await {
            Ok(answer) => Some(answer),
            Err(status) if !self.hub.site.is_connected() => Some(answer::refuse(&status)),
            Err(_) => {
                trail.tried.could_not_serve = true;
                None
            }
        }
    }

    /// The formats in which the client can be answered.
    fn readable(&self, request: &ResourceRequest, wish: &Wish) -> Result<Vec<Format>, Status> {
        let tables = match wish {
            Wish::Collection { options, .. } => options.include_object,
            Wish::Object(options) => options.include_object,
        };
        self.formats(request, tables)
    }

    fn refuse(
        &self,
        info: &RequestInfo,
        refusal: Refusal,
        gathered: &Gathered,
        words: Option<Status>,
    ) -> Response<Body> {
        let not_kept = || answer::cut_off("no copy of that is kept on this node");
        let of_table = |word: OfflineAnswer| word.status(info).unwrap_or_else(not_kept);
        let status = match refusal {
            Refusal::Offline(word) => {
                if let (OfflineAnswer::ReadThenUnavailable503, RequestInfo::Resource(request)) = (word, info)
                {
                    let content_type = self.header(header::CONTENT_TYPE).unwrap_or_default();
                    self.hub.collections.hear_pod_status(request, content_type, &self.body);
                }
                of_table(word)
            }
            Refusal::FetchLater(word) => {
                if let RequestInfo::Resource(request) = info {
                    self.fetch_later(request.verb, gathered);
                }
                of_table(word)
            }
            Refusal::Incomplete => edge_hub_core::collection::Refusal::Incomplete.status(),
            Refusal::Unreadable => words.unwrap_or_else(not_kept),
            Refusal::Discontinued => Status::expired_message(
                "the list cannot be continued while the node is cut off from the cloud; start it again",
            ),
            Refusal::TheClouds => answer::cut_off("only the API server can answer this request"),
        };
        answer::refuse(&status)
    }
}
