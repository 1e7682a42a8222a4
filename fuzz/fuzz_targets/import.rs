//! States of Flink jobs: the first byte chooses the layout, the second the version. Documents of checkpoints too.
#![no_main]

use libfuzzer_sys::fuzz_target;
use milena_connector::checkpoint::StateDocument;
use milena_connector::checkpoint::import::{self, ImportedSource, LatestMarker};

fuzz_target!(|data: &[u8]| {
    let [layout, version, state @ ..] = data else { return };
    let version = i32::from(*version);
    let source = match layout % 8 {
        0 => import::split(version, state)
            .ok()
            .map(|split| ImportedSource { splits: vec![split], initial_discovery_finished: true }),
        1 => import::enumerator(version, state).ok(),
        2 => import::classic_source(state).ok(),
        3 => import::versioned(state).ok().and_then(|states| {
            let mut all = ImportedSource::default();
            for (version, state) in states {
                all.merge(import::enumerator(version, state).ok()?).ok()?;
            }
            Some(all)
        }),
        4 => {
            let _ = import::writer(version, state);
            None
        }
        5 => {
            let _ = import::committable(version, state);
            None
        }
        6 => {
            let _ = import::classic_sink(state);
            let _ = import::classic_hint(state);
            None
        }
        _ => {
            if let Ok(text) = std::str::from_utf8(state)
                && let Ok(read) = StateDocument::parse(text).and_then(StateDocument::into_state)
            {
                let again = StateDocument::of(&read).expect("it was read").into_state();
                assert_eq!(again.expect("it was written"), read);
            }
            None
        }
    };
    if let Some(source) = source {
        let state = source.into_state(LatestMarker::Earliest).expect("no start is refused");
        let mut out = milena_connector::checkpoint::state::Encoder::new();
        state.encode(&mut out);
        let bytes = out.finish();
        let mut from = milena_connector::checkpoint::state::Decoder::new(&bytes);
        let read = milena_connector::source::EnumeratorState::decode(&mut from);
        assert_eq!(read.expect("what was written is read"), state);
    }
});
