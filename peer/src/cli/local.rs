//! The socket by which commands talk to a running `knothole up` of the same user.
//!
//! One question and one answer per connection, each one line of JSON. Only the owner can open the socket. A socket that
//! a dead process left behind is replaced; that of a living one is not.

use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};

/// Longest question in bytes; they are two words.
const QUESTION_LEN_MAX: u64 = 256;

/// Longest answer in bytes: 64 links of 400 bytes, and room.
const ANSWER_LEN_MAX: u64 = 256 * 1024;

/// How long either side waits for the other. Both are on one machine and do nothing else.
const PATIENCE: Duration = Duration::from_secs(2);

/// Questions that are read at once; more wait in the kernel.
const QUESTIONS_MAX: usize = 8;

/// What can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Asked {
    /// What are you doing?
    Status,
    /// Read the address book again.
    Reload,
}

/// One line to `up`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    schema: u32,
    ask: Asked,
}

/// A question that waits for its answer.
pub(super) struct Waiting {
    /// What was asked.
    pub(super) asked: Asked,
    /// Where the answer goes.
    pub(super) answer: oneshot::Sender<Value>,
}

/// The listening end. The socket's file goes with it.
pub(super) struct Local {
    path: PathBuf,
    questions: mpsc::Receiver<Waiting>,
    listening: tokio::task::JoinHandle<()>,
}

impl Local {
    /// Listen at this path.
    ///
    /// # Errors
    /// [`io::ErrorKind::AddrInUse`] if another process answers there; else of the file system.
    pub(super) async fn bind(path: &Path) -> io::Result<Self> {
        if UnixStream::connect(path).await.is_ok() {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let directory = path.parent().unwrap_or(Path::new("."));
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)?;
        // Made under another name, so that nobody meets it before its permissions are set, nor without a listener.
        let fresh = directory.join(format!(".up.{}", std::process::id()));
        remove(&fresh)?;
        let listener = UnixListener::bind(&fresh)?;
        let placed = std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o600))
            .and_then(|()| std::fs::rename(&fresh, path));
        if let Err(error) = placed {
            remove(&fresh)?;
            return Err(error);
        }
        let (asking, questions) = mpsc::channel(QUESTIONS_MAX);
        Ok(Self {
            path: path.to_owned(),
            questions,
            listening: tokio::spawn(listen(listener, asking)),
        })
    }

    /// The next question. Never returns if nobody can ask any more.
    pub(super) async fn next(&mut self) -> Waiting {
        match self.questions.recv().await {
            Some(waiting) => waiting,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.listening.abort();
        if let Err(error) = remove(&self.path) {
            tracing::debug!(%error, "the socket for status could not be removed");
        }
    }
}

/// Ask the `up` that listens at this path; `None` if none does, or it does not answer.
pub(super) async fn ask(path: &Path, ask: Asked) -> Option<Value> {
    let asking = async {
        let mut stream = UnixStream::connect(path).await.ok()?;
        let mut line = serde_json::to_vec(&Question { schema: 1, ask }).ok()?;
        line.push(b'\n');
        stream.write_all(&line).await.ok()?;
        let mut answer = String::new();
        BufReader::new(stream)
            .take(ANSWER_LEN_MAX)
            .read_line(&mut answer)
            .await
            .ok()?;
        serde_json::from_str(&answer).ok()
    };
    tokio::time::timeout(PATIENCE, asking).await.ok().flatten()
}

async fn listen(listener: UnixListener, asking: mpsc::Sender<Waiting>) {
    let slots = Arc::new(Semaphore::new(QUESTIONS_MAX));
    while let Ok(slot) = Arc::clone(&slots).acquire_owned().await {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "a question could not be taken");
                tokio::time::sleep(PATIENCE).await;
                continue;
            }
        };
        let asking = asking.clone();
        tokio::spawn(async move {
            if tokio::time::timeout(PATIENCE, converse(stream, asking))
                .await
                .is_err()
            {
                tracing::debug!("somebody who asked took too long");
            }
            drop(slot);
        });
    }
}

/// `None` when the other side is gone or said something else.
async fn converse(stream: UnixStream, asking: mpsc::Sender<Waiting>) -> Option<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    BufReader::new(read)
        .take(QUESTION_LEN_MAX)
        .read_line(&mut line)
        .await
        .ok()?;
    let question: Question = serde_json::from_str(&line).ok()?;
    let (answer, answered) = oneshot::channel();
    let waiting = Waiting {
        asked: question.ask,
        answer,
    };
    asking.send(waiting).await.ok()?;
    let mut line = serde_json::to_vec(&answered.await.ok()?).ok()?;
    line.push(b'\n');
    write.write_all(&line).await.ok()
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn path() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/up.sock");
        (dir, path)
    }

    #[tokio::test]
    async fn a_question_is_answered_and_only_the_owner_can_ask() {
        let (_dir, path) = path();
        assert_eq!(ask(&path, Asked::Status).await, None, "nobody listens yet");
        let mut local = Local::bind(&path).await.unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        let (answer, ()) = tokio::join!(ask(&path, Asked::Reload), async {
            let waiting = local.next().await;
            assert_eq!(waiting.asked, Asked::Reload);
            waiting.answer.send(json!({ "ok": true })).unwrap();
        });
        assert_eq!(answer, Some(json!({ "ok": true })));
        drop(local);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_dead_socket_is_replaced_and_a_living_one_is_not() {
        let (_dir, path) = path();
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "the file outlives its listener");
        let _local = Local::bind(&path).await.unwrap();
        let second = Local::bind(&path).await.err().unwrap();
        assert_eq!(second.kind(), io::ErrorKind::AddrInUse);
    }

    #[tokio::test]
    async fn nonsense_is_not_answered_and_does_not_stop_the_listening() {
        let (_dir, path) = path();
        let mut local = Local::bind(&path).await.unwrap();
        for nonsense in [
            "\n",
            "{}\n",
            "{\"schema\":1,\"ask\":\"shutdown\"}\n",
            &"x".repeat(100_000),
        ] {
            let mut stream = UnixStream::connect(&path).await.unwrap();
            // A listener that has read enough may close before everything is written.
            let _ = stream.write_all(nonsense.as_bytes()).await;
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            assert_eq!(answer, b"");
        }
        let (answer, ()) = tokio::join!(ask(&path, Asked::Status), async {
            local.next().await.answer.send(json!(1)).unwrap();
        });
        assert_eq!(answer, Some(json!(1)));
    }
}
