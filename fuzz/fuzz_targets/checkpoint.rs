//! Any bytes as the contents of a checkpoint: an error or a state, never a panic, and a state is written as it was read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use milena_connector::checkpoint::CheckpointState;
use milena_connector::checkpoint::state::Decoder;
use milena_connector::source::EnumeratorState;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(state) = CheckpointState::decode(bytes) {
        assert_eq!(CheckpointState::decode(&state.encode()).as_ref(), Ok(&state));
    }
    let _ = EnumeratorState::decode(&mut Decoder::new(bytes));
});
