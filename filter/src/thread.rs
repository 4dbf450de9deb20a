//! What one worker thread shares between its root and its requests.

use std::cell::{Cell, RefCell};

use tollgate_shared::exchange::Completion;

use crate::commit::Committer;
use crate::exchange::Ended;
use crate::queue::Slot;

/// The committer of a worker thread, and what ended while it was busy.
pub(crate) struct Thread {
    committer: RefCell<Committer>,
    /// What is left to do after answers.
    ended: Cell<Vec<Ended>>,
}

impl Thread {
    pub(crate) fn new(committer: Committer) -> Self {
        Self { committer: RefCell::new(committer), ended: Cell::default() }
    }

    /// Has the committer take part in an event; `None` if the event happened inside another one.
    pub(crate) fn with<T>(&self, event: impl FnOnce(&mut Committer) -> T) -> Option<T> {
        let mut committer = self.committer.try_borrow_mut().ok()?;
        let result = event(&mut committer);
        for ended in self.ended.take() {
            committer.ended(ended);
        }
        Some(result)
    }

    /// An answer has left, or nobody waits for one. The host may end a request while it does what the committer asks of it.
    pub(crate) fn ended(&self, completion: Completion, slot: &Slot) {
        let mut ended = self.ended.take();
        ended.push(Ended { completion, began: slot.began.get(), is_whole: slot.is_whole.get() });
        self.ended.set(ended);
        self.with(|_| ());
    }
}
