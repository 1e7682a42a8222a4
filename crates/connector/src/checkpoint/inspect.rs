//! Looking at a checkpoint without taking its directory from the job that uses it.

use std::fs;
use std::path::{Path, PathBuf};

use super::snapshot::CheckpointState;
use super::store::{CheckpointId, Unreadable, file_name, parse_name, unframe};
use crate::{Error, ErrorKind, Result};

/// Reads a checkpoint: the file itself, or the one of this number, or the newest, of a directory. Takes no lock and changes nothing.
///
/// # Errors
/// `Io` if it can't be opened, `State` if it is damaged or from a later version, or if the directory has no checkpoint.
pub fn inspect(path: &Path, id: Option<CheckpointId>) -> Result<CheckpointState> {
    let file = if path.is_dir() { in_directory(path, id)? } else { path.to_owned() };
    let shown = file.display();
    let bytes = fs::read(&file).map_err(|error| {
        Error::new(ErrorKind::Io, format!("checkpoint {shown} can't be opened")).with_source(error)
    })?;
    let body = unframe(&bytes).map_err(|error| {
        let why = match error {
            Unreadable::Damaged(why) => why,
            Unreadable::Later(format) => format!("it has format {format}, from a later version"),
        };
        Error::new(ErrorKind::State, format!("checkpoint {shown} can't be read: {why}"))
    })?;
    CheckpointState::decode(&body).map_err(|error| {
        Error::new(ErrorKind::State, format!("checkpoint {shown} can't be understood")).with_source(error)
    })
}

fn in_directory(dir: &Path, id: Option<CheckpointId>) -> Result<PathBuf> {
    if let Some(id) = id {
        return Ok(dir.join(file_name(id)));
    }
    let entries = fs::read_dir(dir).map_err(|error| {
        Error::new(ErrorKind::Io, format!("{} can't be read", dir.display())).with_source(error)
    })?;
    let names = entries.flatten().filter_map(|entry| parse_name(entry.file_name().to_str()?));
    let newest = names.max().ok_or_else(|| {
        Error::new(ErrorKind::State, format!("there is no checkpoint in {}", dir.display()))
    })?;
    Ok(dir.join(file_name(newest)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{CheckpointStore, StateDocument};

    #[test]
    fn a_directory_in_use_is_looked_at_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let store = CheckpointStore::open(dir.path(), 3, "test").unwrap();
        let state = |id| {
            let text = format!("{{\"checkpoint\": {id}}}");
            StateDocument::parse(&text).unwrap().into_state().unwrap()
        };
        assert_eq!(inspect(dir.path(), None).unwrap_err().kind(), ErrorKind::State);
        for id in [1, 2] {
            store.write(id, &state(id).encode()).unwrap();
        }
        assert_eq!(inspect(dir.path(), None).unwrap(), state(2));
        assert_eq!(inspect(dir.path(), Some(1)).unwrap(), state(1));
        assert_eq!(inspect(&dir.path().join(file_name(1)), None).unwrap(), state(1));
        assert_eq!(inspect(dir.path(), Some(7)).unwrap_err().kind(), ErrorKind::Io);
        fs::write(dir.path().join(file_name(3)), b"MLCP").unwrap();
        assert_eq!(inspect(dir.path(), None).unwrap_err().kind(), ErrorKind::State);
        assert_eq!(store.list().unwrap(), [1, 2, 3]);
    }
}
