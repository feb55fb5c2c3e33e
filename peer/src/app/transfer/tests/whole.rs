//! Transfers that run to their ends.
