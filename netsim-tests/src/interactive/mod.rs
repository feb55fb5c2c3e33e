//! The interactive lab: one process keeps the namespaces and the wire of a scenario's topology, others come and go.
//!
//! [`keep`] is that process. It leaves word of itself in a [`StateDir`], a folder of the user's own: its process, and for
//! each node the descriptor under which others find the node's namespace. [`enter()`] makes the calling process a program on
//! a node; [`StateDir::end`] ends the keeper and with it the lab. Steps and expectations of the scenario are not carried
//! out: here a person does that.
//!
//! Whatever way the keeper ends, the kernel takes the lab with it: programs that it started die, devices go with their
//! descriptors, a namespace lasts only as long as somebody's shell is still in it.

mod enter;
mod error;
mod keeper;
mod state;

pub use enter::{Surroundings, become_program, enter};
pub use error::InteractiveError;
pub use keeper::{keep, two_behind};
pub use state::{Found, LabState, NodeState, StateDir};
