//! Real hubs and a real coordinator as processes, in front of the model cloud, without root: one file for each promise.

mod rig;

mod a_coordinator_may_go_and_come_back;
mod a_cut_hub_hears_the_pool;
mod a_hub_with_a_pool_stays_small;
mod a_restored_cluster_is_told_to_members;
mod only_members_are_let_in;
mod the_relay_leads_to_api_servers_alone;
