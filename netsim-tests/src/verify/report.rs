//! [`Report`]: what became of verifying one kind in one world, and the ways to come by one.

use crate::nat::NatKind;

use super::SERVERS;
use super::expect::expected;
use super::facts::{Disagreement, Facts};
use super::ground::GroundError;
use super::measure::measure;
use super::memory::Memory;

/// A world in which a NAT can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum World {
    /// In memory, with virtual time.
    Sim,
    /// Between namespaces, the NAT being the model of the world in memory.
    Netns,
    /// Between namespaces, the NAT being the rules of a kernel.
    Kernel,
}

/// What was found about one kind in one world.
#[derive(Clone, Debug)]
pub struct Report {
    /// Which kind.
    pub kind: &'static NatKind,
    /// In which world.
    pub world: World,
    /// What was measured.
    pub measured: Facts,
    /// Where that contradicts the description.
    pub disagreements: Vec<Disagreement>,
    /// In what this world is known to differ from the description, or why it does not have the kind, as the kind says it.
    pub known: Option<&'static str>,
    /// What another program says.
    pub second: Option<Second>,
}

/// A second opinion.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Second {
    /// Its words for mapping and filtering.
    pub says: String,
    /// Where they contradict our measurement, in words.
    pub contradictions: Vec<String>,
}

impl World {
    /// The word in tables and JSON.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Sim => "sim",
            Self::Netns => "netns",
            Self::Kernel => "kernel",
        }
    }
}

impl Report {
    /// Is the NAT what it says, as far as anybody can tell?
    #[must_use]
    pub fn agrees(&self) -> bool {
        let undisputed = |second: &Second| second.contradictions.is_empty();
        self.disagreements.is_empty() && self.second.as_ref().is_none_or(undisputed)
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
    Ok(Report {
        kind,
        world: World::Sim,
        disagreements: expected(&side, &stage).disagreements(&measured),
        measured,
        known: None,
        second: None,
    })
}
