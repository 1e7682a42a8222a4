//! The checkpoint directory and the prefix: each is one job's, and a disk may fail.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use milena_connector::runtime::{Job, JobControl, Step};
use milena_connector::sink::Delivery;
use milena_connector::source::StopAt;
use milena_tests::jobs::{Running, Stage, crash_at, job_config, run};

const INTERVAL: Duration = Duration::from_millis(200);
const RECORDS: u64 = 140;

fn endless(stage: &Stage) -> Job {
    Job::from_source(stage.source().build().unwrap()).to(stage.sink(Delivery::ExactlyOnce).build().unwrap())
}

fn bounded(stage: &Stage) -> Job {
    Job::from_source(stage.source().bounded(StopAt::Latest).build().unwrap())
        .to(stage.sink(Delivery::ExactlyOnce).build().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_job_on_the_same_directory_is_refused() {
    for stage in Stage::each(1).await {
        stage.produce(0..RECORDS).await;
        let dir = tempfile::tempdir().unwrap();
        let first = Running::start(endless(&stage), job_config(dir.path(), 1, INTERVAL));
        first.until("a checkpoint", |metrics| metrics.checkpoints > 0).await;
        let second = run(endless(&stage), job_config(dir.path(), 1, INTERVAL), JobControl::new()).await;
        let text = second.unwrap_err().to_string();
        assert!(text.contains(&*dir.path().to_string_lossy()), "{text}");
        first.until("all records", |metrics| metrics.records_out == RECORDS).await;
        first.stop().await.unwrap();
        let verdict = stage.judge(0..RECORDS).await;
        assert!(verdict.is_clean(), "{}: {verdict}", stage.env.describe());
        // And when the first is gone, the directory is free.
        run(bounded(&stage), job_config(dir.path(), 1, INTERVAL), JobControl::new()).await.unwrap();
    }
}

/// Two jobs with one prefix would abort each other's transactions.
// scenario: 5.6.11, D16
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_job_on_the_same_prefix_is_refused() {
    for stage in Stage::each(1).await {
        stage.produce(0..RECORDS).await;
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let first = Running::start(endless(&stage), job_config(one.path(), 1, INTERVAL));
        first.until("all records", |metrics| metrics.records_out == RECORDS && metrics.checkpoints > 1).await;
        let second = run(bounded(&stage), job_config(two.path(), 1, INTERVAL), JobControl::new()).await;
        stage.produce(RECORDS..2 * RECORDS).await;
        // Refused, and the first one works on undisturbed.
        let error = second.expect_err("a second job on a prefix in use");
        assert!(error.to_string().contains(&stage.prefix), "{}: {error}", stage.env.describe());
        first.until("the others", |metrics| metrics.records_out == 2 * RECORDS).await;
        first.stop().await.unwrap();
        let verdict = stage.judge(0..2 * RECORDS).await;
        assert!(verdict.is_clean(), "{}: {verdict}", stage.env.describe());
    }
}

/// The newest checkpoint is damaged: the job says so and goes on from the one before. It never starts afresh.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_checkpoint_is_reported_and_the_one_before_is_used() {
    for stage in Stage::each(2).await {
        stage.produce(0..RECORDS).await;
        let dir = tempfile::tempdir().unwrap();
        run(stage.copy_job(), job_config(dir.path(), 2, Duration::from_millis(50)), JobControl::new())
            .await
            .unwrap();
        let mut files = checkpoint_files(dir.path());
        assert!(files.len() >= 2, "{files:?}");
        let newest = files.pop().unwrap();
        let mut bytes = std::fs::read(&newest).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x40;
        std::fs::write(&newest, bytes).unwrap();
        let report =
            run(bounded(&stage), job_config(dir.path(), 1, INTERVAL), JobControl::new()).await.unwrap();
        assert_eq!(report.damaged_checkpoints.len(), 1, "{report:?}");
        let name = newest.file_name().unwrap().to_string_lossy().into_owned();
        assert!(report.damaged_checkpoints[0].contains(&name), "{report:?}");
        // What was written after the older checkpoint may be there twice, as the report says; nothing is missing.
        let verdict = stage.judge(0..RECORDS).await;
        assert!(verdict.lost.is_empty() && verdict.foreign.is_empty(), "{}: {verdict}", stage.env.describe());
        // All of them damaged: nothing may be guessed.
        for file in checkpoint_files(dir.path()) {
            std::fs::write(file, b"not a checkpoint").unwrap();
        }
        let error =
            run(bounded(&stage), job_config(dir.path(), 1, INTERVAL), JobControl::new()).await.unwrap_err();
        assert!(error.to_string().contains("checkpoint"), "{error}");
    }
}

fn checkpoint_files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries
        .filter(|path| path.is_file() && path.file_name().unwrap().to_string_lossy().contains("checkpoint"))
        .collect();
    files.sort();
    files
}

/// A place for a job's directory that stops taking files: a small file system where this process may mount one, else a folder
/// whose permissions are taken away.
struct BadDisk {
    mount: tempfile::TempDir,
    job: PathBuf,
    mounted: bool,
}

impl BadDisk {
    fn new() -> Self {
        let mount = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"])
            .arg(mount.path())
            .output()
            .is_ok_and(|output| output.status.success());
        let job = mount.path().join("job");
        std::fs::create_dir(&job).unwrap();
        Self { mount, job, mounted }
    }

    /// Whether it worked: neither is possible for a root without the right to mount.
    fn break_down(&self) -> bool {
        if self.mounted {
            // Fills what is left; the last write fails, which is the point.
            let _ = std::fs::write(self.mount.path().join("ballast"), vec![0; 64 * 1024]);
            return true;
        }
        self.permit(true);
        std::fs::write(self.job.join("probe"), b"x").is_err()
    }

    fn repair(&self) {
        if self.mounted {
            std::fs::remove_file(self.mount.path().join("ballast")).unwrap();
        } else {
            self.permit(false);
        }
    }

    fn permit(&self, read_only: bool) {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = if read_only { 0o500 } else { 0o700 };
        std::fs::set_permissions(&self.job, std::fs::Permissions::from_mode(mode)).unwrap();
    }
}

impl Drop for BadDisk {
    fn drop(&mut self) {
        if self.mounted {
            let _ = Command::new("umount").arg(self.mount.path()).output();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_fails_ends_the_job_and_loses_nothing() {
    for stage in Stage::each(1).await {
        let disk = BadDisk::new();
        stage.produce(0..RECORDS).await;
        let crash = crash_at(Step::AfterCommit, 1);
        run(bounded(&stage), job_config(&disk.job, 1, INTERVAL), crash).await.unwrap_err();
        stage.produce(RECORDS..2 * RECORDS).await;
        if disk.break_down() {
            let ended = run(bounded(&stage), job_config(&disk.job, 1, INTERVAL), JobControl::new()).await;
            let text = ended.unwrap_err().to_string();
            assert!(text.contains(&*disk.job.to_string_lossy()), "{}: {text}", stage.env.describe());
        } else {
            eprintln!("SKIPPED in part: this process can neither fill a disk nor be denied one");
        }
        disk.repair();
        run(bounded(&stage), job_config(&disk.job, 1, INTERVAL), JobControl::new()).await.unwrap();
        let verdict = stage.judge(0..2 * RECORDS).await;
        assert!(verdict.is_clean(), "{}: {verdict}", stage.env.describe());
    }
}
