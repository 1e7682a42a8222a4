//! What the control record says with which a new leader of a Raft quorum begins its epoch (KIP-595).

use crate::guard::cursor::{Cursor, Why};

/// The value of a control record of kind 2, as `__cluster_metadata` has them (`LeaderChangeMessage`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeaderChange {
    /// The version of the message.
    pub version: i16,
    /// The broker or controller that leads.
    pub leader: i32,
    /// Those that may vote.
    pub voters: Vec<i32>,
}

impl LeaderChange {
    /// The kind of control record that holds one.
    pub const KIND: i16 = 2;

    /// Reads the value of a control record. Fields behind the voters are passed over. `None` if it is cut short, or of a
    /// version that is not known.
    #[must_use]
    pub fn read(value: &[u8]) -> Option<Self> {
        read(&mut Cursor::new(value)).ok().flatten()
    }
}

fn read(cursor: &mut Cursor<'_>) -> Result<Option<LeaderChange>, Why> {
    let version = i16::from_be_bytes(cursor.take()?);
    // Version 1 names the directory of each voter (KIP-853).
    let directory = match version {
        0 => 0,
        1 => 16,
        _ => return Ok(None),
    };
    let leader = i32::from_be_bytes(cursor.take()?);
    let count = cursor.length(true, false)?.ok_or(Why::Null)?;
    let mut voters = Vec::new();
    for _ in 0..count {
        voters.push(i32::from_be_bytes(cursor.take()?));
        cursor.skip(directory)?;
        for _ in 0..cursor.varint()? {
            cursor.varint()?;
            let size = cursor.varint()?;
            cursor.skip(size)?;
        }
    }
    Ok(Some(LeaderChange { version, leader, voters }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn voters_are_read_in_both_versions() {
        let old = [0, 0, 0, 0, 0, 3, 3, 0, 0, 0, 3, 0, 0, 0, 0, 4, 1, 9, 2, 7, 7, 1, 0];
        let expected = LeaderChange { version: 0, leader: 3, voters: vec![3, 4] };
        assert_eq!(LeaderChange::read(&old), Some(expected));
        let new = [&[0, 1, 0, 0, 0, 3, 2, 0, 0, 0, 3][..], &[7; 16], &[0, 1, 0]].concat();
        assert_eq!(LeaderChange::read(&new), Some(LeaderChange { version: 1, leader: 3, voters: vec![3] }));
        // A count that is not true ends with the bytes.
        assert_eq!(LeaderChange::read(&[0, 0, 0, 0, 0, 3, 0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0]), None);
        assert_eq!(LeaderChange::read(&[0, 2, 0, 0, 0, 3, 1]), None);
        assert_eq!(LeaderChange::read(&[]), None);
    }
}
