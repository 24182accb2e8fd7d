//! The cloud-tunnel: one connection per node pool, dialled from the edge, on which the API server reaches the pool's nodes.
