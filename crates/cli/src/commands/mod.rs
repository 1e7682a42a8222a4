//! One file per command.

pub(crate) mod api_versions;
pub(crate) mod broker;
pub(crate) mod consume;
pub(crate) mod copy;
pub(crate) mod frame;
pub(crate) mod offsets;
pub(crate) mod produce;
pub(crate) mod records;
pub(crate) mod state;
pub(crate) mod topics;
pub(crate) mod txn;
