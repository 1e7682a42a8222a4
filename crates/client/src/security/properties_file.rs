//! Java's properties files.

/// Reads the text of a properties file: `name=value`, `name: value` or `name value` a line, with comments (`#`, `!`), lines that go on
/// (`\` at the end) and escapes, as `java.util.Properties` reads it. Total: there is no text that it refuses. A later entry of a name
/// comes later in the result.
///
/// ```
/// let text = "# a comment\nsecurity.protocol = SSL\nssl.enabled.protocols=TLSv1.2,\\\n  TLSv1.3\n";
/// let properties = milena::security::parse_properties(text);
/// assert_eq!(properties[1], ("ssl.enabled.protocols".to_owned(), "TLSv1.2,TLSv1.3".to_owned()));
/// ```
#[must_use]
pub fn parse_properties(text: &str) -> Vec<(String, String)> {
    let mut properties = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with(['#', '!']) {
            continue;
        }
        let mut whole = line.to_owned();
        while goes_on(&whole) {
            whole.pop();
            whole.push_str(lines.next().unwrap_or_default().trim_start());
        }
        properties.push(entry(&whole));
    }
    properties
}

/// Whether a line ends in a backslash that is not itself escaped.
fn goes_on(line: &str) -> bool {
    line.chars().rev().take_while(|c| *c == '\\').count() % 2 == 1
}

fn entry(line: &str) -> (String, String) {
    let mut chars = line.chars().peekable();
    let mut name = String::new();
    while let Some(&c) = chars.peek() {
        if c == '=' || c == ':' || c.is_whitespace() {
            break;
        }
        chars.next();
        name.push(if c == '\\' { escape(&mut chars) } else { c });
    }
    while chars.next_if(|c| c.is_whitespace()).is_some() {}
    if chars.next_if(|c| matches!(c, '=' | ':')).is_some() {
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
    }
    let mut value = String::new();
    while let Some(c) = chars.next() {
        value.push(if c == '\\' { escape(&mut chars) } else { c });
    }
    (name, value)
}

fn escape(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> char {
    match chars.next() {
        Some('n') => '\n',
        Some('t') => '\t',
        Some('r') => '\r',
        Some('f') => '\x0c',
        Some('u') => {
            let mut value = 0;
            for _ in 0..4 {
                let Some(digit) = chars.peek().and_then(|c| c.to_digit(16)) else { break };
                value = value * 16 + digit;
                chars.next();
            }
            char::from_u32(value).unwrap_or(char::REPLACEMENT_CHARACTER)
        }
        Some(c) => c,
        None => '\\',
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separators_escapes_and_continued_lines_are_those_of_java() {
        let text = "a=1\n  b : two words \n!no\nc\td\n\ne\\=f=g\\u0041\\n\nh=\\\n   i\\\\\nj";
        let read = parse_properties(text);
        let read: Vec<(&str, &str)> =
            read.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(
            read,
            [("a", "1"), ("b", "two words "), ("c", "d"), ("e=f", "gA\n"), ("h", "i\\"), ("j", "")]
        );
    }

    proptest::proptest! {
        #[test]
        fn every_text_is_read(text in ".*") {
            for (name, _) in parse_properties(&text) {
                proptest::prop_assert!(!name.contains('\n') || text.contains('\\'));
            }
        }
    }
}
