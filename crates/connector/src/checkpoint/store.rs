//! Checkpoints as files of a directory.
//!
//! ```text
//! dir/lock                                who uses the directory (see `lock`)
//! dir/checkpoint-00000000000000000007     one finished checkpoint
//! dir/.checkpoint-00000000000000000008    one being written; removed at the next start
//! ```
//!
//! A file is: the four bytes `MLCP`, a format version (two bytes), the length of the body (eight), a CRC-32C of everything
//! before it and of the body (four), the body. It is written under a hidden name, synced, renamed, and the directory synced:
//! a crash or a full disk leaves the last finished checkpoint as it was.
//!
//! # Invariants
//! * A file under its final name was complete when it got there; damage after that is found by the checksum.
//! * A job never starts afresh because its checkpoints can't be read: that is an error.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::lock::DirectoryLock;
use super::state::{Decoder, Encoder};
use crate::{Error, ErrorKind, Result};

const MAGIC: &[u8; 4] = b"MLCP";
/// The version of the frame around a body. Bodies have their own.
const FORMAT: i16 = 1;
const HEADER_BYTES: usize = 18;
const NAME: &str = "checkpoint-";

/// The number of a checkpoint. Counts up over the whole life of a directory, from 1.
pub type CheckpointId = u64;

/// A checkpoint file that could not be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damaged {
    /// Its number.
    pub id: CheckpointId,
    /// Where it is.
    pub path: PathBuf,
    /// What is wrong with it.
    pub why: String,
}

/// A checkpoint read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its number.
    pub id: CheckpointId,
    /// Its contents.
    pub body: Vec<u8>,
    /// Newer ones that were damaged and are not used.
    pub damaged: Vec<Damaged>,
}

/// A directory of checkpoints, locked for one job. All calls block: run them where that is allowed.
#[derive(Debug)]
pub struct CheckpointStore {
    dir: PathBuf,
    retain: usize,
    /// `None` when it is only read.
    lock: Option<DirectoryLock>,
}

impl CheckpointStore {
    /// Opens a directory, making it if it does not exist, and locks it. `retain` is how many checkpoints are kept, at least 1.
    ///
    /// # Errors
    /// `Misuse` if another job uses the directory; `Io` if it can't be made or written.
    pub fn open(dir: &Path, retain: usize, job: &str) -> Result<Self> {
        let lock = take(dir, job)?;
        Ok(Self { dir: dir.to_owned(), retain: retain.max(1), lock: Some(lock) })
    }

    /// The same directory to look at, while a job may be using it: nothing is locked, and nothing may be written. The file that was
    /// listed last may be gone when it is read.
    ///
    /// # Errors
    /// `Misuse` if there is no such directory.
    pub fn look_at(dir: &Path) -> Result<Self> {
        if !dir.is_dir() {
            let text = format!("there is no checkpoint directory {}", dir.display());
            return Err(Error::new(ErrorKind::Misuse, text));
        }
        Ok(Self { dir: dir.to_owned(), retain: usize::MAX, lock: None })
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The numbers of the checkpoints there are, ascending, readable or not.
    ///
    /// # Errors
    /// `Io` if the directory can't be read.
    pub fn list(&self) -> Result<Vec<CheckpointId>> {
        list(&self.dir)
    }

    /// The number for the next checkpoint: above every number in the directory.
    ///
    /// # Errors
    /// `Io` if the directory can't be read.
    pub fn next_id(&self) -> Result<CheckpointId> {
        Ok(self.list()?.last().map_or(1, |&id| id.saturating_add(1)))
    }

    /// The newest checkpoint that can be read, with the damaged ones that are newer. `None` if there is no checkpoint at all.
    ///
    /// # Errors
    /// `State` if there are checkpoints and none can be read, or if the newest was written by a later version of this crate;
    /// `Io` if the directory or a file can't be opened.
    pub fn latest(&self) -> Result<Option<Stored>> {
        let mut damaged = Vec::new();
        for id in self.list()?.into_iter().rev() {
            match self.read(id)? {
                Ok(body) => return Ok(Some(Stored { id, body, damaged })),
                Err(broken) => {
                    tracing::error!(checkpoint = id, path = %broken.path.display(), why = %broken.why, "damaged checkpoint");
                    damaged.push(broken);
                }
            }
        }
        let Some(newest) = damaged.first() else { return Ok(None) };
        Err(none_readable(&self.dir.display().to_string(), damaged.len(), newest))
    }

    /// One checkpoint by its number.
    ///
    /// # Errors
    /// `State` if it is damaged or from a later version; `Io` if it can't be opened.
    pub fn load(&self, id: CheckpointId) -> Result<Stored> {
        match self.read(id)? {
            Ok(body) => Ok(Stored { id, body, damaged: Vec::new() }),
            Err(broken) => {
                let text = format!("checkpoint {} can't be read: {}", broken.path.display(), broken.why);
                Err(Error::new(ErrorKind::State, text))
            }
        }
    }

    /// Writes a checkpoint and returns when it is on the disk under its name; then removes the oldest ones beyond the number to
    /// keep.
    ///
    /// # Errors
    /// `Io` if it can't be written: the checkpoints that were there stay as they were; `Misuse` if the directory was only opened to
    /// be looked at.
    pub fn write(&self, id: CheckpointId, body: &[u8]) -> Result<()> {
        if self.lock.is_none() {
            return Err(Error::new(
                ErrorKind::Misuse,
                "this checkpoint directory was opened to be read only",
            ));
        }
        write_file(&self.dir, id, &frame(body))?;
        self.remove_old();
        Ok(())
    }

    fn path(&self, id: CheckpointId) -> PathBuf {
        self.dir.join(file_name(id))
    }

    fn read(&self, id: CheckpointId) -> Result<std::result::Result<Vec<u8>, Damaged>> {
        let path = self.path(id);
        let bytes = read_file(&self.dir, id)?;
        match unframe(&bytes) {
            Ok(body) => Ok(Ok(body)),
            Err(Unreadable::Damaged(why)) => Ok(Err(Damaged { id, path, why })),
            Err(Unreadable::Later(format)) => Err(written_later(&path, format)),
        }
    }

    fn remove_old(&self) {
        let Ok(ids) = self.list() else { return };
        let surplus = ids.len().saturating_sub(self.retain);
        remove_files(&self.dir, ids.get(..surplus).unwrap_or_default());
    }
}

/// Removes checkpoints that are not needed any more, as far as that can be done.
pub(super) fn remove_files(dir: &Path, ids: &[CheckpointId]) {
    for &id in ids {
        let path = dir.join(file_name(id));
        if let Err(error) = fs::remove_file(&path) {
            tracing::warn!(path = %path.display(), %error, "an old checkpoint can't be removed");
        }
    }
}

/// Makes a directory and locks it for a job; files that were never finished go.
pub(super) fn take(dir: &Path, job: &str) -> Result<DirectoryLock> {
    fs::create_dir_all(dir).map_err(|error| {
        let text = format!("the checkpoint directory {} can't be made", dir.display());
        Error::new(ErrorKind::Io, text).with_source(error)
    })?;
    let lock = DirectoryLock::acquire(dir, job)?;
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name.to_str().and_then(|name| name.strip_prefix('.')).and_then(parse_name).is_some() {
            // It was never finished, so nobody needs it; the next one of this number replaces it anyway.
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(lock)
}

/// The numbers of the checkpoints in a directory, ascending.
pub(super) fn list(dir: &Path) -> Result<Vec<CheckpointId>> {
    let failed = |error| {
        let text = format!("the checkpoint directory {} can't be read", dir.display());
        Error::new(ErrorKind::Io, text).with_source(error)
    };
    let mut ids = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        if let Some(id) = name.to_str().and_then(parse_name) {
            ids.push(id);
        }
    }
    ids.sort_unstable();
    Ok(ids)
}

/// The bytes of a checkpoint file.
pub(super) fn read_file(dir: &Path, id: CheckpointId) -> Result<Vec<u8>> {
    let path = dir.join(file_name(id));
    fs::read(&path).map_err(|error| {
        Error::new(ErrorKind::Io, format!("checkpoint {} can't be opened", path.display())).with_source(error)
    })
}

/// Writes a checkpoint file whole: it is on the disk under its name, or not there at all.
pub(super) fn write_file(dir: &Path, id: CheckpointId, bytes: &[u8]) -> Result<()> {
    let hidden = dir.join(format!(".{}", file_name(id)));
    let path = dir.join(file_name(id));
    let written = write_synced(&hidden, bytes)
        .and_then(|()| fs::rename(&hidden, &path))
        .and_then(|()| sync_directory(dir));
    written.map_err(|error| {
        // A leftover costs space on a disk that may be full; whether it can be removed changes nothing.
        let _ = fs::remove_file(&hidden);
        let text = format!(
            "checkpoint {} can't be written; the checkpoints before it are untouched, make room or give access and start again",
            path.display()
        );
        Error::new(ErrorKind::Io, text).with_source(error)
    })
}

pub(super) fn none_readable(place: &str, count: usize, newest: &Damaged) -> Error {
    let text = format!(
        "none of the {count} checkpoints in {place} can be read (newest: {}); put back a good copy, or move the files away to start \
         afresh",
        newest.why
    );
    Error::new(ErrorKind::State, text)
}

pub(super) fn written_later(path: &Path, format: i16) -> Error {
    let text = format!(
        "checkpoint {} has format {format}, this version reads up to {FORMAT}; start the job with the version that wrote it",
        path.display()
    );
    Error::new(ErrorKind::State, text)
}

#[derive(Debug)]
pub(super) enum Unreadable {
    Damaged(String),
    Later(i16),
}

pub(super) fn frame(body: &[u8]) -> Vec<u8> {
    let mut out = Encoder::new();
    out.put_raw(MAGIC);
    out.put_i16(FORMAT);
    out.put_u64(body.len() as u64);
    let checksum = crc32c::crc32c_append(crc32c::crc32c(out.as_bytes()), body);
    out.put_u32(checksum);
    out.put_raw(body);
    out.finish()
}

pub(super) fn unframe(bytes: &[u8]) -> std::result::Result<Vec<u8>, Unreadable> {
    let damaged = |why: &str| Unreadable::Damaged(why.to_owned());
    let Some((header, body)) = bytes.split_at_checked(HEADER_BYTES) else {
        return Err(damaged("shorter than its header"));
    };
    let mut from = Decoder::new(header);
    let read = |_| damaged("shorter than its header");
    let magic = from.take_raw(MAGIC.len()).map_err(read)?;
    let format = from.take_i16().map_err(read)?;
    let length = from.take_u64().map_err(read)?;
    let checksum = from.take_u32().map_err(read)?;
    let (covered, _) = header.split_at_checked(HEADER_BYTES - 4).unwrap_or((header, &[]));
    let right = crc32c::crc32c_append(crc32c::crc32c(covered), body) == checksum;
    if magic != MAGIC {
        return Err(damaged("not a checkpoint of this program"));
    }
    // A version is believed only under a right checksum: else one flipped bit would stop the job for good.
    if format != FORMAT && right {
        return Err(Unreadable::Later(format));
    }
    if length != body.len() as u64 {
        return Err(Unreadable::Damaged(format!("{} bytes of {length}", body.len())));
    }
    if !right || format != FORMAT {
        return Err(damaged("the checksum is wrong"));
    }
    Ok(body.to_vec())
}

pub(super) fn file_name(id: CheckpointId) -> String {
    format!("{NAME}{id:020}")
}

pub(super) fn parse_name(name: &str) -> Option<CheckpointId> {
    let digits = name.strip_prefix(NAME)?;
    let plain = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    if plain { digits.parse().ok() } else { None }
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// A rename is durable when its directory is. Windows has no such call and needs none.
#[cfg(unix)]
fn sync_directory(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(not(unix))]
fn sync_directory(_dir: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(dir: &Path) -> CheckpointStore {
        CheckpointStore::open(dir, 3, "test").unwrap()
    }

    #[test]
    fn golden_bytes() {
        let expected: &[u8] =
            &[b'M', b'L', b'C', b'P', 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0xfb, 0x89, 0xa6, 0x1f, b'h', b'i'];
        assert_eq!(frame(b"hi"), expected, "the format may only change with its version");
        assert!(unframe(expected).is_ok_and(|body| body == b"hi"));
    }

    #[test]
    fn the_newest_is_found_and_the_oldest_removed() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        assert_eq!(store.latest().unwrap(), None);
        assert_eq!(store.next_id().unwrap(), 1);
        for id in 1..=5_u64 {
            store.write(id, &id.to_be_bytes()).unwrap();
        }
        assert_eq!(store.list().unwrap(), [3, 4, 5]);
        let stored = store.latest().unwrap().unwrap();
        assert_eq!((stored.id, stored.body.as_slice()), (5, 5_u64.to_be_bytes().as_slice()));
        assert_eq!(store.load(4).unwrap().body, 4_u64.to_be_bytes());
        assert_eq!(store.next_id().unwrap(), 6);
    }

    #[test]
    fn damage_at_any_byte_is_found_and_the_previous_checkpoint_used() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        store.write(1, b"the first").unwrap();
        store.write(2, b"the second").unwrap();
        let path = store.path(2);
        let good = fs::read(&path).unwrap();
        for at in 0..good.len() {
            for flip in [0x01, 0x80] {
                let mut bad = good.clone();
                bad[at] ^= flip;
                fs::write(&path, &bad).unwrap();
                let stored = store.latest().unwrap().unwrap();
                assert_eq!(
                    (stored.id, stored.body.as_slice()),
                    (1, b"the first".as_slice()),
                    "bit {flip} of byte {at}"
                );
                assert_eq!(stored.damaged.len(), 1);
                assert_eq!(stored.damaged[0].id, 2);
            }
            fs::write(&path, &good[..at]).unwrap();
            assert_eq!(store.latest().unwrap().unwrap().id, 1, "cut at {at}");
        }
        let longer = [good.as_slice(), b"x"].concat();
        fs::write(&path, longer).unwrap();
        assert_eq!(store.latest().unwrap().unwrap().id, 1);
        fs::write(&path, good).unwrap();
        assert_eq!(store.latest().unwrap().unwrap().id, 2);
    }

    #[test]
    fn unreadable_checkpoints_are_never_a_fresh_start() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        store.write(1, b"one").unwrap();
        fs::write(store.path(1), b"").unwrap();
        let error = store.latest().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::State);
        assert!(error.to_string().contains("move the files away"), "{error}");
        assert_eq!(store.next_id().unwrap(), 2, "a damaged number is not used again");
    }

    #[test]
    fn a_later_format_is_not_taken_for_damage() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        store.write(1, b"one").unwrap();
        let mut later = Encoder::new();
        later.put_raw(MAGIC);
        later.put_i16(2);
        later.put_u64(0);
        let checksum = crc32c::crc32c(later.as_bytes());
        later.put_u32(checksum);
        fs::write(store.path(2), later.as_bytes()).unwrap();
        let error = store.latest().unwrap_err();
        assert!(error.to_string().contains("format 2"), "{error}");
    }

    #[test]
    fn an_unfinished_file_is_ignored_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let hidden = dir.path().join(".checkpoint-00000000000000000009");
        fs::write(&hidden, b"half").unwrap();
        let foreign = dir.path().join("notes.txt");
        fs::write(&foreign, b"mine").unwrap();
        let store = open(dir.path());
        assert_eq!(store.latest().unwrap(), None);
        assert!(!hidden.exists());
        assert!(foreign.exists());
    }

    #[test]
    fn a_failed_write_leaves_the_previous_checkpoint() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        store.write(1, b"one").unwrap();
        // A directory in the place of the hidden file: what any failure of the file system looks like from here.
        fs::create_dir(dir.path().join(".checkpoint-00000000000000000002")).unwrap();
        let error = store.write(2, b"two").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
        assert_eq!(store.latest().unwrap().unwrap().body, b"one");
        // And one in the place of the final name.
        fs::create_dir(store.path(3)).unwrap();
        assert!(store.write(3, b"three").is_err());
        fs::remove_dir(store.path(3)).unwrap();
        assert_eq!(store.latest().unwrap().unwrap().body, b"one");
    }
}
