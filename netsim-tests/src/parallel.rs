//! Work spread over threads, with results in the order of the work: what comes out does not depend on how many there are.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::sync::mpsc::sync_channel;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// Items, for each thread, that may be ahead of the oldest one that is not finished: enough that nobody waits for one slow
/// item among quick ones, and a bound for the results that wait.
const AHEAD: usize = 64;

/// Does `work` on every item, on `jobs` threads, and hands the results to `each` in the order of the items, on the calling
/// thread, until that breaks off. Items are taken one after the other, and only as they are needed.
pub fn in_order<T: Send, R: Send>(
    items: impl Iterator<Item = T> + Send,
    jobs: NonZeroUsize,
    work: impl Fn(T) -> R + Sync,
    mut each: impl FnMut(R) -> ControlFlow<()>,
) {
    let counter = Counter {
        state: Mutex::new(State {
            items: items.enumerate().fuse(),
            handed_over: 0,
            over: false,
        }),
        moved: Condvar::new(),
        ahead: AHEAD * jobs.get(),
    };
    // As long as the window: no worker ever waits to hand over.
    let (results, incoming) = sync_channel(counter.ahead);
    thread::scope(|scope| {
        for _ in 0..jobs.get() {
            let results = results.clone();
            let (counter, work) = (&counter, &work);
            scope.spawn(move || {
                // Also when `work` panics: the others must not wait for this one.
                let _end = EndOnPanic(counter);
                while let Some((index, item)) = counter.take() {
                    if results.send((index, work(item))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(results);
        let mut waiting = BTreeMap::new();
        let mut next = 0;
        for (index, result) in incoming {
            waiting.insert(index, result);
            while let Some(result) = waiting.remove(&next) {
                next += 1;
                if each(result).is_break() {
                    counter.end();
                    return;
                }
            }
            counter.hand_over(next);
        }
    });
}

/// As many threads as this process may use at once.
#[must_use]
pub fn all_cores() -> NonZeroUsize {
    thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

/// Where the items are handed out.
struct Counter<I> {
    state: Mutex<State<I>>,
    moved: Condvar,
    ahead: usize,
}

struct State<I> {
    items: I,
    /// Every item before this number has gone to the caller.
    handed_over: usize,
    over: bool,
}

impl<T, I: Iterator<Item = (usize, T)>> Counter<I> {
    /// The next item, once the oldest unfinished one is near enough.
    fn take(&self) -> Option<(usize, T)> {
        let mut state = self.lock();
        if state.over {
            return None;
        }
        let (index, item) = state.items.next()?;
        while !state.over && index >= state.handed_over + self.ahead {
            state = self.moved.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        (!state.over).then_some((index, item))
    }
}

impl<I> Counter<I> {
    fn hand_over(&self, next: usize) {
        self.lock().handed_over = next;
        self.moved.notify_all();
    }

    fn end(&self) {
        self.lock().over = true;
        self.moved.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State<I>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct EndOnPanic<'a, I>(&'a Counter<I>);

impl<I> Drop for EndOnPanic<'_, I> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.end();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(jobs: usize, count: u64) -> Vec<u64> {
        let mut results = Vec::new();
        let work = |item: u64| {
            // The first items take longest, so that results come out of order.
            (item..2_000).map(|n| n % 7).sum::<u64>() + item
        };
        in_order(0..count, NonZeroUsize::new(jobs).unwrap(), work, |result| {
            results.push(result);
            ControlFlow::Continue(())
        });
        results
    }

    #[test]
    fn results_come_in_the_order_of_the_items_whatever_the_number_of_threads() {
        let alone = run(1, 1_000);
        assert_eq!(alone.len(), 1_000);
        assert_eq!(run(7, 1_000), alone);
        assert!(run(3, 0).is_empty());
    }

    #[test]
    fn whoever_has_enough_gets_no_more() {
        let mut got = Vec::new();
        in_order(
            0..,
            NonZeroUsize::new(4).unwrap(),
            |item: u64| item,
            |item| {
                got.push(item);
                if item == 99 {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            },
        );
        assert_eq!(got, (0..100).collect::<Vec<u64>>());
    }

    #[test]
    #[should_panic(expected = "scoped thread panicked")]
    fn a_panic_of_one_ends_them_all() {
        let work = |item: u64| assert!(item != 500, "item 500");
        in_order(0.., NonZeroUsize::new(3).unwrap(), work, |()| {
            ControlFlow::Continue(())
        });
    }
}
