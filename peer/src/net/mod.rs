//! Sockets, and what lies between them and QUIC.
