//! One direction of a network link as a model: delay, jitter, loss, reordering, duplication, corruption, rate with a
//! queue, MTU.
//!
//! It holds no packets and reads no clock. Drive it by calling [`Link::admit`] for each packet in order of arrival; it
//! answers at which moments the packet comes out at the far end: never, once or twice, perhaps with a bit to
//! [flip](Flip). A link keeps packets in order unless its description says [`Reorder`].

mod due;
mod model;
mod spec;
#[cfg(test)]
mod tests;

pub use due::{Arrival, DueTimes, Flip};
pub use model::{Link, LinkStats};
pub use spec::{LinkSpec, Loss, Reorder};
