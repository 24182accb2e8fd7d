//! Which filters apply to whom, and in which order.

use std::borrow::Cow;

use bytes::Bytes;
use proto_kube::gvr::GroupVersionResource;
use proto_kube::media_type::{Form, Format};
use serde::{Deserialize, Serialize};

use super::{FilterError, Inputs, Outcome, Subject, authority, endpoints, noise, pods, services};
use crate::collection::Object;
use crate::identity::Principal;

/// One filter; named in configuration as in OpenYurt where it has it too. The order of the variants is the order in
/// which they are applied: what drops comes first, what only shortens comes last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Filter {
    /// Services for the cloud only are dropped.
    DiscardCloudService,
    /// Services whose node ports are not for this pool are dropped.
    NodePortIsolation,
    /// The service `default/kubernetes` leads to the hub.
    MasterService,
    /// Endpoints farther away than their service asks for are left out.
    ServiceTopology,
    /// The endpoints of `default/kubernetes` are the hub.
    ForwardKubeSvcTraffic,
    /// kube-proxy's configuration is for use in a cluster.
    InClusterConfig,
    /// Explicit addresses of the API server in pods lead to the hub.
    ServiceEnvUpdater,
    /// The hub's own authority is among those that pods trust.
    RootCertificates,
    /// Heartbeats of nodes are left out, and events that bring nothing else.
    NodeHeartbeats,
    /// Managed fields are left out.
    ManagedFields,
}

impl Filter {
    /// Every filter, in order.
    pub const ALL: [Self; 10] = [
        Self::DiscardCloudService,
        Self::NodePortIsolation,
        Self::MasterService,
        Self::ServiceTopology,
        Self::ForwardKubeSvcTraffic,
        Self::InClusterConfig,
        Self::ServiceEnvUpdater,
        Self::RootCertificates,
        Self::NodeHeartbeats,
        Self::ManagedFields,
    ];

    /// The only resource that the filter has to do with, as group, version and name; `None` when any will do.
    #[must_use]
    pub fn resource(self) -> Option<(&'static str, &'static str, &'static str)> {
        match self {
            Self::DiscardCloudService | Self::NodePortIsolation | Self::MasterService => {
                Some(("", "v1", "services"))
            }
            Self::ServiceTopology | Self::ForwardKubeSvcTraffic => {
                Some(("discovery.k8s.io", "v1", "endpointslices"))
            }
            Self::InClusterConfig | Self::RootCertificates => Some(("", "v1", "configmaps")),
            Self::ServiceEnvUpdater => Some(("", "v1", "pods")),
            Self::NodeHeartbeats => Some(("", "v1", "nodes")),
            Self::ManagedFields => None,
        }
    }

    /// Whether the filter has anything to do with this resource.
    #[must_use]
    pub fn is_for(self, gvr: &GroupVersionResource) -> bool {
        let own = (gvr.group.as_ref(), gvr.version.as_ref(), gvr.resource.as_ref());
        self.resource().is_none_or(|resource| resource == own)
    }

    /// Whether the filter leads pods to the hub, and so has no meaning without an address at which they reach it.
    #[must_use]
    pub fn leads_to_hub(self) -> bool {
        matches!(
            self,
            Self::MasterService
                | Self::ForwardKubeSvcTraffic
                | Self::InClusterConfig
                | Self::ServiceEnvUpdater
                | Self::RootCertificates
        )
    }

    fn reads_inputs(self) -> bool {
        self.reads_sources()
            || matches!(
                self,
                Self::MasterService
                    | Self::ForwardKubeSvcTraffic
                    | Self::ServiceEnvUpdater
                    | Self::RootCertificates
            )
    }

    /// Whether it reads more of the inputs than the hub's address and authority, which are known from the start.
    fn reads_sources(self) -> bool {
        matches!(self, Self::NodePortIsolation | Self::ServiceTopology)
    }

    fn apply(self, inputs: &Inputs, object: &Subject<'_>) -> Result<Outcome, FilterError> {
        match self {
            Self::DiscardCloudService => services::discard(object),
            Self::NodePortIsolation => services::isolate_node_ports(inputs, object),
            Self::MasterService => services::redirect(inputs, object),
            Self::ServiceTopology => endpoints::by_topology(inputs, object),
            Self::ForwardKubeSvcTraffic => endpoints::redirect(inputs, object),
            Self::InClusterConfig => noise::in_cluster_config(object),
            Self::ServiceEnvUpdater => pods::redirect_environment(inputs, object),
            Self::RootCertificates => authority::append(inputs, object),
            Self::NodeHeartbeats => noise::strip_heartbeats(object),
            Self::ManagedFields => noise::strip_managed_fields(object),
        }
    }
}

/// The filters of one client for one resource, in order, each once. The default shows everything as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Chain {
    /// Bit `n` stands for `Filter::ALL[n]`.
    members: u16,
}

impl Chain {
    /// These filters as far as they have to do with the resource.
    pub fn new(gvr: &GroupVersionResource, filters: impl IntoIterator<Item = Filter>) -> Self {
        let relevant = filters.into_iter().filter(|filter| filter.is_for(gvr));
        Self { members: relevant.fold(0, |members, filter| members | 1 << filter as u16) }
    }

    /// The filters, in order.
    pub fn filters(&self) -> impl Iterator<Item = Filter> {
        let members = self.members;
        Filter::ALL.into_iter().filter(move |filter| members & 1 << *filter as u16 != 0)
    }

    /// Whether everything is shown as it is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members == 0
    }

    /// Whether the outcome may change without a change of the object.
    #[must_use]
    pub fn reads_inputs(&self) -> bool {
        self.filters().any(Filter::reads_inputs)
    }

    /// Whether the outcome depends on other objects, so that nothing can be shown before these are known.
    #[must_use]
    pub fn reads_sources(&self) -> bool {
        self.filters().any(Filter::reads_sources)
    }

    /// Whether an object can be hidden by its content.
    pub(crate) fn may_drop(&self) -> bool {
        self.filters().any(|filter| matches!(filter, Filter::DiscardCloudService | Filter::NodePortIsolation))
    }

    /// Whether an update that leaves nothing changed to be seen is kept quiet.
    pub(crate) fn is_quiet(&self) -> bool {
        self.filters().any(|filter| filter == Filter::NodeHeartbeats)
    }

    /// Whether objects of this form carry what these filters read.
    #[must_use]
    pub fn can_read(&self, form: Form) -> bool {
        form == Form::Object || self.filters().all(|filter| filter == Filter::ManagedFields)
    }

    /// What the client is shown of an object: one filter after the other on the outcome of the one before.
    ///
    /// # Errors
    /// When the object cannot be read as far as a filter must; it must not be shown then.
    pub fn apply(&self, inputs: &Inputs, object: &Subject<'_>) -> Result<Outcome, FilterError> {
        if !self.can_read(object.format.form) {
            return Err(FilterError::Form);
        }
        let mut changed: Option<Bytes> = None;
        for filter in self.filters() {
            let raw = changed.as_deref().unwrap_or(object.raw);
            match filter.apply(inputs, &Subject { raw, ..*object })? {
                Outcome::Keep => {}
                Outcome::Replace(raw) => changed = Some(raw),
                Outcome::Drop => return Ok(Outcome::Drop),
            }
        }
        Ok(changed.map_or(Outcome::Keep, Outcome::Replace))
    }

    /// The same for an object of a collection; borrowed where it is shown as it is, `None` where it is not shown.
    ///
    /// # Errors
    /// As [`Self::apply`].
    pub fn show<'a>(
        &self,
        inputs: &Inputs,
        gvr: &GroupVersionResource,
        format: Format,
        object: &'a Object,
    ) -> Result<Option<Cow<'a, Object>>, FilterError> {
        let subject = Subject { gvr, format, key: &object.key, raw: &object.raw };
        Ok(match self.apply(inputs, &subject)? {
            Outcome::Keep => Some(Cow::Borrowed(object)),
            Outcome::Replace(raw) => Some(Cow::Owned(Object {
                key: object.key.clone(),
                uid: object.uid.clone(),
                resource_version: object.resource_version,
                raw,
            })),
            Outcome::Drop => None,
        })
    }
}

/// One filter for one consumer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// The authenticated user name, word for word. Never the User-Agent, which everybody can choose.
    pub user: Box<str>,
    /// API group, empty for core.
    #[serde(default)]
    pub group: Box<str>,
    /// Resource, for example `services`.
    pub resource: Box<str>,
    /// What is applied.
    pub filter: Filter,
}

/// Who is shown what through which filters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// In any order.
    pub rules: Vec<Rule>,
}

const KUBE_PROXY: [&str; 2] = ["system:serviceaccount:kube-system:kube-proxy", "system:kube-proxy"];
const COREDNS: &str = "system:serviceaccount:kube-system:coredns";
const INGRESS: &str = "system:serviceaccount:ingress-nginx:ingress-nginx";
const FLANNEL: &str = "system:serviceaccount:kube-flannel:flannel";
const CORE: &str = "";
const DISCOVERY: &str = "discovery.k8s.io";

impl Policy {
    /// What OpenYurt's users are used to, for the node called `node`: its kubelet, kube-proxy, CoreDNS and the ingress
    /// controller under the names that their usual manifests give them. Beyond that, none of the last three needs
    /// managed fields, and flannel needs neither these nor heartbeats.
    #[must_use]
    pub fn usual(node: &str) -> Self {
        let kubelet = Principal::node(node).user;
        let mut rules = Vec::new();
        let mut add = |user: &str, group: &str, resource: &str, filters: &[Filter]| {
            rules.extend(filters.iter().map(|filter| Rule {
                user: user.into(),
                group: group.into(),
                resource: resource.into(),
                filter: *filter,
            }));
        };
        add(&kubelet, CORE, "services", &[Filter::MasterService]);
        add(&kubelet, CORE, "configmaps", &[Filter::InClusterConfig, Filter::RootCertificates]);
        add(&kubelet, CORE, "pods", &[Filter::ServiceEnvUpdater]);
        for proxy in KUBE_PROXY {
            let services = [Filter::DiscardCloudService, Filter::NodePortIsolation, Filter::ManagedFields];
            add(proxy, CORE, "services", &services);
            let slices = [Filter::ServiceTopology, Filter::ForwardKubeSvcTraffic, Filter::ManagedFields];
            add(proxy, DISCOVERY, "endpointslices", &slices);
        }
        for consumer in [COREDNS, INGRESS] {
            let slices = [Filter::ServiceTopology, Filter::ManagedFields];
            add(consumer, DISCOVERY, "endpointslices", &slices);
        }
        add(FLANNEL, CORE, "nodes", &[Filter::NodeHeartbeats, Filter::ManagedFields]);
        Self { rules }
    }

    /// The filters of a client for a resource; empty for everybody whom no rule names.
    #[must_use]
    pub fn chain(&self, principal: &Principal, gvr: &GroupVersionResource) -> Chain {
        let rules = self.rules.iter().filter(|rule| {
            rule.user == principal.user && rule.group == gvr.group && rule.resource == gvr.resource
        });
        Chain::new(gvr, rules.map(|rule| rule.filter))
    }
}
