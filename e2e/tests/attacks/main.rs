//! The attacks of a pod, of a process without a credential, of a LAN and of a stolen disk on a node's hub: none succeeds.
//!
//! Each asks the API server for the same, where that is the judge: the class of the code is the same, and no byte of
//! what only others may read comes back. Which test holds which attack (files without a folder are this target's):
//!
//! | attack | held by |
//! |---|---|
//! | 01 no credential; a body announced | `who_has_no_credential` |
//! | 02 headers that name a user; `Connection` that names a header | `who_has_no_credential`; `hub/each_request_reaches_the_cloud_as_its_own_client` |
//! | 03 spellings of path and method | `who_misspells` |
//! | 04 a right to one name, 222 forms | `who_wants_what_others_may_read` |
//! | 05 what others fetched, in 8 formats; 06 the node after others' | `who_wants_what_others_may_read`; `real/nobody_reads_more_than_the_server_allows` |
//! | 07 client certificates | `who_has_no_credential`; `hub/an_expired_certificate_of_the_node_holds_while_cut_only` |
//! | 08 forged tokens; 09, 24 true ones for something else or of another time | `who_forges_a_token`; `hub/while_cut_only_what_is_true_is_answered` |
//! | 10 writes while cut; 12 events | `who_writes_while_cut`; `hub/while_cut_only_what_is_true_is_answered` |
//! | 11 a kept TokenRequest | `who_forges_a_token` |
//! | 13 forged endpoints | `hub/endpoints_follow_the_kubelet_while_cut` |
//! | 14 smuggling | `who_misspells` |
//! | 15 modes and listeners; 16 canaries on disk, in the log, on pages; 18 old TLS | `who_has_the_disk_or_the_network`; `edge-hub/tests/store_shows_nothing_in_plain_text` |
//! | 17 a copied disk | `edge-hub/tests/store_keeps_its_hands_off_with_a_wrong_key` |
//! | 20, 22, 25 a right that was taken away; 23 a Secret of a pod that is gone | `hub/rights_are_what_the_cloud_last_said`, `hub/a_node_keeps_no_secret_that_no_pod_of_its_own_names` |
//! | 21 the pod is gone; 62 a forced cut, then an ended token | `hub/while_cut_only_what_is_true_is_answered` |
//! | 40, 59 connections and guesses; 46 one guess made often | `hub/no_client_takes_what_others_need` |
//! | 49, 61 YAML that unfolds | `hub/no_version_of_the_hubs_own_reaches_the_cloud` |
//! | 50 random requests | `who_misspells`; `real/nobody_reads_more_than_the_server_allows` |
//! | 51 heads and bombs | `who_has_no_credential`; `real/bad_clients_do_no_harm` |
//! | 53 lists without a right while cut | `who_wants_what_others_may_read` |
//! | 58 an aggregated server that shows each user its own | `who_asks_an_aggregated_server` |

#[path = "../hub/rig.rs"]
#[allow(dead_code, reason = "the attackers use their part of it")]
mod rig;

mod attacker;
mod who_asks_an_aggregated_server;
mod who_forges_a_token;
mod who_has_no_credential;
mod who_has_the_disk_or_the_network;
mod who_misspells;
mod who_wants_what_others_may_read;
mod who_writes_while_cut;
