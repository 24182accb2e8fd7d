//! Calls of a Chromium: through an engine that is a pod of a node which is cut off, and through one of this machine.

mod a_browser_calls_by_an_engine_of_this_machine;
mod a_call_outlives_a_cut_and_the_death_of_its_engine;
mod browser;
