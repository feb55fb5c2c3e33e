//! The Knothole rendezvous server.
