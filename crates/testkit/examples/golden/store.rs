//! The golden frames on disk: per broker version a file of requests and one of responses, and a manifest of all exchanges.
//!
//! A file is frames back to back, each with its length. A frame that equals the one of an older broker is not stored
//! again: the manifest names the version in whose files it is. An exchange's correlation id is its API's key times
//! 100 plus its version, so that a frame is found by what it says.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use milena_testkit::kafka::KafkaVersion;

use crate::Failure;

const HEAD: &str = "# The exchanges with real brokers whose frames lie beside this file: `cargo xtask kafka capture` writes it.\n\
    # Broker, key of the API, version, and the brokers in whose files request and response are.\n";

/// An API's key and a version.
pub(crate) type Api = (i16, i16);

/// A request and its response, each with its length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Exchange {
    pub(crate) request: Vec<u8>,
    pub(crate) response: Vec<u8>,
}

/// Everything that is kept, by broker.
#[derive(Debug, Default)]
pub(crate) struct Store {
    pub(crate) brokers: BTreeMap<KafkaVersion, BTreeMap<Api, Exchange>>,
}

/// The number by which an exchange is found.
pub(crate) fn correlation_id((key, version): Api) -> i32 {
    i32::from(key) * 100 + i32::from(version)
}

impl Store {
    /// Reads what is there; nothing, if there is no manifest.
    pub(crate) fn read(folder: &Path) -> Result<Self, Failure> {
        let mut store = Self::default();
        let Ok(manifest) = fs::read_to_string(folder.join("manifest.txt")) else { return Ok(store) };
        let mut files = BTreeMap::new();
        for line in manifest.lines().filter(|line| !line.starts_with('#')) {
            let [broker, key, version, request, response] = line.split(' ').collect::<Vec<_>>()[..] else {
                return Err(format!("the manifest says {line:?}").into());
            };
            let api = (key.parse()?, version.parse()?);
            let mut find = |broker: &str, direction: &'static str| -> Result<Vec<u8>, Failure> {
                let file = format!("{broker}.{direction}");
                if !files.contains_key(&file) {
                    files.insert(file.clone(), split(&fs::read(folder.join(&file))?, direction)?);
                }
                let frame = files.get(&file).and_then(|frames| frames.get(&correlation_id(api)));
                Ok(frame.ok_or_else(|| format!("{file} has no {api:?}"))?.clone())
            };
            let exchange =
                Exchange { request: find(request, "requests")?, response: find(response, "responses")? };
            store.brokers.entry(broker.parse()?).or_default().insert(api, exchange);
        }
        Ok(store)
    }

    /// Writes everything anew.
    pub(crate) fn write(&self, folder: &Path) -> Result<(), Failure> {
        fs::create_dir_all(folder)?;
        for entry in fs::read_dir(folder)?.flatten() {
            fs::remove_file(entry.path())?;
        }
        let mut manifest = HEAD.to_owned();
        let mut known: [BTreeMap<&[u8], KafkaVersion>; 2] = Default::default();
        for (&broker, exchanges) in &self.brokers {
            let mut files = [Vec::new(), Vec::new()];
            for ((key, version), exchange) in exchanges {
                manifest += &format!("{broker} {key} {version}");
                let frames = [&exchange.request, &exchange.response];
                for ((file, known), frame) in files.iter_mut().zip(&mut known).zip(frames) {
                    let owner = known.entry(frame).or_insert_with(|| {
                        file.extend_from_slice(frame);
                        broker
                    });
                    manifest += &format!(" {owner}");
                }
                manifest.push('\n');
            }
            for (direction, file) in ["requests", "responses"].iter().zip(files) {
                if !file.is_empty() {
                    fs::write(folder.join(format!("{broker}.{direction}")), file)?;
                }
            }
        }
        fs::write(folder.join("manifest.txt"), manifest)?;
        Ok(())
    }
}

/// The frames of a file by their correlation ids.
fn split(mut file: &[u8], direction: &str) -> Result<BTreeMap<i32, Vec<u8>>, Failure> {
    let mut frames = BTreeMap::new();
    let at = if direction == "requests" { 8 } else { 4 };
    while let Some(length) = file.first_chunk() {
        let end = usize::try_from(u32::from_be_bytes(*length))? + 4;
        let (frame, rest) = file.split_at_checked(end).ok_or("a file that ends within a frame")?;
        let id = frame.get(at..at + 4).ok_or("a frame that is too short")?;
        frames.insert(i32::from_be_bytes(id.try_into()?), frame.to_vec());
        file = rest;
    }
    if file.is_empty() { Ok(frames) } else { Err("a file that ends within a length".into()) }
}
