//! How long a command waits that takes one transfer, and with what it ends.
//!
//! Not a server: connections are served beside it, and tell how each attempt ended. What is waited for is a transfer to begin, as
//! long as `--timeout` says; the end of one that has begun; and, when its connection was lost, its sender, as long as that
//! tries to go on. A person who stops the command ends all three, but a transfer that ends meanwhile counts.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::failure::{Failure, code};
use super::seat::Seat;
use super::serve::Ended;
use super::signals::Stop;
use super::transfer::RETURN_PATIENCE;

/// A command that takes one transfer, while it waits.
pub(super) struct Waiting {
    seat: Arc<Seat>,
    ended: mpsc::Receiver<Ended>,
    stop: Stop,
    /// Is there nobody who could send but the one whose code was typed?
    by_code: bool,
    /// How long a sender may take to come back.
    patience: Duration,
    /// With what it ends unless something else comes before; `None`: it waits for ever.
    outlook: Option<Outlook>,
}

/// With what a command ends when this time comes and nobody is at it.
struct Outlook {
    failure: Failure,
    until: Instant,
    /// Was something accepted, so that a part of it is there?
    has_begun: bool,
}

impl Waiting {
    /// For what is told of attempts at this seat; until `give_up` for one to begin.
    pub(super) fn new(
        seat: Arc<Seat>,
        ended: mpsc::Receiver<Ended>,
        stop: Stop,
        by_code: bool,
        give_up: Option<Instant>,
    ) -> Self {
        Self {
            seat,
            ended,
            stop,
            by_code,
            patience: RETURN_PATIENCE,
            outlook: give_up.map(|until| Outlook {
                failure: Failure::timeout("a transfer"),
                until,
                has_begun: false,
            }),
        }
    }

    /// Wait until a transfer has come to its end, or there is nothing more to wait for.
    pub(super) async fn run(mut self) -> Result<(), Failure> {
        loop {
            let until = self.outlook.as_ref().map(|outlook| outlook.until);
            tokio::select! {
                biased;
                Some(end) = self.ended.recv() => {
                    if let Some(result) = self.hear(end) {
                        return result;
                    }
                }
                () = nothing_more(&self.seat, &self.stop, until) => {
                    // Somebody may have come at this moment.
                    if self.seat.close_if_vacant() {
                        return self.conclude();
                    }
                }
            }
        }
    }

    /// An attempt ended; is that the end of the command?
    fn hear(&mut self, end: Ended) -> Option<Result<(), Failure>> {
        let has_begun = self.outlook.as_ref().is_some_and(|outlook| outlook.has_begun);
        match end {
            Ended::Taken(result) => return Some(result),
            Ended::Lost(lost) => {
                self.outlook = Some(Outlook {
                    failure: lost.failure,
                    until: Instant::now() + self.patience,
                    has_begun: true,
                });
            }
            // It came back as something else, and the person said no to that.
            Ended::Declined if let Some(outlook) = self.outlook.as_mut().filter(|_| has_begun) => {
                outlook.until = Instant::now();
            }
            Ended::Declined if self.by_code => {
                self.end_with(
                    Failure::new(code::REFUSED, "nothing was taken", ""),
                    Instant::now(),
                );
            }
            // A former attempt of it was accepted, and a newer one came to nothing before it was.
            Ended::Gone { .. } | Ended::Failed(_) if !has_begun && self.seat.is_kept() => {
                let message = "the transfer broke off, and what arrived is kept";
                let hint = "have it sent again; it goes on where it stopped";
                self.outlook = Some(Outlook {
                    failure: Failure::new(code::PARTIAL, message, hint),
                    until: Instant::now() + self.patience,
                    has_begun: true,
                });
            }
            Ended::Gone { lost } if self.by_code && !has_begun => {
                let message = "the sender went away before it had an answer";
                let patience = if lost { self.patience } else { Duration::ZERO };
                let failure = Failure::new(code::PEER, message, "have it sent again");
                self.end_with(failure, Instant::now() + patience);
            }
            Ended::Failed(failure) if self.by_code && !has_begun => self.end_with(failure, Instant::now()),
            // Somebody else may still send something that is wanted; whoever was begun with may still come back; and whoever
            // began anew is at it.
            Ended::Declined | Ended::Gone { .. } | Ended::Busy | Ended::Failed(_) | Ended::Replaced => {}
        }
        None
    }

    /// There is nobody else who could send: it ends with this at that time as soon as nobody is at it, unless it ends before.
    fn end_with(&mut self, failure: Failure, until: Instant) {
        if self.outlook.as_ref().is_none_or(|outlook| outlook.until > until) {
            self.outlook = Some(Outlook {
                failure,
                until,
                has_begun: false,
            });
        }
    }

    /// Nobody is at it and nobody comes any more. Whoever left at this moment has told how it ended, and that counts.
    fn conclude(mut self) -> Result<(), Failure> {
        while let Ok(end) = self.ended.try_recv() {
            if let Some(result) = self.hear(end) {
                return result;
            }
        }
        match self.outlook {
            Some(outlook) if outlook.has_begun || !self.stop.is_asked() => Err(outlook.failure),
            _ => Err(Failure::interrupted()),
        }
    }
}

/// Wait until there is nothing more to wait for: the person has had enough or the time is over, and nobody is at it.
async fn nothing_more(seat: &Seat, stop: &Stop, until: Option<Instant>) {
    let stopped = async {
        stop.wait().await;
        seat.close();
        seat.vacated().await;
    };
    let late = async {
        wait_until(until).await;
        seat.vacated().await;
    };
    tokio::select! {
        () = stopped => {}
        () = late => {}
    }
}

/// Wait for this time, or for ever.
pub(super) async fn wait_until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use knothole_proto::id::PeerId;
    use tokio::sync::watch;

    use super::super::seat::Seated;
    use super::super::serve::Lost;
    use super::*;

    /// A command that waits, and what it sees of the world.
    struct World {
        seat: Arc<Seat>,
        tell: mpsc::Sender<Ended>,
        stop: watch::Sender<bool>,
    }

    fn start(by_code: bool, give_up: Option<Instant>) -> (World, Waiting) {
        let (tell, ended) = mpsc::channel(8);
        let world = World {
            seat: Arc::new(Seat::new(true)),
            tell,
            stop: watch::Sender::new(false),
        };
        let stop = Stop::told_by(&world.stop);
        let waiting = Waiting::new(Arc::clone(&world.seat), ended, stop, by_code, give_up);
        (world, waiting)
    }

    impl World {
        fn enter(&self) -> Option<Seated<'_>> {
            self.seat.enter(PeerId::from_bytes([1; 32]), blake3::hash(b"a"))
        }

        /// As an attempt does it: told before the seat is left.
        fn end(&self, seated: Seated<'_>, end: Ended) {
            self.tell.try_send(end).unwrap();
            drop(seated);
        }

        fn lose(&self, seated: Seated<'_>) {
            assert!(seated.keep());
            let failure = partial();
            let lost = Lost {
                failure,
                stored: 1,
                files: 2,
            };
            self.end(seated, Ended::Lost(lost));
        }
    }

    fn partial() -> Failure {
        Failure::new(code::PARTIAL, "broke off", "again")
    }

    /// Does it go on waiting after everything that it can see by now?
    async fn goes_on(run: &mut (impl Future<Output = Result<(), Failure>> + Unpin)) -> bool {
        tokio::time::timeout(Duration::ZERO, run).await.is_err()
    }

    fn code_of(result: Result<(), Failure>) -> u8 {
        result.unwrap_err().code
    }

    #[tokio::test]
    async fn a_stop_ends_waiting_for_a_transfer_at_once() {
        let (world, waiting) = start(false, None);
        world.stop.send_replace(true);
        assert_eq!(code_of(waiting.run().await), code::INTERRUPTED);
        assert!(world.enter().is_none(), "nothing is taken any more");
    }

    #[tokio::test]
    async fn what_ends_after_a_stop_is_how_the_command_ends_and_nothing_new_begins() {
        for (end, expected) in [(Err(partial()), Err(partial())), (Ok(()), Ok(()))] {
            let (world, waiting) = start(false, None);
            let mut run = Box::pin(waiting.run());
            let seated = world.enter().unwrap();
            world.stop.send_replace(true);
            assert!(goes_on(&mut run).await, "the transfer ends by itself");
            assert!(world.enter().is_none());
            world.end(seated, Ended::Taken(end));
            assert_eq!(run.await, expected);
        }
    }

    #[tokio::test]
    async fn an_end_that_was_told_when_the_seat_was_left_is_heard_before_anything_is_concluded() {
        let (world, waiting) = start(false, None);
        world.stop.send_replace(true);
        let seated = world.enter().unwrap();
        world.end(seated, Ended::Taken(Err(partial())));
        assert!(world.seat.close_if_vacant());
        assert_eq!(waiting.conclude(), Err(partial()));
    }

    #[tokio::test]
    async fn a_no_that_a_stop_gave_is_no_refusal() {
        let (world, waiting) = start(true, None);
        let seated = world.enter().unwrap();
        world.stop.send_replace(true);
        world.end(seated, Ended::Declined);
        assert_eq!(code_of(waiting.run().await), code::INTERRUPTED);
    }

    #[tokio::test]
    async fn a_sender_whose_connection_was_lost_is_waited_for_and_goes_on() {
        for by_code in [false, true] {
            let (world, waiting) = start(by_code, None);
            let mut run = Box::pin(waiting.run());
            world.lose(world.enter().unwrap());
            assert!(goes_on(&mut run).await);
            // What did not begin again is no end.
            world.end(world.enter().unwrap(), Ended::Failed(partial()));
            world.end(world.enter().unwrap(), Ended::Gone { lost: true });
            assert!(goes_on(&mut run).await);
            let back = world.enter().unwrap();
            assert!(goes_on(&mut run).await);
            world.end(back, Ended::Taken(Ok(())));
            assert_eq!(run.await, Ok(()));
        }
    }

    #[tokio::test]
    async fn a_sender_that_does_not_come_back_is_waited_for_so_long_and_no_longer() {
        let (world, mut waiting) = start(false, None);
        waiting.patience = Duration::ZERO;
        let mut run = Box::pin(waiting.run());
        let (old, new) = (world.enter().unwrap(), world.enter().unwrap());
        world.lose(old);
        assert!(goes_on(&mut run).await, "it is at it");
        world.lose(new);
        assert_eq!(run.await, Err(partial()));
        assert!(world.enter().is_none());
    }

    #[tokio::test]
    async fn what_was_begun_is_waited_for_also_if_a_newer_attempt_of_it_comes_to_nothing() {
        for by_code in [false, true] {
            let (world, waiting) = start(by_code, None);
            let mut run = Box::pin(waiting.run());
            let (old, new) = (world.enter().unwrap(), world.enter().unwrap());
            assert!(old.keep());
            world.end(old, Ended::Replaced);
            world.end(new, Ended::Failed(Failure::new(code::OTHER, "busy", "")));
            assert!(goes_on(&mut run).await);
            world.stop.send_replace(true);
            assert_eq!(code_of(run.await), code::PARTIAL);
        }
    }

    #[tokio::test]
    async fn who_gave_a_code_and_lost_its_connection_before_an_answer_may_come_back() {
        let (world, waiting) = start(true, None);
        let mut run = Box::pin(waiting.run());
        world.end(world.enter().unwrap(), Ended::Gone { lost: true });
        assert!(goes_on(&mut run).await);
        world.end(world.enter().unwrap(), Ended::Taken(Ok(())));
        assert_eq!(run.await, Ok(()));

        let (world, mut waiting) = start(true, None);
        waiting.patience = Duration::ZERO;
        world.end(world.enter().unwrap(), Ended::Gone { lost: true });
        assert_eq!(code_of(waiting.run().await), code::PEER);
    }

    #[tokio::test]
    async fn a_stop_while_a_sender_is_waited_for_keeps_what_is_there() {
        let (world, waiting) = start(false, None);
        let mut run = Box::pin(waiting.run());
        world.lose(world.enter().unwrap());
        assert!(goes_on(&mut run).await);
        world.stop.send_replace(true);
        assert_eq!(run.await, Err(partial()));
    }

    #[tokio::test]
    async fn the_timeout_is_for_a_transfer_to_begin() {
        let (_world, waiting) = start(false, Some(Instant::now()));
        assert_eq!(code_of(waiting.run().await), code::TIMEOUT);

        let (world, waiting) = start(false, Some(Instant::now()));
        let seated = world.enter().unwrap();
        let mut run = Box::pin(waiting.run());
        assert!(goes_on(&mut run).await, "it has begun");
        world.lose(seated);
        assert!(goes_on(&mut run).await, "its sender is waited for");
        world.end(world.enter().unwrap(), Ended::Taken(Ok(())));
        assert_eq!(run.await, Ok(()));

        let (world, waiting) = start(true, Some(Instant::now()));
        world.end(world.enter().unwrap(), Ended::Declined);
        assert_eq!(
            code_of(waiting.run().await),
            code::TIMEOUT,
            "nobody answered in time"
        );
    }

    #[tokio::test]
    async fn who_gave_a_code_is_the_only_one_who_could_send() {
        for (end, expected) in [
            (Ended::Declined, code::REFUSED),
            (Ended::Failed(partial()), code::PARTIAL),
            (Ended::Gone { lost: false }, code::PEER),
        ] {
            let (world, waiting) = start(true, None);
            let mut run = Box::pin(waiting.run());
            let (first, second) = (world.enter().unwrap(), world.enter().unwrap());
            world.end(first, end);
            assert!(goes_on(&mut run).await, "another attempt is under way");
            drop(second);
            assert_eq!(code_of(run.await), expected);
        }
        for end in [
            Ended::Declined,
            Ended::Failed(partial()),
            Ended::Gone { lost: true },
            Ended::Busy,
        ] {
            let (world, waiting) = start(false, None);
            world.end(world.enter().unwrap(), end);
            let mut run = Box::pin(waiting.run());
            assert!(goes_on(&mut run).await, "others may still send");
        }
    }
}
