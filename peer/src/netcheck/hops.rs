//! Routers at which a packet of short life ended, as they say themselves (ICMP time exceeded): read from the error queue of
//! the socket that sent it. Needs no privileges, and works on Linux only; elsewhere nobody is heard.

#[cfg(target_os = "linux")]
pub(super) use linux::{listen, take};
#[cfg(not(target_os = "linux"))]
pub(super) use nowhere::{listen, take};

#[cfg(target_os = "linux")]
mod linux {
    use std::io::{self, IoSliceMut};
    use std::net::{IpAddr, Ipv4Addr};
    use std::os::fd::AsRawFd;

    use nix::libc;
    use nix::sys::socket::{
        ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt::Ipv4RecvErr,
    };
    use tokio::net::UdpSocket;

    /// ICMP: a packet's time to live ended on its way (RFC 792). Type and code.
    const TIME_EXCEEDED: (u8, u8) = (11, 0);

    /// What comes back of the packet, in bytes: at least its UDP header, of which nothing is needed here.
    const QUOTED_LEN: usize = 64;

    /// Keep what routers say about packets that this socket sends. An IPv6 socket stays deaf.
    pub(crate) fn listen(socket: &UdpSocket) {
        if let Err(error) = setsockopt(socket, Ipv4RecvErr, &true) {
            tracing::debug!(%error, "routers on the way are not heard");
        }
    }

    /// The next thing that was said: the router, if a packet's life ended at it.
    ///
    /// # Errors
    /// Of the system; `WouldBlock` if nothing waits.
    pub(crate) fn take(socket: &UdpSocket) -> io::Result<Option<IpAddr>> {
        let mut quoted = [0; QUOTED_LEN];
        let mut parts = [IoSliceMut::new(&mut quoted)];
        let mut control = nix::cmsg_space!(libc::sock_extended_err, libc::sockaddr_in);
        let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
        let said = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
        let router = said.cmsgs()?.find_map(|message| match message {
            ControlMessageOwned::Ipv4RecvErr(error, Some(router))
                if error.ee_origin == libc::SO_EE_ORIGIN_ICMP
                    && (error.ee_type, error.ee_code) == TIME_EXCEEDED =>
            {
                Some(Ipv4Addr::from(u32::from_be(router.sin_addr.s_addr)).into())
            }
            _ => None,
        });
        Ok(router)
    }
}

#[cfg(not(target_os = "linux"))]
mod nowhere {
    use std::io;
    use std::net::IpAddr;

    use tokio::net::UdpSocket;

    pub(crate) fn listen(_: &UdpSocket) {}

    pub(crate) fn take(_: &UdpSocket) -> io::Result<Option<IpAddr>> {
        Err(io::ErrorKind::WouldBlock.into())
    }
}
