//! The task that owns a running node: it feeds the connector and carries out what the connector wants.

mod link;
mod request;

pub(crate) use link::LinkUse;
pub(crate) use request::{Request, connect};

use crate::node::{Node, NodeConfig, StartError};

pub(crate) async fn start(config: NodeConfig) -> Result<Node, StartError> {
    let _ = config;
    Err(StartError::Crypto)
}
