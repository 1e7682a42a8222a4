//! The crate's own runtime as a host.

use super::{End, Host, Life, Lived, Moment};
use crate::contract::{Sink, Source};
use crate::runtime::{Chain, CheckpointConfig, JobConfig, JobControl, Restore, Step, Stream, Verdict};
use crate::schema::OwnedKafkaRecord;
use crate::{Error, Result};

/// [`runtime`](crate::runtime) as a host.
#[derive(Clone, Copy, Debug, Default)]
pub struct Embedded;

impl Host for Embedded {
    async fn live<S, C, K>(&self, life: Life<S, C, K>) -> Result<Lived>
    where
        S: Source<Element = OwnedKafkaRecord>,
        C: Chain<OwnedKafkaRecord, Out = OwnedKafkaRecord>,
        K: Sink<OwnedKafkaRecord>,
    {
        live(life).await
    }
}

async fn live<S, C, K>(life: Life<S, C, K>) -> Result<Lived>
where
    S: Source<Element = OwnedKafkaRecord>,
    C: Chain<OwnedKafkaRecord, Out = OwnedKafkaRecord>,
    K: Sink<OwnedKafkaRecord>,
{
    let crash = match life.end {
        End::CrashAt(Moment::Prepared) => Some(Step::AfterPrepare),
        End::CrashAt(Moment::Durable) => Some(Step::AfterCheckpointWrite),
        End::CrashAt(Moment::Committed) => Some(Step::AfterCommit),
        End::Finished | End::StopAfter(_) => None,
    };
    let control = JobControl::with_hooks(move |step: Step, _: Option<u32>| match Some(step) == crash {
        true => Verdict::Crash,
        false => Verdict::Continue,
    });
    let config = JobConfig {
        parallelism: life.parallelism,
        checkpoint: CheckpointConfig {
            interval: life.interval,
            restore: life.from.map_or(Restore::Latest, |from| Restore::Savepoint(from.into())),
            ..CheckpointConfig::new(life.dir)
        },
        ..JobConfig::new("conformance")
    };
    if let Some(to) = &life.savepoint {
        // If it fails, what goes on from it says so.
        drop(control.savepoint_at_the_end(to));
    }
    let mut metrics = control.metrics();
    let running = Stream::of(life.source, life.functions).to(life.sink).run(config, control.clone());
    let stopping = async {
        if let End::StopAfter(records) = life.end {
            // It fails when the job is over, and then there is nothing to stop.
            let _ = metrics.wait_for(|metrics| metrics.records_in >= records).await;
            control.stop();
        }
        std::future::pending::<()>().await;
    };
    let ended = tokio::select! {
        ended = running => ended,
        () = stopping => unreachable_end(),
    };
    let records_in = control.metrics().borrow().records_in;
    match ended {
        Ok(report) => Ok(Lived { records_in: report.records_in, crashed: false }),
        Err(error) if crash.is_some() && error.to_string().contains("crashed by a hook") => {
            Ok(Lived { records_in, crashed: true })
        }
        Err(error) => Err(error),
    }
}

fn unreachable_end() -> Result<crate::runtime::JobReport> {
    Err(Error::new(crate::ErrorKind::Closed, "the job was not waited for"))
}
