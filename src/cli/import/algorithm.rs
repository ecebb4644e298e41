//! Kamailio's algorithms by number, ours by name.

use std::str::FromStr;

/// An algorithm for a set, or for all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The set; `None`: all without one of their own.
    pub set: Option<i64>,
    /// Which.
    pub algorithm: Choice,
}

/// An algorithm as the operator named it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Kamailio's number.
    Number(u16),
    /// A name of ours.
    Name(&'static str),
}

/// By Kamailio's numbers; 14 depends on the priorities.
const NAMES: [(u16, &str); 16] = [
    (0, "call-id-hash"),
    (1, "from-hash"),
    (2, "to-hash"),
    (3, "ruri-hash"),
    (4, "round-robin"),
    (5, "auth-user-hash"),
    (6, "random"),
    (7, "key-hash"),
    (8, "serial"),
    (9, "weighted"),
    (10, "least-calls"),
    (11, "relative-weight"),
    (12, "parallel"),
    (13, "latency"),
    (15, "srv"),
    (64, "round-robin-overload"),
];

impl FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (set, word) = match text.split_once('=') {
            Some((set, word)) => (Some(set.parse().map_err(|_| format!("\"{set}\" is no number of a set"))?), word),
            None => (None, text),
        };
        let number = word.parse().ok().filter(|number| *number == 14 || NAMES.iter().any(|(known, _)| known == number));
        let named = NAMES.iter().find(|(_, name)| *name == word).map(|(_, name)| *name);
        let algorithm = number.map(Choice::Number).or(named.map(Choice::Name));
        let names = || NAMES.map(|(_, name)| name).join(", ");
        let algorithm = algorithm.ok_or_else(|| format!("give 0 to 15, 64, or one of {}", names()))?;
        Ok(Wanted { set, algorithm })
    }
}

impl Choice {
    /// Our name for it, in a set whose priorities are all equal or not.
    pub fn name(&self, has_priorities: bool) -> &'static str {
        let of = |number| NAMES.iter().find(|(known, _)| *known == number).map_or("serial", |(_, name)| *name);
        match self {
            Choice::Name(name) => name,
            Choice::Number(14) => of(if has_priorities { 8 } else { 4 }),
            Choice::Number(number) => of(*number),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_names_and_sets() {
        let name = |text: &str, has| text.parse::<Wanted>().map(|wanted| (wanted.set, wanted.algorithm.name(has)));
        assert_eq!(name("4", false), Ok((None, "round-robin")));
        assert_eq!(name("2=8", false), Ok((Some(2), "serial")));
        assert_eq!(name("7=latency", false), Ok((Some(7), "latency")));
        assert_eq!((name("14", true), name("14", false)), (Ok((None, "serial")), Ok((None, "round-robin"))));
        for bad in ["16", "", "x=4", "fastest", "-1"] {
            assert!(name(bad, false).is_err(), "{bad}");
        }
    }
}
