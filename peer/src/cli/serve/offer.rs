//! One offered transfer: whoever offers something gets a place, then its list is read, then it gets the seat, then the person
//! is asked, and then it is received.

use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use quinn::{RecvStream, SendStream};
use serde_json::json;

use super::super::failure::{Failure, code};
use super::super::output::size;
use super::super::question::{ask, forget_typed};
use super::super::seat::Seated;
use super::super::transfer::{Done, RETURN_PATIENCE, Teller, amount, is_lost, name_some};
use super::super::waiting::wait_until;
use super::{Ended, Host, Lost};
use crate::app::transfer::manifest::Manifest;
use crate::app::transfer::{self, Inbox, Incoming, ReceiveError, Received, Refused, STALL_TIMEOUT, Terms};
use crate::session::Connection;
use crate::untrusted::Untrusted;

impl Host {
    /// One offered transfer, from offer to end.
    pub(super) async fn take(
        &self,
        connection: &Connection,
        peer: &str,
        (send, recv): (SendStream, RecvStream),
        alone: bool,
    ) {
        let sender = connection.peer();
        // Whoever must be turned away anyhow is so before its list is read, which may be long.
        let list = match alone && !self.stop.is_asked() && self.seat.admits(sender) {
            true => tokio::select! {
                list = self.places.find_list(sender) => list,
                () = self.stop.wait() => None,
                _ = connection.closed() => {
                    let lost = is_lost(connection);
                    return self.tell_end(peer, Ended::Gone { lost }).await;
                }
            },
            false => None,
        };
        let Some(list) = list else {
            transfer::turn_away(send, recv, Refused::Busy).await;
            return self.tell_end(peer, Ended::Busy).await;
        };
        let incoming = match Incoming::read(send, recv).await {
            Ok(incoming) => incoming,
            Err(error) => return self.tell_end(peer, Ended::Failed(error.into())).await,
        };
        let Some(seated) = self.seat.enter(sender, names(incoming.manifest())) else {
            incoming.decline(Refused::Busy).await;
            return self.tell_end(peer, Ended::Busy).await;
        };
        let place = self.places.find(sender).await;
        drop(list);
        let Some(_place) = place else {
            incoming.decline(Refused::Busy).await;
            return self.tell_end(peer, Ended::Busy).await;
        };
        let taken = self.take_offer(connection, peer, incoming, &seated).await;
        // Before the seat is left: whoever finds it vacant must not miss how it became so.
        self.tell_end(peer, end_of(taken, &seated)).await;
    }

    async fn tell_end(&self, peer: &str, end: Ended) {
        match &end {
            Ended::Failed(Failure { message, .. }) | Ended::Taken(Err(Failure { message, .. })) => {
                self.output.talk(format_args!("from {peer}: {message}"));
            }
            Ended::Lost(Lost { stored, files, .. }) => {
                let patience = RETURN_PATIENCE.as_secs();
                self.output.event(
                    "lost",
                    json!({ "peer": peer, "stored": stored, "files": files, "patience_s": patience }),
                );
                self.output.talk(format_args!(
                    "{peer}: connection lost; waiting {patience} s for it to come back; {stored} of {files} files are in place, \
                     what arrived of others is kept"
                ));
            }
            Ended::Replaced => {
                self.output
                    .talk(format_args!("from {peer}: the sender began anew"));
            }
            Ended::Busy => {
                self.output.talk(format_args!(
                    "from {peer}: declined, because another transfer is under way"
                ));
            }
            Ended::Declined | Ended::Gone { .. } | Ended::Taken(Ok(())) => {}
        }
        // Fails if nobody looks, as in a host that only serves on.
        let _ = self.ended.send(end).await;
    }

    /// How it ended, unless everything is there.
    async fn take_offer(
        &self,
        connection: &Connection,
        peer: &str,
        incoming: Incoming<SendStream, RecvStream>,
        seated: &Seated<'_>,
    ) -> Result<(), Ended> {
        let manifest = incoming.manifest();
        let name = name_some(manifest.roots().map(|entry| entry.name.as_str()));
        let inbox = match self.consider(connection, (peer, &name), manifest, seated).await {
            Ok(inbox) => inbox,
            Err((why, end)) => {
                incoming.decline(why).await;
                return Err(end);
            }
        };
        let teller = Arc::new(Teller {
            output: Arc::clone(&self.output),
            name: name.clone(),
            peer: peer.to_owned(),
            path: connection.path(),
            // Others may send at the same time.
            label: peer.to_owned(),
            meter: OnceLock::new(),
            moved: Arc::default(),
        });
        let terms = Terms {
            sender: *connection.peer().as_bytes(),
            conflict: self.taking.conflict,
            limit: self.taking.limit.clone(),
            running: self.running.clone(),
            patience: STALL_TIMEOUT,
        };
        let received = incoming
            .receive(connection, inbox, terms, teller, self.stop.wait())
            .await
            .map_err(|error| broken(error, connection))?;
        if !seated.finish() {
            return Err(Ended::Replaced);
        }
        if self.taking.to_stdout {
            // Whoever reads it may be slow, and the person may have had enough.
            tokio::select! {
                written = write_out(&received.places) => written?,
                () = self.stop.wait() => return Err(Failure::interrupted().into()),
            }
        }
        self.tell_received(connection, peer, &name, &received)?;
        Ok(())
    }

    /// Show an offer, and ask whether it is wanted if somebody is to be asked. Where it goes to, or what the sender hears
    /// instead and how it ended.
    async fn consider(
        &self,
        connection: &Connection,
        (peer, name): (&str, &str),
        manifest: &Manifest,
        seated: &Seated<'_>,
    ) -> Result<Arc<Inbox>, (Refused, Ended)> {
        let (files, bytes) = (manifest.files(), manifest.bytes());
        if self.taking.to_stdout && (files, manifest.entries().len()) != (1, 1) {
            self.output.talk(format_args!(
                "{peer} sends {name}; only one file can go to stdout"
            ));
            return Err((Refused::Inbox, Ended::Declined));
        }
        // Nobody may be there to be asked again when a sender comes back for what was wanted before.
        if !self.taking.ask || seated.is_agreed(files, bytes) {
            self.tell_offer(peer, name, manifest);
            return self.open_inbox(bytes).await;
        }
        // The next offer is not shown before this one is answered: an answer is for what is shown last.
        let _turn = self.while_wanted(connection, seated, self.asking.lock()).await?;
        forget_typed();
        self.tell_offer(peer, name, manifest);
        let inbox = self.open_inbox(bytes).await?;
        // A former attempt of it may have got the answer while this one waited for its turn.
        if seated.is_agreed(files, bytes) {
            return Ok(inbox);
        }
        let question = format!("take it from {peer} into {}?", self.taking.folder.display());
        let asked = ask(&self.output, &question);
        let answer = self.while_wanted(connection, seated, asked).await;
        if let Err((_, Ended::Gone { .. })) = &answer {
            self.output
                .event("withdrawn", json!({ "peer": peer, "name": name }));
            self.output.talk(format_args!(
                "{peer} went away; its offer needs no answer any more"
            ));
        }
        if !answer? {
            return Err((Refused::Person, Ended::Declined));
        }
        seated.agree(files, bytes);
        Ok(inbox)
    }

    /// Do something for an offer that nobody has answered, as long as an answer is of use.
    async fn while_wanted<T>(
        &self,
        connection: &Connection,
        seated: &Seated<'_>,
        work: impl Future<Output = T>,
    ) -> Result<T, (Refused, Ended)> {
        // A transfer that has begun has all the time that its sender is waited for.
        let until = self.taking.until.filter(|_| !seated.is_kept());
        tokio::select! {
            biased;
            _ = connection.closed() => {
                let lost = is_lost(connection);
                Err((Refused::Person, Ended::Gone { lost }))
            }
            () = self.stop.wait() => Err((Refused::Person, Ended::Declined)),
            () = wait_until(until) => Err((Refused::Person, Ended::Declined)),
            done = work => Ok(done),
        }
    }

    fn tell_offer(&self, peer: &str, name: &str, manifest: &Manifest) {
        let (files, bytes) = (manifest.files(), manifest.bytes());
        for renamed in manifest.renamed() {
            let (from, to) = (Untrusted(&renamed.offered), Untrusted(&renamed.stored));
            self.output.talk(format_args!("stored as {to}: {from}"));
        }
        self.output.event(
            "offer",
            json!({ "peer": peer, "files": files, "bytes": bytes, "name": name }),
        );
        self.output
            .talk(format_args!("{peer} sends {name}: {}", amount(files, bytes)));
    }

    async fn open_inbox(&self, bytes: u64) -> Result<Arc<Inbox>, (Refused, Ended)> {
        let folder = self.taking.folder.clone();
        let opened = tokio::task::spawn_blocking(move || Inbox::open(&folder)).await;
        let inbox = opened.map_err(std::io::Error::other).flatten().map_err(|error| {
            let folder = self.taking.folder.display();
            self.output.talk(format_args!("cannot open {folder}: {error}"));
            let message = format!("cannot write to {folder}");
            let hint = "a folder that you may write to, with -o or --inbox";
            let failure = Failure::new(code::OTHER, message, hint);
            (Refused::Inbox, failure.into())
        })?;
        if let Some(free) = inbox.free_bytes().filter(|free| *free < bytes) {
            self.output.talk(format_args!(
                "only {} are free there; the rest will not fit",
                size(free)
            ));
        }
        Ok(Arc::new(inbox))
    }

    fn tell_received(
        &self,
        connection: &Connection,
        peer: &str,
        name: &str,
        received: &Received,
    ) -> Result<(), Failure> {
        Done {
            verb: "received",
            name,
            files: received.stored,
            bytes: received.bytes,
            resumed: received.resumed,
            took: received.took,
            path: connection.path().borrow().path,
            file: received.places.first().map(PathBuf::as_path),
            others: &received.others,
            unreadable: 0,
            hash: received.hash,
            peer,
            of_several: false,
            to_stdout: !self.taking.to_stdout,
        }
        .tell(&self.output)
    }
}

/// What is at the top of a list, in short: lists may be long.
fn names(manifest: &Manifest) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    for entry in manifest.roots() {
        hasher.update(entry.name.as_bytes());
        hasher.update(b"/");
    }
    hasher.finalize()
}

/// How an attempt ended that was kept from its end by this.
fn broken(error: ReceiveError, connection: &Connection) -> Ended {
    match error {
        ReceiveError::Replaced => Ended::Replaced,
        ReceiveError::Frame(_) if is_lost(connection) => Ended::Gone { lost: true },
        ReceiveError::Frame(_) | ReceiveError::Busy => Ended::Failed(error.into()),
        ReceiveError::Interrupted { stored, left, .. } if is_lost(connection) => Ended::Lost(Lost {
            failure: error.into(),
            stored,
            files: stored.saturating_add(left),
        }),
        _ => Ended::Taken(Err(error.into())),
    }
}

/// How an attempt ended. One that failed is no end while a newer one of the same transfer is under way.
fn end_of(taken: Result<(), Ended>, seated: &Seated<'_>) -> Ended {
    match taken {
        Ok(()) => Ended::Taken(Ok(())),
        Err(Ended::Failed(_) | Ended::Lost(_) | Ended::Taken(Err(_))) if seated.is_followed() => {
            Ended::Replaced
        }
        Err(Ended::Replaced) => {
            // It was begun: if the newer attempt fails before it is, the sender is waited for all the same.
            seated.keep();
            Ended::Replaced
        }
        Err(Ended::Lost(lost)) if seated.keep() => Ended::Lost(lost),
        Err(Ended::Lost(Lost { failure, .. }) | Ended::Taken(Err(failure))) => {
            seated.finish();
            Ended::Taken(Err(failure))
        }
        Err(end) => end,
    }
}

/// A whole file to stdout.
async fn write_out(places: &[PathBuf]) -> Result<(), Failure> {
    let Some(place) = places.first().cloned() else {
        return Ok(());
    };
    let written = tokio::task::spawn_blocking(move || {
        let mut stdout = std::io::stdout().lock();
        std::io::copy(&mut std::fs::File::open(place)?, &mut stdout)?;
        stdout.flush()
    });
    match written.await.map_err(std::io::Error::other).flatten() {
        Ok(()) => Ok(()),
        // Whoever closed the pipe has read enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => {
            let message = format!("cannot write to stdout: {error}");
            Err(Failure::new(code::OTHER, message, "-o DIR"))
        }
    }
}
