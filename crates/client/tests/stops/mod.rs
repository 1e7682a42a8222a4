//! A world of stopped time, which tells the points apart at which a future waits: it is polled until it has waited so many times, and
//! dropped; then once more, until it was not dropped any more.

#![allow(dead_code, unreachable_pub)] // each test binary uses a part

use std::future::Future;
use std::task::Poll;
use std::time::Duration;

use milena::{Client, ClientConfig, Result, transport};
use milena_testkit::broker::BrokerConfig;
use milena_testkit::sim::{self, Weather, World};
use tokio::time::{sleep, timeout};

/// A topic with one partition.
pub const TOPIC: &str = "t";

/// A future that waits more often than this does not come to its end.
const MOST: u32 = 500;

/// Polls a future until it has waited `times` times, and drops it then. `None`: it was dropped.
pub async fn cut<F: Future>(future: F, times: u32) -> Option<F::Output> {
    tokio::pin!(future);
    let mut waited = 0;
    std::future::poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending if waited == times => Poll::Ready(None),
        Poll::Pending => {
            waited += 1;
            Poll::Pending
        }
    })
    .await
}

/// Runs a story with each number of waits until it says that its future came to its end. Afterwards nothing may be left running.
pub fn at_every_wait<F: Future<Output = bool>>(what: &str, story: impl Fn(World, Client, u32) -> F) {
    let story = &story;
    for times in 0..MOST {
        let ended = sim::run(7, build, |world| async move {
            let calm = tokio::runtime::Handle::current().metrics().num_alive_tasks();
            let client = connect(&world).await.unwrap();
            let ended = timeout(Duration::from_secs(600), story(world.clone(), client.clone(), times)).await;
            let Ok(ended) = ended else { panic!("{what}, dropped after {times} waits: it stalls") };
            client.close(Duration::from_secs(5)).await.unwrap();
            drop(client);
            // What was dropped ends in the background.
            sleep(Duration::from_secs(600)).await;
            let left = tokio::runtime::Handle::current().metrics().num_alive_tasks();
            assert_eq!(left, calm, "{what}, dropped after {times} waits: tasks are left");
            ended
        });
        if ended {
            assert!(times > 0, "{what} never waits, so nothing was dropped");
            return;
        }
    }
    panic!("{what} does not end");
}

/// The network takes its time, so that every answer is waited for.
fn build(_: &sim::Dice) -> (BrokerConfig, Weather) {
    let broker = BrokerConfig::default().with_topic(TOPIC, 1).with_topic("in", 1);
    (broker, Weather { delay: Duration::from_millis(5), ..Weather::CALM })
}

/// A client of the world's broker.
pub async fn connect(world: &World) -> Result<Client> {
    let network = world.network.clone();
    let dialer = transport::from_fn(move |host, port| {
        let network = network.clone();
        async move { network.dial(host, port).await }
    });
    let mut config = ClientConfig::from(world.broker.bootstrap().as_str()).with_dialer(dialer);
    config.seed = Some(1);
    Client::connect(config).await
}
