//! Certificates, keys and stores for tests, made by `openssl` and Java's `keytool` in a folder of their own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::error::{KafkaError, KafkaErrorKind};
use super::guard::Guard;
use super::process::new_folder;

/// The files. They go with this value, and with this process.
///
/// | file | what |
/// |---|---|
/// | `ca.pem`, `other-ca.pem` | two authorities; `ca.pem` also as `trust.p12` and `trust.jks` |
/// | `NAME.key`, `NAME-own.pem`, `NAME.pem`, `NAME-all.pem` | key, certificate, chain, and all of it: of `broker`, `broker-ec`, `expired`, `client`, `client-ec`, `client-next` by `ca`, of `stranger` by `other-ca` |
/// | `NAME.p12` | the same as a store, of `broker`, `broker-ec`, `expired`, `client` |
/// | `client.jks`, `client-encrypted.key` | the client's key in Java's old store, and encrypted |
/// | `jwt.key`, `jwt.der`, `jwks.json` | a key that signs tokens, and its public half |
///
/// Keys are RSA with 2048 bits, those of `-ec` on P-256. Certificates are for `localhost` and 127.0.0.1; that of `expired` was valid on
/// 2020-01-01. The subject is `CN=NAME`.
#[derive(Debug)]
pub struct Certificates {
    folder: PathBuf,
    _guard: Guard,
}

impl Certificates {
    /// The password of every store and of the keys in them.
    pub const PASSWORD: &'static str = "changeit";

    /// Makes all of them.
    ///
    /// # Errors
    /// [`KafkaErrorKind::Absent`] without openssl and keytool, [`KafkaErrorKind::Start`] with what they say when they fail.
    ///
    /// # Cancellation
    /// What was made is removed.
    pub async fn make() -> Result<Self, KafkaError> {
        let folder = new_folder().map_err(|error| KafkaError::system("a folder for certificates", error))?;
        let guard = Guard::of_process(&folder).map_err(|error| KafkaError::system("sh", error))?;
        let made = Self { folder, _guard: guard };
        let mut command = Command::new("sh");
        command.args(["-ec", SCRIPT]).current_dir(&made.folder).stdin(Stdio::null());
        let output = tokio::process::Command::from(command).kill_on_drop(true).output().await;
        let output = output.map_err(|error| KafkaError::system("sh", error))?;
        if output.status.success() {
            return Ok(made);
        }
        let said = [&output.stderr[..], &output.stdout[..]].map(String::from_utf8_lossy).concat();
        let log = fs::read_to_string(made.file("log")).unwrap_or_default();
        let kind =
            if output.status.code() == Some(77) { KafkaErrorKind::Absent } else { KafkaErrorKind::Start };
        Err(KafkaError::new(kind, format!("no certificates for tests: {said}{log}")))
    }

    /// The path of a file.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The folder of them all, for more of them.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

const SCRIPT: &str = r#"
for tool in openssl keytool; do command -v $tool >/dev/null || { echo "$tool is not installed"; exit 77; }; done
P=changeit
printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth' > ext
for ca in ca other-ca; do
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj /CN=test-$ca -keyout $ca.key -out $ca.pem 2>log
done
request() {
  case $1 in *-ec) key="ec -pkeyopt ec_paramgen_curve:P-256";; *) key=rsa:2048;; esac
  openssl req -newkey $key -nodes -subj /CN=$1 -keyout $1.key -out $1.csr 2>log
}
bundle() {
  cat $1-own.pem $2.pem > $1.pem
  cat $1.key $1.pem > $1-all.pem
}
sign() {
  request $1
  openssl x509 -req -in $1.csr -CA $2.pem -CAkey $2.key -CAcreateserial -days 3650 -extfile ext -out $1-own.pem 2>log
  bundle $1 $2
}
sign broker ca; sign broker-ec ca; sign client ca; sign client-ec ca; sign client-next ca; sign stranger other-ca
# Only `openssl ca` takes dates.
printf '[ca]\ndefault_ca=c\n[c]\ndatabase=index\nserial=serial\nnew_certs_dir=.\ndefault_md=sha256\npolicy=p\n[p]\ncommonName=supplied\n' > ca.cnf
: > index; echo 4D > serial
request expired
openssl ca -config ca.cnf -batch -notext -cert ca.pem -keyfile ca.key -in expired.csr -extfile ext -startdate 20200101000000Z -enddate 20200102000000Z -out expired-own.pem 2>log
bundle expired ca
for n in broker broker-ec expired client; do
  openssl pkcs12 -export -in $n-own.pem -inkey $n.key -certfile ca.pem -name $n -passout pass:$P -out $n.p12
done
openssl pkcs8 -topk8 -in client.key -passout pass:$P -out client-encrypted.key
for t in p12:PKCS12 jks:JKS; do
  keytool -importcert -noprompt -alias ca -file ca.pem -keystore trust.${t%:*} -storetype ${t#*:} -storepass $P 2>log
done
keytool -importkeystore -noprompt -srckeystore client.p12 -srcstoretype PKCS12 -srcstorepass $P -destkeystore client.jks -deststoretype JKS -deststorepass $P 2>log
openssl genrsa -out jwt.key 2048 2>log
openssl pkcs8 -topk8 -nocrypt -in jwt.key -outform DER -out jwt.der
# The modulus: hexadecimal to octal escapes, and those to bytes, with what every system has.
n=$(printf "$(openssl rsa -in jwt.key -noout -modulus | cut -d= -f2 | awk '{ h = "0123456789ABCDEF"; for (i = 1; i < length($0); i += 2) { b = (index(h, substr($0, i, 1)) - 1) * 16 + index(h, substr($0, i + 1, 1)) - 1; printf "\\%03o", b } }')" | openssl base64 -A | tr '+/' '-_' | tr -d '=')
printf '{"keys":[{"kty":"RSA","kid":"k1","use":"sig","alg":"RS256","n":"%s","e":"AQAB"}]}' "$n" > jwks.json
"#;
