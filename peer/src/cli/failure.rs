//! What is said and returned when something did not work: what failed, the likely cause, one thing to try.
//!
//! The exit codes are part of the contract with scripts. Choices that the table leaves open: a token that the server
//! does not take is 6 (it is a credential), a name that belongs to another key is 3 (the remedy is to configure another
//! one), text that cannot be a code is 2, a code that does not fit or was used is 6.

use knothole_proto::server_url::ServerUrlError;
use knothole_proto::wire::{PairEnd, Refusal};

use crate::app::framed::FrameError;
use crate::app::ping::PingError;
use crate::app::transfer::{AbortReason, ReceiveError, Refused, ScanError, SendError};
use crate::book::{BookError, ResolveError};
use crate::identity::IdentityError;
use crate::node::{ConnectError, LookupError, PairError, StartError};
use crate::session::{CODE_NO_SERVICE, StreamError};

/// Exit codes.
pub(super) mod code {
    /// Other failure.
    pub(crate) const OTHER: u8 = 1;
    /// Usage.
    pub(crate) const USAGE: u8 = 2;
    /// Configuration.
    pub(crate) const CONFIG: u8 = 3;
    /// Server unreachable.
    pub(crate) const SERVER: u8 = 4;
    /// Peer unknown or offline.
    pub(crate) const PEER: u8 = 5;
    /// Identity or code refused.
    pub(crate) const IDENTITY: u8 = 6;
    /// No path allowed or possible.
    pub(crate) const PATH: u8 = 7;
    /// Timeout.
    pub(crate) const TIMEOUT: u8 = 8;
    /// Refused by policy or by the other person.
    pub(crate) const REFUSED: u8 = 9;
    /// Partial, resumable.
    pub(crate) const PARTIAL: u8 = 10;
    /// Verification failed.
    pub(crate) const VERIFY: u8 = 11;
    /// A check found a problem.
    pub(crate) const PROBLEM: u8 = 12;
    /// Stopped by a signal (128 + SIGINT).
    pub(crate) const INTERRUPTED: u8 = 130;
}

/// Why a command ends without having done its job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    /// Exit code.
    pub(super) code: u8,
    /// What failed and the likely cause.
    pub(super) message: String,
    /// One thing to try; may be empty.
    pub(super) hint: String,
}

impl Failure {
    pub(super) fn new(code: u8, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            hint: hint.into(),
        }
    }

    /// The person stopped the command before there was a result.
    pub(super) fn interrupted() -> Self {
        Self::new(code::INTERRUPTED, "stopped", "")
    }

    /// `--timeout` passed while waiting for this.
    pub(super) fn timeout(what: &str) -> Self {
        Self::new(
            code::TIMEOUT,
            format!("gave up waiting for {what}"),
            "a longer --timeout",
        )
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        let message = error.to_string();
        let (code, hint) = match &error {
            StartError::Resolve { .. } => (code::SERVER, "check the host name in --server, and the network"),
            StartError::Unreachable { .. } => (
                code::SERVER,
                "check that the server runs and that its UDP port is open",
            ),
            StartError::ServerLost => (code::SERVER, "again in a moment"),
            StartError::WrongServerKey => (
                code::IDENTITY,
                "ask the server's operator for the line to use with --server",
            ),
            StartError::Refused(refusal) => return Self::refusal(*refusal, message),
            StartError::Traces(_) => (code::CONFIG, "choose another folder with --qlog"),
            StartError::Bind(_) => (code::OTHER, "check the limits of this process (ulimit -n)"),
            _ => (code::OTHER, ""),
        };
        Self::new(code, message, hint)
    }
}

impl Failure {
    /// The server said no to this node.
    fn refusal(refusal: Refusal, message: String) -> Self {
        let (code, hint) = match refusal {
            Refusal::TokenMissing => (
                code::IDENTITY,
                "--server with the whole line that the server printed, ?token=... included",
            ),
            Refusal::TokenWrong => (code::IDENTITY, "ask the server's operator for a new line"),
            Refusal::NameTaken => (code::CONFIG, "another --name"),
            Refusal::TooManyNames => (code::REFUSED, "one of the names it holds already, with --name"),
            Refusal::Busy => (code::REFUSED, "again in some minutes"),
            Refusal::Storage => (
                code::SERVER,
                "tell the server's operator that its disk does not take writes",
            ),
            _ => (
                code::OTHER,
                "the same version of knothole on both machines and the server",
            ),
        };
        Self::new(code, message, hint)
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        let message = error.to_string();
        let (code, hint) = match &error {
            ConnectError::NotPaired => (code::PEER, "`knothole pair` on both machines"),
            ConnectError::Unknown => (code::PEER, "`knothole up` there, with the same --server as here"),
            ConnectError::Offline | ConnectError::PeerGone => (
                code::PEER,
                "`knothole up` there; if it runs, `knothole pair` on both machines again",
            ),
            ConnectError::TooFast | ConnectError::TooMany => (code::REFUSED, "again in a minute"),
            ConnectError::Yourself => (code::USAGE, "the name of another machine"),
            ConnectError::ServerLost => (code::SERVER, "again in a moment"),
            ConnectError::Timeout { .. } => (code::TIMEOUT, "a longer --timeout, or `knothole status` there"),
            ConnectError::NoPath(_) => (code::PATH, "--relay auto, or open a UDP port on one side"),
            ConnectError::WrongIdentity => (
                code::IDENTITY,
                "`knothole forget` and `knothole pair` again, if its key was replaced",
            ),
            ConnectError::Handshake(_) => (code::OTHER, "the same version of knothole on both machines"),
            _ => (code::OTHER, ""),
        };
        Self::new(code, message, hint)
    }
}

impl From<LookupError> for Failure {
    fn from(error: LookupError) -> Self {
        let code = match error {
            LookupError::ServerLost => code::SERVER,
            LookupError::Timeout => code::TIMEOUT,
            _ => code::OTHER,
        };
        Self::new(code, error.to_string(), "again in a moment")
    }
}

impl From<PairError> for Failure {
    fn from(error: PairError) -> Self {
        let again = "`knothole pair` on one machine for a new code";
        let (code, hint) = match &error {
            PairError::WrongCode => (code::IDENTITY, again),
            PairError::Ended(PairEnd::Unknown) => (code::IDENTITY, again),
            PairError::Ended(PairEnd::Expired) => (code::TIMEOUT, again),
            PairError::Ended(PairEnd::PeerLeft) => (code::PEER, again),
            PairError::Ended(PairEnd::TooFast) => (code::REFUSED, "again in ten minutes"),
            PairError::Ended(_) => (code::OTHER, again),
            PairError::ServerLost => (code::SERVER, "again in a moment"),
            PairError::OwnCode => (code::USAGE, "type the code on the other machine"),
            _ => (code::OTHER, again),
        };
        Self::new(code, error.to_string(), hint)
    }
}

impl From<IdentityError> for Failure {
    fn from(error: IdentityError) -> Self {
        let hint = match &error {
            IdentityError::Readable { path, .. } => format!("chmod 600 {}", path.display()),
            IdentityError::Replaceable { path, .. } => format!("chmod go-w {}", path.display()),
            IdentityError::Malformed { path } => format!(
                "put back a copy of {}, or delete it and pair anew",
                path.display()
            ),
            _ => "KNOTHOLE_HOME with a directory of your own".to_owned(),
        };
        Self::new(code::CONFIG, error.to_string(), hint)
    }
}

impl From<BookError> for Failure {
    fn from(error: BookError) -> Self {
        let hint = match &error {
            BookError::Readable { path, .. } => format!("chmod 600 {}", path.display()),
            BookError::Malformed { path } => format!(
                "put back a copy of {}, or delete it and pair anew",
                path.display()
            ),
            BookError::Newer { .. } => "the newest version of knothole".to_owned(),
            BookError::Full => "`knothole forget` for machines that are gone".to_owned(),
            BookError::PetnameTaken(name) => format!("another --as, or `knothole forget {name}` first"),
            _ => "KNOTHOLE_HOME with a directory of your own".to_owned(),
        };
        Self::new(code::CONFIG, error.to_string(), hint)
    }
}

impl From<ResolveError> for Failure {
    fn from(error: ResolveError) -> Self {
        let (code, hint) = match &error {
            ResolveError::Unknown => (
                code::PEER,
                "`knothole peers` lists them; `knothole pair` adds one",
            ),
            ResolveError::Ambiguous(..) => (code::USAGE, "one of the two names, or more of the id"),
        };
        Self::new(code, error.to_string(), hint)
    }
}

impl From<ServerUrlError> for Failure {
    fn from(error: ServerUrlError) -> Self {
        let hint = "--server 'knot://HOST:5668/KEY?token=TOKEN', the whole line that the server printed";
        Self::new(code::CONFIG, error.to_string(), hint)
    }
}

impl From<ScanError> for Failure {
    fn from(error: ScanError) -> Self {
        let hint = match &error {
            ScanError::Read { .. } => "check the path and your right to read it",
            ScanError::NoName(_) => "the folders in it, one by one",
            ScanError::Manifest(_) => "other names, or fewer files at a time",
        };
        Self::new(code::USAGE, format!("nothing was sent: {error}"), hint)
    }
}

impl From<StreamError> for Failure {
    fn from(error: StreamError) -> Self {
        let hint = "again; a dead path is replaced within seconds";
        Self::new(code::OTHER, error.to_string(), hint)
    }
}

impl From<FrameError> for Failure {
    fn from(error: FrameError) -> Self {
        if is_no_service(&error) {
            return Self::new(
                code::REFUSED,
                "the other machine does not offer that to this one",
                "`knothole up` there",
            );
        }
        let hint = "again; a dead path is replaced within seconds";
        Self::new(code::OTHER, error.to_string(), hint)
    }
}

/// Was the stream reset because nobody at the other side offers the service?
fn is_no_service(error: &FrameError) -> bool {
    match error {
        FrameError::Read(quinn::ReadError::Reset(code)) => *code == CODE_NO_SERVICE,
        FrameError::Write(quinn::WriteError::Stopped(code)) => *code == CODE_NO_SERVICE,
        _ => false,
    }
}

impl From<PingError> for Failure {
    fn from(error: PingError) -> Self {
        match error {
            PingError::Frame(error) => error.into(),
            PingError::Protocol => Self::new(code::OTHER, error.to_string(), ""),
        }
    }
}

impl From<SendError> for Failure {
    fn from(error: SendError) -> Self {
        let again = "the same command again";
        let (code, hint) = match &error {
            SendError::Declined(Refused::Busy) => (code::REFUSED, "again in a minute"),
            SendError::Declined(Refused::Format) => (code::REFUSED, "the same version on both machines"),
            SendError::Declined(Refused::Inbox) => (code::REFUSED, "check --inbox or -o there"),
            SendError::Declined(_) => (code::REFUSED, "ask the person there"),
            SendError::NoAnswer => (code::TIMEOUT, "ask the person there, and send again"),
            SendError::Aborted {
                why: AbortReason::DiskFull,
                ..
            } => (code::PARTIAL, "free space there, and send again"),
            SendError::Aborted {
                why: AbortReason::Protocol,
                ..
            }
            | SendError::Protocol => (code::OTHER, "the same version of knothole on both machines"),
            SendError::Aborted { .. } | SendError::Interrupted { .. } | SendError::Broken => {
                (code::PARTIAL, again)
            }
            SendError::Frame(_) | SendError::Stream(_) => {
                return match error {
                    SendError::Frame(error) => error.into(),
                    SendError::Stream(error) => error.into(),
                    other => Self::new(code::OTHER, other.to_string(), again),
                };
            }
        };
        Self::new(code, error.to_string(), hint)
    }
}

impl From<ReceiveError> for Failure {
    fn from(error: ReceiveError) -> Self {
        let (code, hint) = match &error {
            ReceiveError::Format(_) => (code::REFUSED, "the same version of knothole on both machines"),
            ReceiveError::Manifest(_) => (code::REFUSED, "ask the sender for other names"),
            ReceiveError::Busy => (code::REFUSED, "wait for it, or another folder with -o"),
            ReceiveError::Inbox(_) => (code::OTHER, "a folder that you may write to, with -o or --inbox"),
            ReceiveError::DiskFull { .. } => (code::PARTIAL, "free space, and have it sent again"),
            ReceiveError::Interrupted { .. }
            | ReceiveError::Stopped { .. }
            | ReceiveError::Replaced
            | ReceiveError::Stalled => (code::PARTIAL, "have it sent again; it goes on where it stopped"),
            ReceiveError::Frame(_) => (code::OTHER, "have it sent again"),
            ReceiveError::Protocol(_) => (code::OTHER, "the same version of knothole on both machines"),
        };
        let message = match &error {
            ReceiveError::DiskFull { stored, left }
            | ReceiveError::Interrupted { stored, left, .. }
            | ReceiveError::Stopped { stored, left } => {
                format!(
                    "{error}: {stored} of {} files are in place, what arrived of others is kept",
                    stored + left
                )
            }
            _ => error.to_string(),
        };
        Self::new(code, message, hint)
    }
}

#[cfg(test)]
mod tests {
    use knothole_proto::path::Why;

    use super::*;

    #[test]
    fn failures_that_people_meet_have_the_code_of_the_contract_and_something_to_try() {
        let unreachable = StartError::Unreachable {
            server: "h:1".to_owned(),
            waited: std::time::Duration::ZERO,
        };
        let full = ReceiveError::DiskFull { stored: 1, left: 2 };
        let aborted = SendError::Aborted {
            why: AbortReason::DiskFull,
            stored: 0,
        };
        for (failure, code) in [
            (Failure::from(unreachable), 4),
            (StartError::WrongServerKey.into(), 6),
            (StartError::Refused(Refusal::TokenWrong).into(), 6),
            (StartError::Refused(Refusal::TokenMissing).into(), 6),
            (StartError::Refused(Refusal::NameTaken).into(), 3),
            (ConnectError::Offline.into(), 5),
            (ConnectError::Unknown.into(), 5),
            (ConnectError::NotPaired.into(), 5),
            (ConnectError::WrongIdentity.into(), 6),
            (ConnectError::NoPath(Why::Silence).into(), 7),
            (ConnectError::Timeout { path: None }.into(), 8),
            (PairError::WrongCode.into(), 6),
            (PairError::Ended(PairEnd::Unknown).into(), 6),
            (PairError::Ended(PairEnd::Expired).into(), 8),
            (ResolveError::Unknown.into(), 5),
            (ServerUrlError::Scheme.into(), 3),
            (SendError::Declined(Refused::Person).into(), 9),
            (aborted.into(), 10),
            (full.into(), 10),
        ] {
            assert_eq!(failure.code, code, "{failure:?}");
            assert!(
                !failure.hint.is_empty() && !failure.message.ends_with('.'),
                "{failure:?}"
            );
        }
    }

    #[test]
    fn a_full_disk_says_what_is_there_and_what_is_not() {
        let failure = Failure::from(ReceiveError::DiskFull { stored: 1, left: 2 });
        assert!(failure.message.contains("1 of 3 files"), "{}", failure.message);
    }
}
