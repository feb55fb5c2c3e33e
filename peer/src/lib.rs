//! A Knothole node.
