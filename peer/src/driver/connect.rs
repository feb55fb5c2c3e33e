//! Connecting to a peer, as it looks from the task of whoever asked: get a link, then shake hands over it.

use std::time::Duration;

use knothole_proto::id::PeerId;
use knothole_proto::path::Path;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};

use super::link::LinkUse;
use super::request::{Granted, Request};
use crate::node::{ConnectError, ConnectOptions};
use crate::session::{Connection, DialError, PathState, Quic};

/// How long a link that other connections use may leave a handshake unanswered before the server is asked for another:
/// the peer may have restarted. Two lost packets on a path of 300 ms fit in.
const USED_LINK_PATIENCE: Duration = Duration::from_secs(3);

/// A connection to this peer before the options' time is over.
pub(crate) async fn connect(
    requests: &mpsc::Sender<Request>,
    quic: &Quic,
    peer: PeerId,
    options: ConnectOptions,
) -> Result<Connection, ConnectError> {
    let deadline = Instant::now() + options.timeout;
    let granted = ask(requests, peer, options, false, deadline).await?;
    if !granted.used {
        return shake_hands(quic, granted.link, deadline).await;
    }
    let soon = deadline.min(Instant::now() + USED_LINK_PATIENCE);
    match shake_hands(quic, granted.link, soon).await {
        Err(ConnectError::Timeout { .. } | ConnectError::NoPath(_) | ConnectError::PeerGone) => {}
        other => return other,
    }
    let granted = ask(requests, peer, options, true, deadline).await?;
    shake_hands(quic, granted.link, deadline).await
}

async fn ask(
    requests: &mpsc::Sender<Request>,
    peer: PeerId,
    options: ConnectOptions,
    afresh: bool,
    deadline: Instant,
) -> Result<Granted, ConnectError> {
    let (reply, answer) = oneshot::channel();
    let request = Request::Connect {
        peer,
        policy: options.policy,
        afresh,
        reply,
    };
    requests.send(request).await.map_err(|_| ConnectError::Stopped)?;
    match timeout_at(deadline, answer).await {
        Ok(answer) => answer.map_err(|_| ConnectError::Stopped)?,
        Err(_) => Err(ConnectError::Timeout { path: None }),
    }
}

/// QUIC's handshake over a link, as soon as there is a path. The errors tell what was missing when time ran out.
async fn shake_hands(quic: &Quic, link: LinkUse, deadline: Instant) -> Result<Connection, ConnectError> {
    let (mut path, mut down) = (link.path(), link.down());
    let dial = async {
        wait_for_path(&mut path).await;
        let transport = link.transport();
        quic.dial_peer(transport.virtual_addr(), link.peer(), transport.epoch())
            .await
    };
    let dialled = tokio::select! {
        dialled = timeout_at(deadline, dial) => dialled,
        _ = down.wait_for(|down| *down) => return Err(ConnectError::PeerGone),
    };
    match dialled {
        Ok(Ok(connection)) => Ok(Connection::new(connection, link)),
        Ok(Err(DialError::WrongKey)) => Err(ConnectError::WrongIdentity),
        Ok(Err(DialError::Connection(quinn::ConnectionError::TimedOut))) | Err(_) => {
            let path = link.path().borrow().path;
            Err(match path {
                Path::None(why) => ConnectError::NoPath(why),
                path => ConnectError::Timeout { path: Some(path) },
            })
        }
        Ok(Err(DialError::Connection(error))) => Err(ConnectError::Handshake(error)),
        Ok(Err(DialError::Config)) => Err(ConnectError::Stopped),
    }
}

async fn wait_for_path(path: &mut watch::Receiver<PathState>) {
    let there = path.wait_for(|state| !matches!(state.path, Path::None(_))).await;
    if there.is_err() {
        // The driver is gone; the caller's deadline or the link's end comes first.
        std::future::pending::<()>().await;
    }
}
