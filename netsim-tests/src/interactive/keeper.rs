//! [`keep`]: the process that is a lab for as long as it lives.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::error::InteractiveError;
use super::state::{LabState, NodeState, StateDir, failed, started};
use crate::fabric::Lab;
use crate::nat::NatKind;
use crate::netns::{become_lab_root, probe};
use crate::role::Stop;
use crate::scenario::{NodeIndex, NodeRole, RESOLV, Scenario, Troupe, begin_captures, build_lab, hosts_file};

/// How often the keeper looks whether it is to end, and takes in what its programs say.
const LOOK: Duration = Duration::from_millis(100);

/// Most nodes that get to know each other without being told to: each pair takes a second or two.
const ALL_PAIRS_MAX: usize = 4;

/// A scenario of two hosts behind NATs of these kinds and a public one, `web`, with 10 ms between each and the core.
#[must_use]
pub fn two_behind(a: &NatKind, b: &NatKind) -> String {
    format!(
        "title = \"{} and {}\"\n\n[node.web]\naddress = \"5.5.5.1\"\n\n[node.a]\nkind = \"{}\"\nlink = {{ delay = \"10ms\" }}\n\n\
         [node.b]\nkind = \"{}\"\nlink = {{ delay = \"10ms\" }}\n",
        a.name, b.name, a.name, b.name
    )
}

/// Builds the lab that `scenario.toml` in the lab's folder describes, starts the programs that it names, tells `ready`,
/// and keeps it until what `watch` gives is raised. If nobody hears `ready` (it says no), there is no lab. The caller has a
/// single thread; `watch` may start others.
///
/// # Errors
///
/// Whatever stood in the way; nothing is left then but the folder.
pub fn keep(
    labs: &StateDir,
    name: &str,
    file: &str,
    executable: &Path,
    watch: impl FnOnce() -> Stop,
    ready: impl FnOnce(&LabState) -> bool,
) -> Result<(), InteractiveError> {
    let folder = labs.lab(name);
    let own_user = user_namespace();
    become_lab_root()?;
    let rootless = user_namespace() != own_user;
    // From here on there are threads.
    let stop = watch();
    let mut scenario = Scenario::read(&folder.join("scenario.toml"))?;
    let mut state = LabState {
        name: name.to_owned(),
        title: scenario.title.clone(),
        file: file.to_owned(),
        pid: std::process::id(),
        started: started(std::process::id()).unwrap_or_default(),
        since_unix_s: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs(),
        rootless,
        ready: false,
        nodes: Vec::new(),
    };
    state.write(&folder)?;
    probe()?;
    introduce_all(&mut scenario);
    let lab = build_lab(&scenario, scenario.seed)?;
    begin_captures(&scenario, &lab, &folder)?;
    furnish(&folder, &scenario, &lab, executable)?;
    let mut troupe = Troupe::start(&scenario, &lab, executable, &folder, &stop)?;
    state.nodes = (0..scenario.nodes.len())
        .map(|node| node_state(&scenario, &lab, node))
        .collect::<Result<_, _>>()?;
    state.ready = true;
    state.write(&folder)?;
    if ready(&state) {
        while stop.check().is_ok() {
            std::thread::park_timeout(LOOK);
            troupe.attend(&lab)?;
        }
    }
    drop(troupe);
    drop(lab);
    fs::remove_dir_all(&folder).map_err(|error| failed(&folder, error))
}

/// A few nodes get to know each other, if the file does not say who is to.
fn introduce_all(scenario: &mut Scenario) {
    let nodes = scenario.nodes.iter().enumerate();
    let nodes: Vec<NodeIndex> = nodes
        .filter(|(_, node)| node.role == NodeRole::Node)
        .map(|(index, _)| index)
        .collect();
    if scenario.pairs.is_empty() && nodes.len() <= ALL_PAIRS_MAX {
        let later = |one: &NodeIndex| {
            nodes
                .iter()
                .filter(move |two| *two > one)
                .map(|two| (*one, *two))
                .collect()
        };
        scenario.pairs = nodes.iter().flat_map(|one| -> Vec<_> { later(one) }).collect();
    }
}

/// Files that programs on the nodes find: names, and the project's own programs.
fn furnish(folder: &Path, scenario: &Scenario, lab: &Lab, executable: &Path) -> Result<(), InteractiveError> {
    let write = |path: &Path, text: &str| fs::write(path, text).map_err(|error| failed(path, error));
    for (index, node) in scenario.nodes.iter().enumerate() {
        write(
            &folder.join(format!("{}.hosts", node.name)),
            &hosts_file(scenario, lab, index),
        )?;
        let home = folder.join(format!("{}.home", node.name));
        fs::create_dir_all(&home).map_err(|error| failed(&home, error))?;
    }
    write(&folder.join("resolv.conf"), RESOLV)?;
    let bin = folder.join("bin");
    fs::create_dir_all(&bin).map_err(|error| failed(&bin, error))?;
    let quoted = executable.to_string_lossy().replace('\'', "'\\''");
    for program in ["knothole", "knothole-rendezvous"] {
        let file = bin.join(program);
        write(
            &file,
            &format!("#!/bin/sh\nexec '{quoted}' role {program} \"$@\"\n"),
        )?;
        let mode = fs::Permissions::from_mode(0o700);
        fs::set_permissions(&file, mode).map_err(|error| failed(&file, error))?;
    }
    Ok(())
}

fn node_state(scenario: &Scenario, lab: &Lab, index: NodeIndex) -> Result<NodeState, InteractiveError> {
    let node = &scenario.nodes[index];
    let host = lab.host(&node.name)?;
    let fd = host.namespace().fd();
    let inode = rustix::fs::fstat(fd).map(|stat| stat.st_ino);
    let inode = inode.map_err(|error| failed(Path::new(&node.name), error.into()))?;
    let way = scenario.way_out(node.uplinks[0]);
    let behind: Vec<String> = way
        .iter()
        .map(|nat| {
            let nat = &scenario.nats[*nat];
            if nat.name.contains('.') {
                nat.recipe.words()
            } else {
                format!("{} ({})", nat.name, nat.recipe.words())
            }
        })
        .collect();
    Ok(NodeState {
        name: node.name.clone(),
        role: match node.role {
            NodeRole::Host => "host",
            NodeRole::Server => "server",
            NodeRole::Node => "node",
        }
        .to_owned(),
        behind: behind.join(", behind "),
        addresses: host.addresses().to_vec(),
        public: Some(host.public_ip()).filter(|ip| ip.is_ipv4()),
        fd: fd.as_raw_fd(),
        inode,
    })
}

/// Which user namespace this process is in.
fn user_namespace() -> Option<std::path::PathBuf> {
    fs::read_link("/proc/self/ns/user").ok()
}
