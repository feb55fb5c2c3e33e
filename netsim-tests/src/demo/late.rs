//! News of the introduction that reach a machine later than is to be expected.

use std::time::Duration;

use crate::fabric::{AccessLink, Lab};
use crate::link::LinkSpec;
use crate::netns::LabError;

/// A machine's link while what comes over it is late. What is on its way when that ends stays late, and is overtaken by what comes
/// after it: so only the news of the introduction are late, if it ends soon after these were sent.
pub(super) struct Late<'a> {
    lab: &'a Lab,
    host: &'a str,
    usual: LinkSpec,
    by: Duration,
}

impl<'a> Late<'a> {
    /// From now on what comes to `host` is late by `by`.
    ///
    /// # Errors
    /// [`LabError::UnknownHost`].
    pub(super) fn begin(
        lab: &'a Lab,
        host: &'a str,
        usual: LinkSpec,
        by: Duration,
    ) -> Result<Self, LabError> {
        let late = Self { lab, host, usual, by };
        late.set(LinkSpec {
            delay: usual.delay + by,
            ..usual
        })?;
        Ok(late)
    }

    /// What is sent to it from now on comes in time.
    ///
    /// # Errors
    /// [`LabError::UnknownHost`].
    pub(super) fn end(&self) -> Result<(), LabError> {
        self.set(self.usual)
    }

    fn set(&self, down: LinkSpec) -> Result<(), LabError> {
        if self.by.is_zero() {
            return Ok(());
        }
        let up = self.usual;
        self.lab.set_link(self.host, AccessLink { up, down })
    }
}
