//! The bytes around a fault, with carets under it.

use std::io::{self, Write};
use std::ops::Range;

/// Bytes of a line.
const LINE: usize = 16;
/// Lines of marked bytes; a longer item is marked at its start.
const MARKED: usize = 4;

/// Prints the lines that hold `item` and one before and behind them, their places counted from `base`. Behind the last byte
/// there is a place to point at too.
pub(super) fn print(
    out: &mut impl Write,
    indent: &str,
    bytes: &[u8],
    base: u64,
    item: Range<usize>,
) -> io::Result<()> {
    let start = item.start.min(bytes.len());
    let end = item.end.min(bytes.len()).max(start + 1);
    let first = (start / LINE).saturating_sub(1);
    let last = ((end - 1) / LINE).min(start / LINE + MARKED - 1) + 1;
    for line in first..=last {
        let from = line * LINE;
        let marked = start.max(from)..end.min(from + LINE);
        let part = bytes.get(from..bytes.len().min(from + LINE)).unwrap_or_default();
        if part.is_empty() && marked.is_empty() {
            continue;
        }
        let hex: String = part.iter().map(|byte| format!(" {byte:02x}")).collect();
        let text: String = part
            .iter()
            .map(|byte| if (b' '..=b'~').contains(byte) { char::from(*byte) } else { '.' })
            .collect();
        let width = LINE * 3;
        writeln!(out, "{indent}{:>8} {hex:<width$}  {text}", base + from as u64)?;
        if !marked.is_empty() && line < last {
            let gap = (marked.start - from) * 3 + 1;
            let carets = marked.len() * 3 - 1;
            writeln!(out, "{indent}{:8} {:gap$}{:^<carets$}", "", "", "^")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn excerpt(bytes: &[u8], item: Range<usize>) -> String {
        let mut out = Vec::new();
        print(&mut out, "", bytes, 0, item).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn carets_stand_under_the_item() {
        let bytes: Vec<u8> = (0x30..0x60).collect();
        let lines = [
            "       0  30 31 32 33 34 35 36 37 38 39 3a 3b 3c 3d 3e 3f  0123456789:;<=>?",
            "      16  40 41 42 43 44 45 46 47 48 49 4a 4b 4c 4d 4e 4f  @ABCDEFGHIJKLMNO",
            "                                                 ^^^^^^^^",
            "      32  50 51 52 53 54 55 56 57 58 59 5a 5b 5c 5d 5e 5f  PQRSTUVWXYZ[\\]^_",
            "",
        ];
        assert_eq!(excerpt(&bytes, 29..32), lines.join("\n"));
    }

    #[test]
    fn the_end_can_be_pointed_at() {
        assert_eq!(excerpt(&[], 0..0), format!("       0 {:48}  \n          ^^\n", ""));
        let at_the_end = excerpt(&[0x41; 16], 16..16);
        let lines: Vec<&str> = at_the_end.lines().collect();
        assert_eq!(lines.len(), 3, "{at_the_end}");
        assert_eq!(lines[2], "          ^^");
        // A long item does not print all of itself.
        assert!(excerpt(&[0; 9999], 100..9000).lines().count() <= 12);
    }
}
