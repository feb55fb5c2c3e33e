//! Traces of QUIC connections in qlog (draft-ietf-quic-qlog-main-schema), one file for each connection, for tools such as
//! qvis. A trace holds times, sizes, losses and congestion windows; neither payload nor keys.

use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use knothole_proto::id::PeerId;
use quinn::{QlogConfig, QlogStream};

/// Bytes of a trace that wait to be written: some hundred events. Less would cost a system call for every few packets,
/// more would be lost when the process is killed.
const BUFFER: usize = 64 * 1024;

/// Characters of a peer id in a file name.
const SHORT_ID: usize = 8;

/// Where traces go, or that there are none. Clones share the numbers of the files.
#[derive(Clone, Debug, Default)]
pub(crate) struct Traces(Option<Arc<Folder>>);

#[derive(Debug)]
struct Folder {
    path: PathBuf,
    next: AtomicU64,
}

impl Traces {
    /// Traces into this folder, which is made if it is missing; `None`: no traces.
    ///
    /// # Errors
    /// What the file system says about the folder.
    pub(crate) fn into(folder: Option<&Path>) -> io::Result<Self> {
        let Some(path) = folder else {
            return Ok(Self(None));
        };
        fs::create_dir_all(path)?;
        Ok(Self(Some(Arc::new(Folder {
            path: path.to_owned(),
            next: AtomicU64::new(0),
        }))))
    }

    /// The trace of a new connection with the holder of this key; `what` says which kind it is, in one word. A file that
    /// cannot be made is told in the log and costs the trace, not the connection.
    pub(crate) fn begin(&self, what: &str, key: PeerId) -> Option<QlogStream> {
        let folder = self.0.as_ref()?;
        let key: String = key.to_string().chars().take(SHORT_ID).collect();
        let (process, number) = (std::process::id(), folder.next.fetch_add(1, Ordering::Relaxed));
        let name = format!("{process}-{number}-{what}-{key}.sqlog");
        match File::create_new(folder.path.join(&name)) {
            Ok(file) => {
                let mut config = QlogConfig::default();
                config
                    .writer(Box::new(BufWriter::with_capacity(BUFFER, file)))
                    .title(Some(format!("knothole {what} {key}")));
                config.into_stream()
            }
            Err(error) => {
                tracing::warn!(%error, name, "cannot write a trace");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_connection_has_a_file_of_its_own_that_begins_as_qlog_does() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("traces");
        let traces = Traces::into(Some(&place)).unwrap();
        let key = PeerId::from_bytes([7; 32]);
        for _ in 0..2 {
            drop(traces.begin("dial", key).unwrap());
        }
        let mut found = 0;
        for entry in fs::read_dir(&place).unwrap() {
            let text = fs::read_to_string(entry.unwrap().path()).unwrap();
            // RFC 7464: each record begins with a record separator.
            assert!(
                text.starts_with('\u{1e}') && text.contains("\"qlog_version\""),
                "{text}"
            );
            found += 1;
        }
        assert_eq!(found, 2);
    }

    #[test]
    fn without_a_folder_there_is_no_trace() {
        let traces = Traces::into(None).unwrap();
        assert!(traces.begin("dial", PeerId::from_bytes([7; 32])).is_none());
    }
}
