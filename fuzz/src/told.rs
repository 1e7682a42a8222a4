//! What a dump promises: every byte is told once, what begins also ends, and it stops where the guard stops.

use std::fmt::Write as _;

use milena_protocol::dump::{Dump, Fault, Name, Node, Value, What, inside};
use milena_protocol::{ProtocolError, guard};

/// Holds the dump of a request against the guard.
pub fn check_request(frame: &[u8]) {
    agrees(Dump::request(frame), guard::check_request(frame));
}

/// Holds the dump of a response against the guard.
pub fn check_response(api: i16, version: i16, frame: &[u8]) {
    let dump = Dump::response(api, version, frame);
    // An answer that refuses the version of ApiVersions is one of version 0.
    let version = dump.version().unwrap_or(version);
    agrees(dump, guard::check_response(api, version, frame));
}

fn agrees(dump: Dump<'_>, guard: Result<guard::Cost, ProtocolError>) {
    let (frame, known) = (dump.frame(), dump.message().is_some());
    let (place, fault) = walk(dump);
    match (guard, fault) {
        (Ok(_), None) => assert_eq!(place, frame.len()),
        (Ok(_), Some(fault)) => panic!("the guard accepts it: {fault}"),
        // Of an API or version nobody knows the header alone is told.
        (Err(_), None) if !known => assert_eq!(place, frame.len()),
        (Err(error), None) => {
            assert!(error.to_string().contains("more memory"), "only the guard says {error}")
        }
        // A price is asked before the array is read: what the dump finds may lie behind it.
        (Err(error), Some(fault)) if error.to_string().contains("more memory") => {
            assert!(error.at() <= Some(fault.at), "{error} but {fault}");
        }
        (Err(error), Some(fault)) => {
            assert!(place <= fault.at && fault.item.end <= frame.len(), "{fault:?}");
            if known && frame.len() >= 4 {
                assert_eq!(error.at(), Some(fault.at), "{error} but {fault}");
                assert!(error.to_string().contains(fault.reason), "{error} but {fault}");
            }
        }
    }
}

/// Walks to the end; returns how far it came, and why no further.
pub fn walk(dump: Dump<'_>) -> (usize, Option<Fault>) {
    let (frame, api, mut place) = (dump.frame(), dump.api_key(), 0);
    // What is open, with the elements an array still owes.
    let mut open: Vec<(Name, Option<u32>)> = Vec::new();
    let mut text = String::new();
    for event in dump {
        let event = match event {
            Ok(event) => event,
            Err(fault) => return (place, Some(fault)),
        };
        assert!(event.at.start == place && event.at.end >= place, "{event:?}");
        place = event.at.end;
        let name = match event.what {
            What::Enter { name, .. } | What::Value { name, .. } => Some(name),
            _ => None,
        };
        if let (Some(name), Some((_, Some(owed)))) = (name, open.last_mut()) {
            assert!(matches!(name, Name::Element(_)), "{event:?}");
            *owed = owed.checked_sub(1).expect("more elements than were announced");
        }
        match event.what {
            What::Enter { name, node } => {
                let owed = if let Node::Array { count, .. } = node { Some(count) } else { None };
                open.push((name, owed));
            }
            What::Leave => {
                assert!(event.at.is_empty());
                let (name, owed) = open.pop().expect("nothing was open");
                assert!(owed.is_none_or(|owed| owed == 0), "{name:?}");
            }
            What::Value { value: Value::Text(text), .. } => {
                assert!(frame[event.at].ends_with(text.as_bytes()))
            }
            What::Value { name, value: Value::Bytes(bytes) } => {
                assert!(frame[event.at].ends_with(bytes));
                text.clear();
                let _ = write!(text, "{name}");
                if let Some(inner) = api.and_then(|api| inside(api, &text, bytes)) {
                    let length = inner.dump.frame().len();
                    assert_eq!(walk(inner.dump), (length, None));
                }
            }
            What::Value { value: Value::Records(bytes), .. } | What::Opaque(bytes) => {
                assert!(frame[event.at].ends_with(bytes));
            }
            What::Value { .. } | What::Tags(_) => assert!(!event.at.is_empty()),
        }
    }
    assert!(open.is_empty());
    (place, None)
}
