//! Where frames come from: hexadecimal, raw files of one direction of a connection, folders of one frame a file.

use std::fs::File;
use std::io::{Read, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use milena::protocol::frame;
use milena::protocol::guard::request_message;

use crate::output::Usage;

/// Whose frames they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Requests,
    Responses,
}

/// Frames at hand, in order. None is in memory but the one that is read, if they come from files.
#[derive(Debug)]
pub(crate) struct Frames {
    store: Store,
    places: Vec<Place>,
    /// What ended them before their end, in words.
    pub(crate) broken: Option<String>,
}

#[derive(Debug)]
enum Store {
    Memory(Vec<u8>),
    File(File, PathBuf),
    Folder(Vec<PathBuf>),
}

/// A frame, without its length.
#[derive(Debug, Clone, Copy)]
struct Place {
    /// Which file of a folder.
    file: usize,
    at: u64,
    size: u64,
}

impl Frames {
    /// Frames in memory: each behind its length, or one without.
    pub(crate) fn of_bytes(bytes: Vec<u8>, side: Side) -> Self {
        let size = bytes.len() as u64;
        let mut rest: &[u8] = &bytes;
        let head: Vec<u8> = bytes.iter().copied().take(8).collect();
        let read = |at: u64| {
            rest = bytes.get(usize::try_from(at).ok()?..)?;
            rest.first_chunk().copied()
        };
        let (places, broken) = split(size, &head, side, false, read);
        Self { store: Store::Memory(bytes), places, broken }
    }

    /// Frames of a file or a folder.
    pub(crate) fn open(path: &Path, side: Side) -> anyhow::Result<Self> {
        let named = || path.display().to_string();
        if path.is_dir() {
            return Self::folder(path, side).with_context(named);
        }
        let mut file = File::open(path).with_context(named)?;
        let size = file.metadata().with_context(named)?.len();
        let head = read_at(&mut file, 0, 8).with_context(named)?;
        let mut failed = None;
        let (places, broken) = split(size, &head, side, true, |at| match read_at(&mut file, at, 4) {
            Ok(bytes) => bytes.first_chunk().copied(),
            Err(error) => {
                failed = Some(error);
                None
            }
        });
        if let Some(error) = failed {
            return Err(error).with_context(named);
        }
        Ok(Self { store: Store::File(file, path.to_owned()), places, broken })
    }

    fn folder(path: &Path, side: Side) -> anyhow::Result<Self> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(path)? {
            let file = entry?.path();
            if file.is_file() && is_frame(&file, side) {
                files.push(file);
            }
        }
        files.sort();
        let mut places = Vec::new();
        for (number, file) in files.iter().enumerate() {
            let size = file.metadata()?.len();
            let head = read_at(&mut File::open(file)?, 0, 4)?;
            let announced = head.first_chunk().map(|prefix| u64::from(u32::from_be_bytes(*prefix)));
            let at = if announced.is_some_and(|length| length + 4 == size) { 4 } else { 0 };
            places.push(Place { file: number, at, size: size - at });
        }
        Ok(Self { store: Store::Folder(files), places, broken: None })
    }

    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    /// Where a frame comes from, in words; empty if it is the only one that was typed.
    pub(crate) fn source(&self, index: usize) -> String {
        let place = self.places.get(index);
        let at = place.map_or(0, |place| place.at);
        match &self.store {
            Store::Memory(_) if self.places.len() < 2 => String::new(),
            Store::Memory(_) => format!("byte {at}"),
            Store::File(_, path) => format!("{} byte {at}", path.display()),
            Store::Folder(files) => {
                let file = place.and_then(|place| files.get(place.file));
                file.map_or_else(String::new, |file| file.display().to_string())
            }
        }
    }

    /// The whole frame.
    pub(crate) fn read(&mut self, index: usize) -> anyhow::Result<Vec<u8>> {
        self.read_up_to(index, frame::DEFAULT_MAX as u64)
    }

    /// The first bytes of a frame, fewer if it is shorter.
    pub(crate) fn read_up_to(&mut self, index: usize, most: u64) -> anyhow::Result<Vec<u8>> {
        let Some(Place { file, at, size }) = self.places.get(index).copied() else { return Ok(Vec::new()) };
        let size = size.min(most);
        match &mut self.store {
            Store::Memory(bytes) => {
                let rest = usize::try_from(at).ok().and_then(|at| bytes.get(at..)).unwrap_or_default();
                let end = usize::try_from(size).unwrap_or(usize::MAX).min(rest.len());
                Ok(rest.get(..end).unwrap_or_default().to_vec())
            }
            Store::File(file, path) => read_at(file, at, size).with_context(|| path.display().to_string()),
            Store::Folder(files) => {
                let Some(path) = files.get(file) else { return Ok(Vec::new()) };
                let mut file = File::open(path).with_context(|| path.display().to_string())?;
                read_at(&mut file, at, size).with_context(|| path.display().to_string())
            }
        }
    }
}

/// Whether a file of a folder is a frame of a side. Notes beside the frames are not, and an ending may tell the sides apart.
fn is_frame(path: &Path, side: Side) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    let ends = |endings: &[&str]| endings.iter().any(|ending| name.ends_with(ending));
    let other = match side {
        Side::Requests => [".response", ".resp", "-response.bin", ".response.bin"],
        Side::Responses => [".request", ".req", "-request.bin", ".request.bin"],
    };
    !name.starts_with('.') && !ends(&[".md", ".txt", ".json", ".toml"]) && !ends(&other)
}

fn read_at(file: &mut File, at: u64, most: u64) -> std::io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(at))?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Finds the frames in `size` bytes of which any four can be read: each behind its length, or one without. Of a `stream` of
/// several the last may be cut short.
fn split(
    size: u64,
    head: &[u8],
    side: Side,
    stream: bool,
    mut read: impl FnMut(u64) -> Option<[u8; 4]>,
) -> (Vec<Place>, Option<String>) {
    let bare = vec![Place { file: 0, at: 0, size }];
    let mut places = Vec::new();
    let (mut at, mut broken) = (0, None);
    while at < size {
        let length = match read(at).map(|prefix| frame::announced(&prefix, frame::DEFAULT_MAX)) {
            Some(Ok(Some(length))) => length as u64,
            Some(Err(error)) => {
                broken = Some(format!("byte {at}: {}", error.reason()));
                break;
            }
            Some(Ok(None)) | None => {
                broken = Some(format!("byte {at}: the input ends inside the length of a frame"));
                break;
            }
        };
        at += 4;
        places.push(Place { file: 0, at, size: length.min(size - at) });
        if length > size - at {
            broken =
                Some(format!("byte {at}: the input ends after {} of {length} bytes of a frame", size - at));
            break;
        }
        at += length;
    }
    if broken.is_none() {
        return (places, None);
    }
    // The lengths do not fit: they may be none. Of responses nothing tells but that some of them did fit.
    let framed = match side {
        _ if places.is_empty() => false,
        Side::Requests => {
            let behind = head.get(4..).unwrap_or_default();
            !looks_like_request(head) && !looks_like_newer_request(head) && looks_like_request(behind)
        }
        Side::Responses => stream,
    };
    if framed { (places, broken) } else { (bare, None) }
}

/// Whether an API and a version that are known stand at the front.
fn looks_like_request(bytes: &[u8]) -> bool {
    let Some([a, b, c, d]) = bytes.first_chunk() else { return false };
    let (api_key, version) = (i16::from_be_bytes([*a, *b]), i16::from_be_bytes([*c, *d]));
    request_message(api_key).is_some_and(|message| message.version(version).is_some())
}

/// Whether an API stands at the front that is known in other versions. Not Produce: lengths begin with its key.
fn looks_like_newer_request(bytes: &[u8]) -> bool {
    let Some([a, b, 0, _]) = bytes.first_chunk() else { return false };
    let api_key = i16::from_be_bytes([*a, *b]);
    api_key != 0 && request_message(api_key).is_some()
}

/// Bytes from their hexadecimal digits; whatever people put between them is passed over.
pub(crate) fn hexadecimal(text: &str) -> Result<Vec<u8>, Usage> {
    let mut digits = Vec::new();
    for word in text.split(|c: char| c.is_whitespace() || matches!(c, ':' | ',' | '-' | '_' | '|')) {
        let word = word.strip_prefix("0x").or_else(|| word.strip_prefix("0X")).unwrap_or(word);
        let word = word.replace("\\x", "");
        for character in word.chars() {
            let Some(digit) = character.to_digit(16) else {
                return Err(Usage(format!("`{character}` is no hexadecimal digit")));
            };
            digits.push(digit as u8);
        }
    }
    let pairs = digits.chunks(2).map(|pair| match pair {
        [high, low] => Ok(high << 4 | low),
        _ => Err(Usage("an odd number of hexadecimal digits".into())),
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(bytes: &[u8], side: Side) -> (Vec<u64>, bool) {
        let frames = Frames::of_bytes(bytes.to_vec(), side);
        (frames.places.iter().map(|place| place.size).collect(), frames.broken.is_some())
    }

    #[test]
    fn hexadecimal_is_read_as_people_write_it() {
        let expected = vec![0x00, 0x12, 0xab, 0xCD];
        for text in
            ["0012abcd", "00 12 AB cd", "00:12:ab:cd", "0x00, 0x12,\n0xab 0xcd", "\\x00\\x12\\xab\\xcd"]
        {
            assert_eq!(hexadecimal(text).unwrap(), expected, "{text}");
        }
        assert!(hexadecimal("").unwrap().is_empty());
        assert_eq!(hexadecimal("001").unwrap_err().0, "an odd number of hexadecimal digits");
        assert_eq!(hexadecimal("00 1g").unwrap_err().0, "`g` is no hexadecimal digit");
    }

    #[test]
    fn lengths_are_found_and_their_absence_too() {
        let request: &[u8] = &[0, 16, 0, 0, 0, 0, 0, 7, 0, 1, b'm'];
        let framed = [&[0, 0, 0, 11][..], request].concat();
        assert_eq!(sizes(request, Side::Requests), (vec![11], false));
        assert_eq!(sizes(&framed, Side::Requests), (vec![11], false));
        assert_eq!(sizes(&[&framed[..], &framed].concat(), Side::Requests), (vec![11, 11], false));
        // Cut short, with and without a length. (A shorter length would look like a version of Produce.)
        let longer = [&[0, 0, 0, 20, 0, 16, 0, 0, 0, 0, 0, 7, 0, 10][..], b"milena"].concat();
        assert_eq!(sizes(&longer, Side::Requests), (vec![16], true));
        assert_eq!(sizes(&request[..9], Side::Requests), (vec![9], false));
        let cut = [&longer[..], b"clnt", &longer[..3]].concat();
        assert_eq!(sizes(&cut, Side::Requests), (vec![20], true));
        let response: &[u8] = &[0, 0, 0, 7, 0, 0, 0, 0, 0, 0];
        assert_eq!(sizes(response, Side::Responses), (vec![10], false));
        assert_eq!(sizes(&[&[0, 0, 0, 10], response].concat(), Side::Responses), (vec![10], false));
        assert_eq!(sizes(&[], Side::Responses), (vec![], false));
        assert_eq!(sizes(&[9], Side::Requests), (vec![1], false));
        // A version nobody knows yet, and a correlation id that looks like a version of Produce.
        let newer = [0, 3, 0, 99, 0, 0, 0, 1, 0xff, 0xff, 1, 2];
        assert_eq!(sizes(&newer, Side::Requests), (vec![12], false));
        // A correlation id may be taken for a length, and a SASL token for anything.
        assert_eq!(sizes(&[0, 0, 0, 2, 1, 1, 0, 0, 0, 9, 1], Side::Responses), (vec![11], false));
        assert_eq!(sizes(b"n,,n=user,r=nonce", Side::Requests), (vec![17], false));
    }
}
