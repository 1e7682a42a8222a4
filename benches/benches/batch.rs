//! The cases of `milena_benches::records`, by criterion.
#![allow(missing_docs)] // criterion's macro makes a function without

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use milena_benches::{Amount, records};
use std::time::Duration;

fn all(c: &mut Criterion) {
    for case in records::cases() {
        let mut group = c.benchmark_group(case.name);
        match case.amount {
            Amount::Records(records) => group.throughput(Throughput::Elements(records as u64)),
            Amount::Bytes(bytes) => group.throughput(Throughput::Bytes(bytes as u64)),
            Amount::Once => &mut group,
        };
        for (name, mut run) in case.rows {
            group.bench_function(name, |b| b.iter(&mut run));
        }
        group.finish();
    }
}

fn config() -> Criterion {
    Criterion::default().warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_millis(900))
}

criterion_group! { name = benches; config = config(); targets = all }
criterion_main!(benches);
