//! One job per checkpoint directory: an operating-system lock on a file in it.
//!
//! The lock goes with its process, however that ends, so a leftover file never blocks the next job. The text in the file only
//! tells people who has it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use crate::{Error, ErrorKind, Result};

const LOCK_FILE: &str = "lock";
/// The owner text is read for a message only: no more of it than a line or two.
const LONGEST_OWNER: u64 = 300;

/// A held lock. Dropping it releases the directory.
#[derive(Debug)]
pub struct DirectoryLock {
    _file: File,
    path: PathBuf,
}

impl DirectoryLock {
    /// Takes the lock of a directory that exists, and writes who has it.
    ///
    /// # Errors
    /// `Misuse` if a living process has it, naming that process; `Io` if the file can't be made or written.
    pub fn acquire(dir: &Path, job: &str) -> Result<Self> {
        let path = dir.join(LOCK_FILE);
        let failed = |what: &str, error: std::io::Error| {
            Error::new(
                ErrorKind::Io,
                format!(
                    "{what} {} failed; the job needs to write in its checkpoint directory",
                    path.display()
                ),
            )
            .with_source(error)
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|error| failed("opening", error))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(in_use(dir, &mut file)),
            Err(TryLockError::Error(error)) => return Err(failed("locking", error)),
        }
        let owner = describe_self(job);
        let written = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(owner.as_bytes()))
            .and_then(|()| file.sync_all());
        written.map_err(|error| failed("writing", error))?;
        Ok(Self { _file: file, path })
    }

    /// The lock file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn in_use(dir: &Path, file: &mut File) -> Error {
    let mut owner = String::new();
    let read = file.rewind().and_then(|()| file.take(LONGEST_OWNER).read_to_string(&mut owner));
    let owner = match read {
        Ok(_) if !owner.trim().is_empty() => owner.trim().to_owned(),
        _ => String::from("an unknown process"),
    };
    Error::new(
        ErrorKind::Misuse,
        format!(
            "the checkpoint directory {} is in use by {owner}; stop that job or give this one its own directory",
            dir.display()
        ),
    )
}

fn describe_self(job: &str) -> String {
    format!("job {job}, process {}\n", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_job_is_refused_and_told_who_has_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let held = DirectoryLock::acquire(dir.path(), "first").unwrap();
        let error = DirectoryLock::acquire(dir.path(), "second").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Misuse);
        let text = error.to_string();
        assert!(text.contains("job first") && text.contains(&std::process::id().to_string()), "{text}");
        drop(held);
        DirectoryLock::acquire(dir.path(), "second").unwrap();
    }

    #[test]
    fn the_file_of_a_dead_process_does_not_block() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(LOCK_FILE), "job old, process 1").unwrap();
        let held = DirectoryLock::acquire(dir.path(), "new").unwrap();
        assert!(std::fs::read_to_string(held.path()).unwrap().starts_with("job new"));
    }
}
