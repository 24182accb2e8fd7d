//! The pure core of the media engine: rooms, sessions, tokens' claims and what is forwarded to whom. No clock, no socket.
