//! [`UiQuery`]: the parameters of a page or a form.

/// Maximum number of parameters: a form deletes at most 100 tags.
const PARAMETERS_MAX: usize = 128;

/// Parameters in their order; what is not UTF-8 is replaced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct UiQuery(Vec<(String, String)>);

impl UiQuery {
    pub(crate) fn parse(text: &str) -> Self {
        let pairs = form_urlencoded::parse(text.as_bytes()).take(PARAMETERS_MAX);
        Self(pairs.map(|(name, value)| (name.into_owned(), value.into_owned())).collect())
    }

    /// The first value of a parameter; empty if it is absent.
    pub(crate) fn get(&self, name: &str) -> &str {
        let found = self.0.iter().find(|(key, _)| key == name);
        found.map_or("", |(_, value)| value.as_str())
    }

    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The value of a parameter that is there and not empty.
    pub(crate) fn nonempty(&self, name: &str) -> Option<&str> {
        Some(self.get(name)).filter(|value| !value.is_empty())
    }
}
