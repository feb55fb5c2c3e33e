//! Ends that do not do as they said.
