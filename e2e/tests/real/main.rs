//! The real kube-apiserver behind the hub, asked through it and beside it: one file for each promise.

mod client;
mod random_request;

mod bad_clients_do_no_harm;
mod filters_show_of_real_objects_what_their_labels_say;
mod json_is_what_the_server_would_send;
mod kubectl_through_the_hub;
mod nobody_reads_more_than_the_server_allows;
