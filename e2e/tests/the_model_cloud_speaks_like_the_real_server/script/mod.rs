//! The script: one file for each kind of request, in the order in which they are asked.

mod creates;
mod custom;
mod deletes;
mod discovery;
mod events;
mod lists;
mod nodes;
mod objects;
mod patches;
mod pods;
mod protobuf;
mod reads;
mod refusals;
mod reviews;
mod rights;
mod selectors;
mod tables;
mod tokens;
mod updates;
mod watches;

use crate::step::{Act, Right};

/// The namespace, its ServiceAccounts and the reader's token.
pub(crate) fn beginning() -> Vec<Act> {
    objects::beginning()
}

/// Everything else.
pub(crate) fn rest() -> Vec<Act> {
    let user = "system:serviceaccount:script:reader";
    let reads = Right { user, groups: &[], resource: "configmaps", name: "first", allowed: true };
    [
        vec![Act::Await(reads)],
        discovery::acts(),
        creates::acts(),
        reads::acts(),
        updates::acts(),
        patches::acts(),
        deletes::acts(),
        lists::acts(),
        selectors::acts(),
        watches::acts(),
        tables::acts(),
        protobuf::acts(),
        nodes::acts(),
        pods::acts(),
        events::acts(),
        tokens::acts(),
        reviews::acts(),
        rights::acts(),
        custom::acts(),
        refusals::acts(),
        vec![Act::Forget],
        lists::expired(),
        watches::expired(),
    ]
    .concat()
}
