//! Certificates and keys as PEM text.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use milena_core::sasl::Secret;
use pkcs8::EncryptedPrivateKeyInfoRef;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use super::effort;
use super::store::{Contents, Key};

/// Reads every block. Certificates are both trusted ones and a chain: what they are for, the caller knows.
pub(super) fn read(bytes: &[u8], key_password: Option<&Secret>) -> Result<Contents, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not PEM text".to_owned())?;
    let mut contents = Contents::default();
    let mut rest = text;
    while let Some((label, body, after)) = next_block(rest)? {
        rest = after;
        if body.contains("ENCRYPTED") && body.contains("Proc-Type") {
            return Err("its key is encrypted in OpenSSL's old way; convert it with `openssl pkcs8 -topk8`"
                .to_owned());
        }
        let stripped: Zeroizing<String> =
            Zeroizing::new(body.chars().filter(|c| !c.is_whitespace() && *c != '\\').collect());
        let decode = || {
            let decoded = STANDARD.decode(stripped.as_bytes());
            decoded.map(Zeroizing::new).map_err(|_| format!("the block {label} is not base64"))
        };
        let key = match label {
            "CERTIFICATE" | "TRUSTED CERTIFICATE" | "X509 CERTIFICATE" => {
                let certificate = CertificateDer::from(decode()?.to_vec());
                contents.trusted.push(certificate.clone());
                contents.chain.push(certificate);
                continue;
            }
            "PRIVATE KEY" => PrivateKeyDer::Pkcs8(decode()?.to_vec().into()),
            "RSA PRIVATE KEY" => PrivateKeyDer::Pkcs1(decode()?.to_vec().into()),
            "EC PRIVATE KEY" => PrivateKeyDer::Sec1(decode()?.to_vec().into()),
            "ENCRYPTED PRIVATE KEY" => decrypt(&decode()?, key_password)?,
            // Parameters, certificate requests and the like.
            _ => continue,
        };
        if contents.key.is_none() {
            contents.key = Some(Key(key));
        }
    }
    Ok(contents)
}

fn decrypt(der: &[u8], password: Option<&Secret>) -> Result<PrivateKeyDer<'static>, String> {
    let Some(password) = password else {
        return Err("its key is encrypted, and no password for it is set".to_owned());
    };
    effort::check(der)?;
    let encrypted = EncryptedPrivateKeyInfoRef::try_from(der)
        .map_err(|error| format!("its encrypted key cannot be read: {error}"))?;
    let key = encrypted
        .decrypt(password.expose())
        .map_err(|error| format!("its key cannot be decrypted: {error} (is the key's password right?)"))?;
    Ok(PrivateKeyDer::Pkcs8(key.as_bytes().to_vec().into()))
}

/// The next block: its label, what is between its lines, and the text after it.
fn next_block(text: &str) -> Result<Option<(&str, &str, &str)>, String> {
    const DASHES: &str = "-----";
    let Some((_, after)) = text.split_once("-----BEGIN ") else { return Ok(None) };
    let Some((label, after)) = after.split_once(DASHES) else {
        return Err("a BEGIN line does not end".to_owned());
    };
    let Some((body, after)) = after.split_once("-----END ") else {
        return Err(format!("the block {} has no END line", shown(label)));
    };
    let Some((end, after)) = after.split_once(DASHES) else {
        return Err(format!("the END line of {} does not end", shown(label)));
    };
    if end != label {
        return Err(format!("the block {} ends as {}", shown(label), shown(end)));
    }
    Ok(Some((label, body, after)))
}

/// A label of sane length.
fn shown(label: &str) -> String {
    label.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_and_keys_are_found_between_other_text() {
        let text = "subject=x\n-----BEGIN CERTIFICATE-----\nAAEC\n-----END CERTIFICATE-----\n junk \
                    -----BEGIN EC PARAMETERS-----\nAA==\n-----END EC PARAMETERS-----\n\
                    -----BEGIN PRIVATE KEY----- BAUG -----END PRIVATE KEY-----";
        let contents = read(text.as_bytes(), None).unwrap();
        assert_eq!(contents.chain, [CertificateDer::from(vec![0, 1, 2])]);
        assert_eq!(contents.key.as_ref().unwrap().0.secret_der(), [4, 5, 6]);
        assert!(!format!("{contents:?}").contains("4, 5, 6"));
    }

    #[test]
    fn broken_blocks_are_told_by_name() {
        for (text, told) in [
            ("-----BEGIN CERTIFICATE-----\nAA", "no END line"),
            ("-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----", "not base64"),
            ("-----BEGIN A-----\nAA\n-----END B-----", "ends as B"),
            (
                "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAA==\n-----END ENCRYPTED PRIVATE KEY-----",
                "no password",
            ),
            (
                "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nAA==\n-----END RSA PRIVATE KEY-----",
                "pkcs8 -topk8",
            ),
        ] {
            let error = read(text.as_bytes(), None).unwrap_err();
            assert!(error.contains(told), "{error}");
        }
    }
}
