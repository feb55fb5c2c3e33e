//! The lab as an ordinary user: without the test harness, because a process may enter a user namespace only before its
//! first thread. Run by root it shows that nothing stands in the way of root.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "test code")]

#[cfg(target_os = "linux")]
fn main() {
    use std::net::Ipv4Addr;

    use knothole_netsim::fabric::{HostSpec, Lab, NatEngine};
    use knothole_netsim::nat::NatSpec;
    use knothole_netsim::netns::{become_lab_root, probe};

    let user = std::fs::read_to_string("/proc/self/uid_map").unwrap();
    let ready = become_lab_root().and_then(|()| probe());
    let probed = match ready {
        Ok(probed) => probed,
        Err(error) => {
            assert!(
                std::env::var("CI").as_deref() != Ok("true"),
                "the lab must run here: {error}"
            );
            println!("skipped: {error}");
            return;
        }
    };
    let entered = std::fs::read_to_string("/proc/self/uid_map").unwrap() != user;
    println!(
        "user namespace entered: {entered}, super-packets whole: {}",
        probed.offload
    );
    assert!(
        matches!(become_lab_root(), Ok(())),
        "a second call finds everything in place"
    );

    let (server, lan) = (Ipv4Addr::new(5, 5, 5, 1), Ipv4Addr::new(192, 168, 1, 10));
    let mut engines = vec![NatEngine::Model];
    match probed.kernel_nat {
        Ok(()) => engines.push(NatEngine::Kernel),
        Err(reason) => println!("without the kernel's NATs: {reason}"),
    }
    for engine in engines {
        let lab = Lab::builder()
            .host("srv", HostSpec::public([server]))
            .host("a", HostSpec::behind(vec![NatSpec::default()], lan))
            .engine(engine)
            .build()
            .unwrap();
        check(&lab, server, lan);
        lab.reboot_nat("a").unwrap();
        check(&lab, server, lan);
    }
}

/// Does a packet of host a arrive from the address of its NAT?
#[cfg(target_os = "linux")]
fn check(lab: &knothole_netsim::fabric::Lab, server: std::net::Ipv4Addr, lan: std::net::Ipv4Addr) {
    use std::net::UdpSocket;
    use std::time::Duration;

    let receiver = lab
        .host("srv")
        .unwrap()
        .run(|| UdpSocket::bind((server, 3478)).unwrap())
        .unwrap();
    receiver.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let send = || {
        UdpSocket::bind((lan, 5000))
            .unwrap()
            .send_to(b"hello", (server, 3478))
            .unwrap()
    };
    lab.host("a").unwrap().run(send).unwrap();
    let (_, from) = receiver.recv_from(&mut [0; 16]).unwrap();
    assert_eq!(from.ip(), lab.host("a").unwrap().public_ip());
}

#[cfg(not(target_os = "linux"))]
fn main() {}
