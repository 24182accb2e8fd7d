//! Whole nodes of a real Kubernetes behind the hub, one file for each promise. All share one lab of two nodes, which
//! each test has for itself.

mod stage;
mod watch;

mod a_heal_takes_no_pod_of_the_node_out_of_its_rules;
mod a_node_joins_when_the_cloud_is_back;
mod a_node_that_never_saw_the_cloud_recovers_by_itself;
mod a_pods_new_address_reaches_kube_proxy_while_cut;
mod a_reboot_does_not_wait_for_the_cloud;
mod a_restart_while_cut_brings_every_pod_back;
mod a_slow_link_keeps_a_node_of_use;
mod a_token_that_ends_while_cut_follows_the_policy;
mod after_healing_what_the_cloud_changed_happens_and_nothing_else;
mod certificates_end_while_cut;
mod healing_costs_no_pod_and_no_client_a_list;
mod ten_cuts_under_churn_end_where_the_cloud_is;
mod watchers;
mod while_cut_a_node_stays_of_use;
