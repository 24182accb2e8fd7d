//! A call on a real Kubernetes: Chromium publishes and plays through an engine that is a pod of a node which is cut off.

mod a_call_outlives_a_cut_and_the_death_of_its_engine;
mod browser;
