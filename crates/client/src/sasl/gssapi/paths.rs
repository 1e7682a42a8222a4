//! Where Kerberos keeps its files, and reading them without stopping a runtime thread.

use std::io::Read;
use std::path::PathBuf;

use milena_core::sasl::gssapi::{
    KerberosConfig, KerberosError, KerberosErrorKind, Keytab, MAX_CCACHE, MAX_CONFIG, MAX_KEYTAB, TicketCache,
};
use zeroize::Zeroizing;

use super::KerberosOptions;

type Result<T> = std::result::Result<T, KerberosError>;

/// Reads at most one byte more than a file may have, so that a longer one is seen to be too long.
async fn read(path: PathBuf, most: usize, kind: KerberosErrorKind) -> Result<Zeroizing<Vec<u8>>> {
    let shown = path.display().to_string();
    let task = tokio::task::spawn_blocking(move || {
        let mut bytes = Zeroizing::new(Vec::new());
        let file = std::fs::File::open(&path)?;
        // A limit of what is read, not of what is allocated.
        file.take(most as u64 + 1).read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(bytes)
    });
    let read = task.await.unwrap_or_else(|error| Err(std::io::Error::other(error)));
    read.map_err(|error| KerberosError::new(kind, format!("cannot read {shown}: {error}")))
}

/// The configuration: the one that is given, or what `krb5.conf` says. Without any file it is empty.
pub(super) async fn config(options: &KerberosOptions) -> Result<KerberosConfig> {
    if let Some(config) = &options.config {
        return Ok(config.clone());
    }
    let stated = options.config_files.clone().or_else(|| {
        let files = std::env::var_os("KRB5_CONFIG").filter(|files| !files.is_empty())?;
        Some(std::env::split_paths(&files).collect())
    });
    let files = stated.clone().unwrap_or_else(|| vec![PathBuf::from("/etc/krb5.conf")]);
    let mut texts = Vec::new();
    let mut missing = None;
    for file in &files {
        match read(file.clone(), MAX_CONFIG, KerberosErrorKind::Config).await {
            Ok(bytes) => texts.push(String::from_utf8_lossy(&bytes).into_owned()),
            Err(error) => missing = Some(error),
        }
    }
    // As MIT Kerberos does: one readable file is enough.
    if let (Some(error), true, true) = (missing, texts.is_empty(), stated.is_some()) {
        return Err(error);
    }
    let names: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    let names = names.join(", ");
    let parsed =
        KerberosConfig::parse(texts.iter().map(String::as_str)).map_err(|error| error.within(&names))?;
    for warning in &parsed.warnings {
        tracing::warn!(files = %names, "krb5.conf: {warning}");
    }
    Ok(parsed.config)
}

/// What the system's resolver is told, or nothing.
pub(super) async fn resolver_configuration() -> String {
    let read = read(PathBuf::from("/etc/resolv.conf"), MAX_CONFIG, KerberosErrorKind::Config).await;
    read.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

/// The keytab and where it is.
pub(super) async fn keytab(options: &KerberosOptions, config: &KerberosConfig) -> Result<(String, Keytab)> {
    let name = options
        .keytab
        .clone()
        .or_else(|| variable("KRB5_CLIENT_KTNAME"))
        .or_else(|| config.client_keytab.clone())
        .or_else(|| variable("KRB5_KTNAME"))
        .or_else(|| config.keytab.clone())
        .unwrap_or_else(|| "/etc/krb5.keytab".to_owned());
    let path = file(&name, KerberosErrorKind::Keytab)?;
    let bytes = read(path.clone(), MAX_KEYTAB, KerberosErrorKind::Keytab).await?;
    let shown = path.display().to_string();
    let keytab = Keytab::parse(&bytes).map_err(|error| error.within(&shown))?;
    Ok((shown, keytab))
}

/// The ticket cache and where it is.
pub(super) async fn ticket_cache(
    options: &KerberosOptions,
    config: &KerberosConfig,
) -> Result<(String, TicketCache)> {
    let name = options
        .ticket_cache
        .clone()
        .or_else(|| variable("KRB5CCNAME"))
        .or_else(|| config.ticket_cache.clone())
        .unwrap_or_else(|| "/tmp/krb5cc_%{uid}".to_owned());
    let path = file(&name, KerberosErrorKind::Cache)?;
    let bytes = read(path.clone(), MAX_CCACHE, KerberosErrorKind::Cache).await?;
    let shown = path.display().to_string();
    let cache = TicketCache::parse(&bytes).map_err(|error| error.within(&shown))?;
    Ok((shown, cache))
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The path in `FILE:path` or a plain path. Other kinds of caches and keytabs live in the kernel or in daemons.
fn file(name: &str, kind: KerberosErrorKind) -> Result<PathBuf> {
    let path = match name.split_once(':') {
        Some(("FILE" | "WRFILE", path)) => path,
        // A letter is a drive, not a kind.
        Some((other, _)) if other.len() > 1 && other.bytes().all(|byte| byte.is_ascii_uppercase()) => {
            let text =
                format!("{name} is of kind {other}, and only files can be read: set a path, or FILE:path");
            return Err(KerberosError::new(kind, text));
        }
        _ => name,
    };
    expand(path).map(PathBuf::from).ok_or_else(|| {
        KerberosError::new(
            kind,
            format!("{name} has a %{{..}} that is not known: uid, euid, USERID, TEMP and username are"),
        )
    })
}

/// Fills in the tokens of MIT's configuration files.
fn expand(path: &str) -> Option<String> {
    let mut expanded = String::new();
    let mut rest = path;
    while let Some((before, after)) = rest.split_once("%{") {
        let (token, after) = after.split_once('}')?;
        expanded.push_str(before);
        match token {
            "uid" | "euid" | "USERID" => expanded.push_str(&user_id()?.to_string()),
            "TEMP" => expanded.push_str(&variable("TMPDIR").unwrap_or_else(|| "/tmp".to_owned())),
            "username" => expanded.push_str(&variable("USER")?),
            "null" => {}
            _ => return None,
        }
        rest = after;
    }
    expanded.push_str(rest);
    Some(expanded)
}

/// The user that this process runs as, without a call of C: the owner of its own folder in `/proc`.
#[cfg(unix)]
fn user_id() -> Option<u32> {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").ok().map(|metadata| metadata.uid())
}

#[cfg(not(unix))]
fn user_id() -> Option<u32> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files_are_understood() {
        let path = |name| file(name, KerberosErrorKind::Cache).map(|path| path.display().to_string());
        assert_eq!(path("FILE:/a/b").unwrap(), "/a/b");
        assert_eq!(path("/a:b").unwrap(), "/a:b");
        let uid = user_id().unwrap();
        assert_eq!(path("FILE:/tmp/krb5cc_%{uid}").unwrap(), format!("/tmp/krb5cc_{uid}"));
        for name in ["KEYRING:persistent:0", "DIR:/a", "KCM:", "MEMORY:x"] {
            let error = path(name).unwrap_err();
            assert!(error.to_string().contains("only files"), "{error}");
        }
        assert!(path("FILE:/%{odd}").is_err());
    }

    #[tokio::test]
    async fn a_missing_file_is_named() {
        let options = KerberosOptions::with_keytab("/nowhere/client.keytab");
        let error = keytab(&options, &KerberosConfig::default()).await.unwrap_err();
        assert_eq!(error.kind(), KerberosErrorKind::Keytab);
        assert!(error.to_string().contains("/nowhere/client.keytab"), "{error}");
        let options = KerberosOptions { config_files: Some(vec!["/nowhere/krb5.conf".into()]), ..options };
        assert!(config(&options).await.unwrap_err().to_string().contains("/nowhere/krb5.conf"));
    }
}
