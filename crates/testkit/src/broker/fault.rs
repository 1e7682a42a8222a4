//! Faults that a test orders from the broker.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use milena_protocol::ErrorCode;

/// What goes wrong with a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The connection is closed; the request has no effect.
    DropBefore,
    /// The request takes effect; then the connection is closed without the answer.
    DropAfter,
    /// The request has no effect and is answered with this error, in every place the answer has one.
    Error(ErrorCode),
    /// The request takes effect at once; its answer, and what follows on its connection, waits this long.
    Delay(Duration),
    /// The request takes effect, and its answer asks the client to leave the broker alone this long (KIP-219); that of a Fetch then names no
    /// partition.
    Throttle(Duration),
    /// The request has no effect and is never answered, nor is anything after it on its connection.
    Silence,
}

/// A fault that was ordered and has not hit as often as it should.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnusedFault {
    /// The API it waits for.
    pub api_key: i16,
    /// What would have gone wrong.
    pub fault: Fault,
    /// How many more requests it would have hit.
    pub left: u32,
}

#[derive(Debug)]
struct Order {
    api_key: i16,
    fault: Fault,
    skip: u32,
    left: u32,
}

/// The faults a broker is to show, in the order they were given. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Faults(Arc<Mutex<Vec<Order>>>);

impl Faults {
    /// The next `times` requests of the API meet the fault.
    pub fn on(&self, api_key: i16, fault: Fault, times: u32) {
        self.on_after(0, api_key, fault, times);
    }

    /// Lets `skip` requests of the API pass, then `times` of them meet the fault.
    ///
    /// Orders for one API are served one after the other: a later one starts to count when an earlier one is used up.
    pub fn on_after(&self, skip: u32, api_key: i16, fault: Fault, times: u32) {
        if times > 0 {
            self.lock().push(Order { api_key, fault, skip, left: times });
        }
    }

    /// What was ordered and has not happened. A test that orders faults asserts that this is empty.
    #[must_use]
    pub fn unused(&self) -> Vec<UnusedFault> {
        self.lock()
            .iter()
            .map(|order| UnusedFault { api_key: order.api_key, fault: order.fault, left: order.left })
            .collect()
    }

    /// Takes all orders back.
    pub fn clear(&self) {
        self.lock().clear();
    }

    pub(super) fn take(&self, api_key: i16) -> Option<Fault> {
        let mut orders = self.lock();
        let position = orders.iter().position(|order| order.api_key == api_key)?;
        let order = orders.get_mut(position)?;
        if order.skip > 0 {
            order.skip -= 1;
            return None;
        }
        order.left -= 1;
        let fault = order.fault;
        if order.left == 0 {
            orders.remove(position);
        }
        Some(fault)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Order>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_served_in_turn_and_what_is_left_is_told() {
        let faults = Faults::default();
        faults.on_after(1, 0, Fault::Silence, 1);
        faults.on(0, Fault::DropAfter, 2);
        faults.on(1, Fault::DropBefore, 1);
        assert_eq!(faults.take(0), None);
        assert_eq!(faults.take(0), Some(Fault::Silence));
        assert_eq!(faults.take(0), Some(Fault::DropAfter));
        assert_eq!(faults.take(2), None);
        assert_eq!(
            faults.unused(),
            [
                UnusedFault { api_key: 0, fault: Fault::DropAfter, left: 1 },
                UnusedFault { api_key: 1, fault: Fault::DropBefore, left: 1 },
            ]
        );
        assert_eq!(faults.take(0), Some(Fault::DropAfter));
        assert_eq!(faults.take(1), Some(Fault::DropBefore));
        assert_eq!(faults.take(1), None);
        assert!(faults.unused().is_empty());
    }
}
