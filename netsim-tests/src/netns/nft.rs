//! Loading packet filter rules inside a namespace: the one thing for which a program is needed (`nft`, of the package
//! nftables). What the rules say is the caller's business.

use std::env;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::error::LabError;
use super::namespace::Namespace;

/// The program.
const NFT: &str = "nft";

/// Where distributions put it that keep such programs out of an ordinary user's `PATH`.
const SYSTEM_FOLDERS: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/local/sbin"];

/// What every ruleset that plays a NAT needs of the kernel: translation both ways, chosen by maps that packets fill.
const TRIAL: &str = "table ip lab_trial {
  map known { type ipv4_addr . inet_service : ipv4_addr . inet_service; flags dynamic,timeout; timeout 1s; size 16; }
  chain before { type nat hook prerouting priority dstnat; policy accept;
    meta l4proto udp dnat ip to ip daddr . udp dport map @known
  }
  chain after { type nat hook postrouting priority srcnat; policy accept;
    meta l4proto udp snat ip to ip saddr . udp sport map @known
  }
  chain record { type filter hook postrouting priority srcnat + 50; policy accept;
    meta l4proto udp update @known { ct original ip saddr . ct original proto-src : ct reply ip daddr . ct reply proto-dst }
  }
}
";

/// Carries out a script of `nft` in the namespace, all of it or nothing.
///
/// # Errors
///
/// [`LabError::NoNft`] without the program, [`LabError::Rules`] with its words when it refuses.
pub(crate) fn load_rules(namespace: &Namespace, script: &str) -> Result<(), LabError> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(SYSTEM_FOLDERS.map(PathBuf::from));
    let program = find(folders).ok_or(LabError::NoNft)?;
    let mut command = Command::new(program);
    command
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = namespace.spawn(command)?;
    let refused = |said: String| LabError::Rules {
        at: namespace.name().to_owned(),
        said,
    };
    // The program reads all of its input before it says anything, so neither side waits for the other.
    let written = child
        .stdin
        .take()
        .map_or(Ok(()), |mut input| input.write_all(script.as_bytes()));
    let output = child
        .wait_with_output()
        .map_err(|error| refused(error.to_string()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(refused(said));
    }
    written.map_err(|error| refused(error.to_string()))
}

/// Can rules that play a NAT be loaded in this namespace?
pub(super) fn try_rules(namespace: &Namespace) -> Result<(), LabError> {
    load_rules(namespace, TRIAL)
}

fn find(folders: impl IntoIterator<Item = PathBuf>) -> Option<PathBuf> {
    let mut files = folders.into_iter().map(|folder| folder.join(NFT));
    files.find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_the_first_one_in_the_folders() {
        let folder = tempfile::tempdir().unwrap();
        let [empty, full] = ["empty", "full"].map(|name| folder.path().join(name));
        for folder in [&empty, &full] {
            std::fs::create_dir(folder).unwrap();
        }
        std::fs::write(full.join(NFT), "").unwrap();
        assert_eq!(find([empty.clone(), full.clone()]), Some(full.join(NFT)));
        assert_eq!(find([empty]), None);
        assert!(
            LabError::NoNft
                .to_string()
                .contains("install the package nftables")
        );
    }
}
