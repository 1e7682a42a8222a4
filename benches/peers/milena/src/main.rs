//! milena in the comparison. A mode that ends with `-mt` runs on the multi-thread runtime, any other on the current-thread one.
#![forbid(unsafe_code)]

mod consume;
mod latency;
mod produce;

use anyhow::Result;
use contract::{Args, Role};

fn main() -> Result<()> {
    let args = Args::parse()?;
    let many = args.threads > 1 || args.mode.ends_with("-mt");
    let mut builder = if many {
        tokio::runtime::Builder::new_multi_thread()
    } else {
        tokio::runtime::Builder::new_current_thread()
    };
    let runtime = builder.worker_threads(args.threads.max(2)).enable_all().build()?;
    runtime.block_on(async move {
        // On the multi-thread runtime the application is on a worker, too.
        let work = async move {
            match args.role {
                Role::Consume => consume::run(&args).await,
                Role::Produce => produce::run(&args).await,
                Role::Latency => latency::run(&args).await,
            }
        };
        if many { tokio::spawn(work).await? } else { work.await }
    })
}
