//! A folder as `tar` sends it, through one plain QUIC stream: `tar | stream | tar`. What a person without a transfer program
//! would build, at the speed of the stream.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use bytes::Bytes;
use knothole::session::reference::{Reference, ReferenceError};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::quic::{OVER, QuicError, accept, broke, runtime};
use super::{BLOCK, Received, Tally};

/// Blocks between `tar` and the stream: one is worked on by each of the two while one waits.
const BLOCKS: usize = 3;

/// Unpacks one connection's first stream into `dir`; says when somebody may connect.
///
/// # Errors
/// [`QuicError`].
pub fn receive(
    end: &Reference,
    listen: SocketAddr,
    dir: &Path,
    ready: &mut dyn FnMut(),
) -> Result<Received, QuicError> {
    let mut tar = start(&["-xf", "-", "-C"], dir, &[])?;
    let received = runtime()?.block_on(async {
        let endpoint = end.listen(listen)?;
        ready();
        let (connection, mut stream) = accept(&endpoint).await?;
        let (sender, blocks) = channel(BLOCKS);
        let input = tar.stdin.take();
        let writer = tokio::task::spawn_blocking(move || drain(blocks, input));
        let mut tally = Tally::default();
        while let Some(chunk) = stream.read_chunk(BLOCK, true).await.map_err(broke)? {
            tally.count(chunk.bytes.len(), Instant::now());
            if sender.send(chunk.bytes).await.is_err() {
                break;
            }
        }
        drop(sender);
        writer.await.map_err(broke)?.map_err(QuicError::Tar)?;
        finished(&mut tar)?;
        // The sender waits for this: now the files are there.
        connection.close(OVER, b"");
        endpoint.wait_idle().await;
        Ok::<_, QuicError>(tally.end())
    });
    received.inspect_err(|_| {
        let _ = tar.kill();
        let _ = tar.wait();
    })
}

/// Packs `dir` and sends it; ends when the other side has it all.
///
/// # Errors
/// [`QuicError`].
pub fn send(end: &Reference, to: SocketAddr, dir: &Path) -> Result<(), QuicError> {
    let mut tar = start(&["-cf", "-", "-C"], dir, &["."])?;
    let sent = runtime()?.block_on(async {
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let (endpoint, connection) = end.dial(any, to).await?;
        let mut stream = connection.open_uni().await.map_err(ReferenceError::from)?;
        let (sender, mut blocks) = channel(BLOCKS);
        let output = tar.stdout.take();
        let reader = tokio::task::spawn_blocking(move || fill(&sender, output));
        while let Some(block) = blocks.recv().await {
            stream.write_chunk(block).await.map_err(broke)?;
        }
        reader.await.map_err(broke)?.map_err(QuicError::Tar)?;
        finished(&mut tar)?;
        stream.finish().map_err(broke)?;
        connection.closed().await;
        endpoint.wait_idle().await;
        Ok::<_, QuicError>(())
    });
    sent.inspect_err(|_| {
        let _ = tar.kill();
        let _ = tar.wait();
    })
}

fn start(before: &[&str], dir: &Path, after: &[&str]) -> Result<Child, QuicError> {
    Command::new("tar")
        .args(before)
        .arg(dir)
        .args(after)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(QuicError::Tar)
}

fn finished(tar: &mut Child) -> Result<(), QuicError> {
    let status = tar.wait().map_err(QuicError::Tar)?;
    if status.success() {
        Ok(())
    } else {
        Err(QuicError::Tar(io::Error::other(format!(
            "tar ended with {status}"
        ))))
    }
}

/// From `tar` to the stream.
fn fill(to: &Sender<Bytes>, from: Option<impl Read>) -> io::Result<()> {
    let mut from = from.ok_or(io::ErrorKind::BrokenPipe)?;
    loop {
        let mut block = vec![0; BLOCK];
        let length = from.read(&mut block)?;
        block.truncate(length);
        if length == 0 || to.blocking_send(block.into()).is_err() {
            return Ok(());
        }
    }
}

/// From the stream to `tar`, which ends when its input is closed.
fn drain(mut from: Receiver<Bytes>, to: Option<impl Write>) -> io::Result<()> {
    let mut to = to.ok_or(io::ErrorKind::BrokenPipe)?;
    while let Some(block) = from.blocking_recv() {
        to.write_all(&block)?;
    }
    to.flush()
}
