//! What a lab does to links, on links that nothing else uses: packets that vanish, that come late and in disorder.

mod rig;

mod a_cut_swallows_what_it_names;
mod a_slow_link_is_what_it_says;
