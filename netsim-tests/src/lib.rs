//! The Knothole lab.
