//! When may a batch be tried? When every socket would take it: which one it goes to is known only when it is sent.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use quinn::UdpPoller;

use super::sockets::Sockets;

type Poller = Pin<Box<dyn UdpPoller>>;

/// Ready when all full members are, those among them that came after this was made.
#[derive(Debug)]
pub(crate) struct AllWritable {
    main: Vec<Poller>,
    sockets: Arc<Sockets>,
    /// Promoted sockets that were not ready the last time. Only these are kept: a poller keeps its socket open.
    waiting: Vec<Poller>,
}

impl AllWritable {
    pub(crate) fn new(sockets: Arc<Sockets>) -> Self {
        let main = sockets
            .main()
            .map(|bound| Arc::clone(bound.io()).create_io_poller())
            .collect();
        Self {
            main,
            sockets,
            waiting: Vec::new(),
        }
    }

    fn poll_promoted(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        self.waiting.clear();
        let Some(promoted) = self.sockets.promoted() else {
            return Ok(true);
        };
        for bound in promoted.iter() {
            let mut poller = Arc::clone(bound.io()).create_io_poller();
            match poller.as_mut().poll_writable(cx) {
                Poll::Ready(ready) => ready?,
                Poll::Pending => self.waiting.push(poller),
            }
        }
        Ok(self.waiting.is_empty())
    }
}

impl UdpPoller for AllWritable {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut ready = true;
        for poller in &mut self.main {
            match poller.as_mut().poll_writable(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => ready = false,
            }
        }
        match self.poll_promoted(cx) {
            Ok(true) if ready => Poll::Ready(Ok(())),
            Ok(_) => Poll::Pending,
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}
