//! The pure core of the pool-coordinator: the pool's one copy of shared objects and who may have it. No clock, no socket.
