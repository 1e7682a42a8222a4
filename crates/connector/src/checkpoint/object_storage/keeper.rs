//! The task that has a storage on objects: it writes, keeps the lease, and gives the storage back when nobody wants it any more.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until};

use super::head::{Head, Holder, Number};
use super::objects::{Made, Objects};
use crate::checkpoint::CheckpointId;
use crate::{Error, ErrorKind, Result};

/// So many times the lease is renewed before it would be over.
const RENEWALS: u32 = 3;
/// How often who waits for a lease to be over looks, at most.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// A checkpoint to be written.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) id: CheckpointId,
    pub(super) bytes: Vec<u8>,
    pub(super) surplus: Vec<CheckpointId>,
    pub(super) answer: oneshot::Sender<Result<()>>,
}

/// Who has the storage.
#[derive(Debug)]
pub(super) struct Keeper {
    objects: Objects,
    /// The newest head that is known, and its number. It is ours.
    number: Number,
    head: Head,
    renew_at: Instant,
    standing: Standing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Holds,
    /// Another holder took the storage.
    Lost,
    /// A checkpoint may be there that is not known to be.
    InDoubt,
}

impl Keeper {
    /// Takes the storage: at once if nobody has it, or when its holder did not renew its lease for as long as it lasts.
    ///
    /// # Cancellation
    /// The storage may be taken until the lease is over.
    pub(super) async fn take(objects: Objects, job: &str, lease: Duration) -> Result<Self> {
        let process = std::process::id();
        let nonce = RandomState::new().hash_one((job, process));
        let lease_ms = u64::try_from(lease.as_millis()).unwrap_or(u64::MAX);
        let mut seen: Option<(Number, u64, Instant)> = None;
        loop {
            let newest = objects.newest().await?;
            let number = newest.as_ref().map_or(0, |(number, _)| *number);
            let before = newest.map(|(_, head)| head);
            if let Some(held) = before.as_ref().filter(|head| !head.released) {
                let holder = &held.holder;
                match seen {
                    Some((at, nonce, _)) if nonce == holder.nonce && at != number => {
                        return Err(in_use(&objects, holder));
                    }
                    Some((_, nonce, since)) if nonce == holder.nonce && since.elapsed() >= holder.lease() => {
                        tracing::warn!(
                            place = objects.place(),
                            job = holder.job,
                            process = holder.process,
                            "the checkpoint storage is taken from a holder that does not renew its lease"
                        );
                    }
                    _ => {
                        if seen.is_none_or(|(_, nonce, _)| nonce != holder.nonce) {
                            seen = Some((number, holder.nonce, Instant::now()));
                        }
                        sleep(LOOK_EVERY.min(holder.lease() / 4)).await;
                        continue;
                    }
                }
            }
            let holder = Holder { job: job.to_owned(), process, nonce, lease_ms, term: number + 1 };
            let head = Head::taken(before.as_ref(), holder);
            let renew_at = Instant::now() + lease / RENEWALS;
            let standing = Standing::Holds;
            let mut keeper =
                Self { objects: objects.clone(), number, head: head.clone(), renew_at, standing };
            // Another was faster: it may be alive, or give the storage back.
            if keeper.append(head).await? {
                keeper.sweep().await;
                return Ok(keeper);
            }
        }
    }

    /// Writes what is asked for, and renews the lease, until nobody can ask any more.
    pub(super) async fn keep(mut self, mut requests: mpsc::Receiver<Request>) {
        loop {
            let renew_at = self.renew_at;
            tokio::select! {
                request = requests.recv() => {
                    let Some(Request { id, bytes, surplus, answer }) = request else { break };
                    let written = self.write(id, bytes, &surplus).await;
                    // Who asked may have gone.
                    let _ = answer.send(written);
                }
                () = sleep_until(renew_at) => self.renew().await,
            }
        }
        if let Err(error) = self.release().await {
            tracing::warn!(%error, "the checkpoint storage is not given back; it is free when the lease is over");
        }
    }

    /// The bytes first, then the head that lists them: only that makes them a checkpoint.
    async fn write(&mut self, id: CheckpointId, bytes: Vec<u8>, surplus: &[CheckpointId]) -> Result<()> {
        self.check_standing()?;
        let (objects, term) = (self.objects.clone(), self.head.holder.term);
        let mut upload = std::pin::pin!(objects.write_checkpoint(id, term, bytes));
        loop {
            let renew_at = self.renew_at;
            tokio::select! {
                uploaded = &mut upload => break uploaded?,
                () = sleep_until(renew_at) => self.renew().await,
            }
        }
        self.check_standing()?;
        let before = self.head.clone();
        match self.append(before.with(id, surplus)).await {
            Ok(true) => {}
            Ok(false) => {
                self.standing = Standing::Lost;
                return self.check_standing();
            }
            Err(error) => {
                self.standing = Standing::InDoubt;
                return Err(error);
            }
        }
        let gone = surplus.iter().filter_map(|old| Some((*old, *before.checkpoints.get(old)?)));
        self.objects.remove_checkpoints(gone).await;
        Ok(())
    }

    /// Says that the holder lives.
    async fn renew(&mut self) {
        self.renew_at = Instant::now() + self.head.holder.lease() / RENEWALS;
        if self.standing != Standing::Holds {
            return;
        }
        match self.append(self.head.clone()).await {
            Ok(true) => {}
            Ok(false) => self.standing = Standing::Lost,
            Err(error) => {
                tracing::warn!(place = self.objects.place(), %error, "the lease of the checkpoint storage is not renewed");
            }
        }
    }

    async fn release(&mut self) -> Result<()> {
        if self.standing == Standing::InDoubt {
            match self.objects.newest().await? {
                Some((number, head)) if head.holder.nonce == self.head.holder.nonce => {
                    (self.number, self.head) = (number, head);
                }
                _ => self.standing = Standing::Lost,
            }
        }
        if self.standing != Standing::Lost {
            // If another has taken it, there is nothing to be given back.
            self.append(self.head.released()).await?;
        }
        Ok(())
    }

    /// Puts a head behind the newest one. `false` if another holder has put one there.
    ///
    /// An old number may be free again, since heads that were replaced are removed: so a head counts only if none is above it. The highest
    /// is never removed, so that whoever fell behind sees it.
    async fn append(&mut self, next: Head) -> Result<bool> {
        let bytes = next.encode();
        loop {
            let number = self.number + 1;
            if let Made::Taken = self.objects.make_head(number, &bytes).await? {
                match self.objects.head(number).await? {
                    // The store did it, and its answer was lost.
                    Some(found) if found == next => {}
                    // So it was with a renewal.
                    Some(found) if found == self.head => {
                        self.number = number;
                        continue;
                    }
                    _ => return Ok(false),
                }
            }
            let heads = self.objects.heads().await?;
            if heads.iter().any(|&other| other > number) {
                return Ok(false);
            }
            (self.number, self.head) = (number, next);
            self.renew_at = Instant::now() + self.head.holder.lease() / RENEWALS;
            self.objects.remove_heads(heads.into_iter().filter(|&other| other < number)).await;
            return Ok(true);
        }
    }

    /// Removes what earlier holders wrote and never listed.
    async fn sweep(&self) {
        match self.objects.checkpoints().await {
            Ok(there) => {
                let lost = there.into_iter().filter(|&(id, term)| self.head.has_lost(id, term));
                self.objects.remove_checkpoints(lost).await;
            }
            Err(error) => tracing::warn!(%error, "leftovers of the checkpoint storage can't be told"),
        }
    }

    fn check_standing(&self) -> Result<()> {
        let place = self.objects.place();
        match self.standing {
            Standing::Holds => Ok(()),
            Standing::Lost => {
                let text = format!(
                    "the checkpoint storage {place} was taken by another job; give each job its own place, and do not start one twice"
                );
                Err(Error::new(ErrorKind::Misuse, text))
            }
            Standing::InDoubt => {
                let text = format!(
                    "it is not known whether the last checkpoint in {place} was written; the next start sees it"
                );
                Err(Error::new(ErrorKind::Io, text))
            }
        }
    }
}

fn in_use(objects: &Objects, holder: &Holder) -> Error {
    let text = format!(
        "the checkpoint storage {} is in use by job {}, process {}; stop that job or give this one its own place",
        objects.place(),
        holder.job,
        holder.process
    );
    Error::new(ErrorKind::Misuse, text)
}
