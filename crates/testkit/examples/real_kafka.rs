//! Runs a real Kafka until this process ends: `cargo xtask kafka start` uses it.
//!
//! The first line of output is the address of the broker, the second says how it was started. The version and the
//! route come from `MILENA_KAFKA_VERSION` and `MILENA_KAFKA_ROUTE`; with `MILENA_KAFKA_RECORD=FOLDER` all frames are kept there. With
//! `MILENA_KAFKA_TLS=1` two more lines are the address of a listener with TLS and the file of the authority to trust. Whatever ends this process,
//! Ctrl-C or a signal, ends the broker and removes its data.

use milena_testkit::kafka::{Certificates, KafkaError, KafkaOptions};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), KafkaError> {
    let mut options = KafkaOptions::from_env()?;
    if let Some(folder) = std::env::var_os("MILENA_KAFKA_RECORD") {
        options = options.record_to(folder.as_ref());
    }
    let mut tls = None;
    if std::env::var_os("MILENA_KAFKA_TLS").is_some() {
        let certificates = Certificates::make().await?;
        let (with_tls, address) = options.tls_listener(&certificates)?;
        options = with_tls;
        tls = Some((address, certificates));
    }
    let kafka = options.start().await?;
    println!("{}", kafka.bootstrap());
    println!("{}", kafka.how());
    if let Some((address, certificates)) = &tls {
        println!("{address}\n{}", certificates.file("ca.pem").display());
    }
    std::future::pending::<()>().await;
    Ok(())
}
