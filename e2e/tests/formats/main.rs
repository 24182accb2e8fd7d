//! The formats of the Kubernetes API against what Kubernetes itself ships: its Go source, its golden corpus.

mod go_modules;
mod go_source;

mod the_descriptor_is_made_of_the_go_modules;
mod the_golden_corpus_comes_out_as_it_went_in;
