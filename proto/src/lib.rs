//! Wire types and every decision-making state machine of Knothole.
