//! Cleans up after a test process however it ends, SIGKILL included.
//!
//! A guard is a shell that waits for the end of a pipe whose other end only the test process holds. It sits in a
//! process group of its own, so that Ctrl-C in a terminal reaches the tests and not the guard.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Ends a process and removes its folder, or removes a container, when this value or this process goes away.
#[derive(Debug)]
pub(crate) struct Guard {
    child: Child,
}

/// Each line names the process to end; the last one counts, an empty one means none.
const PROCESS: &str = r#"trap '' INT TERM HUP
pid=
while read -r line; do pid=$line; done
if [ -n "$pid" ]; then kill -9 "$pid" 2>/dev/null; fi
rm -rf -- "$1""#;

#[cfg(feature = "containers")]
const CONTAINER: &str = r#"trap '' INT TERM HUP
while read -r line; do if [ "$line" = gone ]; then exit 0; fi; done
docker rm -f -v "$1" >/dev/null 2>&1"#;

impl Guard {
    /// Guards a process that is named later by [`Guard::watch`], and its folder.
    pub(crate) fn of_process(folder: &Path) -> std::io::Result<Self> {
        Self::spawn(PROCESS, folder.as_os_str())
    }

    /// Guards a container by its name, through the `docker` command if there is one.
    #[cfg(feature = "containers")]
    pub(crate) fn of_container(name: &str) -> std::io::Result<Self> {
        Self::spawn(CONTAINER, name.as_ref())
    }

    fn spawn(script: &str, subject: &std::ffi::OsStr) -> std::io::Result<Self> {
        let child = Command::new("sh")
            .args(["-c", script, "milena-guard"])
            .arg(subject)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        Ok(Self { child })
    }

    /// Tells which process to end.
    pub(crate) fn watch(&mut self, process: Option<u32>) -> std::io::Result<()> {
        let line = process.map(|id| id.to_string()).unwrap_or_default();
        self.say(&line)
    }

    /// Tells that the container is removed already.
    #[cfg(feature = "containers")]
    pub(crate) fn release(&mut self) -> std::io::Result<()> {
        self.say("gone")
    }

    fn say(&mut self, line: &str) -> std::io::Result<()> {
        match &mut self.child.stdin {
            Some(pipe) => writeln!(pipe, "{line}"),
            None => Ok(()),
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // Waiting keeps the promise that the data is gone when the owner was dropped, and leaves no zombie.
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_and_folder_go_with_the_guard() {
        let folder = tempfile::tempdir().unwrap().keep();
        let mut sleeper = Command::new("sleep").arg("600").spawn().unwrap();
        let mut guard = Guard::of_process(&folder).unwrap();
        guard.watch(Some(sleeper.id())).unwrap();
        assert!(sleeper.try_wait().unwrap().is_none());
        drop(guard);
        assert!(!sleeper.wait().unwrap().success());
        assert!(!folder.exists());
    }

    #[test]
    fn a_process_that_is_no_longer_watched_lives_on() {
        let folder = tempfile::tempdir().unwrap().keep();
        let mut sleeper = Command::new("sleep").arg("600").spawn().unwrap();
        let mut guard = Guard::of_process(&folder).unwrap();
        guard.watch(Some(sleeper.id())).unwrap();
        guard.watch(None).unwrap();
        drop(guard);
        assert!(sleeper.try_wait().unwrap().is_none());
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
    }
}
