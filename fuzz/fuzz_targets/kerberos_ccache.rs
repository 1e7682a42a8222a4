//! Any bytes as a ticket cache: an error or tickets, never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use milena_core::sasl::gssapi::{TicketCache, Timestamp};

fuzz_target!(|bytes: &[u8]| {
    let Ok(cache) = TicketCache::parse(bytes) else { return };
    let now = Timestamp::from_seconds(1_700_000_000);
    if let Ok(ticket) = cache.ticket_granting(now) {
        assert_eq!(&ticket.client, cache.client());
        assert!(!ticket.remaining(now).is_zero());
    }
    let _ = (cache.client().to_string(), format!("{cache:?}"));
});
