//! The real hub between the model cloud and plain clients, without root: one file for each promise.

mod rig;

mod a_client_is_shown_what_its_filters_leave;
mod a_cut_costs_clients_no_list;
mod a_first_boot_without_a_cloud_asks_for_patience;
mod a_first_read_is_answered_with_the_collection;
mod a_lost_history_reaches_clients_as_events;
mod a_stalled_or_departing_server_is_left;
mod an_older_replica_never_turns_clients_back;
mod each_request_reaches_the_cloud_as_its_own_client;
mod one_collection_serves_every_format;
mod what_unmodified_clients_rely_on;
mod while_cut_only_what_is_true_is_answered;
