//! The future of one record that is sent.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;

use super::engine::Engine;
use super::intake::Refusal;
use super::record::ProducerRecord;
use super::send_later;
use super::ticket::Ticket;
use crate::error::{Error, Result};

/// Sends a record at its first poll, if there is room.
///
/// Written by hand because it is the hottest future there is. What an `async fn` is given it moves to another place when it is polled, and what
/// lives until an `await` it keeps in memory: both are wide loads right behind narrow stores, which a processor can't forward, and they
/// would cost as much as the lock. Here the record stays where the caller built it and the ticket in registers.
#[derive(Debug)]
pub(super) struct Sending<'a> {
    engine: &'a Arc<Engine>,
    record: ProducerRecord<'a>,
    stage: Stage<'a>,
}

enum Stage<'a> {
    First,
    /// It was refused at first. In a box, so that the usual case stays small.
    Later(BoxFuture<'a, Result<Ticket>>),
    Done,
}

impl std::fmt::Debug for Stage<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::First => "First",
            Self::Later(_) => "Later",
            Self::Done => "Done",
        })
    }
}

impl<'a> Sending<'a> {
    #[inline]
    pub(super) fn new(engine: &'a Arc<Engine>, record: ProducerRecord<'a>) -> Self {
        Self { engine, record, stage: Stage::First }
    }

    #[cold]
    fn poll_later(&mut self, refusal: Option<Refusal>, cx: &mut Context<'_>) -> Poll<Result<Ticket>> {
        if let Some(refusal) = refusal {
            let (engine, record) = (self.engine, self.record);
            let later = async move { send_later(engine, &record, refusal, Ticket::new).await };
            self.stage = Stage::Later(Box::pin(later));
        }
        let polled = match &mut self.stage {
            Stage::Later(later) => later.as_mut().poll(cx),
            _ => Poll::Ready(Err(Error::misuse("a future was polled after it had ended"))),
        };
        if polled.is_ready() {
            self.stage = Stage::Done;
        }
        polled
    }
}

impl Future for Sending<'_> {
    type Output = Result<Ticket>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if !matches!(this.stage, Stage::First) {
            return this.poll_later(None, cx);
        }
        match this.engine.push(&this.record, Ticket::new) {
            Ok(ticket) => {
                this.stage = Stage::Done;
                Poll::Ready(Ok(ticket))
            }
            Err(refusal) => this.poll_later(Some(refusal), cx),
        }
    }
}
