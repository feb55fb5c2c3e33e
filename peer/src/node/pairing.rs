//! Pairing as an application sees it: a code to show, then the other machine's key and what the two share.

use std::time::Duration;

use knothole_proto::connector::{PairEvent, PairFailure};
use knothole_proto::id::{Name, PairSecret, PeerId};
use knothole_proto::pairing::Code;
use tokio::sync::mpsc;

use super::config::Peer;
use super::error::PairError;
use crate::driver::Request;

/// Pairing steps that may wait for the application; there are at most three in one pairing.
const STEPS_MAX: usize = 8;

/// A pairing that waits for the other machine. Dropping it gives the code up.
#[derive(Debug)]
pub struct Pairing {
    code: Code,
    ttl: Duration,
    meeting: Meeting,
}

/// Two machines that know each other now. Put it into the address book and hand the book to [`crate::Node::set_peers`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paired {
    /// The other machine's key.
    pub peer: PeerId,
    /// The name it calls itself; chosen by the other side.
    pub name: Option<Name>,
    /// What the two share from now on.
    pub secret: PairSecret,
}

impl Paired {
    /// The entry for [`crate::NodeConfig::peers`].
    pub fn to_peer(&self) -> Peer {
        Peer {
            id: self.peer,
            secret: self.secret.clone(),
        }
    }
}

impl Pairing {
    /// The code for the other machine's person.
    pub fn code(&self) -> &Code {
        &self.code
    }

    /// How long the code waits.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Wait for the other machine.
    ///
    /// # Errors
    /// Any [`PairError`].
    pub async fn finish(mut self) -> Result<Paired, PairError> {
        self.meeting.finish().await
    }

    pub(crate) async fn open(requests: &mpsc::Sender<Request>) -> Result<Self, PairError> {
        let mut meeting = Meeting::begin(requests, None).await?;
        match meeting.next().await? {
            PairEvent::Code { code, ttl } => Ok(Self { code, ttl, meeting }),
            _ => Err(PairError::Stopped),
        }
    }

    pub(crate) async fn join(requests: &mpsc::Sender<Request>, code: Code) -> Result<Paired, PairError> {
        Meeting::begin(requests, Some(code)).await?.finish().await
    }
}

/// The channel to the driver for one pairing; the driver notices when it is dropped and leaves the nameplate.
#[derive(Debug)]
struct Meeting {
    steps: mpsc::Receiver<Result<PairEvent, PairError>>,
}

impl Meeting {
    async fn begin(requests: &mpsc::Sender<Request>, code: Option<Code>) -> Result<Self, PairError> {
        let (sender, steps) = mpsc::channel(STEPS_MAX);
        let request = Request::Pair { code, steps: sender };
        requests.send(request).await.map_err(|_| PairError::Stopped)?;
        Ok(Self { steps })
    }

    async fn next(&mut self) -> Result<PairEvent, PairError> {
        match self.steps.recv().await.ok_or(PairError::Stopped)?? {
            PairEvent::Failed(PairFailure::WrongCode) => Err(PairError::WrongCode),
            PairEvent::Failed(PairFailure::Ended(end)) => Err(PairError::Ended(end)),
            PairEvent::Failed(PairFailure::ServerLost) => Err(PairError::ServerLost),
            PairEvent::Failed(PairFailure::Nameplate(_)) => Err(PairError::OwnCode),
            step => Ok(step),
        }
    }

    async fn finish(&mut self) -> Result<Paired, PairError> {
        loop {
            if let PairEvent::Paired { peer, name, secret } = self.next().await? {
                return Ok(Paired { peer, name, secret });
            }
        }
    }
}
