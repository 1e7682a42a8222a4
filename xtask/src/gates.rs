//! Rules about dependencies: no runtime under the pure crates, nothing that compiles C, no newer Rust than declared; opt-in features build.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::command::{cargo, output, run, succeeds};

/// Crates that do IO or schedule tasks. The pure crates take time, randomness and bytes as arguments.
const RUNTIMES: [&str; 7] = ["tokio", "mio", "socket2", "async-std", "smol", "futures-executor", "rayon"];

/// Crates whose build scripts compile or bind C.
const C_BUILDERS: [&str; 12] = [
    "aws-lc-sys",
    "bindgen",
    "bzip2-sys",
    "cc",
    "cmake",
    "libz-sys",
    "lz4-sys",
    "nasm-rs",
    "openssl-sys",
    "ring",
    "snappy_src",
    "zstd-sys",
];

/// Checks all rules.
pub(crate) fn check() -> Result<()> {
    purity()?;
    no_c()?;
    opt_in_features()?;
    declared_rust()
}

/// milena-protocol and milena-core depend on no runtime.
fn purity() -> Result<()> {
    for package in ["milena-protocol", "milena-core"] {
        let found = intersection(&tree(&["--package", package])?, &RUNTIMES);
        if !found.is_empty() {
            bail!(
                "{package} depends on {}: it must run without IO (cargo tree -p {package} -i ..)",
                found.join(", ")
            );
        }
    }
    println!("purity: milena-protocol and milena-core depend on no runtime");
    Ok(())
}

/// Nothing in a default build of the workspace compiles C.
fn no_c() -> Result<()> {
    let found = intersection(&tree(&["--workspace"])?, &C_BUILDERS);
    if !found.is_empty() {
        bail!("the default build takes {}, which compile or bind C (cargo tree -i ..)", found.join(", "));
    }
    println!("no C: nothing in the default build compiles or binds C");
    let connector = tree(&["--package", "milena-connector", "--features", "object-store"])?;
    let found = intersection(&connector, &C_BUILDERS);
    if !found.is_empty() {
        bail!("milena-connector with object-store takes {}, which compile or bind C", found.join(", "));
    }
    println!("no C: nor in milena-connector with object-store");
    Ok(())
}

/// What nobody builds by default builds too. Ring and zstd compile C; aws-lc, which compiles far more, is left to `cargo xtask tls`.
fn opt_in_features() -> Result<()> {
    let opt_in =
        [("milena", "tls-ring"), ("milena-connector", "object-store"), ("milena-protocol", "zstd-c")];
    for (package, feature) in opt_in {
        run(cargo().args(["check", "--quiet", "--locked", "--package", package, "--features", feature]))?;
        println!("opt-in features: {package} with {feature} builds");
    }
    Ok(())
}

/// The names of the packages that a build takes, build scripts and procedural macros included, tests not.
fn tree(selection: &[&str]) -> Result<BTreeSet<String>> {
    let mut command = cargo();
    command.args(["tree", "--locked", "--edges", "normal,build", "--prefix", "none", "--format", "{p}"]);
    let listing = output(command.args(selection))?;
    Ok(listing.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect())
}

fn intersection(names: &BTreeSet<String>, unwanted: &[&'static str]) -> Vec<&'static str> {
    unwanted.iter().copied().filter(|name| names.contains(*name)).collect()
}

/// Every dependency says that it builds with the Rust that the workspace declares. Where rustup has that toolchain,
/// the workspace is checked with it; else clippy's lint on the standard library's items (incompatible_msrv) remains.
fn declared_rust() -> Result<()> {
    let metadata = output(cargo().args(["metadata", "--locked", "--format-version", "1"]))?;
    let metadata: Value = serde_json::from_str(&metadata).context("cargo metadata")?;
    let empty = Vec::new();
    let packages = metadata.get("packages").and_then(Value::as_array).unwrap_or(&empty);
    let text =
        |package: &Value, field: &str| package.get(field).and_then(Value::as_str).unwrap_or("").to_owned();
    let declared = packages.iter().find(|package| text(package, "name") == "milena-protocol");
    let declared = text(declared.context("no package milena-protocol")?, "rust_version");
    let floor = rust_version(&declared).context("milena-protocol declares no Rust version")?;
    let newer: Vec<String> = packages
        .iter()
        .filter(|package| rust_version(&text(package, "rust_version")).is_some_and(|version| version > floor))
        .map(|package| format!("{} {}", text(package, "name"), text(package, "version")))
        .collect();
    if !newer.is_empty() {
        bail!("need a newer Rust than the declared {declared}: {}", newer.join(", "));
    }
    println!("Rust {declared}: no dependency asks for a newer one");
    let toolchain = format!("+{declared}");
    let rustup_cargo = || {
        let mut command = Command::new("cargo");
        command.current_dir(crate::command::root()).env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO");
        command
    };
    let installed = output(Command::new("rustup").args(["toolchain", "list"])).unwrap_or_default();
    let is_installed = installed
        .lines()
        .any(|line| line.starts_with(&format!("{declared}.")) || line.starts_with(&format!("{declared}-")));
    if is_installed && succeeds(rustup_cargo().args([&toolchain, "--version"])) {
        return run(rustup_cargo().args([&toolchain, "check", "--workspace", "--locked"]));
    }
    println!(
        "Rust {declared}: that toolchain is not installed, so only declarations and clippy's lint were checked"
    );
    Ok(())
}

fn rust_version(text: &str) -> Option<[u32; 3]> {
    let mut version = [0; 3];
    for (slot, part) in version.iter_mut().zip(text.split('.')) {
        *slot = part.parse().ok()?;
    }
    Some(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rust_versions_compare_as_numbers() {
        assert!(rust_version("1.100") > rust_version("1.92"));
        assert!(rust_version("1.92.1") > rust_version("1.92"));
        assert_eq!(rust_version("1.92"), rust_version("1.92.0"));
        assert_eq!(rust_version(""), None);
        assert_eq!(rust_version("stable"), None);
    }

    #[test]
    fn what_the_gates_look_for_is_found() {
        let all = tree(&["--workspace"]).unwrap();
        assert_eq!(intersection(&all, &["tokio", "no-such-crate"]), ["tokio"]);
        assert!(!tree(&["--package", "milena-protocol"]).unwrap().contains("tokio"));
    }
}
