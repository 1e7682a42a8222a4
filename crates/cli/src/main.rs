//! The `milena` command: Kafka from the shell, without C and without a JVM.

mod args;
mod commands;
mod connect;
mod demo;
mod dump;
mod logging;
mod offset;
mod output;
mod render;
mod signals;

use std::process::ExitCode;

use crate::args::{Cli, Command};
use clap::{CommandFactory as _, Parser as _};

fn main() -> ExitCode {
    let cli = Cli::parse();
    logging::start(cli.global.verbose);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("milena: no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(run(cli));
    // A read of standard input cannot be cancelled; nothing else is left to wait for.
    runtime.shutdown_background();
    match outcome {
        Ok(code) => code,
        Err(error) if output::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("milena: {}", output::describe(&error));
            if error.is::<output::Usage>() { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}

async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let Cli { global, command } = cli;
    match command {
        Command::Demo(args) => return demo::run(&global, &args).await,
        Command::DemoWorker(args) => demo::worker::run(&global, &args).await?,
        Command::Copy(args) => commands::copy::run(&global, args).await?,
        Command::Produce(args) => commands::produce::run(&global, &args).await?,
        Command::Consume(args) => commands::consume::run(&global, &args).await?,
        Command::Topics(args) => commands::topics::run(&global, args.action).await?,
        Command::Txn(args) => commands::txn::run(&global, args.action).await?,
        Command::Offsets(args) => commands::offsets::run(&global, &args).await?,
        Command::ApiVersions(args) => commands::api_versions::run(&global, &args).await?,
        Command::Frame(args) => commands::frame::run(&global, &args)?,
        Command::Records(args) => commands::records::run(&global, &args)?,
        Command::State(args) => commands::state::run(&global, args)?,
        Command::Broker(args) => commands::broker::run(&args).await?,
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "milena", &mut std::io::stdout());
        }
    }
    Ok(ExitCode::SUCCESS)
}
