//! The engine as a process on loopback, with raw HTTP and str0m peers before it: no Kubernetes, no browser.

mod a_bad_offer_or_token_is_refused_with_its_reason;
mod a_call_goes_through;
mod a_patch_trickles_candidates_or_restarts_ice;
mod a_sigterm_lets_calls_end;
mod a_viewer_gets_the_layer_that_fits;
mod check_config_says_what_to_mend;
mod garbage_on_each_listener_does_no_harm;
mod peer;
mod rig;
