//! What a token endpoint answers: HTTP/1.1 and JSON, read from bytes that nobody vouches for.

use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::jwt::Claims;
use super::{BearerToken, SaslError, SaslErrorKind, Secret, quoted};

/// The most of an answer that is read, in bytes.
pub const MAX_ANSWER: usize = 1 << 20;

/// The most of its head, in bytes.
const MAX_HEAD: usize = 64 * 1024;

/// A whole HTTP answer.
#[derive(Clone, PartialEq, Eq)]
pub struct HttpAnswer {
    /// The status code.
    pub status: u16,
    /// What the server's clock says (the `Date` header), as it says it.
    pub date: Option<String>,
    /// The body, without what chunks add.
    pub body: Secret,
}

impl std::fmt::Debug for HttpAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpAnswer").field("status", &self.status).finish_non_exhaustive()
    }
}

/// Reads an HTTP/1.1 answer. `ended` says whether the peer has closed its side, so that nothing more comes. `None`: more is needed.
///
/// # Errors
/// Malformed for what is no HTTP/1.x answer or too long, and for one that ended too early.
pub fn read_http(bytes: &[u8], ended: bool) -> Result<Option<HttpAnswer>, SaslError> {
    if bytes.len() > MAX_ANSWER {
        return Err(malformed("it is too long"));
    }
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return match ended || bytes.len() > MAX_HEAD {
            true => Err(malformed("its head does not end")),
            false => Ok(None),
        };
    };
    let (head, rest) = bytes.split_at_checked(end).ok_or_else(|| malformed("its head is cut"))?;
    let body = rest.get(4..).unwrap_or_default();
    let head = std::str::from_utf8(head).map_err(|_| malformed("its head is no text"))?;
    let mut lines = head.split("\r\n");
    let status = status_of(lines.next().unwrap_or_default())?;
    let headers: Vec<(&str, &str)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.trim(), value.trim()))
        .collect();
    let header = |wanted: &str| {
        headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| *value)
    };
    let date = header("date").map(|date| quoted(date.as_bytes()));
    let chunked = header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked"));
    let body = if chunked {
        dechunked(body)?
    } else if let Some(length) = header("content-length") {
        let length: usize = length.parse().map_err(|_| malformed("its content-length is no number"))?;
        if length > MAX_ANSWER {
            return Err(malformed("it is too long"));
        }
        body.get(..length).map(<[u8]>::to_vec)
    } else {
        ended.then(|| body.to_vec())
    };
    match body {
        Some(body) => Ok(Some(HttpAnswer { status, date, body: Secret::new(body) })),
        None if ended => Err(malformed("it ends too early")),
        None => Ok(None),
    }
}

fn status_of(line: &str) -> Result<u16, SaslError> {
    let status = line.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1));
    let status = status.and_then(|status| status.parse().ok());
    status.ok_or_else(|| malformed(format!("it begins with {:?}", quoted(line.as_bytes()))))
}

/// The content of chunks; `None` while the last one is not there.
fn dechunked(mut rest: &[u8]) -> Result<Option<Vec<u8>>, SaslError> {
    let mut body = Vec::new();
    loop {
        let Some(end) = rest.windows(2).position(|window| window == b"\r\n") else { return Ok(None) };
        let line = rest.get(..end).unwrap_or_default();
        let size = std::str::from_utf8(line).ok().and_then(|line| line.split(';').next());
        let size = size.and_then(|size| usize::from_str_radix(size.trim(), 16).ok());
        let size = size.filter(|&size| size <= MAX_ANSWER).ok_or_else(|| malformed("a chunk has no size"))?;
        if size == 0 {
            return Ok(Some(body));
        }
        let Some(chunk) = rest.get(end + 2..end + 2 + size) else { return Ok(None) };
        body.extend_from_slice(chunk);
        rest = rest.get(end + 2 + size + 2..).unwrap_or_default();
    }
}

/// The token in an answer of a token endpoint (RFC 6749, 5.1), or what it says instead (5.2). `now` is the wall clock.
///
/// # Errors
/// Refused when the endpoint refuses, with its reason; Malformed when it answers something else. Never with a token.
pub fn token_of(answer: &HttpAnswer, now: SystemTime) -> Result<BearerToken, SaslError> {
    let json: Option<Value> = serde_json::from_slice(answer.body.expose()).ok();
    let text = |name: &str| json.as_ref().and_then(|json| json.get(name)).and_then(Value::as_str);
    if answer.status != 200 {
        let why = match (text("error"), text("error_description")) {
            (Some(error), Some(more)) => {
                format!("{} ({})", quoted(error.as_bytes()), quoted(more.as_bytes()))
            }
            (Some(error), None) => quoted(error.as_bytes()),
            _ => "without a reason".to_owned(),
        };
        let kind = match answer.status {
            400 | 401 | 403 => SaslErrorKind::Refused,
            _ => SaslErrorKind::Malformed,
        };
        return Err(SaslError::new(kind, format!("the token endpoint answered {}: {why}", answer.status))
            .with_remedy("check the client's id and secret, the scope and the endpoint's URL"));
    }
    let Some(token) = text("access_token").filter(|token| !token.is_empty()) else {
        return Err(malformed("there is no access_token in it"));
    };
    let claims = Claims::read(token).ok();
    let lifetime = json.as_ref().and_then(|json| json.get("expires_in")).and_then(seconds);
    let by_answer = lifetime.and_then(|lifetime| now.checked_add(lifetime));
    let by_claims = claims.as_ref().and_then(|claims| claims.expires);
    let Some(expires) = [by_answer, by_claims].into_iter().flatten().min() else {
        return Err(malformed("neither it nor the token in it says when the token expires"));
    };
    let issued = claims.and_then(|claims| claims.issued);
    Ok(BearerToken { value: token.into(), expires, issued, extensions: Vec::new() })
}

/// Some servers write numbers as strings.
fn seconds(value: &Value) -> Option<Duration> {
    let number = value.as_f64().or_else(|| value.as_str().and_then(|text| text.parse().ok()))?;
    (0.0..1e9).contains(&number).then(|| Duration::from_secs_f64(number))
}

fn malformed(why: impl std::fmt::Display) -> SaslError {
    SaslError::new(SaslErrorKind::Malformed, format!("the token endpoint's answer cannot be read: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::UNIX_EPOCH;

    fn whole(text: &str) -> HttpAnswer {
        read_http(text.as_bytes(), true).unwrap().unwrap()
    }

    #[test]
    fn an_answer_is_whole_when_its_length_or_its_last_chunk_says_so() {
        let text = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nDate: now\r\n\r\nbody";
        for cut in 0..text.len() {
            assert_eq!(read_http(&text.as_bytes()[..cut], false).unwrap(), None, "{cut}");
            assert!(read_http(&text.as_bytes()[..cut], true).is_err(), "{cut}");
        }
        assert_eq!(whole(text).body.expose(), b"body");
        assert_eq!(whole(text).date.as_deref(), Some("now"));
        let chunked =
            "HTTP/1.1 400 Bad\r\ntransfer-encoding: chunked\r\n\r\n3\r\nbod\r\n1;x=y\r\ny\r\n0\r\n\r\n";
        let answer = read_http(chunked.as_bytes(), false).unwrap().unwrap();
        assert_eq!((answer.status, answer.body.expose()), (400, &b"body"[..]));
        let unbounded = "HTTP/1.0 200 OK\r\n\r\nbody";
        assert_eq!(read_http(unbounded.as_bytes(), false).unwrap(), None);
        assert_eq!(whole(unbounded).body.expose(), b"body");
    }

    #[test]
    fn lies_about_lengths_are_refused() {
        for text in [
            "SSH-2.0-x\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 9999999999\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        ] {
            assert!(read_http(text.as_bytes(), false).is_err(), "{text}");
        }
    }

    fn answer(status: u16, body: &str) -> HttpAnswer {
        HttpAnswer { status, date: None, body: body.into() }
    }

    #[test]
    fn a_token_expires_when_the_first_of_both_says() {
        let now = UNIX_EPOCH + Duration::from_secs(1000);
        let token = token_of(&answer(200, r#"{"access_token":"abc","expires_in":"60"}"#), now).unwrap();
        assert_eq!(token.expires, UNIX_EPOCH + Duration::from_secs(1060));
        let jwt = crate::sasl::jwt::unsecured("a", &[], now, Duration::from_secs(30));
        let body = format!(r#"{{"access_token":"{}","expires_in":60}}"#, jwt.expose_text().unwrap());
        assert_eq!(
            token_of(&answer(200, &body), now).unwrap().expires,
            UNIX_EPOCH + Duration::from_secs(1030)
        );
        for wrong in [
            r#"{"access_token":"geheim"}"#,
            r#"{"expires_in":1}"#,
            "[]",
            "",
            r#"{"access_token":"geheim","expires_in":1e300}"#,
        ] {
            let error = token_of(&answer(200, wrong), now).unwrap_err();
            assert!(!error.to_string().contains("geheim"), "{error}");
        }
    }

    #[test]
    fn a_refusal_has_its_reason() {
        let error = token_of(
            &answer(401, r#"{"error":"invalid_client","error_description":"no such client"}"#),
            UNIX_EPOCH,
        )
        .unwrap_err();
        assert_eq!(error.kind, SaslErrorKind::Refused);
        assert!(error.to_string().contains("invalid_client (no such client)"), "{error}");
        assert_eq!(token_of(&answer(503, ""), UNIX_EPOCH).unwrap_err().kind, SaslErrorKind::Malformed);
    }
}
