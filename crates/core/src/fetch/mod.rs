//! What of a fetched partition may be shown, and where to go on.

pub mod visible;

pub use visible::{BatchHead, Marker, Verdict, VisibleFilter};
