//! What happens when: a pure function of the seed, the number of nodes and the length.

use serde::Serialize;

use crate::random::Random;

/// How many Services (and as many EndpointSlices) the cloud holds at the start.
pub(super) const SERVICES: u32 = 40;
/// How many pods each node has at the start.
pub(super) const PODS: u32 = 5;

/// One thing that happens, so many milliseconds after the start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Step {
    pub(super) at_ms: u64,
    #[serde(flatten)]
    pub(super) action: Action,
}

/// What happens. Nodes are counted from 0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "do", rename_all = "camelCase")]
pub(super) enum Action {
    /// An object appears in the cloud or changes.
    Put(Object),
    /// An object is deleted in the cloud.
    Remove(Object),
    /// The cloud breaks the running watches of Services on this node's link.
    Break { node: usize, how: Break },
    /// The node's link turns into a black hole.
    Cut { node: usize },
    /// The node's hub ends and starts again.
    RestartHub { node: usize, kill: bool },
    /// The node's clients lose their memory and start again.
    RestartClient { node: usize },
    /// The node's link works again.
    Heal { node: usize },
}

/// How a stream breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Break {
    Reset,
    Truncate,
    End,
}

/// An object of the demo.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Object {
    pub(super) kind: Kind,
    /// Its number within its kind (a pod's: within its node); the name follows from it.
    pub(super) number: u32,
    /// The node of a pod and of a Node; 0 for what belongs to no node.
    pub(super) node: usize,
    /// What is written into it, so that each change differs.
    pub(super) value: u64,
}

/// The kinds of objects that change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Kind {
    Service,
    EndpointSlice,
    Pod,
    Node,
}

/// The objects that stand at the moment, so that only these are removed.
struct Standing {
    services: Vec<u32>,
    pods: Vec<Vec<u32>>,
    next: u32,
}

/// The steps in order of time. Per mille of the length: 80-160 streams break, 200-280 the nodes are cut one after the
/// other, 420-560 a hub and a client restart, 720-790 the links heal; objects change at 30-690 and 880-1000.
pub(super) fn plan(seed: u64, nodes: usize, length_ms: u64) -> Vec<Step> {
    let mut random = Random::new(seed);
    let at = |random: &mut Random, from: u64, to: u64| random.within(from * length_ms, to * length_ms) / 1000;
    let mut steps = Vec::new();
    for node in 0..nodes {
        let how = [Break::Reset, Break::Truncate, Break::End][random.index(3)];
        steps.push(Step { at_ms: at(&mut random, 80, 160), action: Action::Break { node, how } });
        steps.push(Step { at_ms: at(&mut random, 200, 280), action: Action::Cut { node } });
        steps.push(Step { at_ms: at(&mut random, 720, 790), action: Action::Heal { node } });
    }
    let hub = Action::RestartHub { node: random.index(nodes), kill: random.next().is_multiple_of(2) };
    steps.push(Step { at_ms: at(&mut random, 420, 490), action: hub });
    let client = Action::RestartClient { node: random.index(nodes) };
    steps.push(Step { at_ms: at(&mut random, 500, 560), action: client });
    let mut times: Vec<u64> = Vec::new();
    // Three changes a second: a lively cluster.
    for _ in 0..length_ms * 3 / 1000 {
        let late = random.next().is_multiple_of(6);
        times.push(if late { at(&mut random, 880, 1000) } else { at(&mut random, 30, 690) });
    }
    times.sort_unstable();
    let mut standing = Standing {
        services: (0..SERVICES).collect(),
        pods: vec![(0..PODS).collect(); nodes],
        next: SERVICES.max(PODS),
    };
    steps.extend(times.into_iter().map(|at_ms| Step { at_ms, action: change(&mut random, &mut standing) }));
    steps.sort_by_key(|step| step.at_ms);
    steps
}

fn change(random: &mut Random, standing: &mut Standing) -> Action {
    let node = random.index(standing.pods.len());
    let value = random.next() >> 32;
    let pick = random.within(0, 100);
    let kind = match pick {
        0..25 => Kind::Service,
        25..60 => Kind::EndpointSlice,
        60..90 => Kind::Pod,
        _ => return Action::Put(Object { kind: Kind::Node, number: 0, node, value }),
    };
    let is_pod = kind == Kind::Pod;
    let list = if is_pod { &mut standing.pods[node] } else { &mut standing.services };
    let object = |number| Object { kind, number, node: if is_pod { node } else { 0 }, value };
    let whole_life = kind != Kind::EndpointSlice;
    match random.within(0, 10) {
        0 | 1 if whole_life => {
            list.push(standing.next);
            standing.next += 1;
            Action::Put(object(standing.next - 1))
        }
        // Two stay: no collection is ever empty, so an empty answer is always a lie.
        2 | 3 if whole_life && list.len() > 2 => {
            let at = random.index(list.len());
            Action::Remove(object(list.swap_remove(at)))
        }
        _ => Action::Put(object(list[random.index(list.len())])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_one_schedule_and_another_seed_another() {
        assert_eq!(plan(7, 3, 36_000), plan(7, 3, 36_000));
        assert_ne!(plan(7, 3, 36_000), plan(8, 3, 36_000));
    }

    #[test]
    fn whatever_the_seed_restarts_fall_into_the_cut_and_nothing_is_removed_that_does_not_stand() {
        for seed in 0..200 {
            let steps = plan(seed, 3, 20_000);
            let mut cut = [false; 3];
            let mut standing: Vec<(Kind, usize, u32)> =
                (0..SERVICES).map(|number| (Kind::Service, 0, number)).collect();
            standing.extend((0..3).flat_map(|node| (0..PODS).map(move |number| (Kind::Pod, node, number))));
            let (mut restarts, mut while_cut) = (0, 0);
            for step in steps {
                match step.action {
                    Action::Cut { node } => cut[node] = true,
                    Action::Heal { node } => cut[node] = false,
                    Action::RestartHub { node, .. } | Action::RestartClient { node } => {
                        assert!(cut[node], "seed {seed}");
                        restarts += 1;
                    }
                    Action::Put(Object { kind, node, number, .. }) => {
                        while_cut += u32::from(cut == [true; 3]);
                        standing.push((kind, node, number));
                    }
                    Action::Remove(Object { kind, node, number, .. }) => {
                        assert!(standing.contains(&(kind, node, number)), "seed {seed}");
                        standing.retain(|held| *held != (kind, node, number));
                    }
                    Action::Break { node, .. } => assert!(!cut[node]),
                }
            }
            assert_eq!((restarts, cut), (2, [false; 3]), "seed {seed}");
            assert!(while_cut > 0, "seed {seed}");
        }
    }
}
