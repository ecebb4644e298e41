//! Overrides from the environment: `VESPERD__NODE__WORKERS=2`, `VESPERD__TRUNK__carrier__FR_MS=4000`. Each is one key of the file, whether
//! or not the file has it.

use std::borrow::Cow;
use std::ffi::OsString;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::mistake::Fault;

const PREFIX: &str = "VESPERD__";
const BETWEEN: &str = "__";

/// Variables that override keys of the configuration, by name.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    variables: Vec<(String, String)>,
}

/// An override that can not be applied: the place of the variable, its key as far as it goes, what is wrong.
pub(super) type Misfit = (usize, String, Fault);

impl Environment {
    /// The overrides among these variables. Names and values that are not Unicode are taken as far as they are.
    pub fn new(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let text = |value: OsString| value.to_string_lossy().into_owned();
        let named = variables.into_iter().map(|(name, value)| (text(name), text(value)));
        let mut variables: Vec<_> = named.filter(|(name, _)| name.starts_with(PREFIX)).collect();
        variables.sort();
        Self { variables }
    }

    /// Those of this process.
    pub fn of_process() -> Self {
        Self::new(std::env::vars_os())
    }

    /// Their names, in order.
    pub(super) fn names(&self) -> Vec<String> {
        self.variables.iter().map(|(name, _)| name.clone()).collect()
    }

    /// Applies them. What variable `n` sets seems to stand at `base + n` in the file.
    pub(super) fn apply<'a>(&'a self, table: &mut DeTable<'a>, base: usize) -> Vec<Misfit> {
        let mut misfits = Vec::new();
        for (number, (name, value)) in self.variables.iter().enumerate() {
            let at = base + number;
            let path: Vec<&str> = name.trim_start_matches(PREFIX).split(BETWEEN).collect();
            let set = Override { value: value_of(value, at), at };
            if let Err((key, fault)) = set.into_table(table, &path, String::new()) {
                misfits.push((at, key, fault));
            }
        }
        misfits
    }
}

struct Override<'a> {
    value: DeValue<'a>,
    at: usize,
}

type Refused = (String, Fault);

impl<'a> Override<'a> {
    fn into_table(self, table: &mut DeTable<'a>, path: &[&str], label: String) -> Result<(), Refused> {
        let span = self.at..self.at + 1;
        let key = path.first().map(|first| first.to_lowercase()).unwrap_or_default();
        let label = if label.is_empty() { key.clone() } else { format!("{label}.{key}") };
        let named = |key: String| Spanned::new(span.clone(), Cow::Owned(key));
        let rest = path.get(1..).unwrap_or_default();
        if rest.is_empty() {
            table.remove(key.as_str());
            table.insert(named(key), Spanned::new(span, self.value));
            return Ok(());
        }
        if !table.contains_key(key.as_str()) {
            table.insert(named(key.clone()), Spanned::new(span, DeValue::Table(DeTable::new())));
        }
        match table.get_mut(key.as_str()).map(Spanned::get_mut) {
            Some(DeValue::Table(inner)) => self.into_table(inner, rest, label),
            Some(DeValue::Array(list)) => {
                let place = place_in(list, &key, rest.first().copied().unwrap_or_default())
                    .map_err(|fault| (label.clone(), fault))?;
                match list.get_mut(place).map(Spanned::get_mut) {
                    Some(DeValue::Table(inner)) if rest.len() > 1 => {
                        self.into_table(inner, rest.get(1..).unwrap_or_default(), label)
                    }
                    _ => Err((label, NO_KEY)),
                }
            }
            _ => Err((label, NO_KEY)),
        }
    }
}

const NO_KEY: Fault = Fault::Conflict { reason: "names no key", remedy: "name a key, such as VESPERD__NODE__WORKERS" };

/// The table of a list that a variable means: by its `name`, in which everything but letters and digits counts as `_` and case does not
/// matter, or by its number, from 1.
fn place_in(list: &[Spanned<DeValue<'_>>], key: &str, wanted: &str) -> Result<usize, Fault> {
    let plain = |text: &str| text.replace(|c: char| !c.is_ascii_alphanumeric(), "_").to_lowercase();
    let name_of = |value: &Spanned<DeValue<'_>>| value.get_ref().get("name")?.get_ref().as_str().map(str::to_owned);
    let names: Vec<Option<String>> = list.iter().map(name_of).collect();
    let exact = names.iter().position(|name| name.as_deref() == Some(wanted));
    let alike = || {
        let mut found = names.iter().enumerate().filter(|(_, name)| name.as_deref().map(plain) == Some(plain(wanted)));
        found.next().filter(|_| found.next().is_none()).map(|(place, _)| place)
    };
    let numbered = || wanted.parse::<usize>().ok()?.checked_sub(1).filter(|place| *place < list.len());
    let kinds = ["trunk", "listener", "route", "signer"];
    let kind = kinds.into_iter().find(|kind| *kind == key).unwrap_or("table");
    let unknown =
        || Fault::UnknownName { name: wanted.to_owned(), kind, known: names.iter().flatten().cloned().collect() };
    exact.or_else(alike).or_else(numbered).ok_or_else(unknown)
}

/// The value as TOML; what is no TOML is a string.
fn value_of(text: &str, at: usize) -> DeValue<'_> {
    match DeValue::parse(text) {
        Ok(value) => moved(value.into_inner(), at),
        Err(_) => DeValue::String(Cow::Borrowed(text)),
    }
}

/// Every part of the value stands where the variable does.
fn moved(value: DeValue<'_>, at: usize) -> DeValue<'_> {
    fn here(value: Spanned<DeValue<'_>>, at: usize) -> Spanned<DeValue<'_>> {
        Spanned::new(at..at + 1, moved(value.into_inner(), at))
    }
    match value {
        DeValue::Array(list) => {
            let mut out = toml::de::DeArray::new();
            for value in list.iter() {
                out.push(here(value.clone(), at));
            }
            DeValue::Array(out)
        }
        DeValue::Table(table) => {
            let mut out = DeTable::new();
            for (key, value) in table {
                out.insert(Spanned::new(at..at + 1, key.into_inner()), here(value, at));
            }
            DeValue::Table(out)
        }
        value => value,
    }
}

/// What is in force, as TOML: the file with its overrides, without comments and secrets.
pub(super) fn shown(table: &DeTable<'_>) -> String {
    toml::to_string_pretty(&table_of(table)).unwrap_or_default()
}

fn table_of(table: &DeTable<'_>) -> toml::Table {
    let shown = |key: &str, value: &DeValue<'_>| {
        let is_secret = ["secret", "password", "passphrase", "token"].iter().any(|end| key.ends_with(end));
        if is_secret { toml::Value::String("(hidden)".to_owned()) } else { plain_of(value) }
    };
    table.iter().map(|(key, value)| (key.get_ref().to_string(), shown(key.get_ref(), value.get_ref()))).collect()
}

fn plain_of(value: &DeValue<'_>) -> toml::Value {
    match value {
        DeValue::String(text) => toml::Value::String(text.to_string()),
        DeValue::Integer(number) => {
            toml::Value::Integer(i64::from_str_radix(number.as_str(), number.radix()).unwrap_or(i64::MAX))
        }
        DeValue::Float(number) => toml::Value::Float(number.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(value) => toml::Value::Boolean(*value),
        DeValue::Datetime(at) => toml::Value::Datetime(*at),
        DeValue::Array(list) => toml::Value::Array(list.iter().map(|value| plain_of(value.get_ref())).collect()),
        DeValue::Table(table) => toml::Value::Table(table_of(table)),
    }
}
