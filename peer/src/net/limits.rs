//! How many sockets this process may have open at a time.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Extra sockets that are of use at most: the plan with the most of them takes 512, and tells others apart with a few.
const SOCKETS_MAX: u64 = 600;

/// Descriptors that are left to everything else: connections, files, the terminal, what an application has open.
const KEPT: u64 = 200;

/// The limit of descriptors that is asked for: a few nodes in one process with all their sockets. Every system grants it whose
/// hard limit does.
const LIMIT_WANTED: u64 = 4096;

/// How many extra sockets a node may have open. Raises the process's own limit of descriptors as far as is needed and the
/// system allows.
pub(crate) fn sockets_max() -> u16 {
    let before = getrlimit(Resource::Nofile);
    let wanted = LIMIT_WANTED.min(before.maximum.unwrap_or(u64::MAX));
    if before.current.is_some_and(|now| now < wanted) {
        let raised = Rlimit {
            current: Some(wanted),
            maximum: before.maximum,
        };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::debug!(%error, "the limit of open files stays as it is");
        }
    }
    within(getrlimit(Resource::Nofile).current)
}

fn within(limit: Option<u64>) -> u16 {
    let room = limit.unwrap_or(u64::MAX).saturating_sub(KEPT);
    u16::try_from(room.min(SOCKETS_MAX)).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_low_limit_leaves_few_sockets_and_none_leaves_as_many_as_are_of_use() {
        for (limit, sockets) in [
            (Some(64), 0),
            (Some(256), 56),
            (Some(1024), 600),
            (Some(1 << 20), 600),
            (None, 600),
        ] {
            assert_eq!(within(limit), sockets, "{limit:?}");
        }
    }

    #[test]
    fn the_limit_of_this_process_is_raised_and_never_lowered() {
        let before = getrlimit(Resource::Nofile);
        let sockets = sockets_max();
        let after = getrlimit(Resource::Nofile);
        assert_eq!(after.maximum, before.maximum);
        assert!(after.current.unwrap_or(u64::MAX) >= before.current.unwrap_or(u64::MAX));
        assert_eq!(sockets, within(after.current));
    }
}
