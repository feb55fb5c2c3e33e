//! Reading TOML so that every complaint has a place: tables that know which keys were asked for, values that say what
//! they should have been. Knows nothing of what a scenario is.

use std::cell::RefCell;
use std::ops::RangeInclusive;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::Trouble;

/// One table, read key by key; [`Table::finish`] refuses what was not asked for.
#[derive(Debug)]
pub(super) struct Table<'a> {
    /// What it is, for messages: `nat "home"`.
    pub(super) what: String,
    /// Where it begins.
    pub(super) at: usize,
    entries: &'a DeTable<'a>,
    asked: RefCell<Vec<&'static str>>,
}

/// One value and where it stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Value<'a> {
    pub(super) at: usize,
    inner: &'a DeValue<'a>,
}

impl<'a> Table<'a> {
    /// A whole document.
    pub(super) fn document(entries: &'a DeTable<'a>) -> Self {
        Self::new("scenario".to_owned(), 0, entries)
    }

    fn new(what: String, at: usize, entries: &'a DeTable<'a>) -> Self {
        Self {
            what,
            at,
            entries,
            asked: RefCell::default(),
        }
    }

    /// The value of a key, if it is there.
    pub(super) fn get(&self, key: &'static str) -> Option<Value<'a>> {
        self.asked.borrow_mut().push(key);
        self.entries.get(key).map(Value::of)
    }

    /// The value of a key that must be there.
    pub(super) fn need(&self, key: &'static str, expected: &str) -> Result<Value<'a>, Trouble> {
        let missing = || {
            Trouble::new(
                self.at,
                format!("{} has no `{key}`", self.what),
                format!("`{key}` = {expected}"),
            )
        };
        self.get(key).ok_or_else(missing)
    }

    /// All entries with their keys and where these stand, in the order of the text.
    pub(super) fn entries(&self) -> Vec<(&'a str, usize, Value<'a>)> {
        let entry = |(key, value): (&'a Spanned<_>, &'a Spanned<_>)| {
            let name: &std::borrow::Cow<'_, str> = key.get_ref();
            (name.as_ref(), key.span().start, Value::of(value))
        };
        let mut all: Vec<_> = self.entries.iter().map(entry).collect();
        all.sort_by_key(|(_, at, _)| *at);
        all
    }

    /// The one of these keys that is there, with where it stands.
    pub(super) fn one_of(
        &self,
        keys: &[&'static str],
    ) -> Result<Option<(&'static str, usize, Value<'a>)>, Trouble> {
        self.asked.borrow_mut().extend(keys);
        let mut found: Option<(&'static str, usize, Value<'a>)> = None;
        for (name, at, value) in self.entries() {
            let Some(key) = keys.iter().find(|key| **key == name) else {
                continue;
            };
            if let Some((first, ..)) = found {
                let what = format!("{} has both `{first}` and `{key}`", self.what);
                return Err(Trouble::new(at, what, "one of them"));
            }
            found = Some((*key, at, value));
        }
        Ok(found)
    }

    /// Everything was asked for; what else is there is a mistake.
    pub(super) fn finish(self) -> Result<(), Trouble> {
        let asked = self.asked.into_inner();
        for (key, at, _) in Table::new(String::new(), 0, self.entries).entries() {
            if !asked.contains(&key) {
                let what = format!("{} has no key `{key}`", self.what);
                return Err(Trouble::new(at, what, among(key, &asked)));
            }
        }
        Ok(())
    }
}

impl<'a> Value<'a> {
    fn of(value: &'a Spanned<DeValue<'a>>) -> Self {
        Self {
            at: value.span().start,
            inner: value.get_ref(),
        }
    }

    /// A complaint about this value.
    pub(super) fn wrong(&self, what: impl Into<String>, expected: impl Into<String>) -> Trouble {
        Trouble::new(self.at, what, expected)
    }

    /// A complaint that it is of another type.
    fn other(&self, name: &str, expected: impl Into<String>) -> Trouble {
        self.wrong(format!("`{name}` is {}", type_words(self.inner)), expected)
    }

    /// Text.
    pub(super) fn text(&self, name: &str, expected: &str) -> Result<&'a str, Trouble> {
        self.inner.as_str().ok_or_else(|| self.other(name, expected))
    }

    /// Text, if it is text.
    pub(super) fn as_text(&self) -> Option<&'a str> {
        self.inner.as_str()
    }

    /// One of these words.
    pub(super) fn word<T: Copy>(&self, name: &str, words: &[(&str, T)]) -> Result<T, Trouble> {
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let text = self.text(name, &quoted(&known))?;
        let found = words.iter().find(|(word, _)| *word == text);
        found
            .map(|(_, value)| *value)
            .ok_or_else(|| self.wrong(format!("`{name}` is {text:?}"), among(text, &known)))
    }

    /// `true` or `false`.
    pub(super) fn flag(&self, name: &str) -> Result<bool, Trouble> {
        self.inner
            .as_bool()
            .ok_or_else(|| self.other(name, "true or false"))
    }

    /// A whole number in a range.
    pub(super) fn whole<T: TryFrom<u64>>(
        &self,
        name: &str,
        range: RangeInclusive<u64>,
    ) -> Result<T, Trouble> {
        let expected = match range.end() {
            &u64::MAX => format!("a whole number from {}", range.start()),
            end => format!("a whole number from {} to {end}", range.start()),
        };
        let Some(integer) = self.inner.as_integer() else {
            return Err(self.other(name, expected));
        };
        let number = u64::from_str_radix(integer.as_str(), integer.radix()).ok();
        let number = number.filter(|number| range.contains(number));
        number
            .and_then(|number| T::try_from(number).ok())
            .ok_or_else(|| self.wrong(format!("`{name}` is {integer}"), expected))
    }

    /// A table.
    pub(super) fn table(&self, what: &str, expected: &str) -> Result<Table<'a>, Trouble> {
        let table = self.inner.as_table().ok_or_else(|| self.other(what, expected))?;
        Ok(Table::new(what.to_owned(), self.at, table))
    }

    /// A table, if it is one.
    pub(super) fn as_table(&self, what: &str) -> Option<Table<'a>> {
        let table = self.inner.as_table()?;
        Some(Table::new(what.to_owned(), self.at, table))
    }

    /// The values of a list.
    pub(super) fn list(&self, name: &str, expected: &str) -> Result<Vec<Value<'a>>, Trouble> {
        let array = self.inner.as_array().ok_or_else(|| self.other(name, expected))?;
        Ok(array.iter().map(Value::of).collect())
    }

    /// The values of a list, or the one value that is none.
    pub(super) fn one_or_many(&self) -> Vec<Value<'a>> {
        match self.inner.as_array() {
            Some(array) => array.iter().map(Value::of).collect(),
            None => vec![*self],
        }
    }
}

/// `one of "a", "b"`, with the nearest to what was written in front.
pub(super) fn among(wrong: &str, known: &[&str]) -> String {
    let mut known: Vec<&str> = known.to_vec();
    known.sort_unstable();
    known.dedup();
    match known.as_slice() {
        [] => "nothing, for there is none".to_owned(),
        [one] => format!("{one:?}"),
        all => match nearest(wrong, all) {
            Some(near) => format!("{near:?}? (one of {})", quoted(all)),
            None => format!("one of {}", quoted(all)),
        },
    }
}

fn quoted(words: &[&str]) -> String {
    let words: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
    words.join(", ")
}

/// The word that somebody who wrote `wrong` may have meant.
fn nearest<'a>(wrong: &str, known: &[&'a str]) -> Option<&'a str> {
    let limit = 1 + wrong.chars().count() / 3;
    let near = known.iter().map(|word| (distance(wrong, word), *word)).min()?;
    (near.0 <= limit).then_some(near.1)
}

/// Edits between two words (Levenshtein), by rows.
fn distance(one: &str, two: &str) -> usize {
    let two: Vec<char> = two.chars().collect();
    let mut row: Vec<usize> = (0..=two.len()).collect();
    for (line, left) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = line + 1;
        for (column, right) in two.iter().enumerate() {
            let replaced = diagonal + usize::from(left != *right);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[two.len()]
}

fn type_words(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a point",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_suggested_and_a_far_one_is_not() {
        assert_eq!(nearest("symetric", &["symmetric", "open"]), Some("symmetric"));
        assert_eq!(nearest("hoem-a", &["home-a", "home-b"]), Some("home-a"));
        assert_eq!(nearest("zebra", &["symmetric", "open"]), None);
        assert!(among("x", &[]).contains("none"));
    }

    #[test]
    fn edits_are_counted() {
        for (one, two, edits) in [
            ("", "abc", 3),
            ("abc", "abc", 0),
            ("abc", "axc", 1),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(one, two), edits, "{one} {two}");
            assert_eq!(distance(two, one), edits, "{two} {one}");
        }
    }
}
