//! Attempts that go on where others stopped, one case at a time.
