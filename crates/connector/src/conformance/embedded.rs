//! The crate's own runtime as a host.

use futures_util::future::BoxFuture;

use super::{End, Host, Life, Lived, Moment};
use crate::runtime::{CheckpointConfig, Job, JobConfig, JobControl, Step, Verdict};
use crate::{Error, Result};

/// [`runtime`](crate::runtime) as a host.
#[derive(Clone, Copy, Debug, Default)]
pub struct Embedded;

impl Host for Embedded {
    fn live(&self, life: Life) -> BoxFuture<'_, Result<Lived>> {
        Box::pin(live(life))
    }
}

async fn live(life: Life) -> Result<Lived> {
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
        checkpoint: CheckpointConfig { interval: life.interval, ..CheckpointConfig::new(life.dir) },
        ..JobConfig::new("conformance")
    };
    let mut metrics = control.metrics();
    let running = Job::from_source(life.source).to(life.sink).run(config, control.clone());
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
