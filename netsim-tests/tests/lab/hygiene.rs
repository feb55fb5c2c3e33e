//! Labs beside each other, and what they leave behind: nothing.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use knothole_netsim::fabric::{HostSpec, Lab, NatEngine};
use knothole_netsim::netns;

use crate::support::*;

fn one_lab() -> Lab {
    with_server()
        .host("a", HostSpec::behind(chain("port-restricted"), LAN_A))
        .build()
        .unwrap()
}

/// The same with a NAT of the kernel where it has any: a namespace without a host in it, and a thread of its own.
fn one_lab_of_any_kind() -> Lab {
    let engine = match netns::probe().unwrap().kernel_nat {
        Ok(()) => NatEngine::Kernel,
        Err(_) => NatEngine::Model,
    };
    with_server()
        .engine(engine)
        .host("a", HostSpec::behind(chain("symmetric-counter-busy"), LAN_A))
        .build()
        .unwrap()
}

#[test]
fn labs_with_the_same_names_and_addresses_run_beside_each_other() {
    if !possible() {
        return;
    }
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let (lab, other) = (one_lab(), one_lab());
                let servers = [&lab, &other].map(|lab| socket(lab, "srv", SERVERS[0], 3478));
                let client = any(&lab, "a");
                for _ in 0..200 {
                    assert!(seen(&client, &servers[0], (SERVERS[0], 3478).into()).is_some());
                }
                assert_eq!(
                    other.stats().hosts["srv"].received_packets,
                    0,
                    "packets stay in their lab"
                );
            });
        }
    });
}

#[test]
fn programs_run_inside_and_end_with_the_lab() {
    if !possible() {
        return;
    }
    let lab = one_lab();
    let mut show = Command::new("cat");
    show.arg("/proc/net/dev").stdout(Stdio::piped());
    let output = lab
        .host("a")
        .unwrap()
        .spawn(show)
        .unwrap()
        .wait_with_output()
        .unwrap();
    let devices = String::from_utf8(output.stdout).unwrap();
    assert!(devices.contains("eth0:"), "{devices}");
    let mut sleep = Command::new("sleep");
    sleep.arg("600");
    let mut child = lab.host("a").unwrap().spawn(sleep).unwrap();
    assert!(child.try_wait().unwrap().is_none());
    drop(lab);
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut end = None;
    while end.is_none() && Instant::now() < deadline {
        end = child.try_wait().unwrap();
    }
    if end.is_none() {
        child.kill().unwrap();
    }
    assert!(
        end.is_some_and(|status| !status.success()),
        "the program outlived its lab"
    );
    let missing = one_lab()
        .host("a")
        .unwrap()
        .spawn(Command::new("/no/such/program"));
    assert!(missing.is_err());
}

#[test]
fn the_machine_itself_sees_nothing_of_a_lab() {
    if !possible() {
        return;
    }
    let devices = || fs::read_to_string("/proc/net/dev").unwrap().lines().count();
    let before = devices();
    let lab = one_lab();
    assert_eq!(devices(), before);
    drop(lab);
    assert_eq!(devices(), before);
}

/// The part of a process that is to be killed: a lab with a program in it, and nobody to clean up.
#[test]
#[ignore = "started by the test below in a process of its own"]
fn victim() {
    let lab = one_lab_of_any_kind();
    let mut sleep = Command::new("sleep");
    sleep.arg("600");
    let mut child = lab.host("a").unwrap().spawn(sleep).unwrap();
    let inode = lab
        .host("a")
        .unwrap()
        .run(|| fs::read_link("/proc/thread-self/ns/net").unwrap())
        .unwrap();
    println!("victim {} {}", child.id(), inode.display());
    child.wait().unwrap();
}

#[test]
fn a_killed_lab_leaves_no_process_and_no_namespace() {
    if !possible() {
        return;
    }
    let mut process = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "hygiene::victim", "--ignored", "--nocapture"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(process.stdout.take().unwrap());
    let line = output
        .lines()
        .map(Result::unwrap)
        .find(|line| line.contains("victim "))
        .unwrap();
    let words: Vec<&str> = line[line.find("victim ").unwrap()..].split(' ').collect();
    let (child, inode) = (words[1].to_owned(), words[2].to_owned());
    assert!(is_running(&child));
    assert!(in_use(&inode));
    process.kill().unwrap();
    process.wait().unwrap();
    wait_for(|| !is_running(&child) && !in_use(&inode));
    assert!(!is_running(&child), "the program outlived its lab");
    assert!(!in_use(&inode), "someone still holds the namespace");
}

#[test]
fn two_hundred_labs_in_a_row_leave_nothing() {
    if !possible() {
        return;
    }
    // Other tests of this process come and go meanwhile; a process of its own sees only its own.
    let process = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "hygiene::rows_of_labs", "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&process.stdout);
    assert!(process.status.success(), "{said}");
    println!("{}", said.lines().find(|line| line.contains("200 labs")).unwrap());
}

/// The part that is run alone.
#[test]
#[ignore = "started by the test above in a process of its own"]
fn rows_of_labs() {
    let held = || {
        let count = |what: &str| fs::read_dir(format!("/proc/self/{what}")).unwrap().count();
        let mut names: Vec<_> = fs::read_dir("/proc/self/fd")
            .unwrap()
            .flatten()
            .filter_map(|entry| fs::read_link(entry.path()).ok())
            .filter(|name| name.to_string_lossy().starts_with("net:"))
            .collect();
        names.sort();
        (count("fd"), count("task"), names)
    };
    // A thread that was joined is still listed until the kernel has got around to its end; a busy machine takes milliseconds.
    let (_, alone, _) = held();
    // The first lab makes what the process keeps: nothing, or things that are made once.
    one_lab();
    wait_for(|| held().1 <= alone);
    let (before, start) = (held(), Instant::now());
    for _ in 0..200 {
        let lab = one_lab();
        let mut child = lab.host("a").unwrap().spawn(Command::new("true")).unwrap();
        assert!(child.wait().unwrap().success());
    }
    println!("200 labs in {:.1} s", start.elapsed().as_secs_f64());
    wait_for(|| held() == before);
    assert_eq!(held(), before, "(files, threads, namespaces)");
}

/// Give the kernel five seconds for what it does when it gets around to it.
fn wait_for(done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !done() && Instant::now() < deadline {
        std::thread::yield_now();
    }
}

/// Alive, and not merely waiting to be reaped.
fn is_running(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')')
        .is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

/// Is any process in this namespace?
fn in_use(namespace: &str) -> bool {
    let links = fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .map(|entry| entry.path().join("task"));
    let threads = links
        .filter_map(|tasks| fs::read_dir(tasks).ok())
        .flatten()
        .flatten();
    let mut names = threads.filter_map(|thread| fs::read_link(thread.path().join("ns/net")).ok());
    names.any(|name| name.as_os_str() == namespace)
}
