//! The pure core of the cloud-tunnel: where a dial may go and what is said of it, who holds which link. No clock, no socket.
