//! [`Report`]: what became of verifying one kind in one world.

use crate::nat::NatKind;

use super::SERVERS;
use super::expect::expected;
use super::facts::{Disagreement, Facts};
use super::ground::GroundError;
use super::measure::measure;
use super::memory::Memory;

/// What was found about one kind in one world.
#[derive(Clone, Debug)]
pub struct Report {
    /// Which kind.
    pub kind: &'static NatKind,
    /// In which world: `sim`, `netns` or `kernel`.
    pub world: &'static str,
    /// What its description says.
    pub described: Facts,
    /// What was measured.
    pub measured: Facts,
    /// Where the two contradict each other.
    pub disagreements: Vec<Disagreement>,
    /// Known differences to the description in this world, as the kind states them.
    pub known: Option<&'static str>,
    /// What another program says, and where it contradicts.
    pub second: Option<Second>,
}

/// A second opinion.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Second {
    /// Its words for mapping and filtering.
    pub says: String,
    /// Where it contradicts our measurement.
    pub contradictions: Vec<String>,
}

impl Report {
    pub(super) fn new(
        kind: &'static NatKind,
        world: &'static str,
        described: Facts,
        measured: Facts,
    ) -> Self {
        Self {
            kind,
            world,
            disagreements: described.disagreements(&measured),
            described,
            measured,
            known: None,
            second: None,
        }
    }

    /// Is the NAT what it says, as far as anybody can tell?
    #[must_use]
    pub fn agrees(&self) -> bool {
        self.disagreements.is_empty()
            && self
                .second
                .as_ref()
                .is_none_or(|second| second.contradictions.is_empty())
    }
}

/// Verifies a kind in memory, in virtual time.
///
/// # Errors
///
/// Never as things stand: nothing in memory refuses.
pub fn verify_in_memory(kind: &'static NatKind) -> Result<Report, GroundError> {
    let side = kind.side(&SERVERS);
    let (mut ground, stage) = Memory::new(&side, 1);
    let measured = measure(&mut ground, &stage, &Memory::depth())?;
    Ok(Report::new(kind, "sim", expected(&side, &stage), measured))
}
