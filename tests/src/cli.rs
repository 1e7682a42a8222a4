//! The `milena` command, run as a user runs it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::sync::OnceCell;

/// What a run printed, and how it ended.
#[derive(Debug)]
pub struct Outcome {
    /// The exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Outcome {
    /// Standard output of a run that ended well.
    ///
    /// # Panics
    /// If it did not.
    #[track_caller]
    pub fn good(self) -> String {
        assert_eq!(self.code, Some(0), "standard error: {}", self.err);
        self.out
    }

    /// Standard error of a run that ended with this exit code and a message of its own.
    ///
    /// # Panics
    /// If it ended in another way.
    #[track_caller]
    pub fn failed(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert!(!self.err.trim().is_empty() && !self.err.contains("panicked"), "{self:?}");
        self.err
    }
}

/// The program: `MILENA_BIN`, or built by cargo beside the running test.
///
/// # Panics
/// If it can't be built.
pub async fn program() -> &'static Path {
    static PROGRAM: OnceCell<PathBuf> = OnceCell::const_new();
    PROGRAM.get_or_init(build).await
}

async fn build() -> PathBuf {
    if let Some(program) = std::env::var_os("MILENA_BIN") {
        return program.into();
    }
    // target/PROFILE/deps/TEST
    let test = std::env::current_exe().unwrap_or_else(|error| panic!("the test's path: {error}"));
    let folder = test.parent().and_then(Path::parent).unwrap_or_else(|| panic!("{}", test.display()));
    let target = folder.parent().unwrap_or_else(|| panic!("{}", folder.display()));
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--package", "milena-cli", "--target-dir"]).arg(target);
    command.current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null());
    if folder.file_name().is_some_and(|name| name == "release") {
        command.arg("--release");
    }
    let output = command.output().await.unwrap_or_else(|error| panic!("cargo: {error}"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    folder.join(format!("milena{}", std::env::consts::EXE_SUFFIX))
}

/// Starts `milena` with pipes; it is killed when the value is dropped.
///
/// # Panics
/// If it can't be started.
pub async fn start<S: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = S>) -> Child {
    let mut command = Command::new(program().await);
    command
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command.spawn().unwrap_or_else(|error| panic!("milena: {error}"))
}

/// Waits for the end of a run.
///
/// # Panics
/// When it takes more than two minutes.
pub async fn end(child: Child) -> Outcome {
    let output = tokio::time::timeout(Duration::from_secs(120), child.wait_with_output()).await;
    let output = output
        .unwrap_or_else(|_| panic!("milena does not end"))
        .unwrap_or_else(|error| panic!("milena: {error}"));
    Outcome {
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Runs `milena` to its end with this standard input.
///
/// # Panics
/// As [`end`].
pub async fn run<S: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = S>, input: &str) -> Outcome {
    let mut child = start(arguments).await;
    if let Some(mut stdin) = child.stdin.take() {
        // A run that fails early does not read it.
        let _ = stdin.write_all(input.as_bytes()).await;
    }
    end(child).await
}

/// Sends SIGINT, as Ctrl-C does.
///
/// # Panics
/// If the process is gone.
pub fn interrupt(child: &Child) {
    let id = child.id().unwrap_or_else(|| panic!("milena has ended before the signal"));
    let sent = std::process::Command::new("kill").args(["-INT", &id.to_string()]).status();
    assert!(sent.is_ok_and(|status| status.success()), "kill -INT {id}");
}
