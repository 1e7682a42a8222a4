//! A broker in a container of the image apache/kafka.

use std::borrow::Cow;
use std::future::Future;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, mpsc};
use std::time::Duration;

use testcontainers::bollard::query_parameters::KillContainerOptionsBuilder;
use testcontainers::core::client::docker_client_instance;
use testcontainers::core::{ContainerPort, WaitFor};
use testcontainers::runners::AsyncRunner;
use testcontainers::{ContainerAsync, ContainerRequest, Image, ImageExt};
use tokio::runtime::Runtime;

use super::error::{KafkaError, KafkaErrorKind};
use super::guard::Guard;
use super::settings::{CLUSTER_ID, Properties, to_variable};
use super::version::KafkaVersion;

const IMAGE: &str = "apache/kafka";
/// The port of clients inside the container.
const INSIDE: u16 = 9092;
/// A pull that takes longer is given up and the next route is tried.
const PULL_TIMEOUT: Duration = Duration::from_secs(300);
/// How long the engine may take for one of the short operations.
const ENGINE_TIMEOUT: Duration = Duration::from_secs(60);

/// The engine's connections belong to the runtime that opened them, and each test brings a runtime of its own that
/// ends with it. So all work with the engine is done on this one, which lives as long as the process.
static RUNTIME: LazyLock<Result<Runtime, String>> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("milena-containers")
        .enable_all()
        .build()
        .map_err(|error| error.to_string())
});

/// A container and, when this value is dropped, its end.
#[derive(Debug)]
pub(crate) struct Container {
    inner: Option<Arc<ContainerAsync<KafkaImage>>>,
    guard: Mutex<Guard>,
}

/// The image apache/kafka set up as a single broker and controller.
///
/// The host port is chosen before the start, so that the broker can advertise it from the beginning and keeps it over
/// restarts. The listener BROKER is the one by which the broker reaches itself, to write transaction markers for
/// instance: the advertised port of clients exists only outside.
#[derive(Debug, Clone)]
struct KafkaImage {
    tag: String,
    environment: Vec<(String, String)>,
}

impl KafkaImage {
    fn new(version: KafkaVersion, port: u16, properties: &Properties, heap_mib: u32) -> Self {
        let mut environment: Vec<(String, String)> = [
            ("CLUSTER_ID", CLUSTER_ID.to_owned()),
            ("KAFKA_HEAP_OPTS", format!("-Xms64m -Xmx{heap_mib}m")),
            ("KAFKA_OPTS", "-XX:TieredStopAtLevel=1".to_owned()),
            ("KAFKA_NODE_ID", "1".to_owned()),
            ("KAFKA_PROCESS_ROLES", "broker,controller".to_owned()),
            ("KAFKA_CONTROLLER_QUORUM_VOTERS", "1@localhost:9094".to_owned()),
            ("KAFKA_CONTROLLER_LISTENER_NAMES", "CONTROLLER".to_owned()),
            ("KAFKA_INTER_BROKER_LISTENER_NAME", "BROKER".to_owned()),
            (
                "KAFKA_LISTENERS",
                format!("PLAINTEXT://0.0.0.0:{INSIDE},BROKER://localhost:9093,CONTROLLER://localhost:9094"),
            ),
            ("KAFKA_ADVERTISED_LISTENERS", format!("PLAINTEXT://127.0.0.1:{port},BROKER://localhost:9093")),
            (
                "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP",
                "PLAINTEXT:PLAINTEXT,BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT".to_owned(),
            ),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        for (name, value) in properties {
            let name = to_variable(name);
            environment.retain(|(earlier, _)| *earlier != name);
            environment.push((name, value.clone()));
        }
        Self { tag: version.to_string(), environment }
    }
}

impl Image for KafkaImage {
    fn name(&self) -> &str {
        IMAGE
    }

    fn tag(&self) -> &str {
        &self.tag
    }

    fn ready_conditions(&self) -> Vec<WaitFor> {
        // The log line of readiness is there already when a container starts again: the broker is asked instead.
        Vec::new()
    }

    fn env_vars(&self) -> impl IntoIterator<Item = (impl Into<Cow<'_, str>>, impl Into<Cow<'_, str>>)> {
        self.environment.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    fn cmd(&self) -> impl IntoIterator<Item = impl Into<Cow<'_, str>>> {
        ["/etc/kafka/docker/run"]
    }

    fn expose_ports(&self) -> &[ContainerPort] {
        &[ContainerPort::Tcp(INSIDE)]
    }
}

impl Container {
    /// Starts a container that listens on 127.0.0.1:`port`. Does not wait for the broker to answer.
    ///
    /// # Errors
    /// Absent if no engine answers or the image can be had neither here nor from a registry; Start for the rest.
    ///
    /// # Cancellation
    /// A container that was started all the same is removed.
    pub(crate) async fn start(
        version: KafkaVersion,
        port: u16,
        properties: &Properties,
        heap_mib: u32,
    ) -> Result<Self, KafkaError> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("milena-kafka-{}-{port}-{number}", std::process::id());
        let image = KafkaImage::new(version, port, properties, heap_mib);
        let guard = Guard::of_container(&name).map_err(|error| KafkaError::system("sh", error))?;
        let request = ContainerRequest::from(image.clone())
            .with_mapped_port(port, ContainerPort::Tcp(INSIDE))
            .with_host_config_modifier(|host| {
                // The default is every address of this machine; nobody else has business with a test's broker.
                for binding in
                    host.port_bindings.iter_mut().flat_map(|ports| ports.values_mut()).flatten().flatten()
                {
                    binding.host_ip = Some("127.0.0.1".to_owned());
                }
            })
            .with_label("milena", "testkit")
            .with_container_name(name);
        let container = on_engine_runtime(async move {
            find_image(image).await?;
            request.start().await.map_err(|error| {
                KafkaError::new(KafkaErrorKind::Start, format!("{IMAGE}:{version} does not start: {error}"))
            })
        })
        .await?;
        Ok(Self { inner: Some(Arc::new(container)), guard: Mutex::new(guard) })
    }

    /// SIGKILL to the broker. Nothing happens if it does not run.
    pub(crate) async fn kill9(&self) -> Result<(), KafkaError> {
        self.run(|container| async move {
            if container.is_running().await.map_err(|error| KafkaError::system("docker inspect", error))? {
                let docker =
                    docker_client_instance().await.map_err(|error| KafkaError::system("docker", error))?;
                let options = KillContainerOptionsBuilder::new().signal("SIGKILL").build();
                let killed = docker.kill_container(container.id(), Some(options)).await;
                killed.map_err(|error| KafkaError::system("docker kill", error))?;
                wait_stopped(&container).await?;
            }
            Ok(())
        })
        .await
    }

    /// SIGTERM, and SIGKILL after 30 s.
    pub(crate) async fn stop(&self) -> Result<(), KafkaError> {
        self.run(|container| async move {
            container
                .stop_with_timeout(Some(30))
                .await
                .map_err(|error| KafkaError::system("docker stop", error))
        })
        .await
    }

    /// Stops the broker in good order if it runs, and starts it. Does not wait for it to answer.
    pub(crate) async fn restart(&self) -> Result<(), KafkaError> {
        self.stop().await?;
        self.run(|container| async move {
            container.start().await.map_err(|error| KafkaError::system("docker start", error))
        })
        .await
    }

    /// Freezes or thaws the container.
    pub(crate) async fn pause(&self, pause: bool) -> Result<(), KafkaError> {
        self.run(move |container| async move {
            let done = if pause { container.pause().await } else { container.unpause().await };
            done.map_err(|error| {
                KafkaError::system(if pause { "docker pause" } else { "docker unpause" }, error)
            })
        })
        .await
    }

    /// Fails if the container does not run, with the end of its log.
    pub(crate) async fn check_alive(&self) -> Result<(), KafkaError> {
        self.run(|container| async move {
            if container.is_running().await.map_err(|error| KafkaError::system("docker inspect", error))? {
                return Ok(());
            }
            let message = format!("the container ended:\n{}", log_tail(&container).await);
            Err(KafkaError::new(KafkaErrorKind::Start, message))
        })
        .await
    }

    /// The last lines of the container's log.
    pub(crate) async fn log_tail(&self) -> String {
        self.run(|container| async move { Ok(log_tail(&container).await) }).await.unwrap_or_default()
    }

    async fn run<T, F>(
        &self,
        work: impl FnOnce(Arc<ContainerAsync<KafkaImage>>) -> F,
    ) -> Result<T, KafkaError>
    where
        F: Future<Output = Result<T, KafkaError>> + Send + 'static,
        T: Send + 'static,
    {
        match &self.inner {
            Some(container) => on_engine_runtime(work(Arc::clone(container))).await,
            None => Err(KafkaError::system("docker", "the container is removed")),
        }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let (Some(container), Ok(runtime)) = (self.inner.take(), RUNTIME.as_ref()) else { return };
        let (done, removed) = mpsc::channel();
        runtime.spawn(async move {
            // While an abandoned operation still holds the container, that one removes it at its end.
            let outcome = match Arc::into_inner(container) {
                Some(container) => container.rm().await.is_ok(),
                None => false,
            };
            let _ = done.send(outcome);
        });
        if removed.recv_timeout(ENGINE_TIMEOUT) == Ok(true) {
            let _ = self.guard.get_mut().unwrap_or_else(PoisonError::into_inner).release();
        }
    }
}

/// Runs work with the engine to its end, whether or not the caller waits for it.
async fn on_engine_runtime<T: Send + 'static>(
    work: impl Future<Output = Result<T, KafkaError>> + Send + 'static,
) -> Result<T, KafkaError> {
    let runtime = RUNTIME.as_ref().map_err(|error| KafkaError::system("a tokio runtime", error))?;
    runtime
        .spawn(work)
        .await
        .map_err(|error| KafkaError::system("the task for the container engine", error))?
}

async fn find_image(image: KafkaImage) -> Result<(), KafkaError> {
    let absent = |message: String| KafkaError::new(KafkaErrorKind::Absent, message);
    let docker =
        docker_client_instance().await.map_err(|error| absent(format!("no container engine: {error}")))?;
    let answer = tokio::time::timeout(Duration::from_secs(10), docker.ping()).await;
    match answer {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => return Err(absent(format!("no container engine answers: {error}"))),
        Err(_) => return Err(absent("the container engine does not answer in 10 s".to_owned())),
    }
    let name = format!("{IMAGE}:{}", image.tag);
    if docker.inspect_image(&name).await.is_ok() {
        return Ok(());
    }
    let tag = image.tag.clone();
    let remedy = format!("run `cargo xtask kafka image {tag}`");
    match tokio::time::timeout(PULL_TIMEOUT, ContainerRequest::from(image).pull_image()).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(absent(format!("no image {name} here and none to pull ({error}): {remedy}"))),
        Err(_) => Err(absent(format!("no image {name} here and pulling takes over 5 min: {remedy}"))),
    }
}

async fn wait_stopped(container: &ContainerAsync<KafkaImage>) -> Result<(), KafkaError> {
    let started = tokio::time::Instant::now();
    while started.elapsed() < ENGINE_TIMEOUT {
        match container.is_running().await {
            Ok(false) => return Ok(()),
            Ok(true) => tokio::time::sleep(Duration::from_millis(20)).await,
            Err(error) => return Err(KafkaError::system("docker inspect", error)),
        }
    }
    Err(KafkaError::system("docker kill", "the container still runs"))
}

async fn log_tail(container: &ContainerAsync<KafkaImage>) -> String {
    let text = container.stdout_to_vec().await.unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().rev().take(30).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}
