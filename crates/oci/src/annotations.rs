//! [`Annotations`]: free-form key-value pairs, kept as JSON text.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

/// The annotations of a manifest or descriptor: one JSON object whose values are strings.
///
/// A registry returns them and never interprets them, so they are kept as one text: a map of
/// many small annotations would take fifty times their size. A value that has half of a
/// surrogate pair stays unchanged, as other registries accept it.
#[derive(Clone, Default)]
pub struct Annotations {
    /// `None`: there are none.
    text: Option<Box<RawValue>>,
    count: usize,
}

impl Annotations {
    /// The number of annotations; a repeated name counts twice.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The JSON object as it was written, empty if there are no annotations.
    pub fn as_json(&self) -> &str {
        self.text.as_ref().map_or("", |text| text.get())
    }

    /// All annotations; the last one of a repeated name. `None` if one is not valid text, because it has
    /// half of a surrogate pair.
    pub fn to_map(&self) -> Option<BTreeMap<String, String>> {
        match &self.text {
            Some(text) => serde_json::from_str(text.get()).ok(),
            None => Some(BTreeMap::new()),
        }
    }
}

impl PartialEq for Annotations {
    /// Whether both have the same pairs, whatever their formatting.
    fn eq(&self, other: &Self) -> bool {
        let map = || self.to_map().filter(|_| self.count == other.count);
        self.as_json() == other.as_json() || map().is_some_and(|map| Some(map) == other.to_map())
    }
}

impl fmt::Debug for Annotations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_json())
    }
}

impl Serialize for Annotations {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.text {
            Some(text) => text.serialize(serializer),
            None => serializer.collect_map(BTreeMap::<String, String>::new()),
        }
    }
}

impl<'de> Deserialize<'de> for Annotations {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Box::<RawValue>::deserialize(deserializer)?;
        let StringCount(count) = serde_json::from_str(text.get()).map_err(de::Error::custom)?;
        Ok(Self { text: (count > 0).then_some(text), count })
    }
}

/// How many fields an object has, all of which are strings.
struct StringCount(usize);

impl<'de> Deserialize<'de> for StringCount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(StringCountVisitor)
    }
}

struct StringCountVisitor;

impl<'de> Visitor<'de> for StringCountVisitor {
    type Value = StringCount;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("annotations: an object whose values are strings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<StringCount, A::Error> {
        let mut count = 0;
        while let Some((_, value)) = map.next_entry::<AnyName, &RawValue>()? {
            if !value.get().starts_with('"') {
                return Err(de::Error::custom("the value of an annotation must be a string"));
            }
            count += 1;
        }
        Ok(StringCount(count))
    }
}

/// A name, which need not be text.
struct AnyName;

impl<'de> Deserialize<'de> for AnyName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_bytes(AnyNameVisitor)
    }
}

struct AnyNameVisitor;

impl Visitor<'_> for AnyNameVisitor {
    type Value = AnyName;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of an annotation")
    }

    fn visit_bytes<E>(self, _: &[u8]) -> Result<AnyName, E> {
        Ok(AnyName)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Annotations {
        serde_json::from_str(json).expect("annotations")
    }

    #[test]
    fn they_are_written_as_they_were_read() {
        let json = r#"{ "b":"\u0031", "a":"2","a": "" }"#;
        let annotations = read(json);
        assert_eq!(annotations.len(), 3);
        assert_eq!(serde_json::to_string(&annotations).expect("JSON"), json);
        assert_eq!(annotations.as_json(), json);
        let map = BTreeMap::from([("a".to_owned(), String::new()), ("b".into(), "1".into())]);
        assert_eq!(annotations.to_map(), Some(map));
        assert_eq!(format!("{annotations:?}"), json);
        for json in [r#"{"a":"\ud800"}"#, r#"{"\ud800":"a"}"#] {
            let lone = read(json);
            assert_eq!(serde_json::to_string(&lone).expect("JSON"), json);
            assert_eq!((lone.to_map(), lone.len()), (None, 1));
        }
    }

    #[test]
    fn they_are_equal_if_they_say_the_same() {
        assert_eq!(read(r#"{"b":"1","a":"2"}"#), read(r#"{"a":"2", "b":"\u0031"}"#));
        assert_ne!(read(r#"{"b":"1","a":"2"}"#), read(r#"{"a":"2", "b":"3"}"#));
        assert_ne!(read(r#"{"a":"\ud800"}"#), read(r#"{"a":"\ud801"}"#));
        assert_eq!(read("{ }"), Annotations::default());
        assert!(read("{ }").is_empty());
        assert_eq!(serde_json::to_string(&read("{ }")).expect("JSON"), "{}");
    }

    #[test]
    fn values_that_are_no_strings_are_refused() {
        for json in ["[]", "1", r#""x""#, r#"{"a":1}"#, r#"{"a":null}"#, r#"{"a":{}}"#] {
            assert!(serde_json::from_str::<Annotations>(json).is_err(), "{json}");
        }
    }
}
