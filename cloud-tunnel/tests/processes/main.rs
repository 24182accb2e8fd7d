//! Server and agent as processes on loopback, with a test in the place of kube-apiserver and of the kubelet; one file for
//! each promise.

mod rig;

mod a_dial_is_answered_in_words_within_five_seconds;
mod a_drain_lets_open_streams_end;
mod aborted_dials_leave_nothing_behind;
mod bytes_ends_and_aborts_are_passed_on;
mod killed_ends_are_noticed_and_come_back;
mod settings_are_checked_before_anything_starts;
mod stalled_readers_are_alone;
mod strangers_get_nowhere;
