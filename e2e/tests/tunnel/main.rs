//! A real kube-apiserver reaches real kubelets behind NAT, one file for each promise. All share one lab of two nodes,
//! which each test has for itself.

mod stage;

mod a_bystander_does_not_notice_a_hundred_stalled_readers;
mod a_killed_end_is_noticed_and_comes_back;
mod kubectl_works_through_the_nat;
mod without_an_agent_the_answer_names_the_node;
