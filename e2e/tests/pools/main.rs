//! Two pools of a real Kubernetes, one file for each promise. All share one lab of four whole nodes, which each test has for
//! itself: `pool-1` of three with a coordinator on `node-1`, and `pool-2` of one.

mod informer;
mod stage;

mod a_coordinator_that_goes_costs_nobody_a_list;
mod a_cut_node_of_a_pool_stays_ready;
mod one_watch_a_kind_serves_a_pool;
