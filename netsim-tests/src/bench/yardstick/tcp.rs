//! One TCP connection of the kernel, with plain reads and writes and the kernel's default windows.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use super::{BLOCK, Received, SILENCE, Tally};

/// Receives one connection to its end; says when somebody may connect.
///
/// # Errors
/// Of the sockets, and that nobody sent anything.
pub fn receive(listen: SocketAddr, ready: &mut dyn FnMut()) -> io::Result<Received> {
    let listener = TcpListener::bind(listen)?;
    ready();
    let (mut stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(SILENCE))?;
    let mut tally = Tally::default();
    let mut block = vec![0; BLOCK];
    loop {
        match stream.read(&mut block) {
            Ok(0) => break,
            Ok(length) => tally.count(length, Instant::now()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(tally.end())
}

/// Sends for a time.
///
/// # Errors
/// Of the socket.
pub fn send(to: SocketAddr, time: Duration) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, SILENCE)?;
    stream.set_write_timeout(Some(SILENCE))?;
    let block = vec![7; BLOCK];
    let start = Instant::now();
    while start.elapsed() < time {
        stream.write_all(&block)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn whole_blocks_arrive_in_about_the_time_that_was_asked_for() {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let at = free.local_addr().unwrap();
        drop(free);
        let (ready, is_ready) = channel();
        let receiver = std::thread::spawn(move || receive(at, &mut || ready.send(()).unwrap()));
        is_ready.recv().unwrap();
        let time = Duration::from_millis(200);
        send(at, time).unwrap();
        let received = receiver.join().unwrap().unwrap();
        assert!(
            received.bytes > 0 && received.bytes % BLOCK as u64 == 0,
            "{received:?}"
        );
        assert_eq!(received.bins.iter().sum::<u64>(), received.bytes);
        assert!(received.seconds > 0.0, "{received:?}");
    }
}
