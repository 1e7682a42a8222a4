//! JAAS login configurations, as Kafka's `sasl.jaas.config` and `java.security.auth.login.config` have them.
//!
//! ```text
//! module flag name=value name="value" ;                  sasl.jaas.config
//! KafkaClient { module flag name=value ; module .. ; };  a file
//! ```
//! Values are words or quoted, with Java's escapes; `//`, `#` and `/* */` begin comments.

use std::collections::BTreeMap;

use super::{SaslError, SaslErrorKind, Secret};

/// The longest configuration read, in bytes.
const MAX_TEXT: usize = 1 << 20;

/// One login module with its options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JaasEntry {
    /// The module's class, such as `org.apache.kafka.common.security.plain.PlainLoginModule`.
    pub module: String,
    /// `required`, `requisite`, `sufficient` or `optional`.
    pub flag: String,
    /// The options. All are hidden: which ones are secrets, the module knows.
    pub options: BTreeMap<String, Secret>,
}

impl JaasEntry {
    /// Reads `sasl.jaas.config`: exactly one entry.
    ///
    /// # Errors
    /// Malformed, with the place and what was expected; never with a value.
    pub fn parse(text: &str) -> Result<Self, SaslError> {
        let mut parser = Parser::new(text)?;
        let entry = parser.entry()?;
        match parser.next()? {
            None => Ok(entry),
            Some(_) => Err(parser.wrong("one login module only, and nothing after its ;")),
        }
    }

    /// Reads a file of several contexts, such as `KafkaClient { .. };`.
    ///
    /// # Errors
    /// As [`JaasEntry::parse`].
    pub fn parse_file(text: &str) -> Result<BTreeMap<String, Vec<Self>>, SaslError> {
        let mut parser = Parser::new(text)?;
        let mut contexts: BTreeMap<String, Vec<Self>> = BTreeMap::new();
        while let Some(token) = parser.next()? {
            let Token::Word(name) = token else { return Err(parser.wrong("the name of a context")) };
            let name = name.expose_text().unwrap_or_default().to_owned();
            parser.expect('{')?;
            let mut entries = Vec::new();
            while !parser.at('}')? {
                entries.push(parser.entry()?);
            }
            parser.expect('}')?;
            parser.expect(';')?;
            contexts.insert(name, entries);
        }
        Ok(contexts)
    }

    /// An option as text, if it is there and is text.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.options.get(name).and_then(Secret::expose_text)
    }

    /// The module's class without its package.
    #[must_use]
    pub fn short_module(&self) -> &str {
        self.module.rsplit('.').next().unwrap_or_default()
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    /// A word, or what was quoted.
    Word(Secret),
    /// `=`, `;`, `{` or `}`.
    Mark(char),
}

struct Parser<'a> {
    text: &'a str,
    rest: std::iter::Peekable<std::str::CharIndices<'a>>,
    peeked: Option<Option<Token>>,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Result<Self, SaslError> {
        if text.len() > MAX_TEXT {
            return Err(malformed("it is too long"));
        }
        Ok(Self { text, rest: text.char_indices().peekable(), peeked: None })
    }

    fn entry(&mut self) -> Result<JaasEntry, SaslError> {
        let module = self.word("the class of a login module")?;
        let flag = self.word("a control flag (required)")?.to_ascii_lowercase();
        if !["required", "requisite", "sufficient", "optional"].contains(&flag.as_str()) {
            return Err(self.wrong("one of required, requisite, sufficient, optional after the login module"));
        }
        let mut options = BTreeMap::new();
        while !self.at(';')? {
            let name = self.word("the name of an option, or ;")?;
            self.expect('=')?;
            match self.next()? {
                Some(Token::Word(value)) => {
                    options.insert(name, value);
                }
                _ => return Err(self.wrong(&format!("a value after {name}="))),
            }
        }
        self.expect(';')?;
        Ok(JaasEntry { module, flag, options })
    }

    fn word(&mut self, what: &str) -> Result<String, SaslError> {
        match self.next()? {
            Some(Token::Word(word)) if !word.is_empty() => {
                Ok(word.expose_text().unwrap_or_default().to_owned())
            }
            _ => Err(self.wrong(what)),
        }
    }

    fn at(&mut self, mark: char) -> Result<bool, SaslError> {
        if self.peeked.is_none() {
            self.peeked = Some(self.token()?);
        }
        Ok(self.peeked == Some(Some(Token::Mark(mark))))
    }

    fn expect(&mut self, mark: char) -> Result<(), SaslError> {
        match self.next()? {
            Some(Token::Mark(found)) if found == mark => Ok(()),
            _ => Err(self.wrong(&format!("a {mark}"))),
        }
    }

    fn next(&mut self) -> Result<Option<Token>, SaslError> {
        match self.peeked.take() {
            Some(token) => Ok(token),
            None => self.token(),
        }
    }

    fn token(&mut self) -> Result<Option<Token>, SaslError> {
        loop {
            let Some(&(at, first)) = self.rest.peek() else { return Ok(None) };
            let after = self.text.get(at + first.len_utf8()..).unwrap_or_default();
            match first {
                c if c.is_whitespace() => {
                    self.rest.next();
                }
                '#' => self.skip_line(),
                '/' if after.starts_with('/') => self.skip_line(),
                '/' if after.starts_with('*') => self.skip_comment()?,
                '=' | ';' | '{' | '}' => {
                    self.rest.next();
                    return Ok(Some(Token::Mark(first)));
                }
                '"' | '\'' => {
                    self.rest.next();
                    return self.quoted(first).map(Some);
                }
                _ => return Ok(Some(self.bare())),
            }
        }
    }

    fn skip_line(&mut self) {
        for (_, c) in self.rest.by_ref() {
            if c == '\n' {
                return;
            }
        }
    }

    fn skip_comment(&mut self) -> Result<(), SaslError> {
        let mut star = false;
        for (_, c) in self.rest.by_ref().skip(2) {
            if star && c == '/' {
                return Ok(());
            }
            star = c == '*';
        }
        Err(self.wrong("the end of a comment"))
    }

    fn bare(&mut self) -> Token {
        let mut word = String::new();
        while let Some(&(_, c)) = self.rest.peek() {
            if c.is_whitespace() || ['=', ';', '{', '}', '"', '\''].contains(&c) {
                break;
            }
            word.push(c);
            self.rest.next();
        }
        Token::Word(Secret::new(word))
    }

    fn quoted(&mut self, quote: char) -> Result<Token, SaslError> {
        // As long as it can get, so that it does not move and leave its bytes behind.
        let mut word = zeroize::Zeroizing::new(String::with_capacity(self.text.len().min(4096)));
        loop {
            let Some((_, c)) = self.rest.next() else { return Err(self.wrong("the closing quote")) };
            match c {
                c if c == quote => return Ok(Token::Word(Secret::new(word.as_bytes()))),
                '\\' => {
                    let Some(c) = self.escape() else { return Err(self.wrong("what a \\ stands before")) };
                    word.push(c);
                }
                '\n' => return Err(self.wrong("the closing quote on the same line")),
                c => word.push(c),
            }
        }
    }

    /// As java.io.StreamTokenizer, which is what Kafka reads it with.
    fn escape(&mut self) -> Option<char> {
        let (_, c) = self.rest.next()?;
        Some(match c {
            'n' => '\n',
            't' => '\t',
            'r' => '\r',
            'a' => '\x07',
            'b' => '\x08',
            'f' => '\x0c',
            'v' => '\x0b',
            '0'..='7' => {
                let mut value = c.to_digit(8)?;
                let most = if c <= '3' { 2 } else { 1 };
                for _ in 0..most {
                    let Some(digit) = self.rest.peek().and_then(|(_, c)| c.to_digit(8)) else { break };
                    value = value * 8 + digit;
                    self.rest.next();
                }
                char::from_u32(value)?
            }
            c => c,
        })
    }

    /// An error that names the place, not what is there.
    fn wrong(&mut self, expected: &str) -> SaslError {
        let at = self.rest.peek().map_or(self.text.len(), |&(at, _)| at);
        malformed(format!("before character {at}, {expected} was expected"))
    }
}

fn malformed(why: impl std::fmt::Display) -> SaslError {
    SaslError::new(SaslErrorKind::Malformed, format!("the JAAS configuration cannot be read: {why}")).with_remedy(
        "write it as: org.apache.kafka.common.security.plain.PlainLoginModule required username=\"u\" password=\"p\";",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kafka_s_examples_are_read() {
        let entry = JaasEntry::parse(
            "org.apache.kafka.common.security.scram.ScramLoginModule required\n username=\"alice\" /* who */ password='a\\\"l;c=e\\061' // end\n tokenauth=true;",
        )
        .unwrap();
        assert_eq!(entry.short_module(), "ScramLoginModule");
        assert_eq!(entry.text("username"), Some("alice"));
        assert_eq!(entry.text("password"), Some("a\"l;c=e1"));
        assert_eq!(entry.text("tokenauth"), Some("true"));
        assert!(!format!("{entry:?}").contains("alice"));
    }

    #[test]
    fn a_file_has_contexts() {
        let contexts = JaasEntry::parse_file(
            "# clients\nKafkaClient {\n com.sun.security.auth.module.Krb5LoginModule required useKeyTab=true keyTab=\"/etc/a.keytab\" principal=\"a@B\";\n};\nClient { a.B optional; };",
        )
        .unwrap();
        assert_eq!(contexts.keys().collect::<Vec<_>>(), ["Client", "KafkaClient"]);
        assert_eq!(contexts["KafkaClient"][0].text("keyTab"), Some("/etc/a.keytab"));
    }

    #[test]
    fn what_is_wrong_is_told_without_values() {
        for text in [
            "",
            "a.B",
            "a.B required",
            "a.B maybe;",
            "a.B required password=;",
            "a.B required password=\"geheim",
            "a.B required password \"geheim\";",
            "a.B required; c.D required;",
            "a.B required password=\"geheim\" /* ",
            "a.B required password=\"geheim\\",
            "{",
            "a.B required ; }",
        ] {
            let error = JaasEntry::parse(text).unwrap_err();
            assert!(!error.to_string().contains("geheim"), "{error}");
        }
        assert!(JaasEntry::parse_file("K { a.B required; }").is_err());
        assert!(JaasEntry::parse_file("K { a.B required;").is_err());
    }
}
