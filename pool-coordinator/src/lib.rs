//! The pool-coordinator: holds one copy of a node pool's shared objects and relays the pool's nodes to the API server.
